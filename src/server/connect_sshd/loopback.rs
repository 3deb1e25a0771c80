//! sshd sees loopback addresses in place of clients.
//!
//! sshd's PerSourcePenalties count failures by address. So that those of one client meet nobody else, each client is
//! asked for from an address of its own in 127.64.0.0/10.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpSocket, TcpStream};

use super::super::ask_sshd::Source;
use super::{Client, ConnectSshd, Connecting, Purpose};

/// Most sources that have an alias at a time, about 100 bytes each. Beyond it the one known longest gets another when it
/// comes again.
const MAX_SOURCES: usize = 16 * 1024;

/// First address of 127.64.0.0/10, where nothing else is likely to live.
const FIRST_ALIAS: u32 = u32::from_be_bytes([127, 64, 0, 0]);

/// Addresses in 127.64.0.0/10. Handed out in turn: one is used again only after four million others.
const ALIASES: u32 = 1 << 22;

/// Aliases kept for bowline's own connections.
const RESERVED: u32 = 256;

/// Where bowline's own connections to sshd come from, such as reading its greeting: sshd penalises addresses that
/// connect without logging in, and that must not fall on 127.0.0.1.
pub const OWN_ALIAS: Ipv4Addr = Ipv4Addr::new(127, 64, 0, 1);

/// Connects from loopback, as any program on this machine can.
#[derive(Debug)]
pub struct FromLoopback {
    target: SocketAddr,
    /// Whether sessions come from the client's alias as well.
    sessions_too: bool,
    aliases: Mutex<Aliases>,
}

impl FromLoopback {
    /// Connects to the sshd at `target`; sessions come from 127.0.0.1.
    #[must_use]
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            sessions_too: false,
            aliases: Mutex::default(),
        }
    }

    /// The same, but that sessions come from their client's alias: where strangers may guess passwords, sshd's penalties
    /// must meet them and nobody else.
    #[must_use]
    pub fn with_session_aliases(self) -> Self {
        Self {
            sessions_too: true,
            ..self
        }
    }

    fn source_address(&self, purpose: Purpose) -> Option<Ipv4Addr> {
        match purpose {
            Purpose::Session(_) if !self.sessions_too => None,
            Purpose::Query(client) | Purpose::Session(client) => Some(self.aliases().of(client.remote.ip())),
            Purpose::Banner => Some(OWN_ALIAS),
        }
    }

    async fn connect_from(&self, from: Option<Ipv4Addr>) -> io::Result<TcpStream> {
        let socket = match self.target {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        let is_loopback = self.target.is_ipv4() && self.target.ip().is_loopback();
        if let Some(from) = from.filter(|_| is_loopback) {
            // Systems whose loopback is 127.0.0.1 alone refuse this; sshd then sees that address.
            let _ = socket.bind((from, 0).into());
        }
        let stream = socket.connect(self.target).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn aliases(&self) -> MutexGuard<'_, Aliases> {
        self.aliases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectSshd for FromLoopback {
    fn target(&self) -> SocketAddr {
        self.target
    }

    fn connect(&self, purpose: Purpose) -> Connecting<'_> {
        Box::pin(self.connect_from(self.source_address(purpose)))
    }

    /// The client gets a new alias: a query ends without a login, which sshd holds against the address, so that somebody
    /// who opens many sessions in a row would be locked out.
    fn handle_accepted(&self, client: Client) {
        self.aliases().renew(client.remote.ip());
    }
}

/// One address in 127.64.0.0/10 for each source.
#[derive(Debug, Default)]
struct Aliases {
    of_sources: HashMap<Source, Ipv4Addr>,
    /// Oldest first.
    order: VecDeque<Source>,
    given: u32,
}

impl Aliases {
    /// The alias of `source`, the same until it is renewed.
    fn of(&mut self, source: IpAddr) -> Ipv4Addr {
        match self.of_sources.get(&Source::from(source)) {
            Some(alias) => *alias,
            None => self.renew(source),
        }
    }

    fn renew(&mut self, source: IpAddr) -> Ipv4Addr {
        let (source, alias) = (Source::from(source), self.next());
        if self.of_sources.insert(source, alias).is_none() {
            self.order.push_back(source);
        }
        while self.of_sources.len() > MAX_SOURCES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.of_sources.remove(&oldest);
        }
        alias
    }

    fn next(&mut self) -> Ipv4Addr {
        let number = RESERVED + self.given;
        self.given = (self.given + 1) % (ALIASES - RESERVED);
        Ipv4Addr::from(FIRST_ALIAS + number)
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
        let first = aliases.of(address("192.0.2.1"));
        assert_eq!(first, Ipv4Addr::new(127, 64, 1, 0));
        assert_eq!(aliases.of(address("192.0.2.1")), first);
        assert_eq!(aliases.of(address("::ffff:192.0.2.1")), first);
        assert_ne!(aliases.of(address("192.0.2.2")), first);
        let network = aliases.of(address("2001:db8::1"));
        assert_eq!(aliases.of(address("2001:db8::ffff:2")), network);
        assert_ne!(aliases.of(address("2001:db8:0:1::1")), network);
        aliases.renew(address("192.0.2.1"));
        assert_ne!(aliases.of(address("192.0.2.1")), first);
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
        assert_eq!(aliases.next(), Ipv4Addr::new(127, 127, 255, 255));
        assert_eq!(aliases.next(), Ipv4Addr::new(127, 64, 1, 0));
    }
}
