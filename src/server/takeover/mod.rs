//! Takeover: `serve --replace`. A running keeper says on its control socket who it is, and hands over to another keeper.
//!
//! There are two steps, so that there is exactly one keeper at any moment. What the other keeper gets first gives it
//! no power over the worker. The worker is sent last, in one packet, and with it the handover is complete. If one of
//! the keepers dies in between, the other one is the keeper; if both die, the worker starts a third.

mod client;

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{info, warn};

pub use self::client::{Offer, RunningKeeper, RunningKeepers, TakeoverError, find_running_keepers};
use super::{
    handover::{Endpoint, Inventory},
    ipc::{
        ControlReply, ControlRequest, KeeperInfo,
        control_socket::{Peer, network},
    },
};
use crate::fault;

/// How long the other keeper may take to check the handover and to bind missing sockets. Messages of the worker wait
/// meanwhile.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the other keeper may take to accept the next packet.
const SEND_TIMEOUT: Duration = Duration::from_millis(500);

/// Hands over to a peer: first everything but the worker, and once the peer has said that it understands that, the
/// worker. The arrival of something at one of `interrupts` (a signal, the end of a process) aborts the handover,
/// because the other keeper would not learn of it. Returns whether the peer is the keeper now.
pub(super) fn hand_over(
    peer: &Peer,
    inventory: &Inventory<'_>,
    worker: &Inventory<'_>,
    interrupts: &[BorrowedFd<'_>],
) -> bool {
    let begun = peer.send(&ControlReply::Granted);
    fault::pass("granted");
    let begun = begun.and_then(|()| inventory.send(&peer.connection, SEND_TIMEOUT));
    if let Err(error) = begun {
        warn!(pid = peer.pid, %error, "cannot hand over: this keeper continues");
        return false;
    }
    if !wait_until_ready(peer, interrupts) {
        warn!(
            pid = peer.pid,
            "another keeper asked for the handover and did not complete it: this keeper continues"
        );
        return false;
    }
    match worker.send(&peer.connection, Duration::ZERO) {
        Ok(()) => {
            fault::pass("handed-over");
            info!(by = peer.pid, "another keeper has taken over: this one ends");
            true
        }
        Err(error) => {
            warn!(pid = peer.pid, %error, "cannot hand over the worker: this keeper continues");
            false
        }
    }
}

/// Waits for the commit.
fn wait_until_ready(peer: &Peer, interrupts: &[BorrowedFd<'_>]) -> bool {
    let mut fds: Vec<_> = interrupts
        .iter()
        .copied()
        .chain([peer.connection.as_fd()])
        .map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN))
        .collect();
    let timeout = Timespec {
        tv_sec: COMMIT_TIMEOUT.as_secs() as _,
        tv_nsec: COMMIT_TIMEOUT.subsec_nanos() as _,
    };
    poll(&mut fds, Some(&timeout)).is_ok() && matches!(peer.receive(), Ok(Some(ControlRequest::Commit)))
}

impl KeeperInfo {
    /// Whether this keeper's sockets prevent others from listening at `wanted`: the port is the same (0 is any), and
    /// the address is the same or one of them is unspecified.
    pub fn is_at(&self, wanted: Endpoint) -> bool {
        let clashes = |own: Endpoint| own.protocol == wanted.protocol && clash(own.address, wanted.address);
        self.network == network() && self.endpoints().any(clashes)
    }

    /// Where it listens.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let udp = self.addresses.iter().copied().map(Endpoint::udp);
        udp.chain(self.tls_addresses.iter().copied().map(Endpoint::tcp))
    }
}

fn clash(own: SocketAddr, wanted: SocketAddr) -> bool {
    let is_every = |address: IpAddr| address.is_unspecified();
    let is_port = wanted.port() == 0 || wanted.port() == own.port();
    is_port
        && own.is_ipv4() == wanted.is_ipv4()
        // A wildcard address with port 0 gets another port than a specific address has.
        && (own.ip() == wanted.ip() || wanted.port() != 0 && (is_every(own.ip()) || is_every(wanted.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_listens_there_is_told_by_port_and_address() {
        let clash = |own: &str, wanted: &str| clash(own.parse().unwrap(), wanted.parse().unwrap());
        for (own, wanted) in [
            ("127.0.0.1:22", "127.0.0.1:22"),
            ("0.0.0.0:22", "127.0.0.1:22"),
            ("[::1]:22", "[::]:22"),
            ("127.0.0.1:22", "127.0.0.1:0"),
        ] {
            assert!(clash(own, wanted), "{own} {wanted}");
        }
        for (own, wanted) in [
            ("127.0.0.1:22", "127.0.0.1:23"),
            ("127.0.0.1:22", "127.0.0.2:22"),
            ("0.0.0.0:22", "[::]:22"),
            ("0.0.0.0:22", "127.0.0.1:0"),
        ] {
            assert!(!clash(own, wanted), "{own} {wanted}");
        }
    }

    #[test]
    fn udp_and_tcp_ports_of_one_number_are_two() {
        let text = r#"{"keeper":1,"worker":null,"version":"0","addresses":["127.0.0.1:22"],
            "tls_addresses":["127.0.0.1:443"],"age":{"secs":0,"nanos":0},"managed":false,"network":0}"#;
        let mut who: KeeperInfo = serde_json::from_str(text).unwrap();
        who.network = network();
        let address = |text: &str| text.parse().unwrap();
        assert!(who.is_at(Endpoint::udp(address("127.0.0.1:22"))));
        assert!(who.is_at(Endpoint::tcp(address("127.0.0.1:443"))));
        assert!(!who.is_at(Endpoint::udp(address("127.0.0.1:443"))));
        let earlier: KeeperInfo =
            serde_json::from_str(&text.replace("\"tls_addresses\":[\"127.0.0.1:443\"],", "")).unwrap();
        assert_eq!(earlier.endpoints().count(), 1);
    }
}
