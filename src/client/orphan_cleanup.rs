//! Ends sessions whose client process died, with the token from the journal.

use super::dialer::{Dialer, race};
use super::failures::Failed;
use crate::carrier::{CarrierError, CloseReason, Path};
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::transport::quic::MtuCap;
use crate::wire::{Answer, Hello, Reap, SessionId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Runs in the background; nobody waits for it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a session could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum ReapError {
    /// No path led to the server half.
    #[error("the server half cannot be reached")]
    NoPath(Vec<Failed>),
    /// The carrier was lost before the answer.
    #[error("lost before the answer")]
    Carrier(#[from] CarrierError),
    /// The server half rejected the token.
    #[error("refused")]
    Refused,
    /// No answer within [`TIMEOUT`].
    #[error("no answer in time")]
    Silent,
}

/// Ends `session` at the server half that has the TLS key `server_key`. The token authorizes this; the user needs no
/// key.
///
/// # Errors
/// See [`ReapError`]; the session may still exist.
pub async fn reap(paths: &[Path], server_key: &[u8], session: SessionId, token: [u8; 32]) -> Result<(), ReapError> {
    let cleanup = async {
        let (key, accept) = (Arc::new(TlsKey::generate()), ServerKey::Exactly(server_key.to_vec()));
        let (mut dialer, mut failed) = (Dialer::new(key, MtuCap::default()), Vec::new());
        let won = race(&mut dialer, paths, 1, &accept, &mut failed).await;
        let (dialed, ..) = won.ok_or(ReapError::NoPath(failed))?;
        let (carrier, answer) = dialed.ask(&Hello::Reap(Reap { session, token })).await?;
        carrier.finish(CloseReason::Done).await;
        if answer == Answer::Reaped {
            Ok(())
        } else {
            Err(ReapError::Refused)
        }
    };
    timeout(TIMEOUT, cleanup).await.unwrap_or(Err(ReapError::Silent))
}
