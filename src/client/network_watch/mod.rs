//! Detects network changes (addresses, routes, links) and wake-up from suspend.
//!
//! An event makes redialing restart at once; it never declares a path dead. A false event costs a few packets, a
//! missed one some seconds.

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

/// Changes within this time after an event cause one more event at its end: joining a Wi-Fi network brings a link,
/// addresses and routes within milliseconds, and the first of them rarely suffices to dial.
const COALESCE_DELAY: Duration = Duration::from_millis(50);

/// How often the clocks are compared. On Linux the timer itself fires on wake-up if it has expired during suspend.
const SLEEP_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Shorter suspends do not break paths.
const MIN_SLEEP: Duration = Duration::from_secs(1);

/// A network event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkEvent {
    /// An address was added or removed, a default route changed, or a link went up or down.
    Network,
    /// The machine woke up from suspend.
    Woke {
        /// Duration of the suspend in whole milliseconds, at least 1 s.
        slept: Duration,
    },
}

/// Watches the network and suspends from its creation on.
#[derive(Debug)]
pub struct NetworkWatch {
    monitor: Option<Monitor>,
    changes: Changes,
    settled: Timer,
    sleep: SleepMeter,
    check: Timer,
}

impl NetworkWatch {
    /// Never fails. If the system does not report changes, there are no [`NetworkEvent::Network`] events.
    ///
    /// Must be called in a tokio runtime with I/O and time enabled.
    pub fn new() -> Self {
        let monitor = Monitor::new()
            .inspect_err(|error| tracing::debug!(%error, "cannot watch the network; changes are detected late"));
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

    /// Waits for the next event. The first is reported at once, those within the next 50 ms as one.
    ///
    /// Cancel safe.
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
                    tracing::debug!(%error, "network watch failed");
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

/// Coalesces changes: whether an event is due, and when.
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

/// Detects suspends by the difference between two clocks.
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
