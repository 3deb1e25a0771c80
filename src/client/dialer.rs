//! One race: every address is dialed, staggered, and the first to finish its handshake wins.

use super::opening::{AttemptError, Failed};
use super::unreachable::unreachable;
use crate::carrier::quic::{Dialed, MtuCap, QuicDialer};
use crate::identity::raw_key::{ServerKey, TlsKey};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// Head start of an address over the next (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// Races `addresses`. The losers are given up.
///
/// # Errors
/// Why each address failed, once all have.
pub(super) async fn race(
    addresses: &[SocketAddr],
    key: &Arc<TlsKey>,
    accept: &ServerKey,
    mtu_cap: MtuCap,
) -> Result<(Dialed, SocketAddr), Vec<Failed>> {
    let mut waiting = addresses.iter().copied();
    let mut running = JoinSet::new();
    let mut failed = Vec::new();
    loop {
        if let Some(address) = waiting.next() {
            let (key, accept) = (Arc::clone(key), accept.clone());
            running.spawn(async move { (dial(address, &key, accept, mtu_cap).await, address) });
        } else if running.is_empty() {
            return Err(failed);
        }
        tokio::select! {
            Some(finished) = running.join_next() => match finished {
                Ok((Ok(dialed), address)) => return Ok((dialed, address)),
                Ok((Err(error), address)) => failed.push(Failed { address, error }),
                // Nobody aborts a dial but the end of the race.
                Err(_) => {}
            },
            () = sleep(STAGGER), if waiting.len() > 0 => {}
        }
    }
}

async fn dial(address: SocketAddr, key: &TlsKey, accept: ServerKey, mtu_cap: MtuCap) -> Result<Dialed, AttemptError> {
    let dialer = QuicDialer::new(address, mtu_cap).map_err(AttemptError::Socket)?;
    tokio::select! {
        dialed = dialer.dial(address, key, accept) => dialed.map_err(AttemptError::Dial),
        error = unreachable(address) => Err(AttemptError::Unreachable(error)),
    }
}
