//! Everything that the processes of this machine tell, put together.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;
use serde::Serialize;
use tokio::task::JoinSet;

use super::human;
use crate::observe::{self, ControlError, FoundSocket, Half, RelayReport, Request, Response, SessionReport, State};
use crate::server::ipc::StoreShortage;
use crate::server::takeover::{RunningKeeper, RunningKeepers, find_running_keepers};

/// Whoever lives answers within this: half a second for its sessions, and its turn behind somebody who asks slowly.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// A keeper has nothing to look up.
const KEEPER_TIMEOUT: Duration = Duration::from_secs(1);

/// All there is.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Overview {
    pub(crate) sessions: Vec<SessionReport>,
    pub(crate) servers: Vec<ServerReport>,
    pub(crate) relays: Vec<RelayReport>,
    pub(crate) silent: Vec<Silent>,
    /// Folders that are there and not open to this user, who may have sessions in what is behind them all the same.
    #[serde(skip)]
    pub(crate) closed: Vec<PathBuf>,
}

/// A server half.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ServerReport {
    pub(crate) keeper_pid: u32,
    pub(crate) worker_pid: Option<u32>,
    pub(crate) version: String,
    /// Which address of a client sshd sees: `real`, `real-ipv4`, `real-ipv6` or `loopback`.
    pub(crate) client_address: String,
    pub(crate) udp: Vec<SocketAddr>,
    pub(crate) tls: Vec<SocketAddr>,
    /// What its service manager does not keep of what it should.
    pub(crate) store_shortage: Option<StoreShortage>,
}

/// Somebody who should have replied and has not.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Silent {
    pub(crate) pid: Option<u32>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) reason: String,
}

/// A session, with what a person reads.
#[derive(Serialize)]
struct WithAge<'a> {
    #[serde(flatten)]
    session: &'a SessionReport,
    age: String,
}

#[derive(Serialize)]
struct Document<'a> {
    sessions: Vec<WithAge<'a>>,
    servers: &'a [ServerReport],
    relays: &'a [RelayReport],
    silent: &'a [Silent],
}

/// What one process replies.
pub(crate) struct Reply {
    peer: Peer,
    pub(crate) responses: Result<Vec<Response>, ControlError>,
}

/// Who was asked.
enum Peer {
    ControlSocket { pid: Option<u32> },
    Worker(ServerReport),
}

/// What can be asked, and what cannot.
#[derive(Default)]
struct Askable {
    open: Vec<(Peer, OwnedFd)>,
    silent: Vec<Silent>,
    servers: Vec<ServerReport>,
}

impl Overview {
    /// For people who look at it.
    pub(super) fn to_json(&self) -> String {
        serde_json::to_string_pretty(&self.document()).expect("plain values can be written")
    }

    /// One of many.
    pub(super) fn to_json_line(&self) -> String {
        serde_json::to_string(&self.document()).expect("plain values can be written")
    }

    fn document(&self) -> Document<'_> {
        let with_age = |session| WithAge {
            session,
            age: human::state(session),
        };
        Document {
            sessions: self.sessions.iter().map(with_age).collect(),
            servers: &self.servers,
            relays: &self.relays,
            silent: &self.silent,
        }
    }
}

/// Asks everybody for everything.
pub(crate) async fn overview(folders: &[PathBuf]) -> Overview {
    let (replies, mut overview) = request_from_all(folders, &Request::Status).await;
    for Reply { peer, responses } in replies {
        match responses {
            Ok(responses) => responses.into_iter().for_each(|response| overview.add(&peer, response)),
            Err(error) => overview.silent.push(Silent {
                pid: peer.pid(),
                socket: None,
                reason: error.to_string(),
            }),
        }
    }
    overview.sessions.sort_by(|one, other| {
        let key = |session: &SessionReport| {
            let (is_server, is_gone) = (session.half == Half::Server, session.state == State::Gone);
            (is_server, is_gone, session.host.clone(), session.id.clone())
        };
        key(one).cmp(&key(other))
    });
    overview
}

/// Asks everybody the same.
pub(crate) async fn ask_all(folders: &[PathBuf], request: &Request) -> Vec<Reply> {
    request_from_all(folders, request).await.0
}

async fn request_from_all(folders: &[PathBuf], request: &Request) -> (Vec<Reply>, Overview) {
    let mut askable = Askable::default();
    for folder in folders {
        askable.add_control_sockets(observe::control_sockets(folder));
        askable.add_servers(find_running_keepers(folder, KEEPER_TIMEOUT, |_| false));
    }
    let mut asking = JoinSet::new();
    for (peer, connection) in askable.open {
        let request = request.clone();
        asking.spawn(async move {
            let responses = observe::send_request(connection, &request, ANSWER_TIMEOUT).await;
            Reply { peer, responses }
        });
    }
    let overview = Overview {
        servers: askable.servers,
        silent: askable.silent,
        closed: folders.iter().filter(|folder| is_closed(folder)).cloned().collect(),
        ..Overview::default()
    };
    (asking.join_all().await, overview)
}

fn is_closed(folder: &Path) -> bool {
    folder.is_dir() && rustix::fs::access(folder, Access::READ_OK | Access::EXEC_OK).is_err()
}

impl Overview {
    fn add(&mut self, peer: &Peer, response: Response) {
        match response {
            Response::Session(session) => self.sessions.push(match peer {
                Peer::Worker(server) => SessionReport {
                    keeper_pid: Some(server.keeper_pid),
                    worker_pid: server.worker_pid,
                    ..*session
                },
                Peer::ControlSocket { .. } => *session,
            }),
            Response::Relay(relay) => self.relays.push(relay),
            Response::Path(path) => {
                if let Some(relay) = self.relays.last_mut() {
                    relay.paths.push(path);
                }
            }
            Response::Ended(_) | Response::Done | Response::Unsupported => {}
        }
    }
}

impl Askable {
    fn add_control_sockets(&mut self, found: Vec<FoundSocket>) {
        for socket in found {
            match socket {
                FoundSocket::Open { pid, connection } => self.open.push((Peer::ControlSocket { pid }, connection)),
                FoundSocket::Full { file } => self.silent.push(Silent {
                    pid: None,
                    socket: Some(file),
                    reason: ControlError::Silent.to_string(),
                }),
            }
        }
    }

    fn add_servers(&mut self, keepers: RunningKeepers) {
        self.silent.extend(keepers.unresponsive.into_iter().map(|file| Silent {
            pid: None,
            socket: Some(file),
            reason: ControlError::Silent.to_string(),
        }));
        for keeper in keepers.responding {
            let server = ServerReport::of(&keeper);
            self.servers.push(server.clone());
            match keeper.connect_to_worker() {
                Ok(connection) => self.open.push((Peer::Worker(server), connection)),
                Err(error) => self.silent.push(Silent {
                    pid: Some(server.keeper_pid),
                    socket: None,
                    reason: format!("cannot reach its worker: {error}"),
                }),
            }
        }
    }
}

impl ServerReport {
    fn of(keeper: &RunningKeeper) -> ServerReport {
        let who = keeper.info();
        ServerReport {
            keeper_pid: who.keeper,
            worker_pid: who.worker,
            version: who.version.clone(),
            client_address: who.client_address.clone(),
            udp: who.addresses.clone(),
            tls: who.tls_addresses.clone(),
            store_shortage: who.store_shortage,
        }
    }
}

impl Peer {
    fn pid(&self) -> Option<u32> {
        match self {
            Peer::ControlSocket { pid } => *pid,
            Peer::Worker(server) => server.worker_pid.or(Some(server.keeper_pid)),
        }
    }
}
