//! One host of the lab: its namespace, its access link, and the thread that hands it its packets.

use super::nat::{self, Nat};
use super::sys;
use crate::support::link::{Link, nanos};
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The name of the device inside every namespace.
pub const DEVICE: &str = "lab0";
/// How often a thread that waits looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);

/// A host and everything about it that commands change while packets move.
pub struct Host {
    pub name: String,
    pub namespace: String,
    index: u8,
    device: File,
    /// Host to core.
    pub up: Mutex<Link>,
    /// Core to host.
    pub down: Mutex<Link>,
    pub cut: AtomicBool,
    pub no_udp: AtomicBool,
    pub no_udp_out: AtomicBool,
    pub no_tcp: AtomicBool,
    next_own: AtomicU32,
    pub next_public: AtomicU32,
    pub nat: Mutex<Option<Nat>>,
    inbound: Mutex<Inbound>,
    pub wake: Condvar,
}

/// What is on its way to a host, by the time it reaches the host's own link.
#[derive(Default)]
struct Inbound {
    items: BinaryHeap<Item>,
    count: u64,
}

/// A packet and when it comes out of the link it is on.
pub struct Item {
    at: u64,
    number: u64,
    data: Vec<u8>,
}

impl Host {
    /// Makes the namespace with its device, address, route and names.
    ///
    /// # Panics
    /// When the machine refuses any of it.
    pub fn build(name: &str, index: u8, prefix: &str, hosts_file: &str) -> Host {
        let namespace = format!("{prefix}{name}");
        sys::make_namespace(&namespace, hosts_file);
        let device = sys::inside(&namespace, || sys::make_device(DEVICE))
            .unwrap_or_else(|e| panic!("cannot make a TUN device in {namespace}: {e}"));
        for step in [
            "link set lo up".to_owned(),
            format!("addr add {}/32 dev {DEVICE}", Ipv4Addr::from(own_address(index, 0))),
            // Without an address of IPv6 it looks for no router on its own, and every packet counted is a host's.
            format!("link set {DEVICE} addrgenmode none mtu 1500 txqueuelen 4000 up"),
            format!("route add default dev {DEVICE}"),
        ] {
            sys::ip(&format!("-n {namespace} {step}"));
        }
        let seed = u64::from(index) << 32;
        Host {
            name: name.into(),
            namespace,
            index,
            device,
            up: Mutex::new(Link::new(seed ^ 1)),
            down: Mutex::new(Link::new(seed ^ 2)),
            cut: AtomicBool::new(false),
            no_udp: AtomicBool::new(false),
            no_udp_out: AtomicBool::new(false),
            no_tcp: AtomicBool::new(false),
            next_own: AtomicU32::new(0),
            next_public: AtomicU32::new(0),
            nat: Mutex::new(None),
            inbound: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Its address inside the namespace.
    pub fn address(&self) -> u32 {
        own_address(self.index, self.next_own.load(SeqCst))
    }

    /// Its address outside, where it has a NAT.
    pub fn public_address(&self) -> u32 {
        address(19, self.index, self.next_public.load(SeqCst))
    }

    /// Takes the next address of its own and drops the old one.
    pub fn move_on(&self) {
        let old = self.address();
        let new = own_address(self.index, self.next_own.load(SeqCst) + 1);
        let namespace = &self.namespace;
        sys::ip(&format!(
            "-n {namespace} addr add {}/32 dev {DEVICE}",
            Ipv4Addr::from(new)
        ));
        sys::ip(&format!(
            "-n {namespace} addr del {}/32 dev {DEVICE}",
            Ipv4Addr::from(old)
        ));
        sys::ip(&format!("-n {namespace} route replace default dev {DEVICE}"));
        self.next_own.fetch_add(1, SeqCst);
    }

    /// Whether a packet's transport is dropped here.
    pub fn filters(&self, packet: &[u8]) -> bool {
        match nat::head(packet) {
            Some((_, nat::UDP)) => self.no_udp.load(SeqCst),
            Some((_, nat::TCP)) => self.no_tcp.load(SeqCst),
            _ => false,
        }
    }

    /// The same of a packet on its way out.
    pub fn filters_out(&self, packet: &[u8]) -> bool {
        let is_udp = nat::head(packet).is_some_and(|(_, transport)| transport == nat::UDP);
        self.filters(packet) || (is_udp && self.no_udp_out.load(SeqCst))
    }

    /// One packet from the device; `WouldBlock` when there is none.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.device).read(buffer)
    }

    /// Until the device has a packet, or it is time to look around.
    pub fn wait_readable(&self) {
        sys::wait_readable(&self.device, LOOK);
    }

    /// A packet on its way to this host.
    pub fn accept(&self, mut item: Item) {
        let mut inbound = held(&self.inbound);
        inbound.count += 1;
        item.number = inbound.count;
        inbound.items.push(item);
        drop(inbound);
        self.wake.notify_one();
    }

    /// Takes what has reached the host's link through it and into the device, until told to stop.
    pub fn deliver(&self, stop: &AtomicBool) {
        let mut leaving: BinaryHeap<Item> = BinaryHeap::new();
        let mut number = 0;
        while !stop.load(SeqCst) {
            let arrived = self.arrived(leaving.peek().map(|item| item.at));
            for Item { at, data, .. } in arrived {
                if let Some(at) = held(&self.down).offer(at, data.len()) {
                    number += 1;
                    leaving.push(Item { at, number, data });
                }
            }
            while leaving.peek().is_some_and(|item| item.at <= nanos()) {
                self.hand_over(leaving.pop().expect("just seen").data);
            }
        }
    }

    /// What has reached the link by now; waits until there is some, or until `due`.
    fn arrived(&self, due: Option<u64>) -> Vec<Item> {
        let mut inbound = held(&self.inbound);
        let next = [due, inbound.items.peek().map(|item| item.at)]
            .into_iter()
            .flatten()
            .min();
        let wait = next.map_or(LOOK, |at| Duration::from_nanos(at.saturating_sub(nanos())));
        if !wait.is_zero() {
            inbound = self
                .wake
                .wait_timeout(inbound, wait)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let mut items = vec![];
        while inbound.items.peek().is_some_and(|item| item.at <= nanos()) {
            items.extend(inbound.items.pop());
        }
        items
    }

    fn hand_over(&self, mut packet: Vec<u8>) {
        if self.cut.load(SeqCst) {
            held(&self.down).counters.blackholed += 1;
            return;
        }
        if self.filters(&packet) {
            held(&self.down).counters.filtered += 1;
            return;
        }
        let wanted = match held(&self.nat).as_mut() {
            Some(nat) => nat.inward(&mut packet),
            None => nat::destination(&packet) == self.address(),
        };
        // A device that is down refuses the packet: lost, like any other.
        if !wanted || (&self.device).write(&packet).is_err() {
            held(&self.down).counters.unroutable += 1;
        }
    }
}

impl Item {
    /// A packet that comes out at `at`.
    pub fn new(at: u64, data: Vec<u8>) -> Item {
        Item { at, number: 0, data }
    }
}

impl Ord for Item {
    /// The earliest is the greatest, for a heap that gives its greatest.
    fn cmp(&self, other: &Item) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Item) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Item) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Item {}

/// The n-th own address of a host.
pub fn own_address(index: u8, n: u32) -> u32 {
    address(18, index, n)
}

/// 198.18.0.0/15 is for tests of networks (RFC 2544).
fn address(net: u8, index: u8, n: u32) -> u32 {
    u32::from(Ipv4Addr::new(198, net, index, 1 + (n % 250) as u8))
}

/// Locks; a panicking test must not take the emulator's clean-up with it.
pub fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
