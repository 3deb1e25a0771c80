//! The connection to sshd.

use super::authority::{Authority, chain, refusal};
use crate::wire::{Refusal, RefusalCode};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tracing::warn;

/// On loopback an answer takes microseconds; a target elsewhere may need a few lost packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where sessions are joined to.
pub(super) struct Upstream {
    target: SocketAddr,
    authority: Arc<Authority>,
}

impl Upstream {
    pub(super) fn new(target: SocketAddr, authority: Arc<Authority>) -> Upstream {
        Upstream { target, authority }
    }

    /// A connection for a client at `remote`.
    pub(super) async fn connect(&self, remote: SocketAddr) -> Result<TcpStream, Refusal> {
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, self.try_connect(remote.ip())).await;
        let stream = match connected {
            Ok(stream) => stream,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        stream.map_err(|error| {
            let target = self.target;
            warn!(event = "refused", %target, error = %chain(&error), "sshd cannot be reached");
            refusal(
                RefusalCode::UpstreamDown,
                format!("the SSH server at {target} cannot be reached: {error}"),
            )
        })
    }

    async fn try_connect(&self, remote: IpAddr) -> io::Result<TcpStream> {
        let socket = if self.target.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        let alias = self
            .authority
            .session_alias(remote)
            .filter(|_| self.target.ip().is_loopback());
        if let Some(alias) = alias.filter(|_| self.target.is_ipv4()) {
            // Systems without 127.0.0.0/8 on their loopback device do without.
            let _ = socket.bind(SocketAddr::new(alias, 0));
        }
        let stream = socket.connect(self.target).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
