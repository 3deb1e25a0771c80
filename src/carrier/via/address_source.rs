//! Where a server half finds its relay. The addresses are resolved before every attempt, because
//! they may change while the server half runs.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

/// A future of resolved addresses.
pub type ResolveFuture<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// Resolves the addresses of a relay.
pub trait AddressSource: Send + Sync {
    /// The relay's addresses, best first. At most four are dialled. TCP uses the same port number
    /// as UDP.
    ///
    /// # Errors
    /// The name cannot be resolved, and no earlier answer is cached.
    fn addresses(&self) -> ResolveFuture<'_, Vec<SocketAddr>>;
}
