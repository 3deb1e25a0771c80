//! What is said in the lobby, one packet each. The same in every version, but for what a newer one adds.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Serialize};

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
    /// Everything was understood. Answered by a parcel with the worker, after which the keeper is none any more.
    Ready,
}

/// What a keeper says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Tell {
    Here(Who),
    Refused(Refusal),
    Granted,
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
    /// For how long this keeper has been there.
    pub age: Duration,
    /// Whether a service manager runs it.
    pub managed: bool,
    /// The network namespace of the addresses.
    pub(super) network: u64,
}

impl Who {
    /// Whether nobody else can listen there: the port is the same (0 is any), and so is the address, or one of them is
    /// every address.
    pub fn is_at(&self, wanted: SocketAddr) -> bool {
        self.network == super::door::network() && self.addresses.iter().any(|own| clash(*own, wanted))
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
}
