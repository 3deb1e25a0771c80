//! A connection on which the local sshd is asked about keys.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsFd as _;
use std::time::Duration;

use socket2::Socket;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::super::connect_sshd::{ConnectSshd, Purpose};
use super::greeting::{GreetedStream, greet};
use super::{AskError, ServerIdentity};
pub(super) use crate::identity::key_query::{KeyAnswer, MAX_QUERIES};
use crate::identity::key_query::{KeyQuery, KeyQueryError};
use crate::identity::statement::ProvenKey;
use crate::wire::PeerText;

/// A connection on which sshd can be asked about keys of one user.
pub(super) struct Query {
    target: SocketAddr,
    asked_from: SocketAddr,
    query: KeyQuery,
    identification: PeerText,
}

impl Query {
    /// Connects for `purpose` and exchanges keys. The connection is closed after `idle` without data.
    pub(super) async fn open(sshd: &dyn ConnectSshd, purpose: Purpose, idle: Duration) -> Result<Self, AskError> {
        let target = sshd.target();
        let GreetedStream {
            stream,
            identification,
            beyond,
        } = greet(sshd, purpose).await?;
        let asked_from = stream.local_addr();
        let asked_from = asked_from.map_err(|source| AskError::UpstreamDown { target, source })?;
        let given_up = ShutdownOnDrop::of(&stream).map_err(|source| AskError::UpstreamDown { target, source })?;
        let (read, write) = stream.into_split();
        let said = [identification.as_bytes(), b"\r\n", &beyond].concat();
        let stream = tokio::io::join(std::io::Cursor::new(said).chain(read), write);
        // Any host key will do: whoever answers falsely cannot get a client past the login inside.
        let opened = KeyQuery::open(stream, idle, None).await;
        let query = opened.map_err(|error| of_target(target, error))?;
        given_up.disarm();
        Ok(Self {
            target,
            asked_from,
            query,
            identification,
        })
    }

    /// Asks whether `key` would be accepted for `user`, who must be the same each time.
    pub(super) async fn ask(&mut self, user: &str, key: &ProvenKey) -> Result<KeyAnswer, AskError> {
        let asked = self.query.ask(user, key).await;
        asked.map_err(|error| of_target(self.target, error))
    }

    /// The server's identity.
    pub(super) fn server(&self) -> ServerIdentity {
        ServerIdentity {
            identification: self.identification.clone(),
            host_key: self.query.host_key(),
        }
    }

    /// The address from which sshd sees the question come.
    pub(super) fn asked_from(&self) -> SocketAddr {
        self.asked_from
    }

    /// Closes the connection like a client that has no more keys.
    pub(super) async fn close(self) {
        self.query.close().await;
    }
}

fn of_target(target: SocketAddr, error: KeyQueryError) -> AskError {
    match error {
        KeyQueryError::NoCommonAlgorithm { kind, offered } => AskError::NoCommonAlgorithm { target, kind, offered },
        KeyQueryError::HungUp(said) => AskError::HungUp { target, said },
        KeyQueryError::Ssh(source) => AskError::Ssh { target, source },
    }
}

/// Closes a connection when dropped, unless disarmed: russh continues a key exchange whose future was dropped.
struct ShutdownOnDrop(Option<Socket>);

impl ShutdownOnDrop {
    fn of(stream: &TcpStream) -> io::Result<ShutdownOnDrop> {
        let socket = stream.as_fd().try_clone_to_owned()?;
        Ok(ShutdownOnDrop(Some(socket.into())))
    }

    fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for ShutdownOnDrop {
    fn drop(&mut self) {
        // Fails if the connection has ended already.
        let _ = self.0.as_ref().map(|socket| socket.shutdown(Shutdown::Both));
    }
}
