//! Connections to sshd from loopback addresses, one for each client.
//!
//! sshd's PerSourcePenalties count failures by address. So that one client's failures do not affect others, each
//! client has addresses of its own: one in 127.64.0.0/11 for questions, and one in 127.96.0.0/11 for its sessions.
//! 127.0.0.1 is not among them: what an administrator allows to that address is meant for this machine.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use parking_lot::Mutex;
use tokio::net::{TcpSocket, TcpStream};

use super::super::ask_sshd::Source;
use super::super::sshd_config::{is_here, is_here_in_zone};
use super::{Client, ConnectSshd, Connecting, Purpose};

/// The most sources with an alias, about 100 bytes each. Beyond it the oldest one is removed, and gets another alias
/// when it comes back.
const MAX_SOURCES: usize = 16 * 1024;

/// First address of 127.64.0.0/11, which is unlikely to be in use.
const FIRST_FOR_QUERIES: u32 = u32::from_be_bytes([127, 64, 0, 0]);

/// First address of 127.96.0.0/11.
const FIRST_FOR_SESSIONS: u32 = u32::from_be_bytes([127, 96, 0, 0]);

/// Addresses in each block. They are used in turn: one is reused only after two million others.
const ALIASES: u32 = 1 << 21;

/// Aliases reserved for bowline's own connections.
const RESERVED: u32 = 256;

/// Source address of bowline's own connections to sshd, such as for reading its greeting: sshd penalizes addresses
/// that connect without logging in, which must not affect 127.0.0.1.
pub const OWN_ALIAS: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);

/// Documentation addresses (RFC 5737, RFC 3849): nobody has them, and nothing is sent.
const ANYWHERE: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)), 9),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9),
];

/// Connects from loopback, as any program on this machine can.
#[derive(Debug)]
pub struct FromLoopback {
    target: SocketAddr,
    /// Tried if nothing answers at the target.
    others: Vec<SocketAddr>,
    /// Whether clients can have addresses of their own: sshd is on this machine and is reached over IPv4.
    has_aliases: bool,
    asks_twice: bool,
    aliases: Mutex<Aliases>,
}

impl FromLoopback {
    /// Connects to the sshd at `target`.
    #[must_use]
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            others: Vec::new(),
            has_aliases: target.is_ipv4() && is_here(target.ip()),
            asks_twice: false,
            aliases: Mutex::default(),
        }
    }

    /// The same, but a key that sshd accepts on loopback must be accepted from another address too.
    #[must_use]
    pub fn asking_twice(self) -> Self {
        Self {
            asks_twice: true,
            ..self
        }
    }

    /// The same, but if nothing answers at the target, tries these other addresses of its name.
    #[must_use]
    pub fn or_at(self, others: Vec<SocketAddr>) -> Self {
        Self { others, ..self }
    }

    /// Source and destination of a connection.
    fn ends(&self, purpose: Purpose) -> io::Result<(Option<SocketAddr>, SocketAddr)> {
        let remote = |client: Client| client.remote.ip();
        let alias = match purpose {
            Purpose::SecondQuery(client) => return self.ends_beyond_loopback(client),
            Purpose::Query(client) => self.aliases.lock().for_queries(remote(client)),
            Purpose::Session(client) => self.aliases.lock().for_sessions(remote(client)),
            Purpose::Banner => OWN_ALIAS,
        };
        let alias = SocketAddr::from((alias, 0));
        Ok((Some(alias).filter(|_| self.has_aliases), self.target))
    }

    /// An address of this machine that is not on loopback: the one that the client reached, or any other. If it is of
    /// the other family, sshd is asked there.
    fn ends_beyond_loopback(&self, client: Client) -> io::Result<(Option<SocketAddr>, SocketAddr)> {
        let here = |address: &SocketAddr| {
            !address.ip().is_loopback() && !address.ip().is_unspecified() && is_here_in_zone(*address)
        };
        let reached = client.reached().filter(here);
        let usual = ANYWHERE.map(|anywhere| own_address_towards(anywhere).filter(here));
        let known = [reached, usual[0], usual[1]];
        let same_family = known
            .iter()
            .flatten()
            .find(|address| address.is_ipv4() == self.target.is_ipv4());
        if let Some(address) = same_family {
            return Ok((Some(*address), self.target));
        }
        let other_family = known.iter().flatten().next();
        let address = other_family.ok_or(io::ErrorKind::AddrNotAvailable)?;
        let mut sshd = *address;
        sshd.set_port(self.target.port());
        Ok((Some(*address), sshd))
    }

    async fn connect_for(&self, purpose: Purpose) -> io::Result<TcpStream> {
        let (from, to) = self.ends(purpose)?;
        let mut connected = connect(from, to).await;
        // Nothing answers at the first address of the name: sshd may be at another.
        for other in self.others.iter().filter(|_| to == self.target) {
            match &connected {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    let from = from.filter(|from| from.is_ipv4() == other.is_ipv4() && is_here(other.ip()));
                    connected = connect(from, *other).await;
                }
                _ => break,
            }
        }
        connected
    }
}

