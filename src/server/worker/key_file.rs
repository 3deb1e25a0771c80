//! The file of keys that decides instead of sshd: the keeper opens it, the worker reads it.
//!
//! The worker's user often may not open it (mode 0600, in a folder of root's); the keeper does not parse anything.

use super::keeper_client::{KeeperClient, RequestError};
use crate::identity::authorized_keys::{AuthorizedKeys, AuthorizedKeysError, KeyDecision};
use crate::identity::statement::ProvenKey;
use crate::server::authority::KeyList;
use crate::server::ipc::{Reply, Request, Response};
use crate::wire::ErrorChain;
use std::fs::File;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;
use tracing::{debug, warn};

/// Read again when the file has changed.
pub(super) struct KeyFile {
    keys: Arc<AuthorizedKeys>,
    keeper: KeeperClient,
}

/// Why the file of keys cannot be used. No key is permitted then.
#[derive(Debug, thiserror::Error)]
enum KeyFileError {
    #[error(transparent)]
    Keeper(#[from] RequestError),
    #[error("the keeper cannot open {}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("the keeper has no file of keys")]
    NoFile,
    #[error("the keeper answered with an unexpected message")]
    UnexpectedAnswer,
    #[error("reading the file of keys failed: a thread panicked")]
    Panicked,
    #[error(transparent)]
    Read(#[from] AuthorizedKeysError),
}

impl KeyFile {
    /// The keeper has checked at its start that the file can be read. It may have been removed since, and may come
    /// back.
    pub(super) async fn read(path: &Path, keeper: &KeeperClient) -> KeyFile {
        let file = KeyFile {
            keys: Arc::new(AuthorizedKeys::unread(path)),
            keeper: keeper.clone(),
        };
        file.refresh_or_warn().await;
        file
    }

    /// `false`: the file cannot be read now.
    async fn refresh_or_warn(&self) -> bool {
        match self.refresh().await {
            Ok(()) => true,
            Err(error) => {
                warn!(error = %ErrorChain(&error), "the file of keys cannot be used: no key is permitted");
                false
            }
        }
    }

    /// Like sshd, which sees an edit at the next login: the file is opened each time, and read if it has changed.
    async fn refresh(&self) -> Result<(), KeyFileError> {
        let file = match self.keeper.request(Request::OpenKeyFile).await? {
            Reply {
                response: Response::KeyFile,
                descriptor: Some(descriptor),
            } => File::from(descriptor),
            Reply {
                response: Response::CannotOpen { errno },
                ..
            } => {
                return Err(KeyFileError::Open {
                    path: self.keys.path().to_owned(),
                    source: io::Error::from_raw_os_error(errno),
                });
            }
            Reply {
                response: Response::Unavailable,
                ..
            } => return Err(KeyFileError::NoFile),
            _ => return Err(KeyFileError::UnexpectedAnswer),
        };
        let keys = Arc::clone(&self.keys);
        let read = tokio::task::spawn_blocking(move || keys.refresh(file)).await;
        if read.map_err(|_panic| KeyFileError::Panicked)?? {
            let file = self.keys.path().display();
            for warning in self.keys.warnings() {
                warn!(%file, %warning, "a line of the file of keys is ignored or unsafe");
            }
        }
        Ok(())
    }

    async fn find(&self, user: &str, keys: &[ProvenKey], remote: IpAddr) -> Option<usize> {
        if !self.refresh_or_warn().await {
            return None;
        }
        keys.iter().position(|key| {
            let decision = self.keys.decide(key, user, remote, SystemTime::now());
            debug!(?decision, key = key.fingerprint(), "looked up in the file of keys");
            matches!(decision, KeyDecision::Accepted { .. })
        })
    }
}

impl KeyList for KeyFile {
    fn permitted<'a>(
        &'a self,
        user: &'a str,
        keys: &'a [ProvenKey],
        remote: IpAddr,
    ) -> Pin<Box<dyn Future<Output = Option<usize>> + Send + 'a>> {
        Box::pin(self.find(user, keys, remote))
    }
}
