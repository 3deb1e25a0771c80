//! Tests the setup by a connection to sshd from an address that nobody has, through all firewalls of this machine.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv, sockopt::socket_error};

use super::netlink::Family;
use super::{ClientAddresses, ConnectError, Families, SetUpError, connect_from};
use crate::clock;

/// sshd greets within milliseconds, or queries a name server first.
pub(super) const TEST_TIMEOUT: Duration = Duration::from_secs(3);

/// A documentation address, which nobody has (RFC 5737, RFC 3849).
pub(super) fn documentation_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// Alternatives, in case somebody uses that one, as tests do.
const OTHERS: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 254)),
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 254)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfe)),
    IpAddr::V6(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0xfe)),
];

/// A connection that waits for its answer.
struct Attempt {
    family: Family,
    at: SocketAddr,
    from: IpAddr,
    socket: OwnedFd,
}

/// The families for which sshd answers. None if it does not listen yet.
pub(super) fn run(addresses: &ClientAddresses) -> Result<Families, SetUpError> {
    let mut waiting = Vec::new();
    for family in Family::ALL.into_iter().filter(|family| addresses.families.has(*family)) {
        match attempt(addresses, family) {
            Ok(attempt) => waiting.push(attempt),
            // Clients of that family cannot be connected in this way.
            Err(ConnectError::NotListening(..)) => {}
            Err(ConnectError::Kernel(source)) => {
                let what = "a connection from a client's address";
                return Err(SetUpError::Kernel { what, source });
            }
            Err(ConnectError::OwnAddress(_) | ConnectError::NoClient(_)) => {}
        }
    }
    let mut works = Families::default();
    let end = clock::now() + TEST_TIMEOUT;
    for attempt in waiting {
        match has_answered(&attempt.socket, end) {
            true => works = works.with(attempt.family),
            false => {
                let Attempt { at, from, .. } = attempt;
                return Err(SetUpError::NoAnswer { at, from });
            }
        }
    }
    Ok(works)
}

fn attempt(addresses: &ClientAddresses, family: Family) -> Result<Attempt, ConnectError> {
    let all = std::iter::once(documentation_address(family)).chain(OTHERS);
    let mut of_family = all.filter(|address| Family::of(*address) == family);
    let from = of_family.find(|address| matches!(addresses.is_local(*address), Ok(false)));
    let from = from.ok_or(ConnectError::NoClient(documentation_address(family)))?;
    let local = addresses.destination(from, None)?;
    let at = SocketAddr::new(local, addresses.target.port());
    Ok(Attempt {
        family,
        at,
        from,
        socket: connect_from(SocketAddr::new(from, 0), at)?,
    })
}

/// Whether sshd answers: by its banner, or by closing the connection because it refuses the address.
fn has_answered(socket: &OwnedFd, end: Instant) -> bool {
    loop {
        let left = end.saturating_duration_since(clock::now());
        let limit = Timespec {
            tv_sec: left.as_secs() as _,
            tv_nsec: left.subsec_nanos() as _,
        };
        let mut fds = [PollFd::new(socket, PollFlags::IN)];
        match poll(&mut fds, Some(&limit)) {
            Ok(0) => return false,
            Ok(_) if matches!(socket_error(socket), Ok(Ok(()))) => {
                let mut byte = [0; 1];
                match recv(socket, byte.as_mut_slice(), RecvFlags::DONTWAIT) {
                    Err(error) if std::io::Error::from(error).kind() == ErrorKind::WouldBlock => {}
                    received => return received.is_ok(),
                }
            }
            Ok(_) => return false,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
