//! The way of a server half to its relay: found anew for each attempt, since addresses change while it runs.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};

use super::dial;
use crate::carrier::Duplex;

/// What comes of looking or dialling.
pub type Resolved<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// How to get to a relay.
pub trait Way: Send + Sync {
    /// Where it may be, the best first. At most four are dialled. Each has TCP at the same number as UDP.
    ///
    /// # Errors
    /// The name cannot be resolved, and nothing is remembered.
    fn addresses(&self) -> Resolved<'_, Vec<SocketAddr>>;

    /// A byte stream to the relay's TLS port: plain TCP, unless the way leads through a proxy.
    ///
    /// # Errors
    /// Nobody there.
    fn stream(&self, address: SocketAddr) -> Resolved<'_, Box<dyn Duplex>> {
        Box::pin(async move {
            let stream: Box<dyn Duplex> = Box::new(dial::tcp(address).await?);
            Ok(stream)
        })
    }
}

/// A host and a port. The last addresses found are used again when the name cannot be resolved.
#[derive(Debug)]
pub struct Direct {
    host: String,
    port: u16,
    last: Mutex<Vec<SocketAddr>>,
}

impl Direct {
    /// A name or an address, without brackets.
    pub fn new(host: impl Into<String>, port: u16) -> Direct {
        Direct {
            host: host.into(),
            port,
            last: Mutex::default(),
        }
    }

    async fn look_up(&self) -> io::Result<Vec<SocketAddr>> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found = found.map(Vec::from_iter);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match found {
            Ok(found) if !found.is_empty() => {
                last.clone_from(&found);
                Ok(found)
            }
            Ok(_) | Err(_) if !last.is_empty() => Ok(last.clone()),
            Ok(_) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(error),
        }
    }
}

impl Way for Direct {
    fn addresses(&self) -> Resolved<'_, Vec<SocketAddr>> {
        Box::pin(self.look_up())
    }
}
