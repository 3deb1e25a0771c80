//! Reads and changes policy rules and routes of this machine by rtnetlink(7), one request at a time.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleHeader, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily as SocketFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

/// The kernel answers at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// The most bytes that the kernel puts into one datagram of a dump (`netlink_dump`, af_netlink.c).
const DATAGRAM: usize = 32 * 1024;

/// RTNLGRP_IPV4_RULE and RTNLGRP_IPV6_RULE, as a bit mask.
const RULE_GROUPS: u32 = (1 << 7) | (1 << 18);

/// The loopback device has this number in every network namespace.
const LOOPBACK_DEVICE: u32 = 1;

/// An address family, which has rules and routes of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const ALL: [Family; 2] = [Family::V4, Family::V6];

    pub(super) fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    fn number(self) -> AddressFamily {
        match self {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        }
    }

    pub(super) fn loopback(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::LOCALHOST.into(),
            Family::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// The relevant part of a policy rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) priority: u32,
    /// The mark that packets must have, and its mask.
    pub(super) mark: Option<(u32, u32)>,
    pub(super) table: u32,
    pub(super) protocol: u8,
}

/// Where packets to an address go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RouteInfo {
    pub(super) kind: RouteType,
    pub(super) table: u32,
    pub(super) protocol: u8,
    /// The source address of such packets.
    pub(super) source: Option<IpAddr>,
}

/// A netlink socket.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    pub(super) fn open() -> io::Result<Netlink> {
        let fd = socket_with(SocketFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        bind(&fd, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&fd, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
        Ok(Netlink(fd))
    }

    pub(super) fn rules(&self, family: Family) -> io::Result<Vec<Rule>> {
        let mut message = RuleMessage::default();
        message.header.family = family.number();
        let answers = self.request(RouteNetlinkMessage::GetRule(message), NLM_F_DUMP)?;
        let rules = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRule(rule) => Some(rule_of(&rule)),
            _ => None,
        });
        Ok(rules.collect())
    }

    /// Adds a rule, unless it exists.
    pub(super) fn add_rule(&self, family: Family, rule: &Rule) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewRule(message_of(family, rule));
        unless_exists(self.request(message, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL))
    }

    pub(super) fn remove_rule(&self, family: Family, rule: &Rule) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelRule(message_of(family, rule));
        self.request(message, NLM_F_ACK).map(drop)
    }

    /// Adds a route to `table` that makes every address local. If there is one, keeps it or replaces it.
    pub(super) fn add_local_route(&self, family: Family, table: u32, protocol: u8, replace: bool) -> io::Result<()> {
        let how = if replace { NLM_F_REPLACE } else { NLM_F_EXCL };
        let message = RouteNetlinkMessage::NewRoute(local_route(family, table, protocol));
        unless_exists(self.request(message, NLM_F_ACK | NLM_F_CREATE | how))
    }

    /// Removes that route, whoever made it.
    pub(super) fn remove_local_route(&self, family: Family, table: u32) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelRoute(local_route(family, table, 0));
        self.request(message, NLM_F_ACK).map(drop)
    }

    /// Where packets to `address` go, with or without a mark. `None`: there is no route.
    pub(super) fn route_to(&self, address: IpAddr, mark: Option<u32>) -> io::Result<Option<RouteInfo>> {
        let family = Family::of(address);
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family.number(),
            destination_prefix_length: if family == Family::V4 { 32 } else { 128 },
            // Without a mark the packets' source is of interest, with one the route itself.
            flags: match mark {
                None => RouteFlags::LookupTable,
                Some(_) => RouteFlags::LookupTable | RouteFlags::FibMatch,
            },
            ..RouteHeader::default()
        };
        message.attributes = vec![RouteAttribute::Destination(address.into())];
        message.attributes.extend(mark.map(RouteAttribute::Mark));
        let answers = match self.request(RouteNetlinkMessage::GetRoute(message), 0) {
            Err(error) if has_no_route(&error) => return Ok(None),
            answers => answers?,
        };
        let mut routes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(found(&route)),
            _ => None,
        });
        Ok(routes.next_back())
    }

    /// Sends a request and returns the answers. Unless `flags` request a dump or an acknowledgement, waits for one
    /// answer.
    fn request(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.drain();
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        request.header.sequence_number = 1;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        send(&self.0, &bytes, SendFlags::empty())?;
        let mut answers = Vec::new();
        let is_dump = flags & NLM_F_DUMP == NLM_F_DUMP;
        let mut buffer = vec![0; DATAGRAM];
        loop {
            let (_, length) = rustix::io::retry_on_intr(|| recv(&self.0, buffer.as_mut_slice(), RecvFlags::empty()))?;
            for message in messages(&buffer[..length.min(DATAGRAM)]) {
                match message {
                    // A message that this crate cannot parse does not concern us.
                    None => {}
                    Some(NetlinkPayload::Error(error)) => match error.code {
                        None => return Ok(answers),
                        Some(_) => return Err(error.to_io()),
                    },
                    Some(NetlinkPayload::Done(_)) => return Ok(answers),
                    Some(NetlinkPayload::InnerMessage(answer)) => answers.push(answer),
                    Some(_) => {}
                }
            }
            if !is_dump && flags & NLM_F_ACK == 0 {
                return Ok(answers);
            }
        }
    }

    /// Discards the rest of an answer that came too late.
    fn drain(&self) {
        let mut buffer = [0; 1];
        while recv(&self.0, buffer.as_mut_slice(), RecvFlags::DONTWAIT).is_ok() {}
    }
}

