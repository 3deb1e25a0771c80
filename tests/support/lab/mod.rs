//! A small internet in user space: network namespaces joined through TUN devices and threads of this process.
//!
//! Needs root, `ip` and `/dev/net/tun`; no kernel netem; IPv4 only. Every host has an access link to one core:
//!
//! ```text
//! host -> [NAT] -> up link (queue and rate, loss, delay) -> core -> down link -> [NAT] -> host
//! ```
//!
//! so `delay=25` on the client alone gives an RTT of 50 ms to the server, and `loss=1` on it 1 % each way. Host N is
//! at 198.18.N.1, behind its NAT at 198.19.N.1, and the hosts know each other by name. No GSO: one read and one
//! write a packet, good for some hundred Mbit/s.

mod host;
mod nat;
pub mod pair;
mod sys;
pub mod wire;

use super::link::{self, Counters, nanos};
use super::place::Place;
use host::{DEVICE, Host, Item};
use nat::Nat;
use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// Names of namespaces are `PREFIX PID - LAB - HOST`, so that a later run sees whose owner is gone.
const PREFIX: &str = "bwl-";
/// Packets taken from a device before their locks are given back.
const BATCH: usize = 64;

/// A running lab; its namespaces, and what still runs in them, end with it.
pub struct Lab {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What the emulator's threads share.
struct Shared {
    hosts: Vec<Arc<Host>>,
    /// Which host an address leads to.
    routes: RwLock<HashMap<u32, usize>>,
    stop: AtomicBool,
}

/// What the names of a lab's namespaces begin with.
fn next_prefix() -> String {
    static LABS: AtomicU32 = AtomicU32::new(0);
    sys::remove_leftovers(PREFIX);
    format!("{PREFIX}{}-{}-", std::process::id(), LABS.fetch_add(1, SeqCst))
}

impl Lab {
    /// Whether this user may build one. Says so on standard error when not, so that a skipped test is no secret.
    pub fn possible(test: &str) -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            super::measured(test, "SKIPPED, it needs root for network namespaces");
        }
        root
    }

    /// Builds the hosts, each a name and its link's settings (`("client", "delay=25,nat")`).
    ///
    /// # Panics
    /// When the machine refuses: no `ip`, no `/dev/net/tun`.
    pub fn up(hosts: &[(&str, &str)]) -> Lab {
        let prefix = next_prefix();
        let names: Vec<&str> = hosts.iter().map(|(name, _)| *name).collect();
        let hosts_file = hosts_file(&names);
        let built = (1u8..)
            .zip(&names)
            .map(|(index, name)| Arc::new(Host::build(name, index, &prefix, &hosts_file)));
        let built: Vec<_> = built.collect();
        let routes = built
            .iter()
            .enumerate()
            .map(|(at, host)| (host.address(), at))
            .collect();
        let shared = Arc::new(Shared {
            hosts: built,
            routes: RwLock::new(routes),
            stop: AtomicBool::new(false),
        });
        let mut lab = Lab {
            shared,
            threads: vec![],
        };
        for (name, settings) in hosts {
            let (nat, link): (Vec<_>, Vec<_>) = settings.split(',').partition(|setting| *setting == "nat");
            lab.set(name, &link.join(","));
            if !nat.is_empty() {
                lab.nat(name);
            }
        }
        lab.start();
        lab
    }

    fn start(&mut self) {
        for at in 0..self.shared.hosts.len() {
            let shared = self.shared.clone();
            self.threads.push(std::thread::spawn(move || shared.read_device(at)));
            let shared = self.shared.clone();
            self.threads
                .push(std::thread::spawn(move || shared.hosts[at].deliver(&shared.stop)));
        }
    }

    /// A host, as a place to run programs on.
    pub fn place(&self, host: &str) -> Place {
        let host = self.host(host);
        Place::in_namespace(&host.namespace, Ipv4Addr::from(host.address()).into())
    }

    /// From now on programs on all hosts ask the name server on this one.
    ///
    /// # Panics
    /// Where root may not write in `/etc/netns`.
    pub fn resolve_at(&self, host: &str) {
        let address = Ipv4Addr::from(self.host(host).address());
        for host in &self.shared.hosts {
            sys::set_name_server(&host.namespace, address);
        }
    }

    /// A command that runs on a host.
    pub fn command(&self, host: &str, program: &str) -> Command {
        self.place(host).command(program)
    }

    /// A UDP socket of this process on a host, at its own address and a free port.
    pub fn udp_socket(&self, host: &str) -> UdpSocket {
        let host = self.host(host);
        let address = Ipv4Addr::from(host.address());
        sys::inside(&host.namespace, move || UdpSocket::bind((address, 0))).expect("a UDP port on a host of the lab")
    }

    /// Sockets of this process at a port of a host, for UDP and for TCP. Their threads wait at most a second for each
    /// packet or connection.
    pub fn sockets(&self, host: &str, port: u16) -> (UdpSocket, TcpListener) {
        let host = self.host(host);
        let address = (Ipv4Addr::from(host.address()), port);
        let made = sys::inside(&host.namespace, move || {
            let udp = UdpSocket::bind(address)?;
            udp.set_read_timeout(Some(Duration::from_secs(1)))?;
            Ok((udp, TcpListener::bind(address)?))
        });
        made.expect("free ports on a host of the lab")
    }

    /// Changes a host's link: `delay=75,up.loss=5`; see `link::configure`. Holds for packets from now on.
    pub fn set(&self, host: &str, settings: &str) {
        let host = self.host(host);
        link::configure(settings, &mut host::held(&host.up), &mut host::held(&host.down));
    }

    /// A silent blackhole both ways, packets in flight to the host included.
    pub fn cut(&self, host: &str) {
        self.host(host).cut.store(true, SeqCst);
    }

    /// Ends `cut`.
    pub fn restore(&self, host: &str) {
        self.host(host).cut.store(false, SeqCst);
    }

    /// Takes the host's network device down, as with `ip link set down`: programs see errors.
    pub fn device_down(&self, host: &str) {
        sys::ip(&format!("-n {} link set {DEVICE} down", self.host(host).namespace));
    }

    /// Brings the device up again, with its route.
    pub fn device_up(&self, host: &str) {
        let namespace = &self.host(host).namespace;
        sys::ip(&format!("-n {namespace} link set {DEVICE} up"));
        sys::ip(&format!("-n {namespace} route replace default dev {DEVICE}"));
    }

    /// Drops all UDP of a host, or stops doing so.
    pub fn drop_udp(&self, host: &str, drop: bool) {
        self.host(host).no_udp.store(drop, SeqCst);
    }

    /// Drops the UDP that a host sends, and lets pass what it is sent; or stops doing so.
    pub fn drop_udp_out(&self, host: &str, drop: bool) {
        self.host(host).no_udp_out.store(drop, SeqCst);
    }

    /// Drops all TCP of a host, or stops doing so.
    pub fn drop_tcp(&self, host: &str, drop: bool) {
        self.host(host).no_tcp.store(drop, SeqCst);
    }

    /// Puts a NAT in front of a host: endpoint-independent mapping, filtering by remote address and port. As with
    /// Linux's conntrack a TCP segment that meets no mapping makes one.
    pub fn nat(&self, host: &str) {
        let (at, host) = self.find(host);
        *host::held(&host.nat) = Some(Nat::new(host.public_address(), nanos()));
        self.route(at, host.public_address());
    }

    /// All mappings go; the host gets the next public address and new ports. Nobody is told.
    pub fn rebind(&self, host: &str) {
        let (at, host) = self.find(host);
        host.next_public.fetch_add(1, SeqCst);
        let mut nat = host::held(&host.nat);
        nat.as_mut().expect("a host behind a NAT").rebind(host.public_address());
        self.route(at, host.public_address());
    }

    /// The host's own address changes, as from Wi-Fi to a phone: the old one is gone from its device.
    pub fn roam(&self, host: &str) {
        let (at, host) = self.find(host);
        host.move_on();
        if host::held(&host.nat).is_none() {
            self.route(at, host.address());
        }
    }

    /// What became of a host's packets: outgoing, incoming.
    pub fn counters(&self, host: &str) -> (Counters, Counters) {
        let host = self.host(host);
        (host::held(&host.up).counters, host::held(&host.down).counters)
    }

    /// From now on a host is reached at this address alone.
    fn route(&self, at: usize, address: u32) {
        let mut routes = self.shared.routes.write().expect("no emulator thread panics");
        routes.retain(|_, host| *host != at);
        routes.insert(address, at);
    }

    fn host(&self, name: &str) -> &Host {
        self.find(name).1
    }

    fn find(&self, name: &str) -> (usize, &Host) {
        let found = self.shared.hosts.iter().position(|host| host.name == name);
        let at = found.unwrap_or_else(|| panic!("the lab has no host {name}"));
        (at, &self.shared.hosts[at])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for host in &self.shared.hosts {
            host.wake.notify_all();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for host in &self.shared.hosts {
            sys::remove_namespace(&host.namespace);
        }
    }
}

