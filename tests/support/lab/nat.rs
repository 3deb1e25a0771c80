//! Source NAT in front of one host: endpoint-independent mapping, filtering by remote address and port, as most
//! home routers do. TCP, UDP, echo, and the ICMP errors about them; fragments are dropped.

use crate::support::link::Rng;
use std::collections::{HashMap, HashSet};

const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// Where the source and the destination address stand in an IPv4 header.
const SOURCE_AT: usize = 12;
const DESTINATION_AT: usize = 16;

/// Length of the IPv4 header, and the protocol; `None` if the packet is not whole IPv4.
pub fn head(packet: &[u8]) -> Option<(usize, u8)> {
    if packet.len() < 20 || packet[0] >> 4 != 4 {
        return None;
    }
    let length = usize::from(packet[0] & 15) * 4;
    (length >= 20 && packet.len() >= length).then_some((length, packet[9]))
}

/// The source address of a packet that has a head.
pub fn source(packet: &[u8]) -> u32 {
    read32(packet, SOURCE_AT)
}

/// The destination address of a packet that has a head.
pub fn destination(packet: &[u8]) -> u32 {
    read32(packet, DESTINATION_AT)
}

/// The mappings of one host.
pub struct Nat {
    public: u32,
    /// Inside protocol, address and port to the public port.
    out: HashMap<(u8, u32, u16), u16>,
    /// Protocol and public port to the inside.
    back: HashMap<(u8, u16), Mapping>,
    rng: Rng,
}

struct Mapping {
    address: u32,
    port: u16,
    /// Whom the host has written to: only they may answer.
    peers: HashSet<(u32, u16)>,
}

impl Nat {
    /// A NAT without mappings yet.
    pub fn new(public: u32, seed: u64) -> Nat {
        Nat {
            public,
            out: HashMap::new(),
            back: HashMap::new(),
            rng: Rng::new(seed),
        }
    }

    /// Forgets everything and goes on at another public address.
    pub fn rebind(&mut self, public: u32) {
        self.public = public;
        self.out.clear();
        self.back.clear();
    }

    /// Host to internet; false: drop the packet.
    pub fn outward(&mut self, packet: &mut [u8]) -> bool {
        let Some((length, protocol)) = head(packet) else {
            return false;
        };
        if is_fragment(packet) {
            return false;
        }
        if let Some(quote) = quoted(packet, length, protocol) {
            return self.error_outward(packet, length, quote);
        }
        let Some((at, remote_port)) = ports(packet, length, protocol, true) else {
            return false;
        };
        let inside = (protocol, source(packet), read16(packet, at));
        let port = match self.out.get(&inside) {
            Some(port) => *port,
            None => self.make_mapping(inside),
        };
        let mapping = self
            .back
            .get_mut(&(protocol, port))
            .expect("both maps hold each mapping");
        mapping.peers.insert((destination(packet), remote_port));
        rewrite(packet, length, protocol, SOURCE_AT, at, self.public, port);
        true
    }

    /// Internet to host; false: drop the packet.
    pub fn inward(&mut self, packet: &mut [u8]) -> bool {
        let Some((length, protocol)) = head(packet) else {
            return false;
        };
        if is_fragment(packet) || destination(packet) != self.public {
            return false;
        }
        if let Some(quote) = quoted(packet, length, protocol) {
            return self.error_inward(packet, length, quote);
        }
        let Some((at, remote_port)) = ports(packet, length, protocol, false) else {
            return false;
        };
        let Some(mapping) = self.back.get(&(protocol, read16(packet, at))) else {
            return false;
        };
        if !mapping.peers.contains(&(source(packet), remote_port)) {
            return false;
        }
        rewrite(
            packet,
            length,
            protocol,
            DESTINATION_AT,
            at,
            mapping.address,
            mapping.port,
        );
        true
    }

    fn make_mapping(&mut self, inside: (u8, u32, u16)) -> u16 {
        let (protocol, address, port) = inside;
        let public = loop {
            let candidate = 20_000 + (self.rng.draw() % 40_000) as u16;
            if !self.back.contains_key(&(protocol, candidate)) {
                break candidate;
            }
        };
        self.out.insert(inside, public);
        self.back.insert(
            (protocol, public),
            Mapping {
                address,
                port,
                peers: HashSet::new(),
            },
        );
        public
    }

