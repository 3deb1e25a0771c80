//! UDP sockets as QUIC wants them.

mod joining;
mod polled;
#[cfg(test)]
mod tests;

pub(super) use polled::Polled;

use joining::Joining;
use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

/// Asked of the kernel, which grants what `net.core.rmem_max` allows. At 64 KiB bulk loses thousands of packets to
/// an overflowing socket; at this, none (measured).
const BUFFER: usize = 8 << 20;

/// Binds a UDP socket with large buffers; an IPv6 one takes no IPv4.
///
/// # Errors
/// As `bind(2)`.
pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Less is slower, not wrong.
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// An endpoint on a bound socket, which listens if it is given a configuration for that. To be called in a tokio runtime.
///
/// # Errors
/// The socket cannot be used.
pub(in crate::carrier) fn endpoint(
    socket: UdpSocket,
    config: EndpointConfig,
    server: Option<ServerConfig>,
) -> io::Result<Endpoint> {
    endpoint_over(Polled::new(socket)?, config, server)
}

/// The same, on a socket that is watched already.
pub(super) fn endpoint_over(
    socket: Arc<Polled>,
    config: EndpointConfig,
    server: Option<ServerConfig>,
) -> io::Result<Endpoint> {
    Endpoint::new_with_abstract_socket(config, server, Joining::new(socket), Arc::new(TokioRuntime))
}

/// The wildcard address of the family of `remote`: the kernel picks the source anew as routes change.
pub(in crate::carrier) fn any_local(remote: SocketAddr) -> SocketAddr {
    let ip: IpAddr = if remote.is_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(ip, 0)
}
