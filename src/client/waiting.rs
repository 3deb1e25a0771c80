//! Waiting at the door: a server half that waits for a hello which an agent or the user holds up, and one that has us
//! come back later.

use crate::carrier::{Carrier, CarrierError};
use crate::wire::{Hello, PeerText, Refusal, RefusalCode};
use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::time::timeout;

/// For so long a server half waits for the first hello anyway; it gives up after five times as much.
const SOON: Duration = Duration::from_secs(1);

/// Waits for what an agent or the user may hold up, and has the server half at the end of `carrier` wait too where that
/// takes a while and it `is_told` nothing of it yet.
pub(super) async fn while_it_waits<T>(carrier: &mut Carrier, is_told: &mut bool, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    if !*is_told {
        if let Ok(done) = timeout(SOON, &mut work).await {
            return done;
        }
        *is_told = true;
        // A carrier that is lost gives the same error to the hello.
        let _ = carrier.send_message(Hello::Wait.encode()).await;
    }
    work.await
}

/// What a server half means that closes a carrier because it has too many of them.
pub(super) fn refused_by_close(error: &CarrierError) -> Refusal {
    Refusal {
        code: RefusalCode::RetryLater,
        message: PeerText::new(error),
    }
}
