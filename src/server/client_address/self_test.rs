//! A connection to sshd from an address of nobody: whether what was set up works, through all firewalls of this machine.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, recv, sockopt::socket_error};

use super::netlink::Family;
use super::{ClientAddresses, Families, NotOpened, SetUpError, connect_from};
use crate::clock;

/// sshd greets within milliseconds, or asks a name server first.
pub(super) const LIMIT: Duration = Duration::from_secs(3);

/// An address of nobody, for documentation (RFC 5737, RFC 3849).
pub(super) fn nobody(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// Others, where somebody uses that one: tests do.
const OTHERS: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 254)),
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 254)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfe)),
    IpAddr::V6(Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0xfe)),
];

/// A connection whose answer is waited for.
struct Attempt {
    family: Family,
    at: SocketAddr,
    from: IpAddr,
    socket: OwnedFd,
}

/// For which families sshd answers. None if it listens nowhere yet.
pub(super) fn run(addresses: &ClientAddresses) -> Result<Families, SetUpError> {
    let mut waiting = Vec::new();
    for family in Family::ALL.into_iter().filter(|family| addresses.families.has(*family)) {
        match attempt(addresses, family) {
            Ok(attempt) => waiting.push(attempt),
            // Clients of that family are not connected in this way.
            Err(NotOpened::NotListening(..)) => {}
            Err(NotOpened::Kernel(source)) => {
                let what = "a connection from another's address";
                return Err(SetUpError::Kernel { what, source });
            }
            Err(NotOpened::OwnAddress(_) | NotOpened::NoClient(_)) => {}
        }
    }
    let mut works = Families::default();
    let end = clock::now() + LIMIT;
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

fn attempt(addresses: &ClientAddresses, family: Family) -> Result<Attempt, NotOpened> {
    let all = std::iter::once(nobody(family)).chain(OTHERS);
    let mut of_family = all.filter(|address| Family::of(*address) == family);
    let from = of_family.find(|address| matches!(addresses.is_local(*address), Ok(false)));
    let from = from.ok_or(NotOpened::NoClient(nobody(family)))?;
    let local = addresses.destination(from, None)?;
    let at = SocketAddr::new(local, addresses.target.port());
    Ok(Attempt {
        family,
        at,
        from,
        socket: connect_from(SocketAddr::new(from, 0), at)?,
    })
}

/// Whether anything comes back: the banner, or the end, by which sshd says that it does not talk with that address.
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
