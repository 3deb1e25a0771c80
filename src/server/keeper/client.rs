//! The worker's interface to its keeper: requests, the descriptor store, and the order to stop.
//!
//! When a keeper is replaced, pending calls wait for the next keeper.

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
    FdStore, FdStoreError, Reply, Request, Stop,
    connection::ConnectionError,
    handover::Handover,
    link::{self, Link},
    sd_notify::{Notification, is_worker_name},
    seqpacket::MAX_DESCRIPTORS,
};
use crate::tasks::Tasks;

/// A keeper answers within milliseconds, and its replacement takes a few more. A keeper that needs longer than this
/// hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The same for storing descriptors, which may include the service manager.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// A handle to the keeper.
#[derive(Debug, Clone)]
pub struct KeeperClient(Arc<Link>);

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The keeper has died and is not replaced.
    #[error("the keeper has ended")]
    Gone,
    /// The keeper did not answer in time.
    #[error("the keeper did not answer within {ANSWER_TIMEOUT:?}")]
    Timeout,
    /// The request could not be sent; `InvalidInput` means that it is too long.
    #[error("cannot send a request to the keeper")]
    Send(#[source] io::Error),
}

impl KeeperClient {
    pub(super) fn connect(control: OwnedFd, notify: OwnedFd, handover: Handover, tasks: &Tasks) -> io::Result<Self> {
        let link = Link::new(control, notify, handover)?;
        tasks.spawn("keeper link", link::run(Arc::clone(&link), tasks.token()));
        Ok(Self(link))
    }

    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub async fn request(&self, request: Request) -> Result<Reply, RequestError> {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, self.ask(request)).await;
        asked.unwrap_or(Err(RequestError::Timeout))
    }

    /// Cancelled when the keeper asks the worker to stop, or has died and is not replaced.
    pub fn stop_token(&self) -> CancellationToken {
        self.0.stop.clone()
    }

    /// How the worker is to stop; `None` if it is not to stop.
    pub fn how_to_stop(&self) -> Option<Stop> {
        self.0.how_to_stop()
    }

    /// Whether the keeper is as unprivileged as this process, because this process started it after the previous one
    /// had died.
    pub fn lacks_rights(&self) -> bool {
        self.0.is_own_child.load(Ordering::Relaxed) && !rustix::process::geteuid().is_root()
    }

    /// Connections of clients of the status protocol. `None` from the second call on.
    pub(crate) fn status_clients(&self) -> Option<mpsc::Receiver<OwnedFd>> {
        self.0.status_clients()
    }

    /// Tells the keeper that this worker serves. To be called once.
    pub fn ready(&self) {
        self.0.ready();
    }

    /// Leaves everything to the next worker: this process must not touch anything that is stored from now on. To be
    /// called after [`Stop::HandOver`]. Until a keeper ends this process it keeps everything that is stored, in case
    /// it has to start a new keeper.
    ///
    /// Returns if no keeper ends this process within 5 s; the process should then exit, as after a crash.
    pub async fn hand_over(&self) {
        let _ = tokio::time::timeout(STORE_TIMEOUT, self.leave_everything()).await;
    }

    async fn leave_everything(&self) {
        // If its keeper dies meanwhile, the next one is told.
        while let Some(connection) = self.0.connection().await {
            connection.post(Notification::Stopping, Vec::new());
            connection.closed().await;
        }
    }

    async fn ask(&self, request: Request) -> Result<Reply, RequestError> {
        let _slot = self.0.slots.acquire().await.map_err(|_| RequestError::Gone)?;
        loop {
            let connection = self.0.connection().await.ok_or(RequestError::Gone)?;
            let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
            match connection.ask(id, request.clone()).await {
                Ok(reply) => return Ok(reply),
                Err(ConnectionError::Send(error)) => return Err(RequestError::Send(error)),
                // A request changes nothing, so the next keeper can be asked again.
                Err(ConnectionError::Gone) => connection.closed().await,
            }
        }
    }

    async fn store(&self, name: &str, descriptors: Vec<Arc<OwnedFd>>) -> Result<(), FdStoreError> {
        if !is_worker_name(name) || descriptors.len() > MAX_DESCRIPTORS {
            return Err(FdStoreError::Send(io::ErrorKind::InvalidInput.into()));
        }
        self.0.keep(name, descriptors)?;
        let confirmed = tokio::time::timeout(STORE_TIMEOUT, self.confirm_room()).await;
        let confirmed = confirmed.unwrap_or(Err(FdStoreError::Timeout));
        if confirmed.is_err() {
            self.0.release(name);
        }
        confirmed
    }

    /// Returns once everything is stored, by the service manager too if there is one.
    async fn confirm_room(&self) -> Result<(), FdStoreError> {
        let trial = self.0.start_trial().map_err(FdStoreError::Send)?;
        self.confirm().await?;
        match trial.is_none_or(|trial| trial.was_kept()) {
            true => Ok(()),
            false => Err(self.0.full()),
        }
    }

    /// Returns once a keeper has handled everything that was sent before.
    async fn confirm(&self) -> Result<(), FdStoreError> {
        loop {
            // A keeper that is started later is given everything at its start.
            let connection = self.0.connection().await.ok_or(FdStoreError::Gone)?;
            match connection.barrier().await {
                Ok(()) => return Ok(()),
                Err(ConnectionError::Send(error)) => return Err(FdStoreError::Send(error)),
                Err(ConnectionError::Gone) => connection.closed().await,
            }
        }
    }
}

impl FdStore for KeeperClient {
    fn put<'a>(
        &'a self,
        name: &'a str,
        descriptors: Vec<Arc<OwnedFd>>,
    ) -> Pin<Box<dyn Future<Output = Result<(), FdStoreError>> + Send + 'a>> {
        Box::pin(self.store(name, descriptors))
    }

    fn remove(&self, name: &str) {
        self.0.release(name);
    }
}
