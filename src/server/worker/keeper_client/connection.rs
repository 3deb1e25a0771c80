//! A worker's connection to one keeper, until that keeper ends.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{
    io::Interest,
    sync::{Notify, oneshot},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    descriptor::Pollable,
    server::ipc::{self, KeeperMessage, Notification, Reply, Request, WorkerMessage, seqpacket},
};

/// How often the worker tells the keeper that it is alive.
const WATCHDOG_INTERVAL: Duration = Duration::from_millis(500);

/// Why a keeper did not do something.
#[derive(Debug)]
pub(super) enum ConnectionError {
    /// It has ended: another keeper may do it.
    Gone,
    /// The message could not be sent.
    Send(io::Error),
}

#[derive(Debug)]
pub(super) struct Connection {
    control: Pollable,
    notify: Pollable,
    /// Requests that wait for an answer, by id; `None` once the keeper has ended.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>,
    /// Notifications that are not sent yet because the socket's buffer is full. Bounded by the number of stored
    /// descriptors: one for each that was added, one for each that was removed.
    outbox: Mutex<VecDeque<(Notification, Vec<Arc<OwnedFd>>)>>,
    /// Signals that the outbox is not empty.
    more: Notify,
    gone: CancellationToken,
}

impl Connection {
    pub(super) fn new(control: OwnedFd, notify: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            control: Pollable::new(control, Interest::READABLE | Interest::WRITABLE)?,
            notify: Pollable::new(notify, Interest::WRITABLE)?,
            waiting: Mutex::new(Some(HashMap::new())),
            outbox: Mutex::default(),
            more: Notify::new(),
            gone: CancellationToken::new(),
        })
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Returns once the task that reads from the keeper has seen its end.
    pub(super) async fn closed(&self) {
        self.gone.cancelled().await;
    }

    /// Sends a request and waits for the answer.
    pub(super) async fn ask(&self, id: u64, request: Request) -> Result<Reply, ConnectionError> {
        let (answer, answered) = oneshot::channel();
        self.with_waiting(|waiting| waiting.insert(id, answer))
            .ok_or(ConnectionError::Gone)?;
        let _forget = Forget { connection: self, id };
        let message = WorkerMessage { id, request };
        let sent = self.control.async_io(Interest::WRITABLE, |fd| ipc::send(fd, &message));
        match sent.await {
            Ok(()) => answered.await.map_err(|_| ConnectionError::Gone),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(ConnectionError::Send(error)),
            Err(error) => {
                debug!(%error, "cannot send a request to the keeper");
                Err(ConnectionError::Gone)
            }
        }
    }

    /// Sends a notification, in order, now or as soon as the socket accepts it.
    pub(super) fn post(&self, notification: Notification, descriptors: Vec<Arc<OwnedFd>>) {
        let mut outbox = self.outbox.lock();
        if self.is_gone() {
            return;
        }
        outbox.push_back((notification, descriptors));
        // If sending fails, reading reports the end of the keeper.
        if flush(self.notify.as_fd(), &mut outbox).is_err() {
            self.more.notify_one();
        }
    }

    /// Returns once the keeper has handled everything that was posted before.
    pub(super) async fn barrier(&self) -> Result<(), ConnectionError> {
        let (reader, writer) =
            pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|error| ConnectionError::Send(error.into()))?;
        let reader = Pollable::new(reader, Interest::READABLE).map_err(ConnectionError::Send)?;
        self.post(Notification::Barrier, vec![Arc::new(writer)]);
        // Nobody writes to this pipe: it becomes readable only when its other end is closed.
        let closed = reader.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut [0])?));
        closed.await.map_err(ConnectionError::Send)?;
        // If a keeper dies, the kernel closes what it had, or had not yet received. Its connection has ended by then.
        match self.is_gone() || seqpacket::is_hung_up(self.notify.as_fd()) {
            true => Err(ConnectionError::Gone),
            false => Ok(()),
        }
    }

    /// Passes each message of the keeper to `handle`, until the keeper ends or the connection fails.
    pub(super) async fn serve(&self, mut handle: impl FnMut(KeeperMessage, Vec<OwnedFd>)) -> Option<io::Error> {
        let mut signs = tokio::time::interval(WATCHDOG_INTERVAL);
        signs.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let read = self
                .control
                .async_io(Interest::READABLE, |fd| ipc::receive_with::<KeeperMessage>(fd));
            tokio::select! {
                message = read => match message {
                    Ok(Some((KeeperMessage::Answer { id, response }, descriptors))) => {
                        self.answer(id, Reply { response, descriptor: descriptors.into_iter().next() });
                    }
                    Ok(Some((message, descriptors))) => handle(message, descriptors),
                    Ok(None) => return None,
                    Err(error) => return Some(error),
                },
                () = self.flush_in_time() => {}
                _ = signs.tick() => if self.outbox.lock().is_empty() {
                    self.post(Notification::Watchdog, Vec::new());
                },
            }
        }
    }

    /// Tells all who wait for an answer or a barrier that this keeper will not reply.
    pub(super) fn close(&self) {
        self.waiting.lock().take();
        let mut outbox = self.outbox.lock();
        self.gone.cancel();
        outbox.clear();
    }

    async fn flush_in_time(&self) {
        self.more.notified().await;
        let flushed = self
            .notify
            .async_io(Interest::WRITABLE, |fd| flush(fd.as_fd(), &mut self.outbox.lock()));
        if let Err(error) = flushed.await {
            debug!(%error, "cannot send notifications to the keeper");
        }
    }

    fn answer(&self, id: u64, reply: Reply) {
        let waiting = self.with_waiting(|waiting| waiting.remove(&id)).flatten();
        if waiting.and_then(|answer| answer.send(reply).ok()).is_none() {
            debug!(id, "received an answer to a request that was cancelled");
        }
    }

    fn with_waiting<T>(&self, act: impl FnOnce(&mut HashMap<u64, oneshot::Sender<Reply>>) -> T) -> Option<T> {
        self.waiting.lock().as_mut().map(act)
    }
}

/// Removes a request that is cancelled.
struct Forget<'a> {
    connection: &'a Connection,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.connection.with_waiting(|waiting| waiting.remove(&self.id));
    }
}

/// Sends as much as the socket accepts; `WouldBlock` if that is not everything.
fn flush(fd: BorrowedFd<'_>, outbox: &mut VecDeque<(Notification, Vec<Arc<OwnedFd>>)>) -> io::Result<()> {
    while let Some((notification, descriptors)) = outbox.front() {
        let descriptors: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        seqpacket::send(fd, notification.text().as_bytes(), &descriptors)?;
        outbox.pop_front();
    }
    Ok(())
}
