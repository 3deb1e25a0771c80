//! What russh calls as messages of one connection come in. Each call is short: work goes to the connection's tasks.

use super::Shared;
use super::agent::AgentSocket;
use super::channel::Channels;
use super::session::{Program, SessionChannel};
use super::startups::Startup;
use super::{channel_queue, forward, pty};
use russh::keys::{Algorithm, Certificate, PublicKey};
use russh::server::{Auth, ChannelOpenHandle, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty, Sig};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use thiserror::Error;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

/// Most ports one connection may have forwarded to its client.
const MAX_REMOTE_FORWARDS: usize = 64;

/// Why a connection ended early.
#[derive(Debug, Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error("the client did not log in within the time limit")]
    LoginGrace,
    #[error("closed to make room for a newer login")]
    GivesWay,
    #[error("the client ignored its window on {channel:?}: {held} bytes are waiting")]
    WindowIgnored { channel: ChannelId, held: usize },
}

pub(super) struct Handler {
    shared: Arc<Shared>,
    peer: SocketAddr,
    local: SocketAddr,
    cut: CancellationToken,
    logged_in: CancellationToken,
    /// Held until the login.
    startup: Option<Startup>,
    tasks: TaskTracker,
    channels: Channels,
    /// By the address and port the client named, with what stops each.
    remote_forwards: HashMap<(String, u32), CancellationToken>,
    agent: Option<AgentSocket>,
}

impl Handler {
    pub(super) fn new(
        shared: Arc<Shared>,
        peer: SocketAddr,
        local: SocketAddr,
        cut: CancellationToken,
        startup: Startup,
    ) -> Handler {
        Handler {
            shared,
            peer,
            local,
            channels: Channels::new(cut.clone()),
            cut,
            logged_in: CancellationToken::new(),
            startup: Some(startup),
            tasks: TaskTracker::new(),
            remote_forwards: HashMap::new(),
            agent: None,
        }
    }

    /// Cancelled at the login.
    pub(super) fn logged_in(&self) -> CancellationToken {
        self.logged_in.clone()
    }

    /// Everything this connection has running.
    pub(super) fn tasks(&self) -> TaskTracker {
        self.tasks.clone()
    }

    async fn judge_key(&self, user: &str, key: &PublicKey, algorithm: &russh::keys::Algorithm) -> Auth {
        judge(&self.shared, user, key, algorithm, self.peer.ip()).await
    }

    fn start(&mut self, id: ChannelId, program: Program, session: &mut Session) -> Result<(), ConnectionError> {
        let (handle, shared, tasks) = (session.handle(), &self.shared, &self.tasks);
        let started = self
            .channels
            .session(id, |channel| channel.start(program, &shared.account, handle, tasks));
        answer(id, started == Some(true), session)
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.cut.cancel();
        self.channels.clear();
    }
}

/// Answers a channel request, if the client wants one.
fn answer(id: ChannelId, success: bool, session: &mut Session) -> Result<(), ConnectionError> {
    if success {
        session.channel_success(id)?
    } else {
        session.channel_failure(id)?
    };
    Ok(())
}

