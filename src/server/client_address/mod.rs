//! Connections to sshd from the client's own address (`--client-address real`).
//!
//! The connecting socket is bound to the client's address (IP_TRANSPARENT) and has a mark. Without further measures
//! sshd's answers would leave for the network, to the client's address. Therefore sshd's end of the connection
//! inherits the mark (`net.ipv4.tcp_fwmark_accept`), a policy rule sends packets with the mark to a routing table of
//! its own, and in that table every address is local. All this belongs to a network namespace, not to a process: it is
//! set up at the start, stays while another keeper follows, and is removed when the last one stops.
//!
//! For the keeper only: it needs CAP_NET_ADMIN, and never blocks on anything but the kernel.

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

/// The mark of connections to sshd. Few bits, none of which others use with a mask: Kubernetes 0xc000, Calico
/// 0xffff0000, Tailscale 0xff0000, Cilium 0xf00.
const MARK: u32 = 0xb0;

/// The routing table. Numbers above 255 have no predefined meaning.
const TABLE: u32 = 45_232;

/// Directly after the rule for local addresses (0), before the rules of VPNs (strongSwan 220, Tailscale 5210).
const PRIORITY: u32 = 22;

/// Marks our rules and routes, as `ip rule` shows it: `proto 176`.
const PROTOCOL: u8 = 176;

/// The same, if `tcp_fwmark_accept` was off before: removing everything turns it off again.
const PROTOCOL_WITH_SYSCTL: u8 = 177;

/// How often to check that everything is still there. Changes of rules are also reported by the kernel.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// Requests that are logged one by one; further ones within [`LOG_INTERVAL`] are only counted.
const MAX_LOGGED: u32 = 100;
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// The address families whose clients sshd can be connected to from their own address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Whether `address` is of one of these families. Link-local addresses never are: the answers would have to leave
    /// by the device of the address.
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
    /// A system call failed.
    #[error("the kernel refused {what}")]
    Kernel {
        /// What was attempted.
        what: &'static str,
        /// What it said.
        source: io::Error,
    },
    /// `net.ipv4.tcp_fwmark_accept` is off and cannot be turned on.
    #[error("net.ipv4.tcp_fwmark_accept is off and cannot be turned on")]
    Sysctl(#[source] io::Error),
    /// A rule of another program matches our packets first.
    #[error("a policy rule of another program matches the packets with mark {MARK:#x}: {rule}")]
    Taken {
        /// That rule, as `ip rule` shows it.
        rule: String,
    },
    /// Turning `net.ipv4.tcp_fwmark_accept` on would change the routing of other programs' connections.
    #[error(
        "other programs have policy rules for marked packets, which would apply to accepted connections as well: {rules}"
    )]
    OthersRules {
        /// Their rules, as `ip rule` shows them.
        rules: String,
    },
    /// The test connection got no answer.
    #[error("a test connection to sshd at {at} from {from} got no answer within {limit:?}", limit = self_test::TEST_TIMEOUT)]
    NoAnswer {
        /// Where sshd is.
        at: SocketAddr,
        /// The documentation address that it came from.
        from: IpAddr,
    },
    /// sshd is on another machine.
    #[error("{target} is not an address of this machine")]
    Elsewhere {
        /// Where sshd is.
        target: SocketAddr,
    },
}

/// A connection to sshd that is being opened.
#[derive(Debug)]
pub struct PendingConnection {
    /// Not yet connected: it becomes writable when it is.
    pub socket: OwnedFd,
    /// The address that sshd is connected to.
    pub local: IpAddr,
    /// Whether that is the address that the client reached.
    pub is_reached: bool,
}

