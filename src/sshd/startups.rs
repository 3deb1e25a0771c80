//! Connections that have not logged in yet: how many there may be, and who gives way.
//!
//! sshd's MaxStartups refuses newcomers once strangers hold all places. Here the oldest of whoever holds most gives way, so
//! that whoever wants to log in can, which takes a moment, and silence costs only those who keep it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

/// Over all sources, as sshd's MaxStartups.
const MAX_STARTUPS: usize = 100;

/// Of one source, so that a flood from there costs little. A program that opens many connections at once logs in with each
/// within a second.
const MAX_PER_SOURCE: usize = 20;

/// All that wait for their login.
#[derive(Default)]
pub(super) struct Startups(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    /// The oldest first.
    places: Vec<Place>,
    next: u64,
}

struct Place {
    number: u64,
    source: IpAddr,
    gives_way: CancellationToken,
}

/// One that waits for its login; no longer once this is dropped.
pub(super) struct Startup {
    startups: Arc<Startups>,
    number: u64,
    gives_way: CancellationToken,
}

impl Startups {
    /// A place for a newcomer. Another may have to give way.
    pub(super) fn enter(self: &Arc<Self>, source: IpAddr) -> Startup {
        let (source, gives_way) = (network(source.to_canonical()), CancellationToken::new());
        let mut waiting = self.waiting();
        waiting.make_room(source);
        let number = waiting.next;
        waiting.next += 1;
        waiting.places.push(Place {
            number,
            source,
            gives_way: gives_way.clone(),
        });
        Startup {
            startups: Arc::clone(self),
            number,
            gives_way,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock()
    }
}

impl Waiting {
    fn make_room(&mut self, newcomer: IpAddr) {
        let mut held: HashMap<IpAddr, usize> = HashMap::new();
        for place in &self.places {
            *held.entry(place.source).or_default() += 1;
        }
        // Users of this machine, and bowline's own, share one address and are no strangers.
        let own = held.get(&newcomer).copied().unwrap_or(0);
        let fullest = match !newcomer.is_loopback() && own >= MAX_PER_SOURCE {
            true => Some(newcomer),
            false if self.places.len() < MAX_STARTUPS => return,
            // Of equals, whoever came first.
            false => {
                let most = held.values().copied().max();
                let first = self
                    .places
                    .iter()
                    .find(|place| held.get(&place.source).copied() == most);
                first.map(|place| place.source)
            }
        };
        let oldest = self.places.iter().position(|place| Some(place.source) == fullest);
        if let Some(oldest) = oldest {
            self.places.remove(oldest).gives_way.cancel();
        }
    }
}

impl Startup {
    /// Cancelled when this one has to make room.
    pub(super) fn gives_way(&self) -> CancellationToken {
        self.gives_way.clone()
    }
}

impl Drop for Startup {
    fn drop(&mut self) {
        let mut waiting = self.startups.waiting();
        waiting.places.retain(|place| place.number != self.number);
    }
}

/// One customer has a /64 at least (RFC 6177), and can use all of it.
fn network(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        // A /64 of its own for loopback's sake.
        IpAddr::V6(v6) if v6.is_loopback() => source,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    fn enter(startups: &Arc<Startups>, n: u8, times: usize) -> Vec<Startup> {
        (0..times).map(|_| startups.enter(source(n))).collect()
    }

    fn gone(entered: &[Startup]) -> Vec<usize> {
        let gone = |(place, startup): (usize, &Startup)| startup.gives_way.is_cancelled().then_some(place);
        entered.iter().enumerate().filter_map(gone).collect()
    }

    #[test]
    fn one_source_makes_room_for_itself_and_costs_nobody_else_a_place() {
        let startups = Arc::new(Startups::default());
        let other = enter(&startups, 1, 1);
        let flood = enter(&startups, 2, MAX_PER_SOURCE + 3);
        assert_eq!((gone(&other), gone(&flood)), (vec![], vec![0, 1, 2]));
    }

    #[test]
    fn at_the_limit_the_oldest_of_the_fullest_source_gives_way() {
        let startups = Arc::new(Startups::default());
        let first = enter(&startups, 0, 1);
        let mut rest = enter(&startups, 1, 10);
        for n in 2.. {
            let left = MAX_STARTUPS - startups.waiting().places.len();
            match left {
                0 => break,
                left => rest.extend(enter(&startups, n, left.min(9))),
            }
        }
        let newcomer = enter(&startups, 200, 1);
        assert_eq!((gone(&first), gone(&rest), gone(&newcomer)), (vec![], vec![0], vec![]));
    }

    #[test]
    fn who_has_logged_in_or_left_takes_no_place() {
        let startups = Arc::new(Startups::default());
        for _ in 0..2 * MAX_STARTUPS {
            drop(startups.enter(source(1)));
        }
        assert!(startups.waiting().places.is_empty());
    }

    #[test]
    fn users_of_this_machine_have_all_places() {
        let startups = Arc::new(Startups::default());
        for own in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let own: Vec<_> = (0..MAX_STARTUPS)
                .map(|_| startups.enter(own.parse().unwrap()))
                .collect();
            assert!(gone(&own).is_empty());
        }
    }

    #[test]
    fn a_whole_ipv6_network_counts_as_one() {
        let startups = Arc::new(Startups::default());
        let address = |n: usize| format!("2001:db8::{n:x}").parse().unwrap();
        let flood: Vec<_> = (0..=MAX_PER_SOURCE).map(|n| startups.enter(address(n))).collect();
        assert_eq!(gone(&flood), [0]);
    }
}
