//! The state of the network that matters to paths, from rtnetlink messages.
//!
//! Pure: parses bytes and reports whether anything changed. Trusts no length in them.

use std::collections::{HashMap, HashSet};

/// Most entries of each kind. Beyond that all are dropped, and each refreshed entry is reported as new once.
const MAX_ENTRIES: usize = 4096;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// One netlink message (struct nlmsghdr).
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    /// The port id of the request that it answers.
    pub(super) port: u32,
    body: &'a [u8],
}

/// The messages of a datagram, up to the first malformed one.
pub(super) fn messages(datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    const HEADER: usize = 16;
    records(datagram, |rest| u32_at(rest, 0).map(|length| length as usize), HEADER).filter_map(|message| {
        Some(Message {
            kind: u16_at(message, 4)?,
            flags: u16_at(message, 6)?,
            sequence: u32_at(message, 8)?,
            port: u32_at(message, 12)?,
            body: &message[HEADER..],
        })
    })
}

#[derive(Debug, Default)]
pub(super) struct NetworkState {
    /// By interface index: whether the link is up and has a carrier.
    links: HashMap<u32, bool>,
    /// Usable addresses: family, prefix length, interface and the addresses themselves.
    addresses: HashSet<Vec<u8>>,
    /// Default routes: from what identifies them to where they lead.
    routes: HashMap<Vec<u8>, Vec<u8>>,
}

impl NetworkState {
    /// Whether the message reports a change that may matter to a path.
    pub(super) fn handle_message(&mut self, message: &Message<'_>) -> bool {
        if self.links.len() > MAX_ENTRIES || self.addresses.len() > MAX_ENTRIES || self.routes.len() > MAX_ENTRIES {
            *self = Self::default();
        }
        let changed = match message.kind {
            RTM_NEWLINK => Link::parse(message.body).map(|link| self.set_link(link.index, link.usable)),
            RTM_DELLINK => Link::parse(message.body).map(|link| self.set_link(link.index, false)),
            RTM_NEWADDR => Address::parse(message.body).map(|address| self.set_address(address)),
            RTM_DELADDR => Address::parse(message.body).map(|address| self.remove_address(&address)),
            RTM_NEWROUTE => Route::parse(message.body).map(|route| self.set_route(route)),
            RTM_DELROUTE => Route::parse(message.body).map(|route| self.remove_route(&route)),
            _ => None,
        };
        changed.unwrap_or(false)
    }

    fn set_link(&mut self, index: u32, usable: bool) -> bool {
        let changed = self.links.insert(index, usable).unwrap_or(false) != usable;
        if changed && !usable {
            self.forget_routes();
        }
        changed
    }

    fn set_address(&mut self, address: Address) -> bool {
        match address.usable {
            true => self.addresses.insert(address.key),
            false => self.addresses.remove(&address.key),
        }
    }

    fn remove_address(&mut self, address: &Address) -> bool {
        // The loss of an address that never became usable does not matter.
        let changed = self.addresses.remove(&address.key) || address.usable;
        if changed {
            self.forget_routes();
        }
        changed
    }

    fn set_route(&mut self, route: Route) -> bool {
        let Route { key, target } = route;
        self.routes.insert(key, target.clone()) != Some(target)
    }

    fn remove_route(&mut self, route: &Route) -> bool {
        self.routes.remove(&route.key);
        true
    }

    /// The kernel removes IPv4 routes together with their link or address without a notification (fib_frontend.c,
    /// `fib_disable_ip`).
    fn forget_routes(&mut self) {
        self.routes.clear();
    }
}

/// struct ifinfomsg
struct Link {
    index: u32,
    usable: bool,
}

impl Link {
    fn parse(body: &[u8]) -> Option<Self> {
        const IFF_UP: u32 = 0x1;
        const IFF_LOOPBACK: u32 = 0x8;
        const IFF_RUNNING: u32 = 0x40;
        // Other families report bridge ports and the like.
        const AF_UNSPEC: u8 = 0;
        let flags = u32_at(body, 8)?;
        let relevant = body.first() == Some(&AF_UNSPEC) && flags & IFF_LOOPBACK == 0;
        let usable = flags & IFF_UP != 0 && flags & IFF_RUNNING != 0;
        relevant.then_some(Self {
            index: u32_at(body, 4)?,
            usable,
        })
    }
}

