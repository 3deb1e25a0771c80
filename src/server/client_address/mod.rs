//! Connections to sshd that come from the client's own address (`--client-address real`).
//!
//! The connecting socket is bound to the client's address (IP_TRANSPARENT) and carries a mark. sshd's answers go to the
//! client's address, so out to the network, unless something says otherwise: sshd's end of the connection takes over the
//! mark (`net.ipv4.tcp_fwmark_accept`), a policy rule sends what carries it to a routing table of its own, and there every
//! address is one of this machine. All this belongs to a network namespace, not to a process: it is set up at start, stays
//! while another keeper follows, and is taken back when the last one stops.
//!
//! For the keeper alone: it needs CAP_NET_ADMIN, and waits for nobody but the kernel.

mod listening;
mod netlink;
mod presence;
mod self_test;
mod sysctl;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use netlink_packet_route::route::RouteType;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{debug, info, warn};

use self::listening::{is_listening, listening};
use self::netlink::{Family, Netlink, Rule, RuleWatch};
use self::presence::Presence;
use crate::clock;

pub use self::listening::parse_address;

/// What connections to sshd carry. Few bits, and none of those that others use with a mask: Kubernetes 0xc000, Calico
/// 0xffff0000, Tailscale 0xff0000, Cilium 0xf00.
const MARK: u32 = 0xb0;

/// The routing table. Above 255, where tables are of whoever comes first.
const TABLE: u32 = 45_232;

/// Right behind the rule that finds addresses of this machine (0), before those of VPNs (strongSwan 220, Tailscale 5210).
const PRIORITY: u32 = 22;

/// Who has made a rule or a route, as `ip rule` shows it: `proto 176`.
const PROTOCOL: u8 = 176;

/// The same, and `tcp_fwmark_accept` was off before: whoever takes it all back turns it off again.
const PROTOCOL_WITH_SYSCTL: u8 = 177;

/// How often it is made sure that everything is still there. Rules are watched beside.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Addresses asked for that are logged one by one; further ones within [`LOG_INTERVAL`] are counted.
const MAX_LOGGED: u32 = 100;
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// For clients of which kinds of address sshd can be connected to in this way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Whether `address` is one of them. Link-local addresses never are: the answers would have to leave by the device
    /// that the address belongs to.
    #[must_use]
    pub fn include(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(_) => self.v4,
            IpAddr::V6(address) => self.v6 && !address.is_unicast_link_local(),
        }
    }

    fn with(mut self, family: Family) -> Self {
        match family {
            Family::V4 => self.v4 = true,
            Family::V6 => self.v6 = true,
        }
        self
    }

    fn has(self, family: Family) -> bool {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    fn any(self) -> bool {
        self.v4 || self.v6
    }
}

impl fmt::Display for Families {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.v4, self.v6) {
            (true, true) => "IPv4 and IPv6",
            (true, false) => "IPv4",
            (false, true) => "IPv6",
            (false, false) => "none",
        })
    }
}

/// Why sshd cannot see clients' addresses here.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    /// No CAP_NET_ADMIN.
    #[error("it takes CAP_NET_ADMIN, which this process does not have")]
    NotAllowed,
    /// The kernel refused.
    #[error("the kernel refused {what}")]
    Kernel {
        /// What was to be done.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// `net.ipv4.tcp_fwmark_accept` is off and cannot be turned on.
    #[error("net.ipv4.tcp_fwmark_accept is off and cannot be turned on")]
    Sysctl(#[source] io::Error),
    /// Somebody else's rule takes what is ours.
    #[error("another's policy rule takes the packets marked {MARK:#x}: {rule}")]
    Taken {
        /// That rule, as `ip rule` shows it, or what is known of it.
        rule: String,
    },
    /// `net.ipv4.tcp_fwmark_accept` would be turned on, and that would change where others' packets go.
    #[error(
        "others have policy rules for marked packets, and these would count for accepted connections as well: {rules}"
    )]
    OthersRules {
        /// Those rules, as `ip rule` shows them.
        rules: String,
    },
    /// The connection for a test got no answer.
    #[error("a test connection to sshd at {at} from {from} got no answer within {limit:?}", limit = self_test::LIMIT)]
    NoAnswer {
        /// Where sshd is.
        at: SocketAddr,
        /// The address of nobody that it came from.
        from: IpAddr,
    },
    /// sshd is on another machine.
    #[error("{target} is no address of this machine")]
    Elsewhere {
        /// Where sshd is.
        target: SocketAddr,
    },
}

