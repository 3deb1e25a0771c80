//! Accepts connections as far as a limit admits them.

use super::handshake_limiter::{Admission, Permit};
use super::quic::QuicListener;
use super::{tls, unmapped};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tracing::{debug, warn};

/// Delay before the next accept(2) after one that failed.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// Accepts QUIC connections until the listener is closed. `admit` gets the peer's address, and
/// whether the peer has proved that it receives packets there; `serve` gets those that it admits.
pub(crate) async fn accept_quic(
    listener: &QuicListener,
    admit: impl Fn(SocketAddr, bool) -> Admission,
    serve: impl Fn(quinn::Incoming, Permit),
) {
    while let Some(incoming) = listener.accept().await {
        let source = unmapped(incoming.remote_address());
        match admit(source, incoming.remote_address_validated()) {
            Admission::Admitted(permit) => serve(incoming, permit),
            Admission::ProveAddress => {
                if let Err(error) = incoming.retry() {
                    debug!(%source, "cannot send a QUIC Retry");
                    error.into_incoming().ignore();
                }
            }
            Admission::Refused => {
                debug!(%source, "refused: too many handshakes");
                incoming.refuse();
            }
        }
    }
}

/// Accepts TCP connections and never ends. The arguments are those of [`accept_quic`]: who has
/// completed a TCP handshake has proved its address.
pub(crate) async fn accept_tls(
    listener: &TcpListener,
    admit: impl Fn(SocketAddr) -> Admission,
    serve: impl Fn(TcpStream, SocketAddr, Permit),
) {
    loop {
        let (stream, source) = match listener.accept().await {
            Ok((stream, source)) => (stream, unmapped(source)),
            Err(error) => {
                // Usually the process is out of file descriptors. Waiting connections stay in the
                // kernel's queue until some are free again.
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        match admit(source) {
            Admission::Admitted(permit) => serve(stream, source, permit),
            Admission::ProveAddress | Admission::Refused => {
                debug!(%source, "refused: too many handshakes");
                tls::turn_away(stream);
            }
        }
    }
}

/// Registers a listening socket with tokio.
///
/// # Errors
/// The socket cannot be used.
pub(crate) fn tcp_listener(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}
