//! The worker's side: what it inherits from its keeper, and how it asks and hears from it.

use std::{
    collections::HashMap,
    fs::File,
    io,
    net::UdpSocket,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, SealFlags},
    net::{AddressFamily, SocketType},
    process::{DumpableBehavior, Resource},
};
use tokio::{
    io::Interest,
    sync::{Semaphore, oneshot},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

use super::{
    MOST_HANDOVER, Reply, Request,
    control::{self, FromKeeper, Greeting, ToKeeper},
};
use crate::{descriptor::Pollable, tasks::Tasks};

/// Requests under way at once; the rest wait. The keeper answers one after the other.
const MOST_REQUESTS: usize = 16;

/// The keeper answers in milliseconds; this long means that it hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What the keeper gave this process.
#[derive(Debug)]
pub struct WorkerInheritance {
    /// The bound sockets, in the order of the plan.
    pub listeners: Vec<UdpSocket>,
    /// The settings of the plan, byte for byte. Secret: wiped when dropped.
    pub handover: Zeroizing<Vec<u8>>,
    /// The way to the keeper.
    pub control: Control,
}

/// Why this process cannot be a worker.
#[derive(Debug, thiserror::Error)]
pub enum InheritanceError {
    /// Standard input is no control socket.
    #[error("a worker is started by its keeper, not by hand")]
    NotStartedByKeeper,
    /// Program and keeper are of versions that do not understand each other.
    #[error("the keeper speaks version {keeper} of its protocol, this program version {ours}")]
    Version {
        /// The keeper's.
        keeper: u32,
        /// This program's.
        ours: u32,
    },
    /// What came is not what a keeper gives.
    #[error("descriptor {index} from the keeper is not what it should be")]
    Descriptor {
        /// Its place; the settings have 0, the sockets follow.
        index: usize,
    },
    /// The process still has root's rights though it should not.
    #[error("the worker still has the rights of root")]
    Privileged,
    /// A system call failed.
    #[error("cannot take over from the keeper")]
    Io(#[from] io::Error),
}

impl WorkerInheritance {
    /// Takes everything over from standard input, where `/dev/null` is left, and gives up what a worker must not have:
    /// new privileges through exec, ambient capabilities, and (if it was root's to give) core dumps and
    /// debuggers that would show its keys to others of the same user.
    ///
    /// To be called before there is a second thread: privileges belong to threads.
    ///
    /// # Errors
    /// See [`InheritanceError`].
    pub fn take() -> Result<Self, InheritanceError> {
        let stdin = rustix::stdio::stdin();
        if !control::is_control(stdin) {
            return Err(InheritanceError::NotStartedByKeeper);
        }
        let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 3).map_err(io::Error::from)?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        null.and_then(rustix::stdio::dup2_stdin).map_err(io::Error::from)?;
        let received = control::receive_with::<Greeting>(&socket)?;
        let (greeting, descriptors) = received.ok_or(InheritanceError::NotStartedByKeeper)?;
        if greeting.version != control::VERSION {
            return Err(InheritanceError::Version {
                keeper: greeting.version,
                ours: control::VERSION,
            });
        }
        give_up_privileges(greeting.unprivileged)?;
        raise_descriptor_limit();
        // For ps(1): it may have been started by way of a descriptor, whose number would be its name.
        rustix::thread::set_name(c"bowline-worker").map_err(io::Error::from)?;
        let mut descriptors = descriptors.into_iter().enumerate();
        let (_, settings) = descriptors.next().ok_or(InheritanceError::Descriptor { index: 0 })?;
        let handover = read_settings(settings)?;
        let listeners = descriptors
            .map(|(index, fd)| udp_socket(index, fd))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            listeners,
            handover,
            control: Control(socket),
        })
    }
}

/// The worker's end of the control socket, not in use yet.
#[derive(Debug)]
pub struct Control(OwnedFd);

impl Control {
    /// Puts it to use: a task listens to the keeper.
    ///
    /// Must be called in a tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    /// What registering the socket failed with.
    pub(crate) fn connect(self, tasks: &Tasks) -> io::Result<KeeperClient> {
        let link = Arc::new(Link {
            fd: Pollable::new(self.0, Interest::READABLE | Interest::WRITABLE)?,
            waiting: Mutex::new(Some(HashMap::new())),
            next_id: AtomicU64::new(0),
            slots: Semaphore::new(MOST_REQUESTS),
            stop: CancellationToken::new(),
        });
        tasks.spawn("keeper link", listen(Arc::clone(&link), tasks.token()));
        Ok(KeeperClient(link))
    }
}

/// Asks the keeper, and hears when to stop.
#[derive(Debug, Clone)]
pub struct KeeperClient(Arc<Link>);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The keeper is gone.
    #[error("the keeper is gone")]
    Gone,
    /// The keeper did not answer in time.
    #[error("the keeper did not answer within {ANSWER_TIMEOUT:?}")]
    Timeout,
    /// The request could not be sent; `InvalidInput` means that it is too long.
    #[error("cannot ask the keeper")]
    Send(#[source] io::Error),
}

