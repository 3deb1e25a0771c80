//! What is said in the lobby, one packet each. The same in every version, but for what a newer one adds.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::super::{listener::Endpoint, store_check::StoreShortage};

/// What somebody asks of a keeper.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Ask {
    /// Who is there?
    Who,
    /// Everything, to go on with it. Answered by [`Tell::Granted`] and a parcel with all but the worker.
    GiveUp {
        /// The version of parcels that the asker understands.
        parcel: u32,
    },
    /// The worker, to be asked about its sessions. Answered by [`Tell::Worker`].
    Worker,
    /// Everything was understood. Answered by a parcel with the worker, after which the keeper is none any more.
    Ready,
}

/// What a keeper says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Tell {
    Here(Who),
    Refused(Refusal),
    Granted,
    /// A connection with the worker comes with this.
    Worker,
    /// There is no worker, or it takes in nothing more.
    NoWorker,
}

/// Who is running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The keeper's process id.
    pub keeper: u32,
    /// The worker's, while there is one.
    pub worker: Option<u32>,
    /// The keeper's version of bowline.
    pub version: String,
    /// Where it listens for QUIC.
    pub addresses: Vec<SocketAddr>,
    /// Where it listens for TLS. Earlier versions do not, and do not say so.
    #[serde(default)]
    pub tls_addresses: Vec<SocketAddr>,
    /// Which address of a client sshd sees: `real`, `real-ipv4`, `real-ipv6` or `loopback`.
    #[serde(default)]
    pub client_address: String,
    /// For how long this keeper has been there.
    pub age: Duration,
    /// Whether a service manager runs it.
    pub managed: bool,
    /// What the service manager does not keep of what it should.
    #[serde(default)]
    pub store_shortage: Option<StoreShortage>,
    /// The network namespace of the addresses.
    pub(super) network: u64,
}

impl Who {
    /// Whether nobody else can listen there: the port is the same (0 is any), and so is the address, or one of them is
    /// every address.
    pub fn is_at(&self, wanted: Endpoint) -> bool {
        let clashes = |own: Endpoint| own.protocol == wanted.protocol && clash(own.address, wanted.address);
        self.network == super::door::network() && self.endpoints().any(clashes)
    }

    /// Where it listens.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        let udp = self.addresses.iter().copied().map(Endpoint::udp);
        udp.chain(self.tls_addresses.iter().copied().map(Endpoint::tcp))
    }
}

/// Why a keeper does not make way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// It writes parcels of this version.
    Version {
        /// The keeper's.
        theirs: u32,
    },
    /// It belongs to a service manager, which would take its end for a failure.
    Managed,
    /// It is about to end.
    Ending,
}

fn clash(own: SocketAddr, wanted: SocketAddr) -> bool {
    let is_every = |address: IpAddr| address.is_unspecified();
    let is_port = wanted.port() == 0 || wanted.port() == own.port();
    is_port
        && own.is_ipv4() == wanted.is_ipv4()
        // Any port of every address is another than that of one address.
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
        let mut who: Who = serde_json::from_str(text).unwrap();
        who.network = super::super::door::network();
        let address = |text: &str| text.parse().unwrap();
        assert!(who.is_at(Endpoint::udp(address("127.0.0.1:22"))));
        assert!(who.is_at(Endpoint::tcp(address("127.0.0.1:443"))));
        assert!(!who.is_at(Endpoint::udp(address("127.0.0.1:443"))));
        let earlier: Who = serde_json::from_str(&text.replace("\"tls_addresses\":[\"127.0.0.1:443\"],", "")).unwrap();
        assert_eq!(earlier.endpoints().count(), 1);
    }
}
