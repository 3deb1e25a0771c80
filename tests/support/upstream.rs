//! Where a test itself takes the connections that sshd would get.

use super::lab::pair;
use super::place::Place;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

/// A TCP service beside the server half; it stops accepting with its owner.
pub struct Service {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
}

impl Service {
    /// On a free port of loopback. Each session's connection is handed to `serve`, on one thread for all of them.
    ///
    /// # Panics
    /// When there is no free port.
    pub fn start(serve: impl FnMut(TcpStream) + Send + 'static) -> Service {
        // Enters the server's machine, where it is another one.
        let _ = Place::here();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a TCP port on loopback");
        let service = Service {
            address: listener.local_addr().expect("a bound socket has an address"),
            stop: Arc::default(),
        };
        let (mut serve, stop) = (serve, service.stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stop.load(SeqCst) {
                    return;
                }
                // A server half connects from an address of nobody to see whether that works, and waits for any answer:
                // an end is one.
                if stream.peer_addr().is_ok_and(|peer| pair::is_somebody(peer.ip())) {
                    serve(stream);
                }
            }
        });
        service
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        // Wakes the thread out of its accept.
        let _ = TcpStream::connect(self.address);
    }
}
