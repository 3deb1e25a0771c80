//! Listening sockets: bound once, and the same for every worker. Their type is read from the kernel.

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketType, sockopt};

/// A bound socket that accepts clients.
#[derive(Debug)]
pub enum Listener {
    /// For QUIC.
    Udp(UdpSocket),
    /// For TLS. It queues connections while a worker is replaced.
    Tcp(TcpListener),
}

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Ports for QUIC.
    Udp,
    /// Ports for TLS.
    Tcp,
}

/// An address and its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// The protocol.
    pub protocol: Protocol,
    /// Port 0 means any.
    pub address: SocketAddr,
}

impl Endpoint {
    /// For QUIC.
    pub fn udp(address: SocketAddr) -> Self {
        let protocol = Protocol::Udp;
        Self { protocol, address }
    }

    /// For TLS.
    pub fn tcp(address: SocketAddr) -> Self {
        let protocol = Protocol::Tcp;
        Self { protocol, address }
    }
}

impl Listener {
    /// A socket that another process has bound, if it is a listening one.
    pub(in crate::server) fn of(descriptor: OwnedFd) -> Result<Self, OwnedFd> {
        let is_inet = sockopt::socket_domain(&descriptor)
            .is_ok_and(|domain| matches!(domain, AddressFamily::INET | AddressFamily::INET6));
        match sockopt::socket_type(&descriptor) {
            Ok(SocketType::DGRAM) if is_inet => Ok(Self::Udp(descriptor.into())),
            Ok(SocketType::STREAM) if is_inet && listens(descriptor.as_fd()) => Ok(Self::Tcp(descriptor.into())),
            _ => Err(descriptor),
        }
    }

    /// The sockets for QUIC and those for TLS, each in their order.
    pub fn sort(listeners: Vec<Self>) -> (Vec<UdpSocket>, Vec<TcpListener>) {
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for listener in listeners {
            match listener {
                Self::Udp(socket) => udp.push(socket),
                Self::Tcp(socket) => tcp.push(socket),
            }
        }
        (udp, tcp)
    }

    /// Its protocol.
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::Udp(_) => Protocol::Udp,
            Self::Tcp(_) => Protocol::Tcp,
        }
    }

    /// Its local address.
    ///
    /// # Errors
    /// As `getsockname(2)`.
    pub fn endpoint(&self) -> io::Result<Endpoint> {
        match self {
            Self::Udp(socket) => socket.local_addr().map(Endpoint::udp),
            Self::Tcp(socket) => socket.local_addr().map(Endpoint::tcp),
        }
    }

    /// The same socket under another descriptor.
    ///
    /// # Errors
    /// As `fcntl(2)`.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Udp(socket) => socket.try_clone().map(Self::Udp),
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Udp(socket) => socket.as_fd(),
            Self::Tcp(socket) => socket.as_fd(),
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol, self.address)
    }
}

/// All addresses of one protocol.
pub(in crate::server) fn addresses(listeners: &[Listener], protocol: Protocol) -> Vec<SocketAddr> {
    let endpoints = listeners.iter().filter_map(|listener| listener.endpoint().ok());
    let own = endpoints.filter(|endpoint| endpoint.protocol == protocol);
    own.map(|endpoint| endpoint.address).collect()
}

/// Whether it is a socket that accepts connections.
pub(in crate::server) fn listens(descriptor: BorrowedFd<'_>) -> bool {
    sockopt::socket_acceptconn(descriptor).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpStream};

    #[test]
    fn sockets_are_told_apart_by_what_they_are() {
        let any = (Ipv4Addr::LOCALHOST, 0);
        let tcp = TcpListener::bind(any).unwrap();
        let address = tcp.local_addr().unwrap();
        let connection = TcpStream::connect(address).unwrap();
        let listener = Listener::of(tcp.into()).unwrap();
        assert_eq!(listener.endpoint().unwrap().to_string(), format!("tcp {address}"));
        let udp = Listener::of(UdpSocket::bind(any).unwrap().into()).unwrap();
        assert_eq!(udp.try_clone().unwrap().protocol(), Protocol::Udp);
        assert!(Listener::of(connection.into()).is_err());
        assert!(Listener::of(crate::server::ipc::seqpacket::pair().unwrap().0).is_err());
        let both = [udp, listener];
        assert_eq!(addresses(&both, Protocol::Tcp), [address]);
    }
}
