//! Addresses on which TCP sockets of this machine listen, as the kernel lists them (proc(5), `/proc/net/tcp`).

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::netlink::Family;

/// `TCP_LISTEN`, as in the table.
const TCP_LISTEN: &str = "0A";

/// The listening addresses for connections to `port` over IPv4 or IPv6.
pub(super) fn listening(family: Family, port: u16) -> Vec<IpAddr> {
    // A dual-stack socket is in the table of IPv6 only.
    let tables: &[&str] = match family {
        Family::V4 => &["tcp", "tcp6"],
        Family::V6 => &["tcp6"],
    };
    let all = tables.iter().flat_map(|table| listeners(table));
    let mine = all.filter(|address| address.port() == port).map(|address| address.ip());
    let fits = |address: &IpAddr| match family {
        Family::V4 => address.is_ipv4() || address.is_unspecified(),
        Family::V6 => address.is_ipv6(),
    };
    mine.filter(fits).collect()
}

/// Whether a connection to this address would be accepted.
///
/// A socket on the unspecified IPv6 address may be for IPv6 only; the table does not tell. It does not matter if there
/// is another one on the unspecified IPv4 address, as with sshd; otherwise it is taken for a dual-stack socket.
pub(super) fn is_listening(at: SocketAddr) -> bool {
    let all = listening(Family::of(at.ip()), at.port());
    all.iter()
        .any(|address| *address == at.ip() || address.is_unspecified())
}

/// Listening sockets come first in each table.
fn listeners(table: &str) -> Vec<SocketAddr> {
    let Ok(file) = File::open(format!("/proc/self/net/{table}")) else {
        return Vec::new();
    };
    let lines = BufReader::new(file).lines().map_while(Result::ok).skip(1);
    let mut found = Vec::new();
    for line in lines {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _, state) = (fields.next(), fields.next(), fields.next());
        if state != Some(TCP_LISTEN) {
            break;
        }
        found.extend(local.and_then(parse_address));
    }
    found
}

/// Parses `0100007F:0016`: the kernel prints an address as 32-bit words in native byte order.
pub fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<[u8; 4]>> = (0..ip.len() / 8)
        .map(|at| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes()))
        .collect();
    let bytes = words?.concat();
    let ip = match <[u8; 16]>::try_from(bytes.as_slice()) {
        Ok(bytes) => IpAddr::V6(Ipv6Addr::from(bytes)),
        Err(_) => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.as_slice()).ok()?)),
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn addresses_are_read_as_the_kernel_prints_them() {
        // The words of a little-endian machine, converted to this machine's byte order.
        let word = |word: u32| format!("{:08X}", u32::from_ne_bytes(word.to_be_bytes()));
        let v4 = format!("{}:0016", word(0x7f00_0001));
        assert_eq!(parse_address(&v4), "127.0.0.1:22".parse().ok());
        let v6 = format!("{}{}{}{}:0016", word(0), word(0), word(0), word(1));
        assert_eq!(parse_address(&v6), "[::1]:22".parse().ok());
        assert_eq!(parse_address("nonsense"), None);
    }

    #[test]
    fn a_listener_is_found_at_its_own_address_and_at_every_address() {
        let own = TcpListener::bind("127.0.0.7:0").expect("a listener");
        let own = own.local_addr().map(|address| (address, own)).expect("its address");
        let port = own.0.port();
        assert!(is_listening(own.0));
        assert!(!is_listening(SocketAddr::from(([127, 0, 0, 8], port))));
        let every = TcpListener::bind("0.0.0.0:0").expect("a listener");
        let port = every.local_addr().expect("its address").port();
        assert!(is_listening(SocketAddr::from(([127, 0, 0, 8], port))));
    }
}
