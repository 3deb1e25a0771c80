//! Ends sessions whose owner died, with the token that the journal kept.

use super::dialer::race;
use super::opening::Failed;
use crate::carrier::quic::MtuCap;
use crate::carrier::{CarrierError, CloseReason};
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::wire::{Answer, DecodeError, Hello, Reap, SessionId};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Nobody waits for it.
const TIME: Duration = Duration::from_secs(10);

/// A session could not be ended now.
#[derive(Debug, thiserror::Error)]
pub enum ReapError {
    /// No address answered.
    #[error("the server half cannot be reached")]
    NoPath(Vec<Failed>),
    /// The carrier was lost before the answer.
    #[error("lost before the answer")]
    Carrier(#[from] CarrierError),
    /// It answered something else.
    #[error("no sensible answer")]
    Protocol(#[from] DecodeError),
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
pub async fn reap(
    addresses: &[SocketAddr],
    server_key: &[u8],
    session: SessionId,
    token: [u8; 32],
) -> Result<(), ReapError> {
    let reaping = async {
        let (key, accept) = (Arc::new(TlsKey::generate()), ServerKey::Exactly(server_key.to_vec()));
        let won = race(addresses, &key, &accept, MtuCap::default()).await;
        let mut carrier = won.map_err(ReapError::NoPath)?.0.carrier;
        carrier
            .send_message(Hello::Reap(Reap { session, token }).encode())
            .await?;
        let answer = Answer::decode(carrier.read_message().await?)?;
        carrier.finish(CloseReason::Done).await;
        if answer == Answer::Reaped {
            Ok(())
        } else {
            Err(ReapError::Refused)
        }
    };
    timeout(TIME, reaping).await.unwrap_or(Err(ReapError::Silent))
}
