//! OpenSSH's pattern lists for addresses, as in `from=` and `AllowUsers` (ssh_config(5), PATTERNS).

use std::net::IpAddr;

use russh::keys::ssh_key::Certificate;

use crate::identity::glob_matches;

/// The result of matching an address against a comma-separated list with negations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListMatch {
    /// A pattern matches, and no negated one does.
    Yes,
    /// No pattern matches, or a negated one does.
    No,
    /// The list is malformed: a network has bits set beyond its mask. OpenSSH refuses the key then.
    Invalid,
}

/// Matches `address` against a list like `10.0.0.0/8,!10.1.*,2001:db8::/32`.
///
/// Host names never match, because they are not resolved, as with sshd's `UseDNS no`.
#[must_use]
pub fn address_in_list(address: IpAddr, list: &str) -> ListMatch {
    let address = address.to_canonical();
    let text = address.to_string();
    let mut found = ListMatch::No;
    for pattern in list.split(',') {
        let (negated, pattern) = match pattern.strip_prefix('!') {
            Some(pattern) => (true, pattern),
            None => (false, pattern),
        };
        let matches = match Network::parse(pattern) {
            Network::Valid(network, bits) => in_network(address, network, bits),
            Network::Invalid => return ListMatch::Invalid,
            Network::None => glob_matches(text.as_bytes(), pattern.to_ascii_lowercase().as_bytes()),
        };
        match (matches, negated) {
            (true, true) => return ListMatch::No,
            (true, false) => found = ListMatch::Yes,
            (false, _) => {}
        }
    }
    found
}

/// The critical option with the addresses from which a certificate may be used (OpenSSH's
/// PROTOCOL.certkeys).
pub(super) const SOURCE_ADDRESS: &str = "source-address";

/// Whether a certificate may be used from an address.
#[must_use]
pub fn is_for_address(certificate: &Certificate, address: IpAddr) -> bool {
    let options = certificate.critical_options().iter();
    let mut lists = options.filter(|(name, _)| name.as_str() == SOURCE_ADDRESS);
    lists.all(|(_, list)| address_in_list(address, list) == ListMatch::Yes)
}

enum Network {
    Valid(IpAddr, u32),
    Invalid,
    None,
}

impl Network {
    /// An address, or a network in CIDR form.
    fn parse(pattern: &str) -> Self {
        let (address, bits) = match pattern.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (pattern, None),
        };
        let Ok(address) = address.parse::<IpAddr>() else {
            return Self::None;
        };
        let width = if address.is_ipv4() { 32 } else { 128 };
        let Some(bits) = bits else {
            return Self::Valid(address, width);
        };
        match bits.parse::<u32>() {
            Ok(bits) if bits <= width && first_bits(address, width) == first_bits(address, bits) => {
                Self::Valid(address, bits)
            }
            _ => Self::Invalid,
        }
    }
}

fn in_network(address: IpAddr, network: IpAddr, bits: u32) -> bool {
    address.is_ipv4() == network.is_ipv4() && first_bits(address, bits) == first_bits(network, bits)
}

/// The first `bits` bits of the address, at the top of the number; the other bits are zero.
fn first_bits(address: IpAddr, bits: u32) -> u128 {
    let number = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    number & mask
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str, list: &str, expected: ListMatch) {
        assert_eq!(
            address_in_list(address.parse().unwrap(), list),
            expected,
            "{address} in {list}"
        );
    }

    #[test]
    fn address_lists_are_read_as_openssh_reads_them() {
        use ListMatch::{Invalid, No, Yes};
        check("192.0.2.7", "192.0.2.7", Yes);
        check("192.0.2.7", "192.0.2.0/24", Yes);
        check("192.0.3.7", "192.0.2.0/24", No);
        check("192.0.2.7", "198.51.100.0/24,192.0.2.*", Yes);
        check("192.0.2.7", "192.0.2.0/24,!192.0.2.7", No);
        check("192.0.2.7", "!192.0.2.7,192.0.2.0/24", No);
        check("192.0.2.8", "192.0.2.0/24,!192.0.2.7", Yes);
        check("192.0.2.8", "!192.0.2.7", No);
        check("192.0.2.7", "192.0.2.?", Yes);
        check("192.0.2.17", "192.0.2.?", No);
        check("192.0.2.7", "0.0.0.0/0", Yes);
        check("192.0.2.7", "::/0", No);
        check("2001:db8::1", "2001:db8::/32", Yes);
        check("2001:db8::1", "2001:DB8:*", Yes);
        check("2001:db9::1", "2001:db8::/32", No);
        check("::ffff:192.0.2.7", "192.0.2.0/24", Yes);
        check("192.0.2.7", "build.example.org,*", Yes);
        check("192.0.2.7", "build.example.org", No);
        check("192.0.2.7", "192.0.2.1/24,192.0.2.7", Invalid);
        check("192.0.2.7", "192.0.2.0/33", Invalid);
        check("192.0.2.7", "192.0.2.0/", Invalid);
        check("192.0.2.7", "", No);
    }
}
