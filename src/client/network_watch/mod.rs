//! Hints that the network changed: addresses, routes, links, wake from sleep.
//!
//! Only hints: a hint makes redialling start over at once, it never declares a path dead. So one too many costs a
//! few packets, one too few some seconds.

#[cfg(target_os = "linux")]
mod network_state;
#[cfg(target_os = "linux")]
mod rtnetlink;
#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;

#[cfg(not(target_os = "linux"))]
use self::elsewhere::Monitor;
#[cfg(target_os = "linux")]
use self::rtnetlink::Monitor;

use std::{
    future::poll_fn,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use crate::clock::{self, Timer};

/// Changes within this time after a hint make one more hint, at its end: a new Wi-Fi brings a link, addresses and
/// routes within some milliseconds of each other, and the first of them rarely suffices to dial.
const COALESCE_DELAY: Duration = Duration::from_millis(50);

/// How often the clocks are compared. On Linux the timer fires on wake itself if this much has passed asleep.
const SLEEP_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Shorter sleeps cost no path.
const MIN_SLEEP: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkEvent {
    /// An address was added or removed, a default route changed, or a link went up or down.
    Network,
    /// The machine was suspended.
    Woke {
        /// For how long, in whole milliseconds; at least a second.
        slept: Duration,
    },
}

/// Watches the network and the machine's sleep from the moment it is made.
#[derive(Debug)]
pub struct NetworkWatch {
    monitor: Option<Monitor>,
    changes: Changes,
    settled: Timer,
    sleep: SleepMeter,
    check: Timer,
}

impl NetworkWatch {
    /// Never fails: where the system does not tell of changes there are no [`NetworkEvent::Network`]s.
    ///
    /// Must be called in a tokio runtime with I/O and time enabled.
    pub fn new() -> Self {
        let monitor = Monitor::new()
            .inspect_err(|error| tracing::debug!(%error, "cannot watch the network: its changes will be noticed late"));
        let mut check = Timer::new();
        check.set(Some(clock::now() + SLEEP_CHECK_INTERVAL));
        Self {
            monitor: monitor.ok(),
            changes: Changes::default(),
            settled: Timer::new(),
            sleep: SleepMeter { seen: clock::slept() },
            check,
        }
    }

    /// The next hint. The first one is told at once, those that follow within 50 ms as one.
    ///
    /// Cancel safe. Pending for as long as nothing happens.
    pub async fn changed(&mut self) -> NetworkEvent {
        poll_fn(|cx| self.poll_changed(cx)).await
    }

    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<NetworkEvent> {
        while self.check.poll(cx).is_ready() {
            self.check.set(Some(clock::now() + SLEEP_CHECK_INTERVAL));
            if let Some(slept) = self.sleep.observe(clock::slept()) {
                return Poll::Ready(NetworkEvent::Woke { slept });
            }
        }
        self.read_monitor(cx);
        self.settled.set(self.changes.due());
        self.settled.poll(cx).map(|()| {
            self.changes.told(clock::now());
            NetworkEvent::Network
        })
    }

    fn read_monitor(&mut self, cx: &mut Context<'_>) {
        while let Some(monitor) = &mut self.monitor {
            match monitor.poll_change(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) => self.changes.note(clock::now()),
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "the network can no longer be watched");
                    self.monitor = None;
                }
            }
        }
    }
}

impl Default for NetworkWatch {
    fn default() -> Self {
        Self::new()
    }
}

/// Which changes have not been told yet, and when to.
#[derive(Debug, Default)]
struct Changes {
    due: Option<Instant>,
    quiet_until: Option<Instant>,
}

impl Changes {
    fn note(&mut self, now: Instant) {
        self.due
            .get_or_insert(self.quiet_until.map_or(now, |until| until.max(now)));
    }

    fn due(&self) -> Option<Instant> {
        self.due
    }

    fn told(&mut self, now: Instant) {
        self.due = None;
        self.quiet_until = Some(now + COALESCE_DELAY);
    }
}

/// Notices sleep by what the clock of all sleep has gained.
#[derive(Debug)]
struct SleepMeter {
    seen: Duration,
}

impl SleepMeter {
    fn observe(&mut self, slept: Duration) -> Option<Duration> {
        let gained = slept.saturating_sub(self.seen);
        if gained < MIN_SLEEP {
            return None;
        }
        self.seen = slept;
        Some(gained)
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::{
        io,
        task::{Context, Poll},
    };

    #[derive(Debug)]
    pub(super) enum Monitor {}

    impl Monitor {
        pub(super) fn new() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn poll_change(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            match *self {}
        }
    }
}
