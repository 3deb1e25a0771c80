//! Waiting for room in sshd, which drops connections while too many logins are unfinished (MaxStartups).
//!
//! sshd drops connections at random and says so at once. If the client had to connect again, each try would cost a handshake,
//! and the first client would not be the first to get in. So the connections of one source wait here in order of arrival, and a
//! few of them try again at a time. No source waits for another.

use super::ask_sshd::{AskError, Source};
use crate::clock;
use crate::wire::PeerText;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout_at};

/// Connections of one source that try again at the same time. One that gets in passes its turn to the next. MaxStartups is 10 by
/// default.
const TRIES_AT_ONCE: usize = 4;

/// How long connections wait for room, and how often they try.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoomLimits {
    /// How long one connection may wait for room. Default 60 s: 300 simultaneous logins take two processors half as long. If sshd
    /// is full for longer, its unfinished logins do not end soon (LoginGraceTime, 120 s by default).
    pub(super) time: Duration,
    /// Delay before the second try. Default 100 ms. A try that is dropped costs sshd less than a millisecond.
    pub(super) first_pause: Duration,
    /// Maximum delay; each is twice the previous one. Default 800 ms.
    pub(super) max_pause: Duration,
}

/// The connections that wait for room in one sshd.
#[derive(Debug, Default)]
pub(super) struct Startups {
    limits: RoomLimits,
    queues: Mutex<HashMap<Source, Arc<Queue>>>,
}

/// The waiting connections of one source.
#[derive(Debug)]
struct Queue {
    turns: Arc<Semaphore>,
    /// Why they wait, as a text for people.
    why: Mutex<PeerText>,
}

/// One connection on its way into sshd.
#[derive(Debug)]
pub(super) struct Startup<'a> {
    startups: &'a Startups,
    source: Source,
    /// Set as soon as it waits.
    queue: Option<Arc<Queue>>,
    turn: Option<OwnedSemaphorePermit>,
    until: Instant,
    pause: Duration,
}

impl Default for RoomLimits {
    fn default() -> RoomLimits {
        RoomLimits {
            time: Duration::from_secs(60),
            first_pause: Duration::from_millis(100),
            max_pause: Duration::from_millis(800),
        }
    }
}

impl Startups {
    /// With other limits.
    pub(super) fn within(limits: RoomLimits) -> Startups {
        Startups {
            limits,
            queues: Mutex::default(),
        }
    }

    /// One more connection for a client at `source`.
    pub(super) fn begin(&self, source: IpAddr) -> Startup<'_> {
        Startup {
            startups: self,
            source: source.into(),
            queue: None,
            turn: None,
            until: clock::now() + self.limits.time,
            pause: self.limits.first_pause,
        }
    }

    /// Why connections for clients at `source` wait, if any does.
    pub(super) fn why(&self, source: IpAddr) -> Option<PeerText> {
        // The last connection to leave removes the queue and counts references to it, so none is kept here beyond the lock.
        let queues = self.queues();
        let why = queues.get(&source.into())?.why.lock().clone();
        Some(why)
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<Source, Arc<Queue>>> {
        self.queues.lock()
    }
}

impl Startup<'_> {
    /// Waits behind the connections of the same source that sshd had no room for.
    pub(super) async fn turn(&mut self) {
        if self.queue.is_none() {
            self.queue = self.startups.queues().get(&self.source).cloned();
        }
        if let Some(queue) = &self.queue
            && self.turn.is_none()
        {
            // If its turn does not come in time, it tries once more nevertheless.
            let turn = timeout_at(self.until.into(), Arc::clone(&queue.turns).acquire_owned()).await;
            self.turn = turn.ok().and_then(Result::ok);
        }
    }

    /// Whether to try again, after a delay: only if `error` says that sshd had no room, and there is time left.
    pub(super) async fn waits_after(&mut self, error: &AskError) -> bool {
        if !error.is_full() || clock::now() + self.pause >= self.until {
            return false;
        }
        let queue = match &self.queue {
            Some(queue) => Arc::clone(queue),
            None => self.join(),
        };
        *queue.why.lock() = PeerText::new(error);
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(self.startups.limits.max_pause);
        true
    }

    /// Whether sshd was full before, for it or another of its source.
    pub(super) fn has_waited(&self) -> bool {
        self.queue.is_some()
    }

    fn join(&mut self) -> Arc<Queue> {
        let mut queues = self.startups.queues();
        let queue = queues.entry(self.source).or_insert_with(|| {
            Arc::new(Queue {
                turns: Arc::new(Semaphore::new(TRIES_AT_ONCE)),
                why: Mutex::default(),
            })
        });
        Arc::clone(self.queue.insert(Arc::clone(queue)))
    }
}

