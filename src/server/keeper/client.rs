//! What the rest of a worker knows of its keeper: asks it, stores with it, hears when to stop.
//!
//! Keepers may follow one another; whoever asks or stores meanwhile waits for the next one.

use std::{
    future::Future,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    Reply, Request, Stop, Store, StoreError,
    estate::Estate,
    link::{self, Link},
    notice::{Notice, is_workers_name},
    packet::MOST_DESCRIPTORS,
    wire::WireError,
};
use crate::tasks::Tasks;

/// The keeper answers in milliseconds, and is replaced in a few more; this long means that it hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The same for what it, or a service manager above it, is to keep.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the keeper, stores with it, and hears when to stop.
#[derive(Debug, Clone)]
pub struct KeeperClient(Arc<Link>);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The keeper is gone, and there will be no other.
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
    pub(super) fn connect(control: OwnedFd, notify: OwnedFd, estate: Estate, tasks: &Tasks) -> io::Result<Self> {
        let link = Link::new(control, notify, estate)?;
        tasks.spawn("keeper link", link::run(Arc::clone(&link), tasks.token()));
        Ok(Self(link))
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request(&self, request: Request) -> Result<Reply, RequestError> {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.ask(request)).await;
        asked.unwrap_or(Err(RequestError::Timeout))
    }

    /// Cancelled when the keeper asks the worker to stop, or is gone with none to come.
    pub fn stop_token(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// How the worker is to stop; `None` while it is not.
    pub fn how_to_stop(&self) -> Option<Stop> {
        self.0.how_to_stop()
    }

    /// Whether the keeper is as unprivileged as this process: it was raised from here when the one before had died.
    pub fn lacks_rights(&self) -> bool {
        self.0.is_raised.load(Ordering::Relaxed) && !rustix::process::geteuid().is_root()
    }

    /// Those who ask about sessions, as connections: to be called once, `None` after that.
    pub(crate) fn visitors(&self) -> Option<mpsc::Receiver<OwnedFd>> {
        self.0.visitors()
    }

    /// Says that this worker serves: to be called once.
    pub fn ready(&self) {
        self.0.ready();
    }

    /// Leaves everything to the next worker: nothing stored may be touched any more. To be called when told to
    /// [`Stop::HandOver`]. Until a keeper ends this process it holds all that is stored, also for a keeper that it has to
    /// raise first.
    ///
    /// Returns if nobody ends it; the process should do so itself then, as after a crash. Gives up after 5 s.
    pub async fn hand_over(&self) {
        let _ = tokio::time::timeout(STORE_TIMEOUT, self.let_go()).await;
    }

    async fn let_go(&self) {
        // Should its keeper die meanwhile, the next one is told.
        while let Some(wire) = self.0.wire().await {
            wire.post(Notice::Stopping, Vec::new());
            wire.closed().await;
        }
    }

    async fn ask(&self, request: Request) -> Result<Reply, RequestError> {
        let _slot = self.0.slots.acquire().await.map_err(|_| RequestError::Gone)?;
        loop {
            let wire = self.0.wire().await.ok_or(RequestError::Gone)?;
            let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
            match wire.ask(id, request.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(WireError::Send(error)) => return Err(RequestError::Send(error)),
                // Asking changes nothing: the next keeper can be asked again.
                Err(WireError::Gone) => wire.closed().await,
            }
        }
    }

    async fn store(&self, name: &str, descriptors: Vec<Arc<OwnedFd>>) -> Result<(), StoreError> {
        if !is_workers_name(name) || descriptors.len() > MOST_DESCRIPTORS {
            return Err(StoreError::Send(io::ErrorKind::InvalidInput.into()));
        }
        self.0.keep(name, descriptors)?;
        let confirmed = tokio::time::timeout(STORE_TIMEOUT, self.confirm_room()).await;
        let confirmed = confirmed.unwrap_or(Err(StoreError::Timeout));
        if confirmed.is_err() {
            self.0.release(name);
        }
        confirmed
    }

    /// Returns once everything is kept, by a service manager as well where there is one.
    async fn confirm_room(&self) -> Result<(), StoreError> {
        let trial = self.0.start_trial().map_err(StoreError::Send)?;
        self.confirm().await?;
        match trial.is_none_or(|trial| trial.was_kept()) {
            true => Ok(()),
            false => Err(self.0.full()),
        }
    }

    /// Returns once a keeper has done all that was said before.
    async fn confirm(&self) -> Result<(), StoreError> {
        loop {
            // A keeper that is raised later has everything from its start.
            let wire = self.0.wire().await.ok_or(StoreError::Gone)?;
            match wire.barrier().await {
                Ok(()) => return Ok(()),
                Err(WireError::Send(error)) => return Err(StoreError::Send(error)),
                Err(WireError::Gone) => wire.closed().await,
            }
        }
    }
}

impl Store for KeeperClient {
    fn put<'a>(
        &'a self,
        name: &'a str,
        descriptors: Vec<Arc<OwnedFd>>,
    ) -> Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send + 'a>> {
        Box::pin(self.store(name, descriptors))
    }

    fn remove(&self, name: &str) {
        self.0.release(name);
    }
}