/// struct ifaddrmsg
struct Address {
    key: Vec<u8>,
    usable: bool,
}

impl Address {
    fn parse(body: &[u8]) -> Option<Self> {
        const HEADER: usize = 8;
        const IFA_F_OPTIMISTIC: u8 = 0x04;
        const IFA_F_DADFAILED: u8 = 0x08;
        const IFA_F_TENTATIVE: u8 = 0x40;
        // Link-local addresses come with each link, and are reported again after duplicate address detection. They
        // carry no paths.
        const RT_SCOPE_LINK: u8 = 253;
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        let &[family, prefix, flags, scope, i0, i1, i2, i3] = body.first_chunk::<HEADER>()?;
        let is_unique = flags & IFA_F_TENTATIVE == 0 || flags & IFA_F_OPTIMISTIC != 0;
        let mut key = vec![family, prefix, i0, i1, i2, i3];
        append_attributes(&mut key, &body[HEADER..], &[IFA_ADDRESS, IFA_LOCAL]);
        (scope < RT_SCOPE_LINK).then_some(Self {
            key,
            usable: is_unique && flags & IFA_F_DADFAILED == 0,
        })
    }
}

/// struct rtmsg of a default route. Routes to one half of the internet count too: VPNs install pairs of them.
struct Route {
    key: Vec<u8>,
    target: Vec<u8>,
}

impl Route {
    fn parse(body: &[u8]) -> Option<Self> {
        const HEADER: usize = 12;
        const MAX_PREFIX: u8 = 1;
        const RTN_UNICAST: u8 = 1;
        const RTM_F_CLONED: u32 = 0x200;
        let (rtm, attributes) = body.split_at_checked(HEADER)?;
        let &[family, prefix, _source_prefix, tos, table, _protocol, _scope, kind, ..] = rtm else {
            return None;
        };
        // RTA_DST, RTA_PRIORITY and RTA_TABLE identify a route; RTA_OIF, RTA_GATEWAY, RTA_PREFSRC, RTA_MULTIPATH and
        // RTA_VIA say where it leads. Others, such as RTA_CACHEINFO (the lifetime), change with each refresh.
        let (mut key, mut target) = (vec![family, prefix, tos, table], Vec::new());
        append_attributes(&mut key, attributes, &[1, 6, 15]);
        append_attributes(&mut target, attributes, &[4, 5, 7, 9, 18]);
        let is_cached = u32_at(rtm, 8)? & RTM_F_CLONED != 0;
        (prefix <= MAX_PREFIX && kind == RTN_UNICAST && !is_cached).then_some(Self { key, target })
    }
}

/// Appends these attributes (struct rtattr) with their headers, in the kernel's order.
fn append_attributes(to: &mut Vec<u8>, attributes: &[u8], wanted: &[u16]) {
    const HEADER: usize = 4;
    // The upper bits are flags: nested, byte order.
    const NLA_TYPE_MASK: u16 = 0x3fff;
    for attribute in records(attributes, |rest| u16_at(rest, 0).map(usize::from), HEADER) {
        if u16_at(attribute, 2).is_some_and(|kind| wanted.contains(&(kind & NLA_TYPE_MASK))) {
            to.extend_from_slice(attribute);
        }
    }
}

/// Splits a sequence of netlink records: a length that includes the header, data, padding to 4 bytes.
fn records(mut rest: &[u8], length: impl Fn(&[u8]) -> Option<usize>, header: usize) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = length(rest).filter(|length| (header..=rest.len()).contains(length))?;
        let record = &rest[..length];
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        Some(record)
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_datagrams_end_the_reading_and_nothing_else() {
        for datagram in [
            &[][..],
            &[0; 16],
            &[255; 16],
            &[15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[17; 17],
        ] {
            assert_eq!(messages(datagram).count(), 0, "{datagram:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(kind in 14u16..28, body: Vec<u8>, datagram: Vec<u8>) {
            let mut state = NetworkState::default();
            state.handle_message(&Message { kind, flags: 0, sequence: 0, port: 0, body: &body });
            messages(&datagram).for_each(drop);
        }
    }
}
