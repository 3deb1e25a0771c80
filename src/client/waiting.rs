//! Waiting at the door: a server half that waits for a hello which an agent or the user holds up, one that is itself
//! waiting for sshd, and one that has us come back later.

use crate::carrier::{Carrier, CarrierError};
use crate::clock;
use crate::wire::{Answer, Hello, PeerText, Refusal, RefusalCode};
use bytes::Bytes;
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::time::{timeout, timeout_at};

/// For so long a server half may say nothing to an open or a probe, not even that it is still asking sshd: it says that
/// every second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

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

/// No answer to an open or a probe.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// Nothing was heard.
    Silent,
    /// sshd is still being asked.
    StillAsking,
    /// The carrier is lost, or what came is no answer.
    Lost(CarrierError),
}

/// Sends a hello and reads the answer. A server half that is still asking sshd is waited for until `end`. Gives also how long
/// it asked for the answer, as far as it said so.
pub(super) async fn answer_to(
    carrier: &mut Carrier,
    hello: Bytes,
    end: Instant,
) -> (Result<Answer, Unanswered>, Duration) {
    let begun = clock::now();
    let (mut unsent, mut asked) = (Some(hello), None);
    loop {
        let hearing = async {
            if let Some(hello) = unsent.take() {
                carrier.send_message(hello).await?;
            }
            Ok::<_, CarrierError>(Answer::decode(carrier.read_message().await?)?)
        };
        let silence = clock::now() + ANSWER_TIMEOUT;
        let heard = match timeout_at(end.min(silence).into(), hearing).await {
            Ok(Ok(Answer::Asking)) => {
                asked = Some(clock::now().saturating_duration_since(begun));
                continue;
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Unanswered::Lost(error)),
            Err(_) if asked.is_some() && end <= silence => Err(Unanswered::StillAsking),
            Err(_) => Err(Unanswered::Silent),
        };
        // Who is to come again later has nothing of that time: another asking would take as long.
        let asked = asked.filter(|_| !heard.as_ref().is_ok_and(is_for_now));
        return (heard, asked.unwrap_or_default());
    }
}

/// Whether the answer may be another in a while.
fn is_for_now(answer: &Answer) -> bool {
    let is_for_now = |code: RefusalCode| code != RefusalCode::NotAuthorized && !code.is_final();
    matches!(answer, Answer::Refused(refusal) if is_for_now(refusal.code))
}

/// What a server half means that closes a carrier because it has too many of them.
pub(super) fn refused_by_close(error: &CarrierError) -> Refusal {
    Refusal {
        code: RefusalCode::RetryLater,
        message: PeerText::new(error),
    }
}
