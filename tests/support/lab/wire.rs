//! Two hosts with a cable between them: nothing but the kernel's own speed, in packets of 1500 bytes.

use super::sys;
use crate::support::place::Place;
use std::net::Ipv4Addr;

/// The two hosts; both end, with what still runs on them, when this does.
pub struct Wire {
    ends: [(String, Ipv4Addr); 2],
}

impl Wire {
    /// Lays the cable.
    ///
    /// # Panics
    /// When the machine refuses: no root, no `ip`.
    pub fn lay() -> Wire {
        let prefix = super::next_prefix();
        let ends = [("client", 1), ("server", 2)];
        let ends = ends.map(|(name, last)| (format!("{prefix}{name}"), Ipv4Addr::new(198, 18, 255, last)));
        for (namespace, _) in &ends {
            sys::make_namespace(namespace, "127.0.0.1 localhost\n");
        }
        let [(client, _), (server, _)] = &ends;
        sys::ip(&format!(
            "-n {client} link add wire0 type veth peer name wire0 netns {server}"
        ));
        for (namespace, address) in &ends {
            sys::ip(&format!("-n {namespace} link set lo up"));
            sys::ip(&format!("-n {namespace} addr add {address}/24 dev wire0"));
            sys::ip(&format!("-n {namespace} link set wire0 mtu 1500 up"));
        }
        Wire { ends }
    }

    /// One end.
    pub fn client(&self) -> Place {
        self.place(0)
    }

    /// The other end.
    pub fn server(&self) -> Place {
        self.place(1)
    }

    /// Runs `ip` with these words on the client's machine.
    ///
    /// # Panics
    /// With ip's own message when it fails.
    pub fn at_client(&self, words: &str) {
        let (namespace, _) = &self.ends[0];
        sys::ip(&format!("-n {namespace} {words}"));
    }

    /// The server's machine receives what these rules of nftables let through, and nothing else is filtered.
    ///
    /// # Panics
    /// With nft's own message when it refuses.
    pub fn filter(&self, rules: &str) {
        let table = format!(
            "add table inet test\ndelete table inet test\ntable inet test {{\nchain input {{\ntype filter hook input \
             priority 0; iif lo accept; {rules}\n}}\n}}"
        );
        let mut nft = self.server().command("nft");
        let done = nft.arg(table).output().expect("the nft program");
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "nft: {said}");
    }

    fn place(&self, end: usize) -> Place {
        let (namespace, address) = &self.ends[end];
        Place::in_namespace(namespace, (*address).into())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.ends
            .iter()
            .for_each(|(namespace, _)| sys::remove_namespace(namespace));
    }
}