/// Reports changes of policy rules: network managers may remove the rules of others.
#[derive(Debug)]
pub(super) struct RuleWatch(OwnedFd);

impl RuleWatch {
    pub(super) fn open() -> io::Result<RuleWatch> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(SocketFamily::NETLINK, SocketType::RAW, flags, None)?;
        bind(&fd, &SocketAddrNetlink::new(0, RULE_GROUPS))?;
        Ok(RuleWatch(fd))
    }

    /// Whether anything has changed since the last call.
    pub(super) fn has_changed(&self) -> bool {
        let (mut changed, mut buffer) = (false, [0; 1]);
        loop {
            match recv(&self.0, buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                // ENOBUFS: there were more changes than the buffer holds.
                Ok(_) | Err(Errno::NOBUFS) => changed = true,
                Err(Errno::INTR) => {}
                Err(_) => return changed,
            }
        }
    }
}

impl AsFd for RuleWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The messages of a datagram; `None` for one that cannot be parsed.
fn messages(mut bytes: &[u8]) -> Vec<Option<NetlinkPayload<RouteNetlinkMessage>>> {
    let mut all = Vec::new();
    while let Some(length) = bytes.first_chunk().map(|length| u32::from_ne_bytes(*length) as usize) {
        if length < 16 || length > bytes.len() {
            break;
        }
        let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&bytes[..length]);
        all.push(message.ok().map(|message| message.payload));
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    all
}

fn unless_exists(done: io::Result<Vec<RouteNetlinkMessage>>) -> io::Result<()> {
    match done {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::EXIST) => Ok(()),
        done => done.map(drop),
    }
}

fn has_no_route(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::SRCH]
        .map(Some)
        .contains(&errno)
}

fn message_of(family: Family, rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header = RuleHeader {
        family: family.number(),
        action: RuleAction::ToTable,
        ..RuleHeader::default()
    };
    message.attributes = vec![
        RuleAttribute::Priority(rule.priority),
        RuleAttribute::Table(rule.table),
        RuleAttribute::Protocol(RouteProtocol::from(rule.protocol)),
    ];
    if let Some((mark, mask)) = rule.mark {
        message
            .attributes
            .extend([RuleAttribute::FwMark(mark), RuleAttribute::FwMask(mask)]);
    }
    message
}

fn rule_of(message: &RuleMessage) -> Rule {
    let mut rule = Rule {
        priority: 0,
        mark: None,
        table: u32::from(message.header.table),
        protocol: 0,
    };
    let (mut mark, mut mask) = (None, u32::MAX);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(priority) => rule.priority = *priority,
            RuleAttribute::Table(table) => rule.table = *table,
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = *value,
            RuleAttribute::Protocol(protocol) => rule.protocol = (*protocol).into(),
            _ => {}
        }
    }
    rule.mark = mark.map(|mark| (mark, mask));
    rule
}

fn local_route(family: Family, table: u32, protocol: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family.number(),
        protocol: RouteProtocol::from(protocol),
        scope: RouteScope::Host,
        kind: RouteType::Local,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Table(table), RouteAttribute::Oif(LOOPBACK_DEVICE)];
    message
}

fn found(message: &RouteMessage) -> RouteInfo {
    let mut found = RouteInfo {
        kind: message.header.kind,
        table: u32::from(message.header.table),
        protocol: message.header.protocol.into(),
        source: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(table) => found.table = *table,
            RouteAttribute::PrefSource(netlink_packet_route::route::RouteAddress::Inet(source)) => {
                found.source = Some((*source).into());
            }
            RouteAttribute::PrefSource(netlink_packet_route::route::RouteAddress::Inet6(source)) => {
                found.source = Some((*source).into());
            }
            _ => {}
        }
    }
    found
}