async fn connect(from: Option<SocketAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(from) = from {
        let bound = socket.bind(from);
        // Systems whose loopback is 127.0.0.1 only refuse an alias; sshd then sees that address.
        if !from.ip().is_loopback() {
            bound?;
        }
    }
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl ConnectSshd for FromLoopback {
    fn target(&self) -> SocketAddr {
        self.target
    }

    fn connect(&self, purpose: Purpose) -> Connecting<'_> {
        Box::pin(self.connect_for(purpose))
    }

    fn hides(&self, client: Client) -> bool {
        self.asks_twice && !client.remote.ip().is_loopback()
    }

    /// Gives the client a new alias for questions: a question ends without a login, which sshd penalizes, so a user
    /// who opens many sessions in a row would be locked out.
    fn handle_accepted(&self, client: Client) {
        self.aliases.lock().renew(client.remote.ip());
    }
}

/// This machine's source address for packets to another address.
fn own_address_towards(address: SocketAddr) -> Option<SocketAddr> {
    let any: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(address).ok()?;
    let mut own = socket.local_addr().ok()?;
    own.set_port(0);
    Some(own)
}

/// Two aliases for each source, as positions in their blocks.
#[derive(Debug, Default)]
struct Aliases {
    of_sources: HashMap<Source, AliasPair>,
    /// Oldest first.
    order: VecDeque<Source>,
    given: u32,
}

#[derive(Clone, Copy, Debug)]
struct AliasPair {
    /// Changed after each accepted question.
    queries: u32,
    sessions: u32,
}

impl Aliases {
    fn for_queries(&mut self, source: IpAddr) -> Ipv4Addr {
        Ipv4Addr::from(FIRST_FOR_QUERIES + self.of(source).queries)
    }

    fn for_sessions(&mut self, source: IpAddr) -> Ipv4Addr {
        Ipv4Addr::from(FIRST_FOR_SESSIONS + self.of(source).sessions)
    }

    /// The aliases of `source`, the same until they are renewed or removed.
    fn of(&mut self, source: IpAddr) -> AliasPair {
        let source = Source::from(source);
        if let Some(pair) = self.of_sources.get(&source) {
            return *pair;
        }
        let place = self.next();
        let pair = AliasPair {
            queries: place,
            sessions: place,
        };
        self.of_sources.insert(source, pair);
        self.order.push_back(source);
        while self.of_sources.len() > MAX_SOURCES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.of_sources.remove(&oldest);
        }
        pair
    }

    fn renew(&mut self, source: IpAddr) {
        self.of(source);
        let next = self.next();
        if let Some(pair) = self.of_sources.get_mut(&Source::from(source)) {
            pair.queries = next;
        }
    }

    fn next(&mut self) -> u32 {
        let place = RESERVED + self.given;
        self.given = (self.given + 1) % (ALIASES - RESERVED);
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn each_source_keeps_an_alias_of_its_own_until_it_is_renewed() {
        let mut aliases = Aliases::default();
        let first = aliases.for_queries(address("192.0.2.1"));
        assert_eq!(first, Ipv4Addr::new(127, 64, 1, 0));
        assert_eq!(aliases.for_queries(address("192.0.2.1")), first);
        assert_eq!(aliases.for_queries(address("::ffff:192.0.2.1")), first);
        assert_ne!(aliases.for_queries(address("192.0.2.2")), first);
        let network = aliases.for_queries(address("2001:db8::1"));
        assert_eq!(aliases.for_queries(address("2001:db8::ffff:2")), network);
        assert_ne!(aliases.for_queries(address("2001:db8:0:1::1")), network);
        aliases.renew(address("192.0.2.1"));
        assert_ne!(aliases.for_queries(address("192.0.2.1")), first);
        let session = Ipv4Addr::new(127, 96, 1, 0);
        assert_eq!(
            aliases.for_sessions(address("192.0.2.1")),
            session,
            "the alias for sessions is not renewed"
        );
    }

    #[test]
    fn memory_for_aliases_is_bounded() {
        let mut aliases = Aliases::default();
        for number in 0..2 * u32::try_from(MAX_SOURCES).unwrap() {
            aliases.of(Ipv4Addr::from(0x0a00_0000 + number).into());
        }
        assert_eq!(
            (aliases.of_sources.len(), aliases.order.len()),
            (MAX_SOURCES, MAX_SOURCES)
        );
    }

    #[test]
    fn aliases_stay_in_their_block_when_they_start_again() {
        let mut aliases = Aliases {
            given: ALIASES - RESERVED - 1,
            ..Aliases::default()
        };
        assert_eq!(
            aliases.for_queries(address("192.0.2.1")),
            Ipv4Addr::new(127, 95, 255, 255)
        );
        assert_eq!(
            aliases.for_sessions(address("192.0.2.1")),
            Ipv4Addr::new(127, 127, 255, 255)
        );
        assert_eq!(aliases.for_sessions(address("192.0.2.2")), Ipv4Addr::new(127, 96, 1, 0));
    }
}
