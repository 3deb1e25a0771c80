//! Taking over what a predecessor left: which descriptor is which, and how each of its sessions goes on.

use super::book::{self, Book};
use super::counters::{self, Recovered};
use super::header::Fixed;
use super::slot::{self, Numbers, Slot};
use super::tombs::{self, Tombs, Tombstone};
use super::{CountersError, Identity, Kept, MemoryError, Store, VaultError, lock, memory, ready_to_count};
use crate::clock;
use crate::memory::Mapping;
use crate::server::authority::chain;
use crate::session::{PipeCounts, RestoreError, Session};
use crate::wire::Offset;
use aws_lc_rs::digest::{SHA256, digest};
use rustix::fs::{FileType, SealFlags, fcntl_get_seals, fstat};
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;
use tracing::{debug, info, warn};

/// What a vault held.
pub(crate) struct Recovery {
    /// What goes on.
    pub(crate) sessions: Vec<RecoveredSession>,
    /// What does not. Logged already, and in `tombs` where it is known whose it was.
    #[cfg_attr(not(test), allow(dead_code, reason = "logged and buried already; tests look closer"))]
    pub(crate) lost: Vec<LostSession>,
    /// Of predecessors' sessions, to be added to.
    pub(crate) tombs: Tombs,
}

/// A session that goes on where its predecessor stopped.
pub(crate) struct RecoveredSession {
    /// Whose it is.
    pub(crate) identity: Identity,
    /// Whether a frame ever came from the client half.
    pub(crate) confirmed: bool,
    /// Since when it has had no carrier.
    pub(crate) detached_since: Instant,
    /// Everything else.
    pub(crate) kept: Kept,
}

/// A session that cannot go on.
#[derive(Debug)]
pub(crate) struct LostSession {
    /// Its name in the store, where it is no more.
    pub(crate) name: String,
    /// Whose it was, if that can be read.
    pub(crate) identity: Option<Box<Identity>>,
    /// Why.
    pub(crate) error: LossError,
}

/// Why a session cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LossError {
    /// It ended just before its worker did.
    #[error("it had ended")]
    Ended,
    /// One descriptor is missing, or there are too many.
    #[error("{sockets} connections and {memories} files of memory are kept for it, not one of each")]
    Incomplete {
        /// Connections to sshd.
        sockets: usize,
        /// Files in memory.
        memories: usize,
    },
    /// Its memory cannot be used.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// Its connection cannot be used.
    #[error("its connection to sshd cannot be used")]
    Socket(#[from] io::Error),
    /// The kernel's counters do not fit what was recorded.
    #[error(transparent)]
    Counters(#[from] CountersError),
    /// A counter is beyond all sense.
    #[error("byte {position} of its connection is beyond what a session can count")]
    Position {
        /// What the kernel says.
        position: u64,
    },
    /// The record does not fit the rest.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

/// What is in a store, by its meaning.
#[derive(Default)]
pub(super) struct Found {
    pub(super) lock: Vec<Arc<OwnedFd>>,
    pub(super) tombs: Vec<Arc<OwnedFd>>,
    sessions: BTreeMap<u32, Parts>,
    unknown: Vec<String>,
}

/// What is kept of one session.
#[derive(Default)]
struct Parts {
    sockets: Vec<Arc<OwnedFd>>,
    memories: Vec<Arc<OwnedFd>>,
}

impl Found {
    pub(super) fn sort(stored: Vec<(String, Arc<OwnedFd>)>) -> Found {
        let mut found = Found::default();
        for (name, fd) in stored {
            match (name.as_str(), slot::number(&name)) {
                (lock::NAME, _) => found.lock.push(fd),
                (tombs::NAME, _) => found.tombs.push(fd),
                (_, Some(number)) => found.sessions.entry(number).or_default().add(&name, fd),
                (_, None) => found.unknown.push(name),
            }
        }
        found
    }

    /// Takes every session over. Only with the lock.
    pub(super) fn recover(self, store: &dyn Store, mut tombs: Tombs, numbers: &mut Numbers) -> Recovery {
        for name in &self.unknown {
            warn!(name, "something unknown is kept: dropped");
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
                    session.bury(&mut tombs);
                    lost.push(session);
                }
            }
        }
        if !sessions.is_empty() {
            info!(
                event = "recovered",
                sessions = sessions.len(),
                lost = lost.len(),
                "sessions taken over"
            );
        }
        Recovery { sessions, lost, tombs }
    }
}

impl LostSession {
    fn bury(&self, tombs: &mut Tombs) {
        let (name, error) = (&self.name, chain(&self.error));
        let session = self.identity.as_ref().map(|identity| identity.session);
        let why = match self.error {
            LossError::Ended => {
                debug!(name, ?session, "a session had ended");
                "it ended just before the server half was replaced".to_owned()
            }
            _ => {
                let session = session.map(tracing::field::display);
                warn!(event = "closed", name, session, error, "a session cannot be taken over");
                format!("the server half was replaced, and could not go on with it: {error}")
            }
        };
        if let Some(Identity { session, owner, .. }) = self.identity.as_deref() {
            let hash = digest(&SHA256, owner);
            tombs.add(&Tombstone {
                session: *session,
                owner: hash.as_ref().try_into().expect("SHA-256 has 32 bytes"),
                why,
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
            None => return warn!(name, "a descriptor of an unknown kind is kept"),
        };
        // Stores above one another may keep a thing twice.
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
        let header = self.memories.first().map(book::open).transpose();
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
    let (ring, book, latest) = book::adopt(file, header, fixed)?;
    if latest.ended {
        return Err(LossError::Ended);
    }
    ready_to_count(socket)?;
    let recovered = counters::recover(
        socket.as_fd(),
        latest.intent,
        latest.session.output_end.map(Offset::get),
    )?;
    debug!(name = slot::name(number), ?recovered, ?latest, "a session's counters");
    let session = Session::restore(memory(ring, fixed)?, &latest.session, counts(&recovered)?)?;
    Ok(RecoveredSession {
        identity: fixed.identity.clone(),
        confirmed: latest.confirmed,
        detached_since: latest.detached_since.map_or_else(clock::now, clock::from_boot_millis),
        kept: kept(session, number, socket, book, recovered.consumed)?,
    })
}

fn kept(session: Session, number: u32, socket: &Arc<OwnedFd>, book: Book, consumed: u64) -> io::Result<Kept> {
    let slot = Slot {
        number,
        socket: Arc::clone(socket),
        book: Arc::new(book),
    };
    Kept::new(session, slot, consumed)
}

fn counts(recovered: &Recovered) -> Result<PipeCounts, LossError> {
    let offset = |position| Offset::new(position).ok_or(LossError::Position { position });
    Ok(PipeCounts {
        read: offset(recovered.consumed)?,
        written: offset(recovered.written)?,
        output_shut: recovered.output_shut,
    })
}

/// The tombstones that were kept, or new ones. Only with the lock.
pub(super) async fn tombs(store: &dyn Store, kept: &[Arc<OwnedFd>]) -> Result<Tombs, VaultError> {
    if let Some(tombs) = kept.first().and_then(Tombs::adopt) {
        return Ok(tombs);
    }
    if !kept.is_empty() {
        warn!("the tombstones of earlier sessions are illegible: dropped");
        store.remove(tombs::NAME);
    }
    let (tombs, file) = Tombs::create().map_err(MemoryError::Map)?;
    store.put(tombs::NAME, vec![Arc::new(file)]).await?;
    Ok(tombs)
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
