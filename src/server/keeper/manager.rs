//! The service manager above the keeper, where there is one: told how it goes, and given what is kept, so that it
//! outlives the keeper as well. Its protocol is sd_notify(3) and sd_listen_fds(3).
//!
//! What the manager's store can do is tried out, not believed: a manager drops what does not fit without a word. Once at
//! the start, for the number of sessions, and by the worker with each session: what is kept after it shows that it was
//! kept as well. Not by
//! the crate sd-notify: it looks for its socket in the environment, where the keeper's children would find it too, and
//! waits for a busy manager for ever.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    io::IoSlice,
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
        sockopt::{Timeout, set_socket_timeout},
    },
    pipe::{PipeFlags, pipe_with},
    time::{ClockId, clock_gettime},
};
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use super::{
    bus::BusError,
    listener::{Listener, Protocol},
    notice::Notice,
    packet::{self, MOST_DESCRIPTORS},
    unit::{Next, Stored, Unit},
};

/// The name under which it is tried out, and what such names of a worker begin with.
pub(super) const TRIAL_NAME: &str = "trial";

/// A manager compares everything that it is given with everything that it has: more in one go would hold it up.
const MOST_COMPARISONS: usize = 30_000;

/// How long a manager may be too busy to take a message, and to do what it was told.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
const BARRIER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take to answer. Usually that is 2 ms; a watchdog waits 10 s for this process.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What is known of a service manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ManagerTerms {
    /// Whose manager it is: it hears nobody else.
    pub(super) pid: u32,
    /// Where it listens: NOTIFY_SOCKET.
    pub(super) address: String,
    /// How often it wants to hear from us: half of WATCHDOG_USEC.
    pub(super) sign_of_life: Option<Duration>,
    /// How many descriptors it keeps by its own word: FDSTORE, since systemd 254.
    pub(super) says: Option<usize>,
    /// How many descriptors it can be given, as far as it was tried out; 0: it keeps none.
    pub(super) keeps: usize,
}

/// A service manager.
#[derive(Debug)]
pub(super) struct Manager {
    socket: OwnedFd,
    address: SocketAddrUnix,
    terms: ManagerTerms,
    next_sign: Option<Instant>,
}

impl Manager {
    /// The one of this process, if it has one that can be spoken with.
    pub(super) fn of(terms: &ManagerTerms, now: Instant) -> Option<Self> {
        if terms.pid != std::process::id() {
            return None;
        }
        match Self::connect(terms.clone(), now) {
            Ok(manager) => Some(manager),
            Err(error) => {
                warn!(%error, address = terms.address, "cannot speak with the service manager");
                None
            }
        }
    }

