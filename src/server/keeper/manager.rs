//! The connection to the service manager, if there is one: it is told the keeper's state, and is given the stored
//! descriptors, so that they outlive the keeper too. The protocol is sd_notify(3) and sd_listen_fds(3).
//!
//! The manager's store is tested rather than trusted, because a manager silently drops descriptors that do not fit:
//! once at the start, for the number of sessions, and by the worker for each session. If a descriptor that is stored
//! later is kept, so are those before it.
//!
//! The crate sd-notify is not used: it looks for its socket in the environment, where the keeper's children would find
//! it too, and blocks without limit if the manager is busy.

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
    sd_notify::Notification,
    seqpacket::{self, MAX_DESCRIPTORS},
    unit::{Next, Stored, Unit},
};

/// The name of the keeper's test descriptors. The names of the worker's begin with it.
pub(super) const TRIAL_NAME: &str = "trial";

/// A manager compares each descriptor that it is given with all that it has: more comparisons in one message would
/// block it.
const MAX_COMPARISONS: usize = 30_000;

/// How long a manager may take to accept a message, and to process those before a barrier.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);
const BARRIER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take to answer a question. It usually takes 2 ms; a watchdog waits 10 s for this process.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// What is known about a service manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ManagerConfig {
    /// The process id that it manages: it accepts messages from no other process.
    pub(super) pid: u32,
    /// The socket of its notifications: NOTIFY_SOCKET.
    pub(super) address: String,
    /// How often it expects WATCHDOG=1: half of WATCHDOG_USEC.
    pub(super) watchdog_interval: Option<Duration>,
    /// How many descriptors it says that it stores: FDSTORE, since systemd 254.
    pub(super) advertised: Option<usize>,
    /// How many descriptors it can store, as far as that was tested; 0: none.
    pub(super) capacity: usize,
}

/// A service manager.
#[derive(Debug)]
pub(super) struct Manager {
    socket: OwnedFd,
    address: SocketAddrUnix,
    config: ManagerConfig,
    next_watchdog: Option<Instant>,
}

impl Manager {
    /// The manager of this process, if there is one that can be reached.
    pub(super) fn of(config: &ManagerConfig, now: Instant) -> Option<Self> {
        if config.pid != std::process::id() {
            return None;
        }
        match Self::connect(config.clone(), now) {
            Ok(manager) => Some(manager),
            Err(error) => {
                warn!(%error, address = config.address, "cannot connect to the service manager");
                None
            }
        }
    }

    fn connect(config: ManagerConfig, now: Instant) -> io::Result<Self> {
        let address = match config.address.strip_prefix('@') {
            Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
            None => SocketAddrUnix::new(config.address.as_str())?,
        };
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        set_socket_timeout(&socket, Timeout::Send, Some(SEND_TIMEOUT))?;
        Ok(Self {
            socket,
            address,
            next_watchdog: config.watchdog_interval.map(|_| now),
            config,
        })
    }

    pub(super) fn config(&self) -> &ManagerConfig {
        &self.config
    }

    /// Whether it stores descriptors.
    pub(super) fn has_store(&self) -> bool {
        self.config.capacity > 0
    }

    /// Forwards the worker's notification. Nothing is sent to a manager that stores no descriptors.
    pub(super) fn forward(&self, notification: &Notification, descriptors: &[BorrowedFd<'_>]) {
        if self.has_store() {
            self.say(&notification.text(), descriptors);
        }
    }

    /// Stores the listening sockets instead of the previous ones. Their names are for people: at the next start they
    /// are recognized by their type.
    pub(super) fn keep_listeners(&self, listeners: &[Listener]) {
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            let name = || protocol.to_string();
            let own = listeners.iter().filter(|listener| listener.protocol() == protocol);
            let descriptors: Vec<_> = own.map(AsFd::as_fd).collect();
            self.forward(&Notification::Remove { name: name() }, &[]);
            if !descriptors.is_empty() {
                self.forward(&Notification::Store { name: name() }, &descriptors);
            }
        }
    }

    /// Reports that the worker serves.
    pub(super) fn ready(&self, kept: usize) {
        self.say(
            &format!("READY=1\nSTATUS=serving; {kept} descriptors are kept for the next start"),
            &[],
        );
    }

