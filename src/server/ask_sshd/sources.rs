//! The share of each client source in the questions to sshd, and which sources are known because sshd has accepted a
//! key of theirs.
//!
//! Pure bookkeeping behind a lock; time is an argument.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The most known sources, about 100 bytes each. Beyond it the one that was accepted first is removed.
const MAX_ACCEPTED: usize = 4 * 1024;

/// How long a source is known after a key of it was accepted.
const ACCEPTED_TTL: Duration = Duration::from_secs(7 * 86_400);

/// A source has too many questions waiting.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooManyQueries;

/// A place in the queue of one source: to be held while waiting and asking.
#[derive(Debug)]
pub(super) struct SourceQueue(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    turns: Arc<Semaphore>,
}

impl SourceQueue {
    /// Waits for this source's turn.
    pub(super) async fn turn(&self) -> OwnedSemaphorePermit {
        let turn = Arc::clone(&self.0.turns).acquire_owned().await;
        turn.expect("the queue is never closed")
    }
}

#[derive(Debug)]
pub(super) struct Sources {
    /// The most questions of one source at once.
    at_once: usize,
    /// The most questions of one source, at once and waiting.
    most: usize,
    /// The sources with questions now: each holds a place in the bounded queue.
    asking: Mutex<HashMap<Source, Weak<Queue>>>,
    accepted: Mutex<Accepted>,
}

#[derive(Debug, Default)]
struct Accepted {
    last: HashMap<Source, Instant>,
    /// Oldest first.
    order: VecDeque<Source>,
}

/// What counts as one client: an IPv4 address, or an IPv6 /64, which a single host commonly has for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::server) enum Source {
    V4(Ipv4Addr),
    V6([u8; 8]),
}

impl Sources {
    /// One source may take half of the questions at once and a third of the queue: a NAT, or a machine that runs many
    /// jobs, is one source too.
    pub(super) fn sharing(at_once: usize, queued: usize) -> Sources {
        Sources {
            at_once: (at_once / 2).max(1),
            most: (queued / 3).max(1),
            asking: Mutex::default(),
            accepted: Mutex::default(),
        }
    }

    /// A place in the queue of `source`.
    pub(super) fn admit(&self, source: IpAddr) -> Result<SourceQueue, TooManyQueries> {
        let mut asking = self.asking.lock();
        let known = asking.get(&Source::from(source)).and_then(Weak::upgrade);
        let queue = known.unwrap_or_else(|| {
            asking.retain(|_, queue| queue.strong_count() > 0);
            let queue = Arc::new(Queue {
                turns: Arc::new(Semaphore::new(self.at_once)),
            });
            asking.insert(source.into(), Arc::downgrade(&queue));
            queue
        });
        // Each place has one reference, also while it has a turn. One is our own.
        if Arc::strong_count(&queue) > self.most {
            return Err(TooManyQueries);
        }
        Ok(SourceQueue(queue))
    }

    /// sshd has accepted a key of this source.
    pub(super) fn handle_accepted(&self, source: IpAddr, now: Instant) {
        let mut accepted = self.accepted.lock();
        let source = Source::from(source);
        if accepted.last.insert(source, now).is_some() {
            return;
        }
        accepted.order.push_back(source);
        if accepted.order.len() > MAX_ACCEPTED
            && let Some(oldest) = accepted.order.pop_front()
        {
            accepted.last.remove(&oldest);
        }
    }

    /// Whether sshd has recently accepted a key of this source.
    pub(super) fn is_known(&self, source: IpAddr, now: Instant) -> bool {
        let last = self.accepted.lock().last.get(&source.into()).copied();
        last.is_some_and(|last| now.saturating_duration_since(last) < ACCEPTED_TTL)
    }
}
impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [network @ .., _, _, _, _, _, _, _, _] = address.octets();
                Self::V6(network)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn one_source_cannot_fill_the_queue() {
        let sources = Sources::sharing(4, 60);
        let first = sources.admit(address("192.0.2.1")).unwrap();
        let second = sources.admit(address("192.0.2.1")).unwrap();
        let turns = [first.turn().await, second.turn().await];
        let waiting: Vec<_> = (0..60).map(|_| sources.admit(address("192.0.2.1"))).collect();
        assert_eq!(waiting.iter().filter(|admitted| admitted.is_ok()).count(), 18);
        drop((first, second, turns));
        assert!(sources.admit(address("192.0.2.2")).is_ok());
        drop(waiting);
        assert!(sources.admit(address("192.0.2.1")).is_ok());
    }

    #[test]
    fn a_source_is_known_for_some_days_after_it_was_accepted() {
        let (sources, now) = (Sources::sharing(4, 60), clock::now());
        assert!(!sources.is_known(address("2001:db8::1"), now));
        sources.handle_accepted(address("2001:db8::1"), now);
        assert!(sources.is_known(address("2001:db8::ffff:2"), now + ACCEPTED_TTL / 2));
        assert!(!sources.is_known(address("2001:db8:0:1::1"), now));
        assert!(!sources.is_known(address("2001:db8::1"), now + ACCEPTED_TTL));
    }

    #[test]
    fn memory_is_bounded_by_who_asks_and_who_was_accepted() {
        let (sources, now) = (Sources::sharing(4, 60), clock::now());
        let asking = sources.admit(address("192.0.2.1")).unwrap();
        for number in 0..2 * u32::try_from(MAX_ACCEPTED).unwrap() {
            let source = Ipv4Addr::from(0x0a00_0000 + number).into();
            drop(sources.admit(source));
            sources.handle_accepted(source, now);
        }
        assert!(sources.asking.lock().len() <= 2);
        let accepted = sources.accepted.lock();
        assert_eq!(
            (accepted.last.len(), accepted.order.len()),
            (MAX_ACCEPTED, MAX_ACCEPTED)
        );
        drop(asking);
    }
}