impl Drop for Startup<'_> {
    fn drop(&mut self) {
        if self.queue.is_none() {
            return;
        }
        let mut queues = self.startups.queues();
        // The references of the map and of this connection.
        if self.queue.take().is_some_and(|queue| Arc::strong_count(&queue) <= 2) {
            queues.remove(&self.source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use tokio::time::timeout;

    const TARGET: std::net::SocketAddr = std::net::SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 22);

    fn dropped(said: &str) -> AskError {
        AskError::Dropped {
            target: TARGET,
            said: said.into(),
        }
    }

    fn source(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    /// Gets in once `is_full` says no; gives how often it tried.
    async fn enter(startups: &Startups, source: IpAddr, is_full: impl Fn() -> bool) -> Result<usize, usize> {
        let mut startup = startups.begin(source);
        for tried in 1.. {
            startup.turn().await;
            if !is_full() {
                return Ok(tried);
            }
            if !startup.waits_after(&dropped("Exceeded MaxStartups")).await {
                return Err(tried);
            }
        }
        unreachable!("it gives up in time")
    }

    const QUICK: RoomLimits = RoomLimits {
        time: Duration::from_secs(5),
        first_pause: Duration::from_millis(5),
        max_pause: Duration::from_millis(20),
    };

    #[tokio::test]
    async fn those_of_a_source_get_in_by_and_by_and_no_other_source_waits() {
        let (startups, room, entered) = (Startups::within(QUICK), Cell::new(0_usize), Cell::new(0));
        let client = |number: u8| {
            let (startups, room, entered) = (&startups, &room, &entered);
            async move {
                let take = || room.get().checked_sub(1).map(|left| room.set(left)).is_none();
                enter(startups, source(number), take).await.unwrap();
                entered.set(entered.get() + 1);
            }
        };
        let crowd = async { tokio::join!(client(1), client(1), client(1), client(1), client(1), client(1)) };
        let sshd = async {
            sleep(QUICK.max_pause * 2).await;
            let why = startups.why(source(1)).expect("they wait");
            assert!(why.contains("Exceeded MaxStartups"), "{why}");
            assert_eq!(startups.why(source(2)), None);
            assert_eq!(enter(&startups, source(2), || false).await, Ok(1));
            for entering in 1..=6 {
                room.set(1);
                while entered.get() < entering {
                    sleep(QUICK.first_pause).await;
                }
            }
        };
        tokio::join!(crowd, sshd);
        assert!(startups.queues().is_empty(), "nobody waits any more");
    }

    #[tokio::test]
    async fn few_of_a_source_try_at_once() {
        let startups = Startups::within(QUICK);
        let mut waiting = Vec::new();
        for _ in 0..2 * TRIES_AT_ONCE {
            let mut startup = startups.begin(source(1));
            assert!(startup.waits_after(&dropped("Exceeded MaxStartups")).await);
            waiting.push(startup);
        }
        let mut first = waiting.drain(..TRIES_AT_ONCE).collect::<Vec<_>>();
        for startup in &mut first {
            startup.turn().await;
        }
        let next = &mut waiting[0];
        assert!(timeout(QUICK.max_pause, next.turn()).await.is_err());
        first.pop();
        next.turn().await;
        assert!(next.turn.is_some());
    }

    #[tokio::test]
    async fn an_sshd_that_stays_full_is_given_up_in_time() {
        let limits = RoomLimits {
            time: Duration::from_millis(200),
            ..QUICK
        };
        let (startups, begun) = (Startups::within(limits), clock::now());
        let tried = enter(&startups, source(1), || true).await.unwrap_err();
        assert!((2..40).contains(&tried), "{tried}");
        assert!(clock::now() - begun > limits.time / 2);
    }

    #[tokio::test]
    async fn other_words_of_sshd_are_no_reason_to_wait() {
        let startups = Startups::default();
        let mut startup = startups.begin(source(1));
        for said in ["Not allowed at this time", ""] {
            assert!(!startup.waits_after(&dropped(said)).await);
        }
        assert!(!startup.has_waited() && startups.queues().is_empty());
    }
}
