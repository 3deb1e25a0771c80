//! Shared by the tests of the session store: a descriptor store in memory, and the other end of sshd's connection.

use super::*;
use crate::server::authority::Account;
use crate::wire::SessionId;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use tokio::net::TcpListener;

/// A descriptor store in a map, which may be full.
#[derive(Default)]
pub(super) struct MapStore {
    kept: Mutex<BTreeMap<String, Vec<Arc<OwnedFd>>>>,
    pub(super) is_full: std::sync::atomic::AtomicBool,
}

impl MapStore {
    /// Everything, as the next worker gets it.
    pub(super) fn stored(&self) -> Vec<(String, Arc<OwnedFd>)> {
        let kept = self.kept.lock();
        let all = kept
            .iter()
            .flat_map(|(name, files)| files.iter().map(|file| (name.clone(), Arc::clone(file))));
        all.collect()
    }

    pub(super) fn insert(&self, name: &str, descriptors: Vec<Arc<OwnedFd>>) {
        let mut kept = self.kept.lock();
        kept.entry(name.to_owned()).or_default().extend(descriptors);
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.kept.lock().keys().cloned().collect()
    }
}

impl FdStore for MapStore {
    fn put<'a>(
        &'a self,
        name: &'a str,
        descriptors: Vec<Arc<OwnedFd>>,
    ) -> Pin<Box<dyn Future<Output = Result<(), FdStoreError>> + Send + 'a>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if self.is_full.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(FdStoreError::Full { limit: 0 });
            }
            self.insert(name, descriptors);
            Ok(())
        })
    }

    fn remove(&self, name: &str) {
        self.kept.lock().remove(name);
    }
}

pub(super) fn config() -> SessionConfig {
    SessionConfig {
        replay_buffer: 128 * 1024,
        receive_window: 64 * 1024,
    }
}

pub(super) fn identity(number: u8) -> Identity {
    Identity {
        session: SessionId::new([number; 16]),
        owner: Bytes::from(vec![number; 44]),
        account: Account(format!("SHA256:{number}")),
        user: "alice".into(),
        reap_hash: [number; 32],
        remote: SocketAddr::from(([192, 0, 2, number], 4000)),
        opened: crate::clock::to_boot_millis(crate::clock::now()),
    }
}

/// A fresh connection to an sshd, and sshd's end of it.
pub(super) async fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
        .await
        .unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (ours, listener.accept().await.unwrap().0)
}

pub(super) async fn opened(store: &Arc<MapStore>) -> (SessionStore, Recovery) {
    let stored = store.stored();
    SessionStore::open(Arc::clone(store) as Arc<dyn FdStore>, stored)
        .await
        .unwrap()
}

/// A session in a new session store, and its sshd.
pub(super) async fn session(store: &Arc<MapStore>) -> (SessionStore, StoredSession, TcpStream) {
    let (session_store, _) = opened(store).await;
    let (ours, sshd) = connected().await;
    let kept = session_store.create(identity(1), ours, &config()).await.unwrap();
    (session_store, kept, sshd)
}