impl Shared {
    /// Takes packets from a host's device through its up link to the destination's queue.
    fn read_device(&self, at: usize) {
        let host = &self.hosts[at];
        let mut buffer = vec![0; 65_536];
        let mut batch: Vec<Vec<u8>> = Vec::with_capacity(BATCH);
        while !self.stop.load(SeqCst) {
            while batch.len() < BATCH {
                match host.read(&mut buffer) {
                    Ok(length) => batch.push(buffer[..length].to_vec()),
                    Err(e) if e.kind() == ErrorKind::Interrupted => {}
                    // Nothing there, or the device is down for now.
                    Err(_) => break,
                }
            }
            if batch.is_empty() {
                host.wait_readable();
            }
            for packet in batch.drain(..) {
                self.forward(host, packet);
            }
        }
    }

    fn forward(&self, host: &Host, mut packet: Vec<u8>) {
        let mut link = host::held(&host.up);
        if nat::head(&packet).is_none() {
            return; // IPv6 neighbour discovery: not of this world
        }
        if host.cut.load(SeqCst) {
            link.counters.blackholed += 1;
            return;
        }
        if host.filters_out(&packet) {
            link.counters.filtered += 1;
            return;
        }
        let own = nat::source(&packet) == host.address();
        let routed = own
            && host::held(&host.nat)
                .as_mut()
                .is_none_or(|nat| nat.outward(&mut packet));
        let to = self
            .routes
            .read()
            .expect("no emulator thread panics")
            .get(&nat::destination(&packet))
            .copied();
        let (true, Some(to)) = (routed, to) else {
            link.counters.unroutable += 1;
            return;
        };
        if let Some(at) = link.offer(nanos(), packet.len()) {
            self.hosts[to].accept(Item::new(at, packet));
        }
    }
}

/// `/etc/hosts` of the lab.
fn hosts_file(names: &[&str]) -> String {
    let mut lines = String::from("127.0.0.1 localhost\n");
    for (index, name) in (1u8..).zip(names) {
        lines += &format!("{} {name}\n", Ipv4Addr::from(host::own_address(index, 0)));
    }
    lines
}
