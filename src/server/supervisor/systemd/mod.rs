//! The service manager, if there is one: what it passes to the keeper at the start, and a connection to it. It is told
//! the keeper's state, and is given the stored descriptors, so that they outlive the keeper too. The protocols are
//! sd_notify(3), sd_listen_fds(3) and sd_watchdog_enabled(3).
//!
//! The manager's store is tested rather than trusted, because a manager silently drops descriptors that do not fit:
//! once at the start, for the number of sessions, and by the worker for each session. If a descriptor that is stored
//! later is kept, so are those before it.
//!
//! The crate sd-notify is not used: it looks for its socket in the environment, where the keeper's children would find
//! it too, and blocks without limit if the manager is busy.

mod bus;
mod store_check;
mod unit;

use std::{
    env, io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::PollFlags,
    io::{FdFlags, IoSlice, fcntl_getfd, fcntl_setfd},
    net::{
        AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
        sockopt::{Timeout, set_socket_timeout},
    },
    pipe::{PipeFlags, pipe_with},
    time::{ClockId, clock_gettime},
};
use tracing::{debug, info, warn};

use self::{
    bus::BusError,
    unit::{Stored, Unit},
};
pub(super) use self::{store_check::StoreCheck, unit::Next};
use crate::{
    clock,
    server::{
        handover::{
            Handover, Listener, ManagerConfig, Protocol, STORED_BESIDE, STORED_PER_SESSION, may_be_stored, store_limit,
        },
        ipc::{
            MAX_NAME, Notification, TRIAL_NAME, is_name, is_worker_name,
            seqpacket::{self, MAX_DESCRIPTORS},
        },
    },
};

/// The first passed descriptor (SD_LISTEN_FDS_START).
const FIRST_PASSED_FD: RawFd = 3;

/// The most bytes of all names together: a service manager passes them in one environment variable (MAX_ARG_STRLEN).
const MAX_BYTES_OF_NAMES: usize = 128 * 1024;

