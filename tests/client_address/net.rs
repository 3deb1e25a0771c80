//! A server and a client, each in a network namespace of its own, joined by a cable. Needs root.

use crate::support::place::Place;
use crate::support::process::run;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// The server's addresses.
pub(crate) const SERVER: &str = "198.51.100.1";
pub(crate) const SERVER_V6: &str = "2001:db8:1::1";
/// The client's.
pub(crate) const CLIENT: &str = "198.51.100.7";
pub(crate) const CLIENT_V6: &str = "2001:db8:1::7";
/// Another address of the client, to move to.
pub(crate) const ELSEWHERE: &str = "198.51.100.8";

/// The two machines; their namespaces end with this.
pub(crate) struct Net {
    server: String,
    client: String,
}

impl Net {
    pub(crate) fn up() -> Net {
        static NETS: AtomicU32 = AtomicU32::new(0);
        let number = NETS.fetch_add(1, Relaxed);
        let name = |side: char| format!("bca-{}-{number}{side}", std::process::id());
        let net = Net {
            server: name('s'),
            client: name('c'),
        };
        let steps = [
            format!("netns add {}", net.server),
            format!("netns add {}", net.client),
            format!(
                "-n {} link add cable type veth peer name cable netns {}",
                net.server, net.client
            ),
        ];
        for step in &steps {
            ip(step);
        }
        let sides = [
            (&net.server, [SERVER, SERVER_V6], "198.51.100.254"),
            (&net.client, [CLIENT, CLIENT_V6], SERVER),
        ];
        for (namespace, [v4, v6], gateway) in sides {
            ip(&format!("-n {namespace} link set lo up"));
            ip(&format!("-n {namespace} address add {v4}/24 dev cable"));
            ip(&format!("-n {namespace} address add {v6}/64 dev cable nodad"));
            ip(&format!("-n {namespace} link set cable up"));
            ip(&format!("-n {namespace} route add default via {gateway}"));
        }
        net
    }

    /// The server, reached at one of its addresses.
    pub(crate) fn server_at(&self, address: &str) -> Place {
        Place::in_namespace(&self.server, address.parse::<IpAddr>().expect("an address"))
    }

    pub(crate) fn server(&self) -> Place {
        self.server_at(SERVER)
    }

    pub(crate) fn client(&self) -> Place {
        Place::in_namespace(&self.client, CLIENT.parse::<IpAddr>().expect("an address"))
    }

    /// The client's machine, at a second address that it has from now on.
    pub(crate) fn client_at_second_address(&self) -> Place {
        ip(&format!("-n {} address add {ELSEWHERE}/24 dev cable", self.client));
        Place::in_namespace(&self.client, ELSEWHERE.parse::<IpAddr>().expect("an address"))
    }

    /// What a command on the server says.
    #[track_caller]
    pub(crate) fn on_server(&self, command: &[&str]) -> String {
        let [program, arguments @ ..] = command else {
            panic!("no command")
        };
        let mut run_there = self.server().command(program);
        run(run_there.args(arguments), Duration::from_secs(10))
            .expect_code(0)
            .out()
    }

    pub(crate) fn set_rp_filter(&self, value: u8) {
        for device in ["all", "default", "lo", "cable"] {
            self.on_server(&["sysctl", "-qw", &format!("net.ipv4.conf.{device}.rp_filter={value}")]);
        }
    }

    /// The client has another address from now on.
    pub(crate) fn move_client(&self) {
        ip(&format!("-n {} address del {CLIENT}/24 dev cable", self.client));
        ip(&format!("-n {} address add {ELSEWHERE}/24 dev cable", self.client));
        ip(&format!("-n {} route add default via {SERVER}", self.client));
    }

    /// Whether the server has what connections from clients' addresses take.
    pub(crate) fn is_set_up(&self) -> bool {
        let rules = |family: &str| {
            self.on_server(&["ip", family, "rule"])
                .contains("fwmark 0xb0 lookup 45232")
        };
        let is_on = self.on_server(&["sysctl", "-n", "net.ipv4.tcp_fwmark_accept"]).trim() == "1";
        let state = (rules("-4"), rules("-6"), is_on);
        assert!(
            state.0 == state.1 && state.1 == state.2,
            "half of it is there (IPv4, IPv6, sysctl): {state:?}"
        );
        state.0
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in [&self.server, &self.client] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

#[track_caller]
fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')), Duration::from_secs(10)).expect_code(0);
}