    /// An ICMP error from outside about a packet we sent: restore the inside address in its quote.
    fn error_inward(&mut self, packet: &mut [u8], length: usize, quote: Quote) -> bool {
        if read32(packet, quote.at + SOURCE_AT) != self.public {
            return false;
        }
        let at = quote.transport;
        let Some(mapping) = self.back.get(&(quote.protocol, read16(packet, at))) else {
            return false;
        };
        write32(packet, quote.at + SOURCE_AT, mapping.address);
        write16(packet, at, mapping.port);
        write32(packet, DESTINATION_AT, mapping.address);
        quote.sum_again(packet, length);
        true
    }

    /// An ICMP error from the host about a packet it received: show the public address in its quote.
    fn error_outward(&mut self, packet: &mut [u8], length: usize, quote: Quote) -> bool {
        let at = quote.transport + if quote.protocol == ICMP { 0 } else { 2 };
        let inside = (
            quote.protocol,
            read32(packet, quote.at + DESTINATION_AT),
            read16(packet, at),
        );
        let Some(port) = self.out.get(&inside).copied() else {
            return false;
        };
        write32(packet, quote.at + DESTINATION_AT, self.public);
        write16(packet, at, port);
        write32(packet, SOURCE_AT, self.public);
        quote.sum_again(packet, length);
        true
    }
}

/// The packet that an ICMP error quotes.
struct Quote {
    at: usize,
    protocol: u8,
    header: usize,
    /// Where its source port stands (or the id of an echo).
    transport: usize,
}

impl Quote {
    /// All three checksums anew: of the quoted header, of the ICMP message, of the packet's own header.
    fn sum_again(&self, packet: &mut [u8], length: usize) {
        let end = packet.len();
        for (from, to, at) in [
            (self.at, self.at + self.header, self.at + 10),
            (length, end, length + 2),
            (0, length, 10),
        ] {
            write16(packet, at, 0);
            let sum = checksum(&packet[from..to]);
            write16(packet, at, sum);
        }
    }
}

fn quoted(packet: &[u8], length: usize, protocol: u8) -> Option<Quote> {
    let is_error = protocol == ICMP && packet.len() >= length + 36 && matches!(packet[length], 3 | 11 | 12);
    if !is_error {
        return None;
    }
    let at = length + 8;
    let (header, protocol) = head(&packet[at..])?;
    let transport = at + header + if protocol == ICMP { 4 } else { 0 };
    (packet.len() >= at + header + 8).then_some(Quote {
        at,
        protocol,
        header,
        transport,
    })
}

/// Where the inside's port (or echo id) stands, and the remote's port.
fn ports(packet: &[u8], length: usize, protocol: u8, outward: bool) -> Option<(usize, u16)> {
    let whole = packet.len() >= length + 8;
    match protocol {
        TCP | UDP if whole && outward => Some((length, read16(packet, length + 2))),
        TCP | UDP if whole => Some((length + 2, read16(packet, length))),
        ICMP if whole && matches!(packet[length], 0 | 8) => Some((length + 4, 0)),
        _ => None,
    }
}

fn is_fragment(packet: &[u8]) -> bool {
    // More fragments to come, or an offset.
    read16(packet, 6) & 0x3fff != 0
}

/// Replaces the address at `address_at` and the port or id at `port_at`, and mends all checksums.
fn rewrite(packet: &mut [u8], length: usize, protocol: u8, address_at: usize, port_at: usize, address: u32, port: u16) {
    let (old_address, old_port) = (read32(packet, address_at), read16(packet, port_at));
    let header_sum = changed32(read16(packet, 10), old_address, address);
    write16(packet, 10, header_sum);
    write32(packet, address_at, address);
    write16(packet, port_at, port);
    let sum_at = length
        + [(TCP, 16), (UDP, 6), (ICMP, 2)]
            .iter()
            .find(|(p, _)| *p == protocol)
            .map_or(2, |(_, at)| *at);
    if packet.len() < sum_at + 2 {
        return;
    }
    let mut sum = read16(packet, sum_at);
    if protocol == UDP && sum == 0 {
        return; // the sender chose to have none
    }
    if protocol != ICMP {
        sum = changed32(sum, old_address, address); // the pseudo header
    }
    sum = changed16(sum, old_port, port);
    write16(packet, sum_at, if protocol == UDP && sum == 0 { 0xffff } else { sum });
}

/// RFC 1624: the checksum after one 16-bit word changed.
fn changed16(sum: u16, old: u16, new: u16) -> u16 {
    let mut total = u32::from(!sum) + u32::from(!old) + u32::from(new);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    !(total as u16)
}

fn changed32(sum: u16, old: u32, new: u32) -> u16 {
    changed16(
        changed16(sum, (old >> 16) as u16, (new >> 16) as u16),
        old as u16,
        new as u16,
    )
}

/// The Internet checksum, RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn read16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn read32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn write16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn write32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}
