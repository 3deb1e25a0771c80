//! Client, router and server, each in its own network namespace, connected by veth devices. Batches
//! (GSO) are not split on their way, as between containers and virtual machines.

use crate::support::Turn;
use crate::support::lab::Lab;
use crate::support::place::Place;
use crate::support::process::run;
use crate::support::{heavy, light};
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

const CLIENT: &str = "198.51.100.7";
const SERVER: &str = "203.0.113.1";
/// The router's own address, on the server's side.
const ROUTER: &str = "203.0.113.254";

/// The three machines. Their namespaces are removed when it is dropped.
pub(crate) struct Routed {
    name: String,
    _turn: Turn,
}

impl Routed {
    /// `None` without root, which is printed. `is_heavy`: the test has timing requirements.
    pub(crate) fn up(test: &str, is_heavy: bool) -> Option<Routed> {
        static NETS: AtomicU32 = AtomicU32::new(0);
        if !Lab::possible(test) {
            return None;
        }
        let net = Routed {
            _turn: if is_heavy { heavy() } else { light() },
            name: format!("bnw-{}-{}", std::process::id(), NETS.fetch_add(1, Relaxed)),
        };
        for machine in ["client", "router", "server"] {
            ip(&format!("netns add {}", net.namespace(machine)));
            ip(&format!("-n {} link set lo up", net.namespace(machine)));
        }
        for (machine, address, gateway) in [("client", CLIENT, "198.51.100.254"), ("server", SERVER, ROUTER)] {
            let (here, router) = (net.namespace(machine), net.namespace("router"));
            ip(&format!(
                "-n {here} link add cable type veth peer name {machine} netns {router}"
            ));
            ip(&format!("-n {here} address add {address}/24 dev cable"));
            ip(&format!("-n {router} address add {gateway}/24 dev {machine}"));
            ip(&format!("-n {here} link set cable up"));
            ip(&format!("-n {router} link set {machine} up"));
            ip(&format!("-n {here} route add default via {gateway}"));
        }
        net.on("router", &["sysctl", "-qw", "net.ipv4.ip_forward=1"]);
        Some(net)
    }

    pub(crate) fn place(&self, machine: &str) -> Place {
        let address = match machine {
            "client" => CLIENT,
            "server" => SERVER,
            _ => ROUTER,
        };
        Place::in_namespace(&self.namespace(machine), address.parse::<IpAddr>().expect("an address"))
    }

    /// The output of a command on a machine.
    #[track_caller]
    pub(crate) fn on(&self, machine: &str, command: &[&str]) -> String {
        let [program, arguments @ ..] = command else {
            panic!("no command")
        };
        let mut there = self.place(machine).command(program);
        run(there.args(arguments), Duration::from_secs(20)).expect_code(0).out()
    }

    /// Adds an nftables rule for what the machine forwards, receives or sends (`forward`, `input`,
    /// `output`).
    pub(crate) fn rule(&self, machine: &str, hook: &str, rule: &str) {
        let nft = |line: &str| drop(self.on(machine, &["nft", line]));
        nft("add table inet test");
        nft(&format!(
            "add chain inet test {hook} {{ type filter hook {hook} priority 0; }}"
        ));
        nft(&format!("add rule inet test {hook} {rule}"));
    }

    /// Puts the client behind a NAT on the router, whose bindings expire after this long without a
    /// packet.
    pub(crate) fn nat(&self, forgets_after: Duration) {
        let nft = |line: &str| drop(self.on("router", &["nft", line]));
        nft("add table ip hiding");
        nft("add chain ip hiding out { type nat hook postrouting priority 100; }");
        nft("add rule ip hiding out oifname server masquerade");
        for which in ["timeout", "timeout_stream"] {
            let setting = format!("net.netfilter.nf_conntrack_udp_{which}={}", forgets_after.as_secs());
            self.on("router", &["sysctl", "-qw", &setting]);
        }
    }

    /// Number of UDP datagrams that a machine has sent.
    pub(crate) fn datagrams_of(&self, machine: &str) -> u64 {
        let text = self.on(machine, &["cat", "/proc/net/snmp"]);
        let counts = text.lines().filter_map(|line| line.strip_prefix("Udp: ")).nth(1);
        // InDatagrams, NoPorts, InErrors, OutDatagrams.
        let sent = counts.and_then(|counts| counts.split(' ').nth(3)?.parse().ok());
        sent.expect("Linux counts datagrams")
    }

    /// Sets the MTU of the link between a machine and the router, at both ends.
    pub(crate) fn set_mtu(&self, machine: &str, mtu: u16) {
        ip(&format!("-n {} link set cable mtu {mtu}", self.namespace(machine)));
        ip(&format!("-n {} link set {machine} mtu {mtu}", self.namespace("router")));
    }

    /// Sets the MTU of a link behind the machine's own device, as in a tunnel that the machine does
    /// not know of. The router reports it to whoever sends larger packets.
    pub(crate) fn set_mtu_behind(&self, machine: &str, mtu: u32) {
        let router = self.namespace("router");
        ip(&format!("-n {router} link set {machine} mtu {mtu}"));
        // The machine must not send larger packets over that link either.
        ip(&format!("-n {} link set cable mtu {mtu}", self.namespace(machine)));
    }

    /// From now on all devices split batches before they send them.
    pub(crate) fn disable_gso(&self) {
        for machine in ["client", "server"] {
            ip(&format!("-n {} link set cable gso_max_segs 1", self.namespace(machine)));
        }
    }

    /// Changes the client's address within the same network.
    pub(crate) fn move_client(&self, address: &str) {
        let client = self.namespace("client");
        ip(&format!("-n {client} address add {address}/24 dev cable"));
        ip(&format!("-n {client} address del {CLIENT}/24 dev cable"));
        ip(&format!("-n {client} address replace {address}/24 dev cable"));
        ip(&format!("-n {client} route replace default via 198.51.100.254"));
    }

    /// Number of packets counted by a machine's rules.
    pub(crate) fn counted(&self, machine: &str) -> u64 {
        let rules = self.on(machine, &["nft", "list", "table", "inet", "test"]);
        let count = rules
            .split("packets ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next()?.parse().ok());
        count.expect("a counter")
    }

    /// Number of bytes that a machine has sent to the router.
    pub(crate) fn sent_by(&self, machine: &str) -> u64 {
        let text = self.on(machine, &["cat", "/sys/class/net/cable/statistics/tx_bytes"]);
        text.trim().parse().expect("a number")
    }

    fn namespace(&self, machine: &str) -> String {
        format!("{}-{machine}", self.name)
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        for machine in ["client", "router", "server"] {
            let _ = Command::new("ip")
                .args(["netns", "delete", &self.namespace(machine)])
                .status();
        }
    }
}

#[track_caller]
fn ip(arguments: &str) {
    run(Command::new("ip").args(arguments.split(' ')), Duration::from_secs(20)).expect_code(0);
}