impl KeeperClient {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request(&self, request: Request) -> Result<Reply, RequestError> {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.0.ask(request)).await;
        asked.unwrap_or(Err(RequestError::Timeout))
    }

    /// Cancelled when the keeper asks the worker to stop, or is gone.
    pub fn stop_token(&self) -> CancellationToken {
        self.0.stop.clone()
    }
}

#[derive(Debug)]
struct Link {
    fd: Pollable,
    /// Who waits for which answer; `None` once the keeper is gone.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>,
    next_id: AtomicU64,
    slots: Semaphore,
    stop: CancellationToken,
}

impl Link {
    async fn ask(&self, request: Request) -> Result<Reply, RequestError> {
        let _slot = self.slots.acquire().await.map_err(|_| RequestError::Gone)?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.with_waiting(|waiting| waiting.insert(id, answer))
            .ok_or(RequestError::Gone)?;
        let _forget = Forget { link: self, id };
        let message = ToKeeper { id, request };
        let sent = self
            .fd
            .async_io(Interest::WRITABLE, |fd| control::send(fd, &message))
            .await;
        sent.map_err(RequestError::Send)?;
        answered.await.map_err(|_| RequestError::Gone)
    }

    fn with_waiting<T>(&self, act: impl FnOnce(&mut HashMap<u64, oneshot::Sender<Reply>>) -> T) -> Option<T> {
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .map(act)
    }

    fn handle_message(&self, message: FromKeeper, descriptor: Option<OwnedFd>) {
        match message {
            FromKeeper::Stop => {
                info!("the keeper asks to stop");
                self.stop.cancel();
            }
            FromKeeper::Answer { id, response } => {
                let waiting = self.with_waiting(|waiting| waiting.remove(&id)).flatten();
                let reply = Reply { response, descriptor };
                if waiting.and_then(|answer| answer.send(reply).ok()).is_none() {
                    debug!(id, "an answer that nobody waits for any more");
                }
            }
        }
    }

    /// Whoever waits for an answer learns that there will be none.
    fn close(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.stop.cancel();
    }
}

/// A request that is given up is waited for no longer.
struct Forget<'a> {
    link: &'a Link,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.link.with_waiting(|waiting| waiting.remove(&self.id));
    }
}

async fn listen(link: Arc<Link>, token: CancellationToken) {
    let read = || {
        link.fd
            .async_io(Interest::READABLE, |fd| control::receive_with::<FromKeeper>(fd))
    };
    loop {
        match token.run_until_cancelled(read()).await {
            None => break,
            Some(Ok(Some((message, descriptors)))) => link.handle_message(message, descriptors.into_iter().next()),
            Some(Ok(None)) => {
                warn!("the keeper is gone: stopping");
                break;
            }
            Some(Err(error)) => {
                warn!(%error, "lost the connection with the keeper: stopping");
                break;
            }
        }
    }
    link.close();
}

fn give_up_privileges(unprivileged: bool) -> Result<(), InheritanceError> {
    use rustix::{process, thread};
    thread::set_no_new_privs(true).map_err(io::Error::from)?;
    thread::clear_ambient_capability_set().map_err(io::Error::from)?;
    if unprivileged {
        if process::getuid().is_root() || process::geteuid().is_root() || process::getegid().is_root() {
            return Err(InheritanceError::Privileged);
        }
        process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(io::Error::from)?;
    }
    Ok(())
}

/// A session takes a descriptor or two; the usual soft limit of 1024 is there for programs that use select(2).
fn raise_descriptor_limit() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        debug!(%error, "cannot raise the limit of descriptors");
    }
}

fn read_settings(fd: OwnedFd) -> Result<Zeroizing<Vec<u8>>, InheritanceError> {
    use std::os::unix::fs::FileExt;
    let sealed = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let is_sealed = rustix::fs::fcntl_get_seals(&fd).is_ok_and(|seals| seals.contains(sealed));
    let memory = File::from(fd);
    let length = memory.metadata()?.len() as usize;
    if !is_sealed || length > MOST_HANDOVER {
        return Err(InheritanceError::Descriptor { index: 0 });
    }
    let mut settings = Zeroizing::new(vec![0; length]);
    // Not by the file's position: that is shared with the keeper and every worker to come.
    memory.read_exact_at(&mut settings, 0)?;
    Ok(settings)
}

fn udp_socket(index: usize, fd: OwnedFd) -> Result<UdpSocket, InheritanceError> {
    use rustix::net::sockopt::{socket_domain, socket_type};
    let is_inet =
        socket_domain(fd.as_fd()).is_ok_and(|domain| matches!(domain, AddressFamily::INET | AddressFamily::INET6));
    let is_udp = socket_type(fd.as_fd()).is_ok_and(|kind| kind == SocketType::DGRAM);
    match is_inet && is_udp {
        true => Ok(fd.into()),
        false => Err(InheritanceError::Descriptor { index }),
    }
}
