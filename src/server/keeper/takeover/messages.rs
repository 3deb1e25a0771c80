//! Messages of a takeover, one in each packet. Newer versions only add to them.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::super::{listener::Endpoint, store_check::StoreShortage};

/// What another process requests of a keeper.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum TakeoverRequest {
    /// Who are you?
    Identify,
    /// Hand over. Answered by [`TakeoverReply::Granted`] and a bundle with everything except the worker.
    TakeOver {
        /// The format version of bundles that the other process understands.
        version: u32,
    },
    /// A connection to the worker, to ask about its sessions. Answered by [`TakeoverReply::WorkerConnection`].
    ConnectToWorker,
    /// The handover was understood. Answered by a bundle with the worker; after that the keeper is not in charge any
    /// more.
    Commit,
}

/// A keeper's replies.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum TakeoverReply {
    Identity(KeeperInfo),
    Refused(TakeoverRefusal),
    Granted,
    /// A connection to the worker comes with this reply.
    WorkerConnection,
    /// There is no worker, or it accepts no more connections.
    NoWorker,
}

/// What a keeper says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeeperInfo {
    /// The keeper's process id.
    pub keeper: u32,
    /// The worker's process id, if there is a worker.
    pub worker: Option<u32>,
    /// The keeper's version of bowline.
    pub version: String,
    /// Where it listens for QUIC.
    pub addresses: Vec<SocketAddr>,
    /// Where it listens for TLS.
    #[serde(default)]
    pub tls_addresses: Vec<SocketAddr>,
    /// Which address of a client sshd sees: `real`, `real-ipv4`, `real-ipv6` or `loopback`.
    #[serde(default)]
    pub client_address: String,
    /// How long this keeper has been running.
    pub age: Duration,
    /// Whether a service manager runs it.
    pub managed: bool,
    /// Which descriptors the service manager should store but does not.
    #[serde(default)]
    pub store_shortage: Option<StoreShortage>,
    /// The network namespace of the addresses.
    pub(super) network: u64,
}

impl KeeperInfo {
    /// Whether this keeper's sockets prevent others from listening at `wanted`: the port is the same (0 is any), and
    /// the address is the same or one of them is unspecified.
    pub fn is_at(&self, wanted: Endpoint) -> bool {
        let clashes = |own: Endpoint| own.protocol == wanted.protocol && clash(own.address, wanted.address);
        self.network == super::listener::network() && self.endpoints().any(clashes)
    }

    /// Where it listens.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let udp = self.addresses.iter().copied().map(Endpoint::udp);
        udp.chain(self.tls_addresses.iter().copied().map(Endpoint::tcp))
    }
}

/// Why a keeper refuses to hand over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TakeoverRefusal {
    /// It writes bundles of another format version.
    Version {
        /// Its version.
        theirs: u32,
    },
    /// A service manager runs it, and would take its end for a failure.
    Managed,
    /// It is about to end.
    Ending,
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
        who.network = super::super::listener::network();
        let address = |text: &str| text.parse().unwrap();
        assert!(who.is_at(Endpoint::udp(address("127.0.0.1:22"))));
        assert!(who.is_at(Endpoint::tcp(address("127.0.0.1:443"))));
        assert!(!who.is_at(Endpoint::udp(address("127.0.0.1:443"))));
        let earlier: KeeperInfo =
            serde_json::from_str(&text.replace("\"tls_addresses\":[\"127.0.0.1:443\"],", "")).unwrap();
        assert_eq!(earlier.endpoints().count(), 1);
    }
}