/// A connection to sshd that is being made.
#[derive(Debug)]
pub struct Opened {
    /// Not yet connected: it becomes writable when it is.
    pub socket: OwnedFd,
    /// The address that sshd is connected to.
    pub local: IpAddr,
    /// Whether that is the one that the client reached.
    pub is_reached: bool,
}

/// Why no connection is made for a client.
#[derive(Debug, thiserror::Error)]
pub enum NotOpened {
    /// The address is this machine's: any program here may connect from it.
    #[error("{0} is an address of this machine")]
    OwnAddress(IpAddr),
    /// The address is nobody's, or one that this cannot be done for.
    #[error("no client can be at {0}")]
    NoClient(IpAddr),
    /// sshd does not listen where a client of this family could be connected to.
    #[error("sshd does not listen for {0} at port {1}")]
    NotListening(&'static str, u16),
    /// The kernel refused.
    #[error("cannot connect to sshd")]
    Kernel(#[from] io::Error),
}

/// What was set up in this network namespace.
#[derive(Debug)]
pub struct ClientAddresses {
    netlink: Netlink,
    target: SocketAddr,
    families: Families,
    /// Tells other keepers of this namespace that somebody needs what was set up.
    presence: Option<Presence>,
    watch: Option<RuleWatch>,
    /// Whether this process turned `tcp_fwmark_accept` on.
    turned_on: bool,
    next_check: Instant,
    log: LogBudget,
}

/// How much is logged of addresses asked for.
#[derive(Debug)]
struct LogBudget {
    since: Instant,
    logged: u32,
    left_out: u32,
}

impl ClientAddresses {
    /// Sets everything up for the sshd at `target`, and sees whether it works by a connection to sshd from an address of
    /// nobody. What another keeper has left is used again. With `insists`, others' rules for marks are only warned of.
    ///
    /// # Errors
    /// See [`SetUpError`]. Nothing is left behind then.
    pub fn set_up(target: SocketAddr, insists: bool) -> Result<Self, SetUpError> {
        let netlink = Netlink::open().map_err(kernel("to talk about routes"))?;
        let mut this = Self::new(netlink, target);
        if !this.is_own(target.ip())? {
            return Err(SetUpError::Elsewhere { target });
        }
        may_be_transparent()?;
        // First of all: another keeper that stops now leaves everything.
        this.presence = Presence::show().ok();
        let done = this.install(insists).and_then(|()| this.test());
        match done {
            Ok(families) => {
                this.families = families;
                this.watch = RuleWatch::open().ok();
                Ok(this)
            }
            Err(error) => {
                this.take_back();
                Err(error)
            }
        }
    }

    /// Goes on with what a keeper before has set up. What is missing is added where this process may.
    ///
    /// # Errors
    /// The kernel's routing cannot be asked.
    pub fn go_on(target: SocketAddr, families: Families) -> io::Result<Self> {
        let mut this = Self::new(Netlink::open()?, target);
        this.families = families;
        this.presence = Presence::show().ok();
        this.watch = RuleWatch::open().ok();
        Ok(this)
    }

    /// What an earlier keeper has left, if it has left anything: sessions may need it still. For one that does not connect
    /// in this way itself.
    #[must_use]
    pub fn left_behind(target: SocketAddr) -> Option<Self> {
        let mut this = Self::new(Netlink::open().ok()?, target);
        for family in Family::ALL {
            if this.our_route(family).ok().flatten().is_some() {
                this.families = this.families.with(family);
            }
        }
        this.families.any().then_some(())?;
        Self::go_on(target, this.families).ok()
    }

    fn new(netlink: Netlink, target: SocketAddr) -> Self {
        let now = clock::now();
        Self {
            netlink,
            target,
            families: Families::default(),
            presence: None,
            watch: None,
            turned_on: false,
            next_check: now + CHECK_INTERVAL,
            log: LogBudget {
                since: now,
                logged: 0,
                left_out: 0,
            },
        }
    }

    /// For whom sshd can be connected to.
    pub fn families(&self) -> Families {
        self.families
    }

    /// Where sshd is.
    pub fn target(&self) -> SocketAddr {
        self.target
    }

    /// Becomes readable when policy rules change.
    pub fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.watch.as_ref().map(AsFd::as_fd)
    }

    /// When [`check`](Self::check) is due at the latest.
    pub fn deadline(&self) -> Instant {
        self.next_check
    }

    /// Adds again what somebody has removed: without it every session hangs. Some managers of networks remove all rules
    /// that they do not know.
    pub fn check(&mut self, now: Instant) {
        let has_changed = self.watch.as_ref().is_some_and(RuleWatch::has_changed);
        if !has_changed && now < self.next_check {
            return;
        }
        self.next_check = now + CHECK_INTERVAL;
        for family in Family::ALL.into_iter().filter(|family| self.families.has(*family)) {
            match self.is_there(family) {
                Ok(true) | Err(_) => {}
                Ok(false) => match self.add(family, PROTOCOL) {
                    Ok(()) => {
                        warn!(%family, "somebody removed the policy rule or the route for connections to sshd: added again")
                    }
                    Err(error) => {
                        warn!(%family, %error, "the policy rule or the route for connections to sshd is gone")
                    }
                },
            }
        }
        if matches!(sysctl::is_on(), Ok(false)) {
            match sysctl::turn(true) {
                Ok(()) => warn!("somebody turned net.ipv4.tcp_fwmark_accept off: on again"),
                Err(error) => warn!(%error, "net.ipv4.tcp_fwmark_accept is off: no session can be opened"),
            }
        }
    }

    /// Begins to connect to sshd from the address of `client`, from its port too if that is free here (0: any port), at
    /// the address `reached`, or another one of this machine if sshd does not listen there.
    ///
    /// # Errors
    /// See [`NotOpened`].
    pub fn connect(&mut self, client: SocketAddr, reached: Option<IpAddr>) -> Result<Opened, NotOpened> {
        let opened = self.try_connect(client, reached);
        if let Some(left_out) = self.log.take(clock::now()) {
            let cause = opened.as_ref().err().map(tracing::field::display);
            let local = opened.as_ref().ok().map(|opened| tracing::field::display(opened.local));
            info!(event = "client-address", %client, local, cause, left_out, "the worker asks for a connection to sshd");
        }
        opened
    }

    fn try_connect(&self, client: SocketAddr, reached: Option<IpAddr>) -> Result<Opened, NotOpened> {
        let address = client.ip();
        if !is_somebody(address) {
            return Err(NotOpened::NoClient(address));
        }
        let route = self.netlink.route_to(address, None)?;
        match route.as_ref().map(|route| route.kind) {
            Some(RouteType::Local) => return Err(NotOpened::OwnAddress(address)),
            Some(RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast) => {
                return Err(NotOpened::NoClient(address));
            }
            // Without a route the client has one of its own to here, or none any more.
            _ => {}
        }
        let reached = reached.or(route.and_then(|route| route.source));
        let local = self.destination(address, reached)?;
        Ok(Opened {
            socket: connect_from(client, SocketAddr::new(local, self.target.port()))?,
            local,
            is_reached: reached == Some(local),
        })
    }

    /// Where a client of this address is to be connected to: where it came to, if sshd listens there.
    fn destination(&self, client: IpAddr, reached: Option<IpAddr>) -> Result<IpAddr, NotOpened> {
        let (family, port) = (Family::of(client), self.target.port());
        let candidates = [reached, Some(self.target.ip()), Some(family.loopback())];
        let fits = |address: &IpAddr| {
            Family::of(*address) == family
                && is_somebody_or_loopback(*address)
                && is_listening(SocketAddr::new(*address, port))
        };
        for address in candidates.into_iter().flatten().filter(fits) {
            if self.is_local(address)? {
                return Ok(address);
            }
        }
        let own = listening(family, port).into_iter().find(|address| fits(address));
        let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
        own.ok_or(NotOpened::NotListening(name, port))
    }

    fn is_own(&self, address: IpAddr) -> Result<bool, SetUpError> {
        self.is_local(address).map_err(kernel("to find an address"))
    }

    fn is_local(&self, address: IpAddr) -> io::Result<bool> {
        let route = self.netlink.route_to(address, None)?;
        Ok(route.is_some_and(|route| route.kind == RouteType::Local))
    }

    fn install(&mut self, insists: bool) -> Result<(), SetUpError> {
        // Where the kernel's settings are not to be seen, the test tells.
        let is_off = matches!(sysctl::is_on(), Ok(false));
        for family in Family::ALL {
            match self.install_family(family, is_off, insists) {
                Ok(()) => self.families = self.families.with(family),
                Err(SetUpError::Kernel { source, .. }) if family == Family::V6 => {
                    tracing::debug!(error = %source, "no IPv6");
                }
                Err(error) => return Err(error),
            }
        }
        if is_off {
            sysctl::turn(true).map_err(SetUpError::Sysctl)?;
            self.turned_on = true;
        }
        Ok(())
    }

    fn install_family(&self, family: Family, turns_on: bool, insists: bool) -> Result<(), SetUpError> {
        let rules = self.netlink.rules(family).map_err(kernel("to tell policy rules"))?;
        let others = || {
            rules
                .iter()
                .filter(|rule| !is_ours(rule) && rule.mark.is_some_and(|(_, mask)| mask != 0))
        };
        let takes_ours = |rule: &&Rule| {
            let matches = rule.mark.is_some_and(|(mark, mask)| (mark ^ MARK) & mask == 0);
            matches && rule.priority <= PRIORITY
        };
        if let Some(rule) = others().find(takes_ours) {
            return Err(SetUpError::Taken { rule: shown(rule) });
        }
        let marked: Vec<String> = others().filter(|_| turns_on).map(shown).collect();
        if !marked.is_empty() {
            let rules = marked.join("; ");
            match insists {
                true => warn!(%family, rules, "from now on these policy rules count for accepted connections as well"),
                false => return Err(SetUpError::OthersRules { rules }),
            }
        }
        let protocol = if turns_on { PROTOCOL_WITH_SYSCTL } else { PROTOCOL };
        self.add(family, protocol).map_err(kernel("a policy rule or a route"))?;
        match self.is_there(family).map_err(kernel("to find a route"))? {
            true => Ok(()),
            false => Err(SetUpError::Taken {
                rule: "see `ip rule` for those before ours".to_owned(),
            }),
        }
    }

    fn add(&self, family: Family, protocol: u8) -> io::Result<()> {
        let replace = protocol == PROTOCOL_WITH_SYSCTL;
        self.netlink.add_local_route(family, TABLE, protocol, replace)?;
        self.netlink.add_rule(family, &OUR_RULE)
    }

    /// Whether packets with our mark come back to this machine, by our table.
    fn is_there(&self, family: Family) -> io::Result<bool> {
        Ok(self.our_route(family)?.is_some())
    }

    /// The protocol of our route.
    fn our_route(&self, family: Family) -> io::Result<Option<u8>> {
        let found = self.netlink.route_to(self_test::nobody(family), Some(MARK))?;
        let ours = found.filter(|found| found.kind == RouteType::Local && found.table == TABLE);
        Ok(ours.map(|found| found.protocol))
    }

    fn test(&mut self) -> Result<Families, SetUpError> {
        let families = self_test::run(self)?;
        match families.any() {
            true => Ok(families),
            // sshd is not there yet: what was set up is all that there can be.
            false => Ok(self.families),
        }
    }

    /// Takes back what was set up, unless another keeper here needs it, or this process may not.
    pub fn take_back(&mut self) {
        let others = self.presence.take().is_some_and(|presence| presence.others());
        if others {
            return debug!("another server half still needs the policy rules for connections to sshd: they stay");
        }
        for family in Family::ALL {
            self.turned_on |= self.our_route(family).ok().flatten() == Some(PROTOCOL_WITH_SYSCTL);
            let removed = [
                self.netlink.remove_rule(family, &OUR_RULE),
                self.netlink.remove_local_route(family, TABLE),
            ];
            for error in removed
                .into_iter()
                .filter_map(Result::err)
                .filter(|error| !is_gone(error))
            {
                info!(%family, %error, "the policy rule for connections to sshd stays");
            }
        }
        if std::mem::take(&mut self.turned_on)
            && let Err(error) = sysctl::turn(false)
        {
            info!(%error, "net.ipv4.tcp_fwmark_accept stays on");
        }
    }
}

const OUR_RULE: Rule = Rule {
    priority: PRIORITY,
    mark: Some((MARK, u32::MAX)),
    table: TABLE,
    protocol: PROTOCOL,
};

fn is_ours(rule: &Rule) -> bool {
    *rule == OUR_RULE
}

/// As `ip rule` shows it.
fn shown(rule: &Rule) -> String {
    let (mark, mask) = rule.mark.unwrap_or_default();
    let Rule { priority, table, .. } = rule;
    match mask {
        u32::MAX => format!("{priority}: fwmark {mark:#x} lookup {table}"),
        mask => format!("{priority}: fwmark {mark:#x}/{mask:#x} lookup {table}"),
    }
}

/// Whether a client can be there, as far as the address itself tells.
fn is_somebody(address: IpAddr) -> bool {
    let is_kind = match address {
        IpAddr::V4(address) => !address.is_broadcast() && address.octets()[0] != 0,
        IpAddr::V6(address) => !is_special(address),
    };
    is_kind && !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

fn is_somebody_or_loopback(address: IpAddr) -> bool {
    is_somebody(address) || address.is_loopback()
}

/// Link-local, or an IPv4 address in IPv6's clothes.
fn is_special(address: Ipv6Addr) -> bool {
    address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
}

/// Whether there was nothing to remove, or nothing of that family.
fn is_gone(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    [Errno::NOENT, Errno::SRCH, Errno::AFNOSUPPORT]
        .map(Some)
        .contains(&errno)
}

fn kernel(what: &'static str) -> impl Fn(io::Error) -> SetUpError {
    move |source| match Errno::from_io_error(&source) {
        Some(Errno::PERM | Errno::ACCESS) => SetUpError::NotAllowed,
        _ => SetUpError::Kernel { what, source },
    }
}

/// Whether this process may do what each connection needs.
fn may_be_transparent() -> Result<(), SetUpError> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
    let marked = socket.and_then(|socket| transparent(&socket, Family::V4));
    marked.map_err(kernel("a connection from another's address"))
}

fn transparent(socket: &Socket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => socket.set_ip_transparent_v4(true)?,
        Family::V6 => socket.set_ip_transparent_v6(true)?,
    }
    socket.set_mark(MARK)
}

