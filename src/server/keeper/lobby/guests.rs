//! The keeper's side: who is in the lobby, and what they ask.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{io::Errno, net::SocketFlags};
use tracing::{debug, warn};

use super::{
    super::packet,
    Door,
    words::{Ask, Tell},
};

/// Askers at once. More wait outside.
const MOST_GUESTS: usize = 8;

/// Whoever has something to ask does so by then, or is shown out.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long nobody is let in after a failure that would come again at once, such as too many open files.
const REST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(in super::super) struct Lobby {
    door: Door,
    guests: Vec<Guest>,
    closed_until: Option<Instant>,
    pub(super) since: Instant,
}

/// Somebody who may ask.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) connection: OwnedFd,
    pub(super) pid: u32,
    until: Instant,
}

impl Lobby {
    pub(in super::super) fn new(door: Door, now: Instant) -> Self {
        Self {
            door,
            guests: Vec::new(),
            closed_until: None,
            since: now,
        }
    }

    pub(in super::super) fn door(&self) -> &Door {
        &self.door
    }

    /// For good.
    pub(in super::super) fn close(&self) {
        self.door.remove();
    }

    /// What becomes readable when there is something to do.
    pub(in super::super) fn sources(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let is_open = self.closed_until.is_none() && self.guests.len() < MOST_GUESTS;
        let door = is_open.then(|| self.door.as_fd());
        door.into_iter()
            .chain(self.guests.iter().map(|guest| guest.connection.as_fd()))
    }

    /// When to look again at the latest.
    pub(in super::super) fn deadline(&self) -> Option<Instant> {
        let guests = self.guests.iter().map(|guest| guest.until);
        guests.chain(self.closed_until).min()
    }

    /// What guests ask now, each of them once. Whoever asks is out of the lobby, unless brought back.
    pub(super) fn calls(&mut self, now: Instant) -> Vec<(Guest, Ask)> {
        self.closed_until = self.closed_until.filter(|until| now < *until);
        self.let_in(now);
        let mut calls = Vec::new();
        for guest in std::mem::take(&mut self.guests) {
            match guest.hear() {
                Ok(Some(ask)) => calls.push((guest, ask)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && now < guest.until => self.guests.push(guest),
                Err(error) => debug!(pid = guest.pid, %error, "shown out of the lobby"),
                Ok(None) => {}
            }
        }
        calls
    }

    /// The guest may have more to ask.
    pub(super) fn bring_back(&mut self, guest: Guest, now: Instant) {
        self.guests.push(Guest {
            until: now + PATIENCE,
            ..guest
        });
    }

    fn let_in(&mut self, now: Instant) {
        while self.closed_until.is_none() && self.guests.len() < MOST_GUESTS {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&self.door, flags) {
                Ok(connection) => self.guests.extend(Guest::admit(connection, now)),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    warn!(%error, "cannot let anybody into the lobby");
                    self.closed_until = Some(now + REST);
                }
            }
        }
    }
}

impl Guest {
    fn admit(connection: OwnedFd, now: Instant) -> Option<Self> {
        let peer = rustix::net::sockopt::socket_peercred(&connection).ok()?;
        if !peer.uid.is_root() && peer.uid != rustix::process::geteuid() {
            warn!(pid = %peer.pid, uid = %peer.uid, "another user is not heard in the lobby");
            return None;
        }
        Some(Self {
            connection,
            pid: peer.pid.as_raw_nonzero().get().unsigned_abs(),
            until: now + PATIENCE,
        })
    }

    /// `None`: the guest has left.
    pub(super) fn hear(&self) -> io::Result<Option<Ask>> {
        // What comes with it is closed.
        let Some((text, _)) = packet::receive(&self.connection)? else {
            return Ok(None);
        };
        Ok(Some(serde_json::from_slice(&text)?))
    }

    pub(super) fn tell(&self, tell: &Tell) -> io::Result<()> {
        packet::send(&self.connection, &serde_json::to_vec(tell)?, &[])
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::{super::door::knock, *};
    use crate::clock;

    #[test]
    fn silent_ones_are_shown_out_and_others_let_in() {
        let folder = tempfile::tempdir().unwrap();
        let address: SocketAddr = "127.0.0.1:22".parse().unwrap();
        let door = Door::open(folder.path(), &[address]).unwrap();
        let file = door.file().to_owned();
        let start = clock::now();
        let mut lobby = Lobby::new(door, start);
        let silent: Vec<_> = (0..MOST_GUESTS).map(|_| knock(&file).unwrap()).collect();
        let asker = knock(&file).unwrap();
        packet::send(&asker, b"\"Who\"", &[]).unwrap();
        assert!(lobby.calls(start).is_empty());
        // Full: nobody waits for the door, only for those inside.
        assert_eq!(lobby.sources().count(), MOST_GUESTS);
        assert_eq!(lobby.deadline(), Some(start + PATIENCE));
        assert!(lobby.calls(start + PATIENCE).is_empty());
        let calls = lobby.calls(start + PATIENCE);
        assert!(matches!(calls[..], [(_, Ask::Who)]));
        drop(silent);
    }

    #[test]
    fn whoever_babbles_is_shown_out_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let address: SocketAddr = "127.0.0.1:22".parse().unwrap();
        let door = Door::open(folder.path(), &[address]).unwrap();
        let file = door.file().to_owned();
        let now = clock::now();
        let mut lobby = Lobby::new(door, now);
        let babbling = knock(&file).unwrap();
        packet::send(&babbling, &[0xff; 20_000], &[]).unwrap();
        assert!(lobby.calls(now).is_empty());
        assert_eq!(lobby.sources().count(), 1, "only the door");
        assert_eq!(lobby.deadline(), None);
    }
}
