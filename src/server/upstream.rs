//! The connection to sshd that carries a session.

use super::authority::{chain, refusal};
use super::connect_sshd::{Client, ConnectSshd, Purpose};
use crate::wire::{Refusal, RefusalCode};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tracing::warn;

/// On loopback an answer takes microseconds; a target elsewhere may need a few lost packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Where sessions are joined to.
pub(super) struct Upstream {
    sshd: Arc<dyn ConnectSshd>,
}

impl Upstream {
    pub(super) fn new(sshd: Arc<dyn ConnectSshd>) -> Upstream {
        Upstream { sshd }
    }

    /// A connection for a client.
    pub(super) async fn connect(&self, client: Client) -> Result<TcpStream, Refusal> {
        let connecting = self.sshd.connect(Purpose::Session(client));
        let stream = match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(stream) => stream,
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        stream.map_err(|error| {
            let target = self.sshd.target();
            warn!(event = "refused", %target, error = %chain(&error), "sshd cannot be reached");
            refusal(
                RefusalCode::UpstreamDown,
                format!("the SSH server at {target} cannot be reached: {error}"),
            )
        })
    }
}
