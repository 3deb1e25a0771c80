//! The sockets of `bowline serve`: for QUIC, and for TLS if that is configured.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tracing::debug;

use super::ServeSettings;
use crate::cli::sshd;
use crate::cli::values::{ListenRange, PortRange};
use crate::server::handover::{Endpoint, Listener, Protocol};
use crate::transport::quic;

/// The port that most networks let through.
const DEFAULT_TLS_PORT: u16 = 443;

const EVERY_V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const EVERY_V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// The default for QUIC: every address.
const EVERYWHERE: &[ListenRange] = &[ListenRange { ip: None, ports: None }];

/// All configured addresses. Port 0 means any port, one of a range, or a default port that is not known yet.
pub(super) fn endpoints(settings: &ServeSettings, default_port: Option<u16>) -> Vec<Endpoint> {
    let all = wanted(settings).into_iter().flat_map(|(protocol, address)| {
        let port = ports(protocol, address, default_port.unwrap_or(0))
            .single()
            .unwrap_or(0);
        let ips = address.ip.map_or(vec![EVERY_V4, EVERY_V6], |ip| vec![ip]);
        ips.into_iter().map(move |ip| Endpoint {
            protocol,
            address: SocketAddr::new(ip, port),
        })
    });
    all.collect()
}

fn wanted(settings: &ServeSettings) -> Vec<(Protocol, ListenRange)> {
    let udp = match settings.listen.as_slice() {
        [] => EVERYWHERE,
        addresses => addresses,
    };
    let of = |protocol| move |address: &ListenRange| (protocol, *address);
    let tcp = settings.listen_tls.iter().map(of(Protocol::Tcp));
    udp.iter().map(of(Protocol::Udp)).chain(tcp).collect()
}

fn ports(protocol: Protocol, address: ListenRange, default_port: u16) -> PortRange {
    let usual = match protocol {
        Protocol::Udp => default_port,
        Protocol::Tcp => DEFAULT_TLS_PORT,
    };
    address.ports.unwrap_or(PortRange {
        first: usual,
        last: usual,
    })
}

/// All ports of the range, in the order in which this user tries them. Each user begins somewhere else, and finds the same
/// port again after a restart.
fn in_order(ports: PortRange) -> impl Iterator<Item = u16> {
    let count = u32::from(ports.last - ports.first) + 1;
    let start = rustix::process::geteuid().as_raw() % count;
    (0..count).map(move |step| ports.first + ((start + step) % count) as u16)
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
            let ports = ports(protocol, address, default_port);
            let bound = self.first_free(protocol, address.ip, ports, &listeners)?;
            listeners.extend(bound);
        }
        Ok(listeners)
    }

    /// Binds one port: of a range the one that is bound already, otherwise the first that no other process has.
    fn first_free(
        &self,
        protocol: Protocol,
        ip: Option<IpAddr>,
        ports: PortRange,
        taken: &[Listener],
    ) -> Result<Vec<Listener>, (Endpoint, io::Error)> {
        let at = |ip, port| Endpoint {
            protocol,
            address: SocketAddr::new(ip, port),
        };
        let bind = |port| match ip {
            Some(ip) => self.one(at(ip, port), taken).map(|listener| vec![listener]),
            None => self.all(at(EVERY_V4, port), taken),
        };
        let mut in_use = None;
        for port in self.bound_ports(protocol, ports).into_iter().chain(in_order(ports)) {
            match bind(port) {
                Err(error) if error.1.kind() == io::ErrorKind::AddrInUse => in_use = Some(error),
                bound => return bound,
            }
        }
        Err(in_use.expect("a range has a port"))
    }

    /// The ports of the range that are bound already.
    fn bound_ports(&self, protocol: Protocol, ports: PortRange) -> Vec<u16> {
        let own = self.0.iter().filter_map(|listener| listener.endpoint().ok());
        let ports = ports.first..=ports.last;
        own.filter(|own| own.protocol == protocol && ports.contains(&own.address.port()))
            .map(|own| own.address.port())
            .collect()
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
