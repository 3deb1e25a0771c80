//! Ends sessions whose owner died, with the token that the journal kept.

use super::dialer::{Dialer, race};
use super::failures::Failed;
use crate::carrier::quic::MtuCap;
use crate::carrier::{CarrierError, CloseReason, Path};
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::wire::{Answer, Hello, Reap, SessionId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Nobody waits for it.
const TIME: Duration = Duration::from_secs(10);

/// A session could not be ended now.
#[derive(Debug, thiserror::Error)]
pub enum ReapError {
    /// No path answered.
    #[error("the server half cannot be reached")]
    NoPath(Vec<Failed>),
    /// The carrier was lost before the answer.
    #[error("lost before the answer")]
    Carrier(#[from] CarrierError),
    /// The server half did not take it.
    #[error("refused")]
    Refused,
    /// It took too long.
    #[error("no answer in time")]
    Silent,
}

/// Ends `session` at the server half with the TLS key `server_key`. No proof of user is needed: the token is one.
///
/// # Errors
/// See [`ReapError`]; the session may live on.
pub async fn reap(paths: &[Path], server_key: &[u8], session: SessionId, token: [u8; 32]) -> Result<(), ReapError> {
    let reaping = async {
        let (key, accept) = (Arc::new(TlsKey::generate()), ServerKey::Exactly(server_key.to_vec()));
        let (mut dialer, mut failed) = (Dialer::new(key, MtuCap::default()), Vec::new());
        let won = race(&mut dialer, paths, 1, &accept, &mut failed).await;
        let (dialed, _) = won.ok_or(ReapError::NoPath(failed))?;
        let (carrier, answer) = dialed.ask(&Hello::Reap(Reap { session, token })).await?;
        carrier.finish(CloseReason::Done).await;
        if answer == Answer::Reaped {
            Ok(())
        } else {
            Err(ReapError::Refused)
        }
    };
    timeout(TIME, reaping).await.unwrap_or(Err(ReapError::Silent))
}
