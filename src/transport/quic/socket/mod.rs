//! UDP sockets for QUIC.

mod batching;
mod polled;
#[cfg(test)]
mod tests;

pub(super) use polled::PolledSocket;

use batching::BatchingSocket;
use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

/// Requested buffer size; the kernel grants up to `net.core.rmem_max`. With 64 KiB a bulk transfer
/// loses thousands of packets in the socket buffer, with this size none (measured).
const BUFFER: usize = 8 << 20;

/// Binds a UDP socket with large buffers. An IPv6 socket receives no IPv4.
///
/// # Errors
/// As bind(2).
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Smaller buffers are slower, but work.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Creates an endpoint on a socket. It listens if `server` is given. Call it in a tokio runtime.
///
/// # Errors
/// The socket cannot be used.
pub(super) fn endpoint(
    socket: Arc<PolledSocket>,
    config: EndpointConfig,
    server: Option<ServerConfig>,
) -> io::Result<Endpoint> {
    Endpoint::new_with_abstract_socket(config, server, BatchingSocket::new(socket), Arc::new(TokioRuntime))
}

/// The wildcard address of the same family as `remote`: the kernel selects the source address
/// whenever routes change.
pub(super) fn any_local(remote: SocketAddr) -> SocketAddr {
    let ip: IpAddr = if remote.is_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(ip, 0)
}
