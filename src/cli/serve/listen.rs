//! Where `bowline serve` listens for QUIC.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use tracing::debug;

use crate::carrier::quic::bind;
use crate::cli::values::ListenAddress;

const EVERY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const EVERY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Without any address: every one.
const EVERYWHERE: &[ListenAddress] = &[ListenAddress { ip: None, port: None }];

/// All addresses that are meant; 0 is any port, and so is a usual port that nobody knows yet.
pub(super) fn addresses(written: &[ListenAddress], usual_port: Option<u16>) -> Vec<SocketAddr> {
    let all = wanted(written).iter().flat_map(|address| {
        let port = address.port.or(usual_port).unwrap_or(0);
        let ips = address.ip.map_or(vec![EVERY_V4, EVERY_V6], |ip| vec![ip]);
        ips.into_iter().map(move |ip| SocketAddr::new(ip, port))
    });
    all.collect()
}

fn wanted(written: &[ListenAddress]) -> &[ListenAddress] {
    if written.is_empty() { EVERYWHERE } else { written }
}

/// Sockets that are bound already.
pub(super) struct Bound<'a>(pub(super) &'a [UdpSocket]);

impl Bound<'_> {
    /// Binds every address; without any, IPv6 and IPv4 at sshd's port.
    ///
    /// # Errors
    /// The address that could not be bound, and why.
    pub(super) fn listen(
        &self,
        addresses: &[ListenAddress],
        usual_port: u16,
    ) -> Result<Vec<UdpSocket>, (SocketAddr, io::Error)> {
        let mut sockets = Vec::new();
        for address in wanted(addresses) {
            let port = address.port.unwrap_or(usual_port);
            match address.ip {
                Some(ip) => sockets.push(self.one(SocketAddr::new(ip, port), &sockets)?),
                None => sockets.extend(self.all(port, &sockets)?),
            }
        }
        Ok(sockets)
    }

    fn one(&self, address: SocketAddr, taken: &[UdpSocket]) -> Result<UdpSocket, (SocketAddr, io::Error)> {
        self.bind(address, taken).map_err(|error| (address, error))
    }

    /// Both families at one port; a machine without IPv6 does with IPv4.
    fn all(&self, port: u16, taken: &[UdpSocket]) -> Result<Vec<UdpSocket>, (SocketAddr, io::Error)> {
        let every = SocketAddr::new(EVERY_V4, port);
        let v4 = self.one(every, taken)?;
        let port = v4.local_addr().map_err(|error| (every, error))?.port();
        let v6 = SocketAddr::new(EVERY_V6, port);
        match self.bind(v6, taken) {
            Ok(socket) => Ok(vec![v4, socket]),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err((v6, error)),
            Err(error) => {
                debug!(%error, "no IPv6");
                Ok(vec![v4])
            }
        }
    }

    /// The socket that is bound there already, else a new one. Any port is whichever it was.
    fn bind(&self, wanted: SocketAddr, taken: &[UdpSocket]) -> io::Result<UdpSocket> {
        let is_taken = |address| {
            taken
                .iter()
                .any(|socket| socket.local_addr().is_ok_and(|own| own == address))
        };
        let fits = |socket: &&UdpSocket| {
            socket.local_addr().is_ok_and(|address| {
                let is_port = wanted.port() == 0 || wanted.port() == address.port();
                address.ip() == wanted.ip() && is_port && !is_taken(address)
            })
        };
        match self.0.iter().find(fits) {
            Some(socket) => socket.try_clone(),
            None => bind(wanted),
        }
    }
}