    /// Reports that the configuration is being reloaded.
    pub(super) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000;
        self.say(&format!("RELOADING=1\nMONOTONIC_USEC={micros}\nSTATUS=reloading"), &[]);
    }

    /// Reports that nothing has changed, and why.
    pub(super) fn still_ready(&self, why: &str) {
        let why = why.replace('\n', " ");
        self.say(&format!("READY=1\nSTATUS=serving; {why}"), &[]);
    }

    /// Removes everything under these names, also from a manager without a store: it may have something from before.
    pub(super) fn clear(&self, names: impl IntoIterator<Item = String>) {
        for name in names {
            self.say(&Notification::Remove { name }.text(), &[]);
        }
    }

    pub(super) fn stopping(&self) {
        self.say("STOPPING=1\nSTATUS=stopping", &[]);
    }

    /// What the service manager does after the end of this process, which was told to end.
    pub(super) fn next(&self) -> Result<Next, BusError> {
        self.unit()?.next()
    }

    /// How much is in the store.
    pub(super) fn stored(&self) -> Result<Stored, BusError> {
        self.unit()?.stored()
    }

    /// Warns if the manager cannot be asked, with the consequences.
    pub(super) fn warn_if_unreachable(&self) {
        if self.has_store()
            && let Err(error) = self.unit()
        {
            warn!(
                %error,
                "cannot ask the service manager about this service: after a stop clients are not told that their sessions \
                 have ended, and descriptors that it drops from its store are not noticed (systemd answers root, and users of their own \
                 manager)"
            );
        }
    }

    fn unit(&self) -> Result<Unit, BusError> {
        Unit::of_manager_at(&self.config.address, ANSWER_TIMEOUT)
    }

    /// When the next watchdog message is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.next_watchdog
    }

    pub(super) fn send_watchdog(&mut self, now: Instant) {
        if let (Some(next), Some(interval)) = (self.next_watchdog, self.config.watchdog_interval)
            && now >= next
        {
            self.say(&Notification::Watchdog.text(), &[]);
            self.next_watchdog = Some(now + interval);
        }
    }

    /// Tests whether it stores descriptors, and how many if that is fewer than `wanted`; it has `kept` of ours
    /// already. `most` is what it says itself.
    pub(super) fn try_out(&mut self, wanted: usize, kept: usize, most: Option<usize>) {
        let enough = most.unwrap_or(wanted).min(wanted);
        let count = match most {
            Some(_) => 1,
            None => MAX_COMPARISONS / (kept + 1),
        };
        let count = count.min(MAX_DESCRIPTORS).min(enough.saturating_sub(kept));
        let removal = Notification::Remove {
            name: TRIAL_NAME.to_owned(),
        };
        // The test descriptors are removed before anything else is stored.
        let tried = self.try_batch(count);
        let removed = self.send(&removal.text(), &[]).and_then(|()| self.barrier());
        self.config.capacity = match tried.and_then(|found| removed.map(|()| found)) {
            Ok(found) if found == count => enough,
            Ok(found) => kept + found,
            Err(error) => {
                debug!(%error, "cannot test the service manager's store");
                0
            }
        };
    }

    /// How many of a batch it keeps: the other end of each descriptor that it closed is hung up.
    fn try_batch(&self, count: usize) -> io::Result<usize> {
        let pairs: io::Result<Vec<_>> = (0..count).map(|_| seqpacket::pair()).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) = pairs?.into_iter().unzip();
        let given: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        let notification = Notification::Store {
            name: TRIAL_NAME.to_owned(),
        };
        self.send(&notification.text(), &given)?;
        drop(theirs);
        self.barrier()?;
        Ok(ours.iter().filter(|end| !seqpacket::is_hung_up(end.as_fd())).count())
    }

    /// Returns once it has processed all messages.
    pub(super) fn barrier(&self) -> io::Result<()> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        self.send(&Notification::Barrier.text(), &[writer.as_fd()])?;
        drop(writer);
        match seqpacket::wait_for(reader.as_fd(), PollFlags::IN, BARRIER_TIMEOUT)? {
            true => Ok(()),
            false => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn say(&self, text: &str, descriptors: &[BorrowedFd<'_>]) {
        if let Err(error) = self.send(text, descriptors) {
            warn!(%error, text, "cannot send a message to the service manager");
        }
    }

    fn send(&self, text: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
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