/// Removed from the environment, because they are meant for this process and not for its children.
const VARIABLES: [&str; 8] = [
    "FDSTORE",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// A manager compares each descriptor that it is given with all that it has: more comparisons in one message would
/// block it.
const MAX_COMPARISONS: usize = 30_000;

/// How long a manager may take to accept a message.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// How long it may take to process the messages before a barrier.
const BARRIER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long it may take to answer a question. It usually takes 2 ms; a watchdog waits 10 s for this process.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A service manager, and the descriptors that it has stored.
#[derive(Debug, Default)]
pub struct ServiceManager {
    pub(super) config: Option<ManagerConfig>,
    pub(super) listeners: Vec<Listener>,
    pub(super) stored: Vec<(String, Arc<OwnedFd>)>,
    /// Names that it is to remove from its store: tests that were interrupted, and everything, if it has no room for a
    /// session.
    pub(super) obsolete_names: Vec<String>,
}

impl ServiceManager {
    /// Reads and removes the variables of the service manager. Without a service manager there are none.
    ///
    /// To be called once, at the start of the program, before there is a second thread.
    pub fn take() -> Self {
        let [says, count, names, pid, _, address, watchdog_pid, watchdog] = VARIABLES.map(|name| env::var(name).ok());
        for name in VARIABLES {
            // SAFETY: the caller guarantees that there is no other thread that could read the environment meanwhile.
            #[allow(unsafe_code)]
            unsafe {
                env::remove_var(name);
            }
        }
        let mut found = Self::default();
        if is_ours(pid.as_deref(), false) {
            let count = count.and_then(|count| count.parse().ok()).unwrap_or(0);
            let names = names.unwrap_or_default();
            let names = names.split(':').chain(std::iter::repeat(""));
            for (number, name) in (FIRST_PASSED_FD..).take(count).zip(names) {
                // SAFETY: LISTEN_PID says that these are given to this process; they are taken once, because it was
                // removed above.
                #[allow(unsafe_code)]
                let descriptor = unsafe { take_descriptor(number) };
                found.sort_in(name, descriptor);
            }
        }
        found.config = address
            .filter(|address| address.starts_with(['/', '@']))
            .map(|address| ManagerConfig {
                pid: std::process::id(),
                address,
                watchdog_interval: watchdog
                    .and_then(|micros| micros.parse().ok())
                    .filter(|&micros| micros > 0 && is_ours(watchdog_pid.as_deref(), true))
                    .map(|micros| Duration::from_micros(micros) / 2),
                advertised: says.and_then(|most| most.parse().ok()),
                capacity: 0,
            });
        found
    }

    /// Whether this process has a service manager.
    pub fn is_there(&self) -> bool {
        self.config.is_some()
    }

    /// Listening sockets that it has stored.
    pub fn listeners(&self) -> &[Listener] {
        &self.listeners
    }

    /// How many sessions it can store, of `wanted`; `None` if it stores none. To be called before a keeper is started.
    pub fn max_stored_sessions(&mut self, wanted: usize) -> Option<usize> {
        let kept = self.stored.len() + self.listeners.len() + self.obsolete_names.len();
        let config = self.config.as_mut()?;
        let fit = max_stored_sessions(config, wanted, kept)?;
        if fit == 0 && wanted > 0 {
            give_up_store(config);
            let stored = self.stored.iter().map(|(name, _)| name.clone());
            let listeners = self.listeners.iter().map(|listener| listener.protocol().to_string());
            self.obsolete_names.extend(stored.chain(listeners));
            return None;
        }
        Some(fit)
    }

    fn sort_in(&mut self, name: &str, descriptor: Option<OwnedFd>) {
        let Some(descriptor) = descriptor else { return };
        match Listener::of(descriptor) {
            // A worker stored it as a connection, and something else was made of it.
            Ok(_) if is_worker_name(name) => {
                warn!(
                    name,
                    "a listening socket is stored under the name of a session: removed"
                );
                self.obsolete_names.push(name.to_owned());
            }
            Ok(listener) => self.listeners.push(listener),
            Err(_) if name.starts_with(TRIAL_NAME) => self.obsolete_names.push(name.to_owned()),
            Err(descriptor) if is_name(name) && may_be_stored(descriptor.as_fd()) => {
                self.stored.push((name.to_owned(), Arc::new(descriptor)));
            }
            Err(_) => warn!(name, "ignored a descriptor of the service manager"),
        }
    }
}

impl Handover {
    /// How many sessions the service manager can store, of `wanted`; `None` if it stores none.
    pub fn max_stored_sessions(&mut self, wanted: usize) -> Option<usize> {
        let kept = self.stored.len() + self.listeners.len();
        let config = self.config.manager.as_mut()?;
        let fit = max_stored_sessions(config, wanted, kept)?;
        if fit == 0 && wanted > 0 {
            give_up_store(config);
            return None;
        }
        Some(fit)
    }
}

/// How many sessions a service manager can store, beside those descriptors that it has already. Tests its store unless
/// that was done before.
fn max_stored_sessions(config: &mut ManagerConfig, wanted: usize, kept: usize) -> Option<usize> {
    let mut manager = Manager::of(config, clock::now())?;
    // Two descriptors, each with its name and a colon.
    let nameable = MAX_BYTES_OF_NAMES / (STORED_PER_SESSION * (MAX_NAME + 1)) - STORED_BESIDE;
    let most = wanted.min(nameable);
    let needed = store_limit(most);
    if config.capacity < needed {
        manager.try_out(needed, kept, config.advertised);
    }
    *config = manager.config().clone();
    if config.capacity == 0 {
        info!("the service manager stores no descriptors: sessions end when the service is restarted");
        return None;
    }
    Some(config.capacity.saturating_sub(STORED_BESIDE) / STORED_PER_SESSION)
}

/// Stops using a store that has no room for a session. A server half whose sessions end at a restart is better than
/// one that refuses all sessions.
fn give_up_store(config: &mut ManagerConfig) {
    warn!(
        kept = config.capacity,
        needed = store_limit(1),
        "the service manager's store (FileDescriptorStoreMax) has no room for a session: sessions end when the service is \
         restarted"
    );
    config.capacity = 0;
}

fn is_ours(pid: Option<&str>, is_optional: bool) -> bool {
    pid.map_or(is_optional, |pid| pid.parse() == Ok(std::process::id()))
}

/// # Safety
/// The descriptor must have no other owner.
#[allow(unsafe_code)]
unsafe fn take_descriptor(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: only borrowed for this expression; a closed one fails with EBADF.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(borrowed).ok()?;
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC).ok()?;
    // SAFETY: it is open, as checked above, and the caller guarantees that it has no other owner.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
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
