//! Prevents sshd from locking out a client because of the questions asked on its behalf.
//!
//! A question ends without a login. OpenSSH 9.8 and later penalize the address that it came from, as if the login had
//! failed: by 5 s each, and above 15 s the address is refused. A later login does not reduce the penalty. Where sshd
//! sees the client's own address, a user who opens four sessions in a row would be locked out. Therefore a key that
//! was accepted is not asked about again for some time, and questions for one address are spaced.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{Context, SHA256};
use parking_lot::Mutex;

use crate::identity::statement::ProvenKey;

/// How long an accepted key counts as accepted, for the same user and client address. sshd decides again at the login
/// inside: a key that was removed meanwhile gets as far as sshd's login, and no further.
const ACCEPTED_TTL: Duration = Duration::from_secs(300);

/// The most accepted keys, about 100 bytes each.
const MAX_ACCEPTED: usize = 8 * 1024;

/// sshd's penalty for one question: the default `authfail` of PerSourcePenalties.
const PENALTY: Duration = Duration::from_secs(5);

/// The highest penalty at which an address is not refused: the default `min` of PerSourcePenalties.
const MAX_PENALTY: Duration = Duration::from_secs(15);

/// The most addresses with a penalty, about 50 bytes each.
const MAX_ADDRESSES: usize = 16 * 1024;

/// Hash of a user, a key and a client's address.
type Name = [u8; 32];

#[derive(Debug, Default)]
pub(super) struct Penalties {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When each key was accepted.
    accepted: HashMap<Name, Instant>,
    /// Oldest first.
    order: VecDeque<(Name, Instant)>,
    /// When the penalty of an address ends.
    until: HashMap<IpAddr, Instant>,
}

impl Penalties {
    /// Index of the first of `keys` that was accepted recently.
    pub(super) fn accepted(&self, user: &str, keys: &[ProvenKey], client: IpAddr, now: Instant) -> Option<usize> {
        let state = self.state.lock();
        let is_accepted = |key: &ProvenKey| {
            let since = state.accepted.get(&name(user, key, client));
            since.is_some_and(|since| now.saturating_duration_since(*since) < ACCEPTED_TTL)
        };
        keys.iter().position(is_accepted)
    }

    /// sshd has accepted `key`.
    pub(super) fn handle_accepted(&self, user: &str, key: &ProvenKey, client: IpAddr, now: Instant) {
        let (mut state, name) = (self.state.lock(), name(user, key, client));
        state.accepted.insert(name, now);
        state.order.push_back((name, now));
        while state.order.len() > MAX_ACCEPTED {
            let Some((oldest, since)) = state.order.pop_front() else {
                break;
            };
            if state.accepted.get(&oldest) == Some(&since) {
                state.accepted.remove(&oldest);
            }
        }
    }

    /// How long to wait before sshd may be asked for this address. Zero: it may be asked now, and the question is
    /// counted.
    pub(super) fn wait(&self, client: IpAddr, now: Instant) -> Duration {
        let mut state = self.state.lock();
        if state.until.len() >= MAX_ADDRESSES {
            state.until.retain(|_, until| *until > now);
        }
        let until = state.until.get(&client).copied().unwrap_or(now).max(now) + PENALTY;
        let wait = until.saturating_duration_since(now).saturating_sub(MAX_PENALTY);
        // If so many addresses have penalties, further ones are not limited: memory is more important.
        if wait.is_zero() && state.until.len() < MAX_ADDRESSES {
            state.until.insert(client, until);
        }
        wait
    }
}

/// Whether an SSH server with this identification penalizes addresses.
pub(super) fn are_given_by(identification: &str) -> bool {
    let Some((_, version)) = identification.split_once("OpenSSH_") else {
        return false;
    };
    let mut numbers = version.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= (9, 8),
        // An unknown version: too slow is better than locked out.
        _ => true,
    }
}

fn name(user: &str, key: &ProvenKey, client: IpAddr) -> Name {
    let mut context = Context::new(&SHA256);
    for part in [user.as_bytes(), &key.blob, client.to_string().as_bytes()] {
        context.update(&part.len().to_be_bytes());
        context.update(part);
    }
    let mut name = [0; 32];
    name.copy_from_slice(context.finish().as_ref());
    name
}

#[cfg(test)]
mod tests {
    use super::super::testing::strange_key;
    use super::*;
    use crate::clock;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    #[test]
    fn an_accepted_key_counts_for_its_user_and_address_alone_and_not_for_ever() {
        let (penalties, start) = (Penalties::default(), clock::now());
        let keys = [strange_key("ed25519"), strange_key("ed25519")];
        penalties.handle_accepted("ada", &keys[1], CLIENT, start);
        let at = |user, client, later| penalties.accepted(user, &keys, client, start + later);
        assert_eq!(at("ada", CLIENT, Duration::ZERO), Some(1));
        assert_eq!(at("bob", CLIENT, Duration::ZERO), None);
        assert_eq!(at("ada", OTHER, Duration::ZERO), None);
        assert_eq!(at("ada", CLIENT, ACCEPTED_TTL), None);
    }

    #[test]
    fn no_address_gets_more_penalties_than_it_may_have() {
        let (penalties, start) = (Penalties::default(), clock::now());
        // sshd's own count, for a client that always asks as early as it may.
        let (mut now, mut until) = (start, start);
        for _ in 0..50 {
            loop {
                match penalties.wait(CLIENT, now) {
                    Duration::ZERO => break,
                    wait => now += wait,
                }
            }
            until = until.max(now) + PENALTY;
            assert!(until - now <= MAX_PENALTY);
        }
        assert!(now - start >= PENALTY * 47, "one in five seconds, after the first ones");
        assert_eq!(penalties.wait(OTHER, now), Duration::ZERO);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (penalties, now) = (Penalties::default(), clock::now());
        let key = strange_key("ed25519");
        for number in 0..2 * u32::try_from(MAX_ADDRESSES).expect("a number") {
            let client = std::net::Ipv4Addr::from(number).into();
            penalties.handle_accepted("ada", &key, client, now);
            penalties.wait(client, now);
        }
        let state = penalties.state.lock();
        assert_eq!((state.accepted.len(), state.order.len()), (MAX_ACCEPTED, MAX_ACCEPTED));
        assert_eq!(state.until.len(), MAX_ADDRESSES);
    }

    #[test]
    fn openssh_has_penalties_from_9_8_on() {
        for (identification, expected) in [
            ("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3", false),
            ("SSH-2.0-OpenSSH_9.8p1", true),
            ("SSH-2.0-OpenSSH_10.6", true),
            ("SSH-2.0-OpenSSH_for_Windows_9.5", true),
            ("SSH-2.0-dropbear_2024.85", false),
        ] {
            assert_eq!(are_given_by(identification), expected, "{identification}");
        }
    }
}
