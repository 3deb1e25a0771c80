//! Takes over what a previous worker left: identifies the descriptors, and restores each session.

use super::closed_sessions::{self, ClosedSession, ClosedSessions};
use super::counters::{self, Recovered};
use super::header::Fixed;
use super::session_record::{self, SessionRecord};
use super::slot::{self, Slot, UsedSlots};
use super::{
    CountersError, FdStore, Identity, MemoryError, SessionStoreError, StoredSession, lock, memory, ready_to_count,
};
use crate::clock;
use crate::memory::Mapping;
use crate::session::{PipeCounts, RestoreError, Session};
use crate::wire::{ErrorChain, Offset};
use aws_lc_rs::digest::{SHA256, digest};
use rustix::fs::{FileType, SealFlags, fcntl_get_seals, fstat};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;
use tracing::{debug, info, warn};

/// The contents of a session store.
pub(crate) struct Recovery {
    /// Sessions that continue.
    pub(crate) sessions: Vec<RecoveredSession>,
    /// Sessions that do not. They are logged, and are in `closed_sessions` if their owner is known.
    #[cfg_attr(not(test), allow(dead_code, reason = "logged already; only tests look at them"))]
    pub(crate) lost: Vec<LostSession>,
    /// Closed sessions of previous workers, to be extended.
    pub(crate) closed_sessions: ClosedSessions,
}

/// A session that continues where the previous worker stopped.
pub(crate) struct RecoveredSession {
    /// The session and its owner.
    pub(crate) identity: Identity,
    /// Whether the client half has ever sent a frame.
    pub(crate) confirmed: bool,
    /// Since when it has had no carrier.
    pub(crate) detached_since: Instant,
    /// The rest.
    pub(crate) kept: StoredSession,
}

/// A session that cannot continue.
#[derive(Debug)]
pub(crate) struct LostSession {
    /// Its name in the descriptor store, from which it was removed.
    pub(crate) name: String,
    /// Whose it was, if that is known.
    pub(crate) identity: Option<Box<Identity>>,
    /// The reason.
    pub(crate) error: LossError,
}