impl russh::server::Handler for Handler {
    type Error = ConnectionError;

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, ConnectionError> {
        Ok(self.judge_key(user, offer.public_key, offer.algorithm).await)
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, ConnectionError> {
        Ok(self.judge_key(user, key.public_key, key.algorithm).await)
    }

    // A certificate counts as the plain key in it: that is what PK_OK has promised, since the offer does not show that
    // it is one, and its holder could log in with the plain key as well.
    async fn auth_openssh_certificate(&mut self, user: &str, cert: &Certificate) -> Result<Auth, ConnectionError> {
        let key = PublicKey::new(cert.public_key().clone(), "");
        let algorithm = match key.algorithm() {
            russh::keys::Algorithm::Rsa { .. } => russh::keys::Algorithm::Rsa {
                hash: Some(Default::default()),
            },
            other => other,
        };
        Ok(self.judge_key(user, &key, &algorithm).await)
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), ConnectionError> {
        info!(user = %self.shared.account.name, "logged in");
        self.logged_in.cancel();
        self.startup = None;
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        if self.channels.is_full() {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let id = channel.id();
        let io = self.channels.claim(channel);
        self.channels
            .begin_session(id, SessionChannel::new(io, self.peer, self.local));
        reply.accept().await;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        match u16::try_from(port) {
            Ok(_) if self.channels.is_full() => reply.reject(ChannelOpenFailure::ResourceShortage).await,
            Ok(port) => {
                let io = self.channels.claim(channel);
                self.tasks.spawn(forward::connect_tcp(io, reply, host.to_owned(), port));
            }
            Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
        }
        Ok(())
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        channel: Channel<Msg>,
        socket_path: &str,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        if self.channels.is_full() {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
        } else {
            let io = self.channels.claim(channel);
            self.tasks.spawn(forward::connect_unix(io, reply, socket_path.into()));
        }
        Ok(())
    }

    async fn channel_open_confirmation(
        &mut self,
        id: ChannelId,
        _max_packet_size: u32,
        _window_size: u32,
        _session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.channels.expect(id);
        Ok(())
    }

    async fn data(&mut self, id: ChannelId, data: &[u8], _session: &mut Session) -> Result<(), ConnectionError> {
        if let Some(queue) = self.channels.queue(id) {
            let ignored = |overrun: channel_queue::Overrun| ConnectionError::WindowIgnored {
                channel: id,
                held: overrun.held,
            };
            queue.push(data).map_err(ignored)?;
            queue.pace(data.len()).await;
        }
        Ok(())
    }

    fn adjust_window(&mut self, _id: ChannelId, _current: u32) -> u32 {
        channel_queue::window(self.channels.is_congested())
    }

    async fn channel_eof(&mut self, id: ChannelId, _session: &mut Session) -> Result<(), ConnectionError> {
        if let Some(queue) = self.channels.queue(id) {
            queue.finish();
        }
        Ok(())
    }

    async fn channel_close(&mut self, id: ChannelId, _session: &mut Session) -> Result<(), ConnectionError> {
        self.channels.close(id);
        Ok(())
    }

    async fn env_request(
        &mut self,
        id: ChannelId,
        name: &str,
        value: &str,
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        let accepted = &self.shared.accept_env;
        let set = self
            .channels
            .session(id, |channel| channel.set_env(name, value, accepted));
        answer(id, set == Some(true), session)
    }

    async fn pty_request(
        &mut self,
        id: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        width: u32,
        height: u32,
        modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        let size = pty::size(columns, rows, width, height);
        let given = self.channels.session(id, |channel| channel.give_pty(term, size, modes));
        answer(id, given == Some(true), session)
    }

    async fn window_change_request(
        &mut self,
        id: ChannelId,
        columns: u32,
        rows: u32,
        width: u32,
        height: u32,
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        let size = pty::size(columns, rows, width, height);
        let changed = self.channels.session(id, |channel| channel.resize(size));
        answer(id, changed == Some(true), session)
    }

    async fn shell_request(&mut self, id: ChannelId, session: &mut Session) -> Result<(), ConnectionError> {
        self.start(id, Program::LoginShell, session)
    }

    async fn exec_request(
        &mut self,
        id: ChannelId,
        command: &[u8],
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        self.start(id, Program::Command(command.to_vec()), session)
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        name: &str,
        session: &mut Session,
    ) -> Result<(), ConnectionError> {
        match name {
            "sftp" => self.start(id, Program::Sftp, session),
            _ => answer(id, false, session),
        }
    }

    async fn signal(&mut self, id: ChannelId, signal: Sig, session: &mut Session) -> Result<(), ConnectionError> {
        let sent = self.channels.session(id, |channel| channel.signal(&signal));
        answer(id, sent == Some(true), session)
    }

    async fn agent_request(&mut self, id: ChannelId, session: &mut Session) -> Result<bool, ConnectionError> {
        if self.agent.is_none() {
            self.agent = AgentSocket::open(session.handle(), &self.channels, &self.cut, &self.tasks);
        }
        let Some(agent) = &self.agent else { return Ok(false) };
        let path = agent.path();
        Ok(self.channels.session(id, |channel| channel.use_agent(path)) == Some(true))
    }

    async fn tcpip_forward(
        &mut self,
        address: &str,
        port: &mut u32,
        session: &mut Session,
    ) -> Result<bool, ConnectionError> {
        let (Ok(wanted), true) = (u16::try_from(*port), self.remote_forwards.len() < MAX_REMOTE_FORWARDS) else {
            return Ok(false);
        };
        let Some((bound, listeners)) = forward::listen(wanted).await else {
            return Ok(false);
        };
        *port = u32::from(bound);
        let stop = self.cut.child_token();
        let origin = forward::Forwarded {
            address: address.to_owned(),
            port: bound,
        };
        for listener in listeners {
            let remote = forward::Remote {
                origin: origin.clone(),
                handle: session.handle(),
                channels: self.channels.clone(),
                stop: stop.clone(),
                connection: self.cut.clone(),
                tasks: self.tasks.clone(),
            };
            self.tasks.spawn(remote.accept(listener));
        }
        self.remote_forwards.insert((address.to_owned(), *port), stop);
        Ok(true)
    }

    async fn cancel_tcpip_forward(
        &mut self,
        address: &str,
        port: u32,
        _session: &mut Session,
    ) -> Result<bool, ConnectionError> {
        let forward = self.remote_forwards.remove(&(address.to_owned(), port));
        Ok(forward.inspect(CancellationToken::cancel).is_some())
    }
}

/// Answers for one offered key, signed or not. Only the calling user may log in, with a key that [`Authorize`] knows. An
/// unknown user, an unknown key and a key with SHA-1 signatures are refused alike, and after the same time.
pub(super) async fn judge(
    shared: &Arc<Shared>,
    user: &str,
    key: &PublicKey,
    algorithm: &Algorithm,
    source: IpAddr,
) -> Auth {
    if matches!(algorithm, Algorithm::Rsa { hash: None }) {
        debug!(user, %source, "refused: RSA with SHA-1");
        return Auth::reject();
    }
    // Asked for other users' names too: the answer must take as long.
    let known = ask(shared, user, key, source).await;
    if known && user == shared.account.name {
        return Auth::Accept;
    }
    let fingerprint = key.fingerprint(Default::default());
    info!(user, %source, %fingerprint, "login refused");
    Auth::reject()
}

async fn ask(shared: &Arc<Shared>, user: &str, key: &PublicKey, source: IpAddr) -> bool {
    let (authorize, user, key) = (shared.authorize.clone(), user.to_owned(), key.clone());
    // It reads files, and may hang on a network file system. A panic in it is a no.
    tokio::task::spawn_blocking(move || authorize(&user, &key, source))
        .await
        .unwrap_or(false)
}
