//! A worker's connection with one keeper, until that keeper is gone.

use std::{
    collections::{HashMap, VecDeque},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{
    io::Interest,
    sync::{Notify, oneshot},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Reply, Request,
    control::{self, FromKeeper, ToKeeper},
    notice::Notice,
    packet,
};
use crate::descriptor::Pollable;

/// How often the keeper hears that this process lives.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

/// Why a keeper did not do something.
#[derive(Debug)]
pub(super) enum WireError {
    /// It is gone: another may do it.
    Gone,
    /// It could not be told.
    Send(io::Error),
}

#[derive(Debug)]
pub(super) struct Wire {
    control: Pollable,
    notify: Pollable,
    /// Who waits for which answer; `None` once the keeper is gone.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>,
    /// Notices that found no room yet. Bounded by what is kept: one for each thing put, one for each removed.
    outbox: Mutex<VecDeque<(Notice, Vec<Arc<OwnedFd>>)>>,
    /// There is something in the outbox.
    more: Notify,
    gone: CancellationToken,
}

impl Wire {
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

    /// Returns once whoever reads from the keeper has seen its end.
    pub(super) async fn closed(&self) {
        self.gone.cancelled().await;
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(&self, id: u64, request: Request) -> Result<Reply, WireError> {
        let (answer, answered) = oneshot::channel();
        self.with_waiting(|waiting| waiting.insert(id, answer))
            .ok_or(WireError::Gone)?;
        let _forget = Forget { wire: self, id };
        let message = ToKeeper { id, request };
        let sent = self
            .control
            .async_io(Interest::WRITABLE, |fd| control::send(fd, &message));
        match sent.await {
            Ok(()) => answered.await.map_err(|_| WireError::Gone),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(WireError::Send(error)),
            Err(error) => {
                debug!(%error, "the keeper does not listen");
                Err(WireError::Gone)
            }
        }
    }

    /// Says something, in order, now or as soon as there is room.
    pub(super) fn post(&self, notice: Notice, descriptors: Vec<Arc<OwnedFd>>) {
        let mut outbox = lock(&self.outbox);
        if self.is_gone() {
            return;
        }
        outbox.push_back((notice, descriptors));
        // A failure shows itself as the keeper's end.
        if flush(self.notify.as_fd(), &mut outbox).is_err() {
            self.more.notify_one();
        }
    }

    /// Returns once the keeper has done all that was posted before.
    pub(super) async fn barrier(&self) -> Result<(), WireError> {
        let (reader, writer) =
            pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|error| WireError::Send(error.into()))?;
        let reader = Pollable::new(reader, Interest::READABLE).map_err(WireError::Send)?;
        self.post(Notice::Barrier, vec![Arc::new(writer)]);
        // Nobody writes: readable is the end, and an error cannot be.
        let closed = reader.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut [0])?));
        closed.await.map_err(WireError::Send)?;
        // The kernel closes what a dead keeper had, or had not yet received; its connection has ended before.
        match self.is_gone() || packet::is_hung_up(self.notify.as_fd()) {
            true => Err(WireError::Gone),
            false => Ok(()),
        }
    }

    /// Hands each message of the keeper to `handle`, until there are no more for ever: it has ended, or the connection
    /// has failed.
    pub(super) async fn serve(&self, mut handle: impl FnMut(FromKeeper, Vec<OwnedFd>)) -> Option<io::Error> {
        let mut signs = tokio::time::interval(SIGN_OF_LIFE);
        signs.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let read = self
                .control
                .async_io(Interest::READABLE, |fd| control::receive_with::<FromKeeper>(fd));
            tokio::select! {
                message = read => match message {
                    Ok(Some((FromKeeper::Answer { id, response }, descriptors))) => {
                        self.answer(id, Reply { response, descriptor: descriptors.into_iter().next() });
                    }
                    Ok(Some((message, descriptors))) => handle(message, descriptors),
                    Ok(None) => return None,
                    Err(error) => return Some(error),
                },
                () = self.flush_in_time() => {}
                _ = signs.tick() => if lock(&self.outbox).is_empty() {
                    self.post(Notice::Watchdog, Vec::new());
                },
            }
        }
    }

    /// Whoever waits for an answer, or for anything to be done, learns that this keeper will not do it.
    pub(super) fn close(&self) {
        lock(&self.waiting).take();
        let mut outbox = lock(&self.outbox);
        self.gone.cancel();
        outbox.clear();
    }

    async fn flush_in_time(&self) {
        self.more.notified().await;
        let flushed = self
            .notify
            .async_io(Interest::WRITABLE, |fd| flush(fd.as_fd(), &mut lock(&self.outbox)));
        if let Err(error) = flushed.await {
            debug!(%error, "the keeper does not listen");
        }
    }

    fn answer(&self, id: u64, reply: Reply) {
        let waiting = self.with_waiting(|waiting| waiting.remove(&id)).flatten();
        if waiting.and_then(|answer| answer.send(reply).ok()).is_none() {
            debug!(id, "an answer that nobody waits for any more");
        }
    }

    fn with_waiting<T>(&self, act: impl FnOnce(&mut HashMap<u64, oneshot::Sender<Reply>>) -> T) -> Option<T> {
        lock(&self.waiting).as_mut().map(act)
    }
}

/// A request that is given up is waited for no longer.
struct Forget<'a> {
    wire: &'a Wire,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.wire.with_waiting(|waiting| waiting.remove(&self.id));
    }
}

/// As much as there is room for; `WouldBlock` if that is not all.
fn flush(fd: BorrowedFd<'_>, outbox: &mut VecDeque<(Notice, Vec<Arc<OwnedFd>>)>) -> io::Result<()> {
    while let Some((notice, descriptors)) = outbox.front() {
        let descriptors: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
        packet::send(fd, notice.text().as_bytes(), &descriptors)?;
        outbox.pop_front();
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