    fn connect(terms: ManagerTerms, now: Instant) -> io::Result<Self> {
        let address = match terms.address.strip_prefix('@') {
            Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
            None => SocketAddrUnix::new(terms.address.as_str())?,
        };
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(SEND_TIMEOUT))?;
        Ok(Self {
            socket,
            address,
            next_sign: terms.sign_of_life.map(|_| now),
            terms,
        })
    }

    pub(super) fn terms(&self) -> &ManagerTerms {
        &self.terms
    }

    /// Whether it keeps what it is given.
    pub(super) fn keeps_things(&self) -> bool {
        self.terms.keeps > 0
    }

    /// Passes on what the worker said, in the same words. Nothing that is to be kept goes to a manager that does not.
    pub(super) fn pass_on(&self, notice: &Notice, descriptors: &[BorrowedFd<'_>]) {
        if self.keeps_things() {
            self.say(&notice.text(), descriptors);
        }
    }

    /// Keeps these instead of those it had, for whoever listens there next. Their names are for people: they come back
    /// by what they are.
    pub(super) fn keep_listeners(&self, listeners: &[Listener]) {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let name = || protocol.to_string();
            let own = listeners.iter().filter(|listener| listener.protocol() == protocol);
            let descriptors: Vec<_> = own.map(AsFd::as_fd).collect();
            self.pass_on(&Notice::Remove { name: name() }, &[]);
            if !descriptors.is_empty() {
                self.pass_on(&Notice::Store { name: name() }, &descriptors);
            }
        }
    }

    /// The worker serves.
    pub(super) fn ready(&self, kept: usize) {
        self.say(
            &format!("READY=1\nSTATUS=serving; {kept} descriptors are kept for the next start"),
            &[],
        );
    }

    /// Everything is read anew, until it is ready again.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reloading"), &[]);
    }

    /// Nothing became of it.
    pub(super) fn still_ready(&self, why: &str) {
        let why = why.replace('\n', " ");
        self.say(&format!("READY=1\nSTATUS=serving; {why}"), &[]);
    }

    /// Keeps nothing more under these names. A manager that is given nothing may have something from before.
    pub(super) fn clear(&self, names: impl IntoIterator<Item = String>) {
        for name in names {
            self.say(&Notice::Remove { name }.text(), &[]);
        }
    }

    pub(super) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=stopping", &[]);
    }

    /// What follows the end of this process, which was told to end.
    pub(super) fn next(&self) -> Result<Next, BusError> {
        self.unit()?.next()
    }

    /// What is in the store.
    pub(super) fn stored(&self) -> Result<Stored, BusError> {
        self.unit()?.stored()
    }

    /// Says what that means if it cannot be asked.
    pub(super) fn warn_if_silent(&self) {
        if self.keeps_things()
            && let Err(error) = self.unit()
        {
            warn!(
                %error,
                "cannot ask the service manager about this service: after a stop clients are not told that their sessions \
                 have ended, and what it drops of its store is not noticed (systemd answers root, and a user of his own \
                 manager)"
            );
        }
    }

    fn unit(&self) -> Result<Unit, BusError> {
        Unit::of_manager_at(&self.terms.address, ANSWER_TIMEOUT)
    }

    /// When the next sign of life is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next_sign
    }

    pub(super) fn give_sign(&mut self, now: Instant) {
        if let (Some(next), Some(interval)) = (self.next_sign, self.terms.sign_of_life)
            && now >= next
        {
            self.say(&Notice::Watchdog.text(), &[]);
            self.next_sign = Some(now + interval);
        }
    }

    /// Finds out whether it keeps descriptors and, if that is fewer than `wanted`, how many; it has `kept` of ours
    /// already. `most` is what it says itself.
    pub(super) fn try_out(&mut self, wanted: usize, kept: usize, most: Option<usize>) {
        let enough = most.unwrap_or(wanted).min(wanted);
        let count = match most {
            Some(_) => 1,
            None => MOST_COMPARISONS / (kept + 1),
        };
        let count = count.min(MOST_DESCRIPTORS).min(enough.saturating_sub(kept));
        let removal = Notice::Remove {
            name: TRIAL_NAME.to_owned(),
        };
        // Before anything else is stored there must be room again.
        let tried = self.try_batch(count);
        let removed = self.send(&removal.text(), &[]).and_then(|()| self.barrier());
        self.terms.keeps = match tried.and_then(|found| removed.map(|()| found)) {
            Ok(found) if found == count => enough,
            Ok(found) => kept + found,
            Err(error) => {
                debug!(%error, "the service manager's store cannot be tried out");
                0
            }
        };
    }

    /// How many of a batch it keeps: the other end of what it has closed is hung up.
    fn try_batch(&self, count: usize) -> io::Result<usize> {
        let pairs: io::Result<Vec<_>> = (0..count).map(|_| packet::pair()).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs?.into_iter().unzip();
        let given: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        let notice = Notice::Store {
            name: TRIAL_NAME.to_owned(),
        };
        self.send(&notice.text(), &given)?;
        drop(theirs);
        self.barrier()?;
        Ok(ours.iter().filter(|end| !packet::is_hung_up(end.as_fd())).count())
    }

    /// Returns once it has done all that it was told.
    pub(super) fn barrier(&self) -> io::Result<()> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        self.send(&Notice::Barrier.text(), &[writer.as_fd()])?;
        drop(writer);
        match packet::wait_for(reader.as_fd(), PollFlags::IN, BARRIER_TIMEOUT)? {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn say(&self, text: &str, descriptors: &[BorrowedFd<'_>]) {
        if let Err(error) = self.send(text, descriptors) {
            warn!(%error, text, "cannot tell the service manager");
        }
    }

    fn send(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let text = [IoSlice::new(text.as_bytes())];
        let flags = SendFlags::NOSIGNAL;
        rustix::io::retry_on_intr(|| {
            rustix::net::sendmsg_addr(&self.socket, &self.address, &text, &mut ancillary, flags)
        })?;
        Ok(())
    }
}
