//! Finds sshd: at the configured target, otherwise where `sshd -T` says that it listens.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tracing::warn;

use super::ServeSettings;
use crate::cli::report::{Exit, Failure};
use crate::cli::values::Target;
use crate::server::connect_sshd::OWN_ALIAS;
use crate::server::sshd_config::{Settings, is_here};

/// The default target, if nothing else is known.
const DEFAULT_TARGET: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 22);

/// How long each address is tried. On this machine an answer takes microseconds.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// The most addresses that are tried.
const MAX_ADDRESSES: usize = 8;

/// The SSH server that sessions are connected to.
#[derive(Debug)]
pub(super) struct ResolvedTarget {
    /// Its address, as far as known.
    pub(super) address: SocketAddr,
    /// Other addresses of its name, tried if nothing answers at the first.
    pub(super) others: Vec<SocketAddr>,
    /// Whether something accepted a connection at the address.
    pub(super) answers: bool,
    /// Whether sshd's settings say that it listens there.
    pub(super) is_listed: bool,
}

/// Finds the target; `None` is the built-in server. `sshd` are the settings from `sshd -T`.
///
/// # Errors
/// The name cannot be resolved.
pub(super) fn find(settings: &ServeSettings, sshd: Option<&Settings>) -> Result<Option<ResolvedTarget>, Failure> {
    let listening = sshd.map_or_else(Vec::new, where_it_listens);
    let candidates = match &settings.target {
        Some(Target::Builtin) => return Ok(None),
        Some(Target::Tcp { host, port }) => resolve(host, *port)?,
        None if listening.is_empty() => vec![DEFAULT_TARGET],
        None => listening.clone(),
    };
    let found = choose(candidates, &listening, answers);
    if !found.answers {
        warn_of_silence(&found, &listening);
    }
    Ok(Some(found))
}

/// The first address that answers, otherwise the first on which sshd listens.
fn choose(
    candidates: Vec<SocketAddr>,
    listening: &[SocketAddr],
    answers: impl Fn(SocketAddr) -> bool,
) -> ResolvedTarget {
    let mut rest: Vec<SocketAddr> = candidates.into_iter().take(MAX_ADDRESSES).collect();
    let answering = rest.iter().position(|address| answers(*address));
    let best = answering.or_else(|| rest.iter().position(|address| listening.contains(address)));
    let address = rest.remove(best.unwrap_or(0));
    ResolvedTarget {
        address,
        others: rest,
        answers: answering.is_some(),
        is_listed: listening.contains(&address),
    }
}

/// IPv4 first: there each client can have a loopback address of its own.
fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let found = (host, port).to_socket_addrs().map_err(|error| {
        Failure::new(
            Exit::Unavailable,
            format_args!("cannot resolve the target {host}: {error}"),
        )
    })?;
    let (mut addresses, others): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv4);
    addresses.extend(others);
    addresses.dedup();
    if addresses.is_empty() {
        let what = format_args!("the target {host} has no address");
        return Err(Failure::new(Exit::Unavailable, what));
    }
    Ok(addresses)
}

/// Addresses to reach sshd at: loopback first, then IPv4 before IPv6. The first port first.
fn where_it_listens(sshd: &Settings) -> Vec<SocketAddr> {
    let joined = sshd.listen_addresses().into_iter().map(|address| {
        let ip = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(ip, address.port())
    });
    let mut addresses: Vec<SocketAddr> = joined.collect();
    let ports = sshd.ports();
    let place = |port: u16| ports.iter().position(|known| *known == port);
    addresses.sort_by_key(|address| (place(address.port()), !address.ip().is_loopback(), address.is_ipv6()));
    addresses.dedup();
    addresses
}

/// Whether something accepts connections there. The probe is half a TCP handshake, which sshd does not notice: it
/// counts connections without a login against their address.
fn answers(address: SocketAddr) -> bool {
    let connect = || -> io::Result<()> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_tcp_quickack(false)?;
        socket.set_linger(Some(Duration::ZERO))?;
        if address.is_ipv4() && is_here(address.ip()) {
            // If that address is missing, 127.0.0.1 will do.
            let _ = socket.bind(&SocketAddr::from((OWN_ALIAS, 0)).into());
        }
        socket.connect_timeout(&address.into(), CONNECT_TIMEOUT)
    };
    connect().is_ok()
}

fn warn_of_silence(found: &ResolvedTarget, listening: &[SocketAddr]) {
    let target = found.address;
    let elsewhere: Vec<String> = listening.iter().map(ToString::to_string).collect();
    if elsewhere.is_empty() || listening.contains(&target) {
        warn!(event = "target-silent", %target, "nothing answers at the target: no session can be opened before an SSH server does");
    } else {
        let listens = elsewhere.join(", ");
        warn!(event = "target-silent", %target, sshd_listens = listens, "nothing answers at the target, and `sshd -T` says that sshd \
            listens elsewhere: name that with --target, or leave --target out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().expect("an address")).collect()
    }

    #[test]
    fn the_address_that_answers_is_taken_and_else_the_one_where_sshd_listens() {
        let named = addresses(&["127.0.0.1:22", "[::1]:22", "192.0.2.1:22"]);
        let chosen = |answering: &[&str], listening: &[&str]| {
            let answering = addresses(answering);
            let found = choose(named.clone(), &addresses(listening), |address| {
                answering.contains(&address)
            });
            (found.address.to_string(), found.others.len(), found.answers)
        };
        assert_eq!(chosen(&["[::1]:22", "192.0.2.1:22"], &[]), ("[::1]:22".into(), 2, true));
        assert_eq!(chosen(&[], &["192.0.2.1:22"]), ("192.0.2.1:22".into(), 2, false));
        assert_eq!(chosen(&[], &["192.0.2.9:22"]), ("127.0.0.1:22".into(), 2, false));
    }
}