/// A connection that is being made, from the client's port if that is free.
fn connect_from(client: SocketAddr, to: SocketAddr) -> io::Result<OwnedFd> {
    let family = Family::of(client.ip());
    let domain = if family == Family::V4 {
        Domain::IPV4
    } else {
        Domain::IPV6
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    transparent(&socket, family)?;
    let bound = socket.bind(&client.into());
    if bound.is_err() {
        socket.bind(&SocketAddr::new(client.ip(), 0).into())?;
    }
    match socket.connect(&to.into()) {
        Ok(()) => Ok(socket.into()),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INPROGRESS) => Ok(socket.into()),
        // A connection of the same four numbers ended a moment ago.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::ADDRNOTAVAIL) && client.port() != 0 => {
            connect_from(SocketAddr::new(client.ip(), 0), to)
        }
        Err(error) => Err(error),
    }
}

impl LogBudget {
    /// How many were left out before; `None`: this one is left out as well.
    fn take(&mut self, now: Instant) -> Option<u32> {
        if now.saturating_duration_since(self.since) >= LOG_INTERVAL {
            (self.since, self.logged) = (now, 0);
        }
        if self.logged == MAX_LOGGED {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.logged += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_connected_for_who_can_be_no_client() {
        for address in ["127.0.0.1", "0.0.0.0", "0.1.2.3", "255.255.255.255", "224.0.0.1"] {
            assert!(!is_somebody(address.parse().expect("an address")), "{address}");
        }
        for address in ["::1", "::", "ff02::1", "fe80::1", "::ffff:192.0.2.1"] {
            assert!(!is_somebody(address.parse().expect("an address")), "{address}");
        }
        assert!(is_somebody("192.0.2.1".parse().expect("an address")));
        assert!(is_somebody("2001:db8::1".parse().expect("an address")));
    }

    #[test]
    fn what_is_logged_of_addresses_is_bounded_and_counted() {
        let start = clock::now();
        let mut budget = LogBudget {
            since: start,
            logged: 0,
            left_out: 0,
        };
        let logged = (0..1000).filter(|_| budget.take(start).is_some()).count();
        assert_eq!(logged, MAX_LOGGED as usize);
        assert_eq!(budget.take(start + LOG_INTERVAL), Some(1000 - MAX_LOGGED));
        assert_eq!(budget.take(start + LOG_INTERVAL), Some(0));
    }
}
