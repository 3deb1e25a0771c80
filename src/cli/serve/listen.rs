//! The sockets of `bowline serve`: for QUIC, and for TLS if that is configured.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tracing::debug;

use super::ServeSettings;
use crate::cli::sshd;
use crate::cli::values::ListenAddress;
use crate::server::handover::{Endpoint, Listener, Protocol};
use crate::transport::quic;

/// The port that most networks let through.
const DEFAULT_TLS_PORT: u16 = 443;

const EVERY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const EVERY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The default for QUIC: every address.
const EVERYWHERE: &[ListenAddress] = &[ListenAddress { ip: None, port: None }];

/// All configured addresses. Port 0 means any port, or a default port that is not known yet.
pub(super) fn endpoints(settings: &ServeSettings, default_port: Option<u16>) -> Vec<Endpoint> {
    let all = wanted(settings).into_iter().flat_map(|(protocol, address)| {
        let port = port(protocol, address, default_port.unwrap_or(0));
        let ips = address.ip.map_or(vec![EVERY_V4, EVERY_V6], |ip| vec![ip]);
        ips.into_iter().map(move |ip| Endpoint {
            protocol,
            address: SocketAddr::new(ip, port),
        })
    });
    all.collect()
}

fn wanted(settings: &ServeSettings) -> Vec<(Protocol, ListenAddress)> {
    let udp = match settings.listen.as_slice() {
        [] => EVERYWHERE,
        addresses => addresses,
    };
    let of = |protocol| move |address: &ListenAddress| (protocol, *address);
    let tcp = settings.listen_tls.iter().map(of(Protocol::Tcp));
    udp.iter().map(of(Protocol::Udp)).chain(tcp).collect()
}

fn port(protocol: Protocol, address: ListenAddress, default_port: u16) -> u16 {
    address.port.unwrap_or(match protocol {
        Protocol::Udp => default_port,
        Protocol::Tcp => DEFAULT_TLS_PORT,
    })
}

/// Sockets that are bound already.
pub(super) struct Bound<'a>(pub(super) &'a [Listener]);

impl Bound<'_> {
    /// Binds every address; without any for QUIC, IPv6 and IPv4 at `default_port`, which is sshd's.
    ///
    /// # Errors
    /// The address that could not be bound, and why.
    pub(super) fn listen(
        &self,
        settings: &ServeSettings,
        default_port: u16,
    ) -> Result<Vec<Listener>, (Endpoint, io::Error)> {
        let mut listeners = Vec::new();
        for (protocol, address) in wanted(settings) {
            let port = port(protocol, address, default_port);
            let at = |ip| Endpoint {
                protocol,
                address: SocketAddr::new(ip, port),
            };
            match address.ip {
                Some(ip) => listeners.push(self.one(at(ip), &listeners)?),
                None => listeners.extend(self.all(at(EVERY_V4), &listeners)?),
            }
        }
        Ok(listeners)
    }

    fn one(&self, endpoint: Endpoint, taken: &[Listener]) -> Result<Listener, (Endpoint, io::Error)> {
        self.bind(endpoint, taken).map_err(|error| (endpoint, error))
    }

    /// Binds both families at one port. Without IPv6 on this machine, only IPv4.
    fn all(&self, every: Endpoint, taken: &[Listener]) -> Result<Vec<Listener>, (Endpoint, io::Error)> {
        let v4 = self.one(every, taken)?;
        let port = v4.endpoint().map_err(|error| (every, error))?.address.port();
        let v6 = Endpoint {
            address: SocketAddr::new(EVERY_V6, port),
            ..every
        };
        match self.bind(v6, taken) {
            Ok(socket) => Ok(vec![v4, socket]),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err((v6, error)),
            Err(error) => {
                debug!(%error, "no IPv6");
                Ok(vec![v4])
            }
        }
    }

    /// The socket that is bound already, otherwise a new one. Port 0 fits every port.
    fn bind(&self, wanted: Endpoint, taken: &[Listener]) -> io::Result<Listener> {
        let is_taken = |own| taken.iter().any(|one| one.endpoint().is_ok_and(|other| other == own));
        let fits = |listener: &&Listener| {
            listener.endpoint().is_ok_and(|own| {
                let (address, port) = (own.address, wanted.address.port());
                let is_place = address.ip() == wanted.address.ip() && (port == 0 || port == address.port());
                own.protocol == wanted.protocol && is_place && !is_taken(own)
            })
        };
        match (self.0.iter().find(fits), wanted.protocol) {
            (Some(listener), _) => listener.try_clone(),
            (None, Protocol::Udp) => quic::bind(wanted.address).map(Listener::Udp),
            (None, Protocol::Tcp) => sshd::listen(wanted.address).map(Listener::Tcp),
        }
    }
}
