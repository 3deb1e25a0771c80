//! The way of a server half to its relay: found anew for each attempt, since addresses change while it runs.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

/// What comes of looking.
pub type Resolved<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// How to get to a relay.
pub trait Way: Send + Sync {
    /// Where it may be, the best first. At most four are dialled. Each has TCP at the same number as UDP.
    ///
    /// # Errors
    /// The name cannot be resolved, and nothing is remembered.
    fn addresses(&self) -> Resolved<'_, Vec<SocketAddr>>;
}