/// Why no connection is opened for a client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address belongs to this machine: any program here may connect from it.
    #[error("{0} is an address of this machine")]
    OwnAddress(IpAddr),
    /// No client can have this address, or it cannot be used for this.
    #[error("no client can be at {0}")]
    NoClient(IpAddr),
    /// sshd does not listen at an address that a client of this family could be connected to.
    #[error("sshd does not listen for {0} on port {1}")]
    NotListening(&'static str, u16),
    /// A system call failed.
    #[error("cannot connect to sshd")]
    Kernel(#[from] io::Error),
}

/// What was set up in this network namespace.
#[derive(Debug)]
pub struct ClientAddresses {
    netlink: Netlink,
    target: SocketAddr,
    families: Families,
    /// Tells other keepers of this namespace that the setup is in use.
    presence: Option<Presence>,
    watch: Option<RuleWatch>,
    /// Whether this process has turned `tcp_fwmark_accept` on.
    turned_on: bool,
    next_check: Instant,
    log: LogBudget,
}

/// Limits the log lines about requests.
#[derive(Debug)]
struct LogBudget {
    since: Instant,
    logged: u32,
    left_out: u32,
}

impl ClientAddresses {
    /// Sets everything up for the sshd at `target`, and tests it by a connection to sshd from an address that nobody
    /// has. What another keeper has left is used again. With `insists`, rules of other programs cause a warning
    /// instead of an error.
    ///
    /// # Errors
    /// See [`SetUpError`]. Everything is removed again then.
    pub fn set_up(target: SocketAddr, insists: bool) -> Result<Self, SetUpError> {
        let netlink = Netlink::open().map_err(kernel("a netlink socket"))?;
        let mut this = Self::new(netlink, target);
        if !this.is_own(target.ip())? {
            return Err(SetUpError::Elsewhere { target });
        }
        check_transparent()?;
        // First of all: a keeper that stops now must not remove anything.
        this.presence = Presence::show().ok();
        let done = this.install(insists).and_then(|()| this.test());
        match done {
            Ok(families) => {
                this.families = families;
                this.watch = RuleWatch::open().ok();
                Ok(this)
            }
            Err(error) => {
                this.remove_setup();
                Err(error)
            }
        }
    }

    /// Continues with the setup of a previous keeper. What is missing is added if this process may do so.
    ///
    /// # Errors
    /// The kernel's routing cannot be read.
    pub fn adopt(target: SocketAddr, families: Families) -> io::Result<Self> {
        let mut this = Self::new(Netlink::open()?, target);
        this.families = families;
        this.presence = Presence::show().ok();
        this.watch = RuleWatch::open().ok();
        Ok(this)
    }

    /// The setup that an earlier keeper has left, if there is one: sessions may still need it. For a keeper that does
    /// not use it itself.
    #[must_use]
    pub fn left_behind(target: SocketAddr) -> Option<Self> {
        let mut this = Self::new(Netlink::open().ok()?, target);
        for family in Family::ALL {
            if this.our_route(family).ok().flatten().is_some() {
                this.families = this.families.with(family);
            }
        }
        this.families.any().then_some(())?;
        Self::adopt(target, this.families).ok()
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

    /// The families that work.
    pub fn families(&self) -> Families {
        self.families
    }

    /// sshd's address.
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

    /// Restores what another program has removed: without it every session hangs. Some network managers remove all
    /// rules that they do not know.
    pub fn check(&mut self, now: Instant) {
        let has_changed = self.watch.as_ref().is_some_and(RuleWatch::has_changed);
        if !has_changed && now < self.next_check {
            return;
        }
        self.next_check = now + CHECK_INTERVAL;
        for family in Family::ALL.into_iter().filter(|family| self.families.has(*family)) {
            match self.is_installed(family) {
                Ok(true) | Err(_) => {}
                Ok(false) => match self.add(family, PROTOCOL) {
                    Ok(()) => {
                        warn!(%family, "another program removed the policy rule or the route for connections to sshd: added again")
                    }
                    Err(error) => {
                        warn!(%family, %error, "the policy rule or the route for connections to sshd was removed and cannot be added again")
                    }
                },
            }
        }
        if matches!(sysctl::is_on(), Ok(false)) {
            match sysctl::turn(true) {
                Ok(()) => warn!("another program turned net.ipv4.tcp_fwmark_accept off: turned on again"),
                Err(error) => warn!(%error, "net.ipv4.tcp_fwmark_accept is off: no session can be opened"),
            }
        }
    }

    /// Starts to connect to sshd from the address of `client`, and from its port if that is free here (0: any port).
    /// Connects to the address `reached`, or to another address of this machine if sshd does not listen there.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(&mut self, client: SocketAddr, reached: Option<IpAddr>) -> Result<PendingConnection, ConnectError> {
        let opened = self.try_connect(client, reached);
        if let Some(left_out) = self.log.take(clock::now()) {
            let cause = opened.as_ref().err().map(tracing::field::display);
            let local = opened.as_ref().ok().map(|opened| tracing::field::display(opened.local));
            info!(event = "client-address", %client, local, cause, left_out, "the worker requests a connection to sshd");
        }
        opened
    }

    fn try_connect(&self, client: SocketAddr, reached: Option<IpAddr>) -> Result<PendingConnection, ConnectError> {
        let address = client.ip();
        if !is_possible_client(address) {
            return Err(ConnectError::NoClient(address));
        }
        let route = self.netlink.route_to(address, None)?;
        match route.as_ref().map(|route| route.kind) {
            Some(RouteType::Local) => return Err(ConnectError::OwnAddress(address)),
            Some(RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast) => {
                return Err(ConnectError::NoClient(address));
            }
            // If there is no route to the client, it may still have one to this machine.
            _ => {}
        }
        let reached = reached.or(route.and_then(|route| route.source));
        let local = self.destination(address, reached)?;
        Ok(PendingConnection {
            socket: connect_from(client, SocketAddr::new(local, self.target.port()))?,
            local,
            is_reached: reached == Some(local),
        })
    }

    /// The address to connect to for a client: the one that it reached, if sshd listens there.
    fn destination(&self, client: IpAddr, reached: Option<IpAddr>) -> Result<IpAddr, ConnectError> {
        let (family, port) = (Family::of(client), self.target.port());
        let candidates = [reached, Some(self.target.ip()), Some(family.loopback())];
        let fits = |address: &IpAddr| {
            Family::of(*address) == family
                && is_client_or_loopback(*address)
                && is_listening(SocketAddr::new(*address, port))
        };
        for address in candidates.into_iter().flatten().filter(fits) {
            if self.is_local(address)? {
                return Ok(address);
            }
        }
        let own = listening(family, port).into_iter().find(|address| fits(address));
        let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
        own.ok_or(ConnectError::NotListening(name, port))
    }

    fn is_own(&self, address: IpAddr) -> Result<bool, SetUpError> {
        self.is_local(address).map_err(kernel("a route lookup"))
    }

    fn is_local(&self, address: IpAddr) -> io::Result<bool> {
        let route = self.netlink.route_to(address, None)?;
        Ok(route.is_some_and(|route| route.kind == RouteType::Local))
    }

    fn install(&mut self, insists: bool) -> Result<(), SetUpError> {
        // If the setting cannot be read, the test shows whether it works.
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
        let rules = self.netlink.rules(family).map_err(kernel("a list of policy rules"))?;
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
                true => {
                    warn!(%family, rules, "these policy rules of other programs apply to accepted connections as well from now on")
                }
                false => return Err(SetUpError::OthersRules { rules }),
            }
        }
        let protocol = if turns_on { PROTOCOL_WITH_SYSCTL } else { PROTOCOL };
        self.add(family, protocol).map_err(kernel("a policy rule or a route"))?;
        match self.is_installed(family).map_err(kernel("a route lookup"))? {
            true => Ok(()),
            false => Err(SetUpError::Taken {
                rule: "see `ip rule` for the rules before ours".to_owned(),
            }),
        }
    }

    fn add(&self, family: Family, protocol: u8) -> io::Result<()> {
        let replace = protocol == PROTOCOL_WITH_SYSCTL;
        self.netlink.add_local_route(family, TABLE, protocol, replace)?;
        self.netlink.add_rule(family, &OUR_RULE)
    }

    /// Whether packets with our mark are routed to this machine by our table.
    fn is_installed(&self, family: Family) -> io::Result<bool> {
        Ok(self.our_route(family)?.is_some())
    }

    /// The protocol number of our route.
    fn our_route(&self, family: Family) -> io::Result<Option<u8>> {
        let found = self
            .netlink
            .route_to(self_test::documentation_address(family), Some(MARK))?;
        let ours = found.filter(|found| found.kind == RouteType::Local && found.table == TABLE);
        Ok(ours.map(|found| found.protocol))
    }

    fn test(&mut self) -> Result<Families, SetUpError> {
        let families = self_test::run(self)?;
        match families.any() {
            true => Ok(families),
            // sshd is not running yet, so nothing could be tested.
            false => Ok(self.families),
        }
    }

    /// Removes the setup, unless another keeper here needs it or this process may not.
    pub fn remove_setup(&mut self) {
        let others = self.presence.take().is_some_and(|presence| presence.others());
        if others {
            return debug!("another server half still needs the policy rules for connections to sshd: they are kept");
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
                info!(%family, %error, "cannot remove the policy rule or the route for connections to sshd");
            }
        }
        if std::mem::take(&mut self.turned_on)
            && let Err(error) = sysctl::turn(false)
        {
            info!(%error, "cannot turn net.ipv4.tcp_fwmark_accept off");
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

/// Whether a client can have this address, as far as the address itself tells.
fn is_possible_client(address: IpAddr) -> bool {
    let is_kind = match address {
        IpAddr::V4(address) => !address.is_broadcast() && address.octets()[0] != 0,
        IpAddr::V6(address) => !is_special(address),
    };
    is_kind && !address.is_loopback() && !address.is_unspecified() && !address.is_multicast()
}

fn is_client_or_loopback(address: IpAddr) -> bool {
    is_possible_client(address) || address.is_loopback()
}

/// Link-local, or IPv4-mapped.
fn is_special(address: Ipv6Addr) -> bool {
    address.is_unicast_link_local() || address.to_ipv4_mapped().is_some()
}

/// Whether there was nothing to remove, or the family is not supported.
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
fn check_transparent() -> Result<(), SetUpError> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP));
    let marked = socket.and_then(|socket| transparent(&socket, Family::V4));
    marked.map_err(kernel("a connection from a client's address"))
}

fn transparent(socket: &Socket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => socket.set_ip_transparent_v4(true)?,
        Family::V6 => socket.set_ip_transparent_v6(true)?,
    }
    socket.set_mark(MARK)
}

/// A connection that is being opened, from the client's port if that is free.
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
        // A connection with the same addresses and ports ended a moment ago.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::ADDRNOTAVAIL) && client.port() != 0 => {
            connect_from(SocketAddr::new(client.ip(), 0), to)
        }
        Err(error) => Err(error),
    }
}

impl LogBudget {
    /// How many were left out before; `None`: this one is left out too.
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
            assert!(!is_possible_client(address.parse().expect("an address")), "{address}");
        }
        for address in ["::1", "::", "ff02::1", "fe80::1", "::ffff:192.0.2.1"] {
            assert!(!is_possible_client(address.parse().expect("an address")), "{address}");
        }
        assert!(is_possible_client("192.0.2.1".parse().expect("an address")));
        assert!(is_possible_client("2001:db8::1".parse().expect("an address")));
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