/// Why a session cannot continue.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LossError {
    /// It had ended just before its worker.
    #[error("it had already ended")]
    Ended,
    /// A descriptor is missing, or there are too many.
    #[error("{sockets} connections and {memories} memfds are stored for it instead of one of each")]
    Incomplete {
        /// Connections to sshd.
        sockets: usize,
        /// Memfds.
        memories: usize,
    },
    /// Its memory cannot be used.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Its connection cannot be used.
    #[error("its connection to sshd cannot be used")]
    Socket(#[from] io::Error),
    /// The kernel's counters contradict what was recorded.
    #[error(transparent)]
    Counters(#[from] CountersError),
    /// A counter is too large.
    #[error("its connection has transferred {position} bytes, which is more than a session can count")]
    Position {
        /// The kernel's value.
        position: u64,
    },
    /// The record contradicts the rest.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// The contents of a descriptor store, by kind.
#[derive(Default)]
pub(super) struct StoredParts {
    pub(super) lock: Vec<Arc<OwnedFd>>,
    pub(super) closed_sessions: Vec<Arc<OwnedFd>>,
    sessions: BTreeMap<u32, Parts>,
    unknown: Vec<String>,
}

/// The descriptors of one session.
#[derive(Default)]
struct Parts {
    sockets: Vec<Arc<OwnedFd>>,
    memories: Vec<Arc<OwnedFd>>,
}

impl StoredParts {
    pub(super) fn sort(stored: Vec<(String, Arc<OwnedFd>)>) -> StoredParts {
        let mut found = StoredParts::default();
        for (name, fd) in stored {
            match (name.as_str(), slot::number(&name)) {
                (lock::NAME, _) => found.lock.push(fd),
                (closed_sessions::NAME, _) => found.closed_sessions.push(fd),
                (_, Some(number)) => found.sessions.entry(number).or_default().add(&name, fd),
                (_, None) => found.unknown.push(name),
            }
        }
        found
    }

    /// Takes every session over. The caller holds the lock.
    pub(super) fn recover(
        self,
        store: &dyn FdStore,
        mut closed_sessions: ClosedSessions,
        numbers: &mut UsedSlots,
    ) -> Recovery {
        for name in &self.unknown {
            warn!(name, "removed a stored descriptor with an unknown name");
            store.remove(name);
        }
        let (mut sessions, mut lost) = (Vec::new(), Vec::new());
        for (number, parts) in self.sessions {
            match parts.recover(number) {
                Ok(session) => {
                    numbers.insert(number);
                    sessions.push(session);
                }
                Err(session) => {
                    store.remove(&session.name);
                    session.record_closed(&mut closed_sessions);
                    lost.push(session);
                }
            }
        }
        if !sessions.is_empty() {
            info!(
                event = "recovered",
                sessions = sessions.len(),
                lost = lost.len(),
                "took over the sessions of the previous worker"
            );
        }
        Recovery {
            sessions,
            lost,
            closed_sessions,
        }
    }
}

impl LostSession {
    fn record_closed(&self, closed_sessions: &mut ClosedSessions) {
        let (name, error) = (&self.name, ErrorChain(&self.error).to_string());
        let session = self.identity.as_ref().map(|identity| identity.session);
        let why = match self.error {
            LossError::Ended => {
                debug!(name, ?session, "a session had already ended");
                "it ended just before the server half was replaced".to_owned()
            }
            _ => {
                let session = session.map(tracing::field::display);
                warn!(event = "closed", name, session, error, "cannot take over a session");
                format!("the server half was replaced and could not continue it: {error}")
            }
        };
        if let Some(Identity { session, owner, .. }) = self.identity.as_deref() {
            let hash = digest(&SHA256, owner);
            closed_sessions.add(&ClosedSession {
                session: *session,
                owner: hash.as_ref().try_into().expect("SHA-256 has 32 bytes"),
                reason: why,
                at: clock::now(),
            });
        }
    }
}

impl Parts {
    fn add(&mut self, name: &str, fd: Arc<OwnedFd>) {
        let place = match kind(&fd) {
            Some(Kind::Socket) => &mut self.sockets,
            Some(Kind::Memory) => &mut self.memories,
            None => return warn!(name, "ignored a stored descriptor of an unknown kind"),
        };
        // The keeper and the service manager may both return the same descriptor.
        if !place.iter().any(|other| is_same(other, &fd)) {
            place.push(fd);
        }
    }

    fn recover(self, number: u32) -> Result<RecoveredSession, LostSession> {
        let lose = |identity, error| LostSession {
            name: slot::name(number),
            identity,
            error,
        };
        let header = self.memories.first().map(session_record::open).transpose();
        let header = header.map_err(|error| lose(None, error.into()))?;
        let identity = header.as_ref().map(|(_, fixed)| Box::new(fixed.identity.clone()));
        let (([socket], [file]), Some((header, fixed))) = ((&*self.sockets, &*self.memories), header) else {
            let error = LossError::Incomplete {
                sockets: self.sockets.len(),
                memories: self.memories.len(),
            };
            return Err(lose(identity, error));
        };
        recover(number, socket, file, header, &fixed).map_err(|error| lose(identity, error))
    }
}

fn recover(
    number: u32,
    socket: &Arc<OwnedFd>,
    file: &OwnedFd,
    header: Mapping,
    fixed: &Fixed,
) -> Result<RecoveredSession, LossError> {
    let (ring, session_record, latest) = session_record::adopt(file, header, fixed)?;
    if latest.ended {
        return Err(LossError::Ended);
    }
    ready_to_count(socket)?;
    let recovered = counters::recover(
        socket.as_fd(),
        latest.intent,
        latest.session.output_end.map(Offset::get),
    )?;
    debug!(
        name = slot::name(number),
        ?recovered,
        ?latest,
        "recovered a session's counters"
    );
    let session = Session::restore(memory(ring, fixed)?, &latest.session, counts(&recovered)?)?;
    Ok(RecoveredSession {
        identity: fixed.identity.clone(),
        confirmed: latest.confirmed,
        detached_since: latest.detached_since.map_or_else(clock::now, clock::from_boot_millis),
        kept: kept(session, number, socket, session_record, recovered.consumed)?,
    })
}

fn kept(
    session: Session,
    number: u32,
    socket: &Arc<OwnedFd>,
    session_record: SessionRecord,
    consumed: u64,
) -> io::Result<StoredSession> {
    let slot = Slot {
        number,
        socket: Arc::clone(socket),
        session_record: Arc::new(session_record),
    };
    StoredSession::new(session, slot, consumed)
}

fn counts(recovered: &Recovered) -> Result<PipeCounts, LossError> {
    let offset = |position| Offset::new(position).ok_or(LossError::Position { position });
    Ok(PipeCounts {
        read: offset(recovered.consumed)?,
        written: offset(recovered.written)?,
        output_shut: recovered.output_shut,
    })
}

/// The list of closed sessions that is stored, or a new one. The caller holds the lock.
pub(super) async fn closed_sessions(
    store: &dyn FdStore,
    kept: &[Arc<OwnedFd>],
) -> Result<ClosedSessions, SessionStoreError> {
    if let Some(closed_sessions) = kept.first().and_then(ClosedSessions::adopt) {
        return Ok(closed_sessions);
    }
    if !kept.is_empty() {
        warn!("the list of closed sessions is damaged: replaced by an empty one");
        store.remove(closed_sessions::NAME);
    }
    let (closed_sessions, file) = ClosedSessions::create().map_err(MemoryError::Map)?;
    store.put(closed_sessions::NAME, vec![Arc::new(file)]).await?;
    Ok(closed_sessions)
}

enum Kind {
    Socket,
    Memory,
}

fn kind(fd: &OwnedFd) -> Option<Kind> {
    match FileType::from_raw_mode(fstat(fd).ok()?.st_mode) {
        FileType::Socket => {
            let is_inet = matches!(
                sockopt::socket_domain(fd).ok()?,
                AddressFamily::INET | AddressFamily::INET6
            );
            let is_stream = sockopt::socket_type(fd).ok()? == SocketType::STREAM;
            (is_inet && is_stream).then_some(Kind::Socket)
        }
        FileType::RegularFile => {
            let seals = fcntl_get_seals(fd).ok()?;
            seals.contains(SealFlags::SHRINK).then_some(Kind::Memory)
        }
        _ => None,
    }
}

fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    match (fstat(one), fstat(other)) {
        (Ok(one), Ok(other)) => (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino),
        _ => false,
    }
}
