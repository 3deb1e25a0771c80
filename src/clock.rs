//! The only source of the current time: an `Instant` that includes time in suspend.
//!
//! The protocol core takes the time as an argument, and the drivers get it here. Not a wall clock: setting the date
//! has no effect.

use std::{
    future::poll_fn,
    sync::OnceLock,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use self::alarm::Alarm;

/// The current time, including time in suspend.
///
/// `std::time::Instant` stops while a Linux machine is suspended (`CLOCK_MONOTONIC`), so no deadline would pass
/// overnight with the lid closed. On systems without a suspend-aware clock this is `Instant::now()`. Never goes
/// backwards.
pub fn now() -> Instant {
    let origin = origin();
    origin.awake + since_boot().saturating_sub(origin.boot)
}

/// `instant` in milliseconds since boot, including time in suspend (`CLOCK_BOOTTIME`).
///
/// Another process of the same boot can read it with [`from_boot_millis`]. 0 for times before boot.
pub fn to_boot_millis(instant: Instant) -> u64 {
    let origin = origin();
    let since_boot = match instant.checked_duration_since(origin.awake) {
        Some(later) => origin.boot.saturating_add(later),
        None => origin
            .boot
            .saturating_sub(origin.awake.saturating_duration_since(instant)),
    };
    u64::try_from(since_boot.as_millis()).unwrap_or(u64::MAX)
}

/// The `Instant` for a result of [`to_boot_millis`]; the current time if that would lie in the future or has no
/// `Instant`.
pub fn from_boot_millis(millis: u64) -> Instant {
    let (origin, present) = (origin(), now());
    let since_boot = Duration::from_millis(millis);
    let moment = match since_boot.checked_sub(origin.boot) {
        Some(later) => origin.awake.checked_add(later),
        None => origin.awake.checked_sub(origin.boot - since_boot),
    };
    moment.map_or(present, |moment| moment.min(present))
}

/// Total time in suspend since the process first asked for the time, in whole milliseconds.
///
/// If two calls return the same, the machine was not suspended in between.
pub fn slept() -> Duration {
    let origin = origin();
    // The two clocks are read microseconds apart, or further if the thread is preempted. Rounding removes the former,
    // the minimum of several reads the latter.
    let slept = (0..3)
        .map(|_| {
            let awake = awake().saturating_duration_since(origin.awake);
            since_boot().saturating_sub(origin.boot).saturating_sub(awake)
        })
        .min()
        .unwrap_or_default();
    Duration::from_millis((slept + Duration::from_micros(500)).as_millis() as u64)
}

/// Returns at `deadline` on the clock of [`now`], or at once if that has passed.
///
/// If the deadline passes in suspend, returns on wake-up (see [`Timer`]). In the `select!` of a loop keep a [`Timer`]
/// instead: this function creates and drops a descriptor per call. A loop over passed deadlines yields to other tasks
/// (`tokio::task::coop`).
pub async fn sleep_until(deadline: Instant) {
    let mut timer = Timer::new();
    timer.set(Some(deadline));
    poll_fn(|cx| timer.poll(cx)).await;
    tokio::task::coop::consume_budget().await;
}

/// One deadline on the clock of [`now`], which is cheap to move.
///
/// On Linux a `CLOCK_BOOTTIME` timerfd: precise to microseconds instead of tokio's millisecond, and fired by the
/// kernel on wake-up from suspend, unlike tokio's timers. Without timerfd, or without a free descriptor, it is a
/// tokio timer that is checked at least once per second.
///
/// Must be polled inside a tokio runtime with I/O and time enabled, and always in the same one.
#[derive(Debug, Default)]
pub struct Timer {
    deadline: Option<Instant>,
    /// When the alarm fires, if it is armed. May be earlier than the deadline, never later.
    armed: Option<Instant>,
    /// Created at the first poll that has to wait.
    alarm: Option<Alarm>,
}

impl Timer {
    /// A timer without a deadline.
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the deadline; `None` never fires. Poll again afterwards.
    ///
    /// Makes no system call: the kernel is told at the next poll, and of a later deadline only after the earlier one
    /// has fired.
    pub fn set(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// The deadline last set.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Ready from the deadline on, at each poll until another deadline is set.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.deadline else {
            return Poll::Pending;
        };
        loop {
            if now() >= deadline {
                return Poll::Ready(());
            }
            let alarm = self.alarm.get_or_insert_with(Alarm::new);
            if self.armed.is_none_or(|armed| armed > deadline) {
                self.armed = Some(alarm.arm(deadline));
            }
            std::task::ready!(alarm.poll(cx));
            self.armed = None;
        }
    }
}

/// The common origin of both clocks.
struct Origin {
    awake: Instant,
    boot: Duration,
}

fn origin() -> &'static Origin {
    static ORIGIN: OnceLock<Origin> = OnceLock::new();
    ORIGIN.get_or_init(|| Origin {
        awake: awake(),
        boot: since_boot(),
    })
}

#[allow(clippy::disallowed_methods)]
fn awake() -> Instant {
    Instant::now()
}

/// A clock that includes suspend, from an arbitrary origin.
#[cfg(target_os = "linux")]
fn since_boot() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Other systems use the clock of std (on macOS it stops in suspend as well).
#[cfg(not(target_os = "linux"))]
fn since_boot() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(awake).elapsed()
}

/// A tokio timer as an alarm that may fire early.
mod coarse {
    use std::{
        pin::Pin,
        task::{Context, Poll},
        time::{Duration, Instant},
    };

    use tokio::time::Sleep;

    /// tokio's clock stops in suspend; this is how late a deadline that passed in suspend can be noticed.
    const RECHECK: Duration = Duration::from_secs(1);

    #[derive(Debug)]
    pub(super) struct Coarse(Pin<Box<Sleep>>);

    impl Coarse {
        pub(super) fn new() -> Self {
            Self(Box::pin(tokio::time::sleep(RECHECK)))
        }

        /// Returns when it will actually fire.
        pub(super) fn arm(&mut self, deadline: Instant) -> Instant {
            let now = super::now();
            let wait = deadline.saturating_duration_since(now).min(RECHECK);
            self.0.as_mut().reset(tokio::time::Instant::now() + wait);
            now + wait
        }

        pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            self.0.as_mut().poll(cx)
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod alarm {
    pub(super) use super::coarse::Coarse as Alarm;
}

#[cfg(target_os = "linux")]
mod alarm {
    use std::{
        io,
        task::{Context, Poll, ready},
        time::Instant,
    };

    use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
    use tokio::io::Interest;

    use super::coarse::Coarse;
    use crate::descriptor::Pollable;

    #[derive(Debug)]
    pub(super) enum Alarm {
        Kernel(Pollable),
        Coarse(Coarse),
    }

    impl Alarm {
        pub(super) fn new() -> Self {
            match timerfd() {
                Ok(fd) => Self::Kernel(fd),
                Err(error) => {
                    tracing::debug!(%error, "no suspend-aware timer");
                    Self::Coarse(Coarse::new())
                }
            }
        }

        /// Returns when it will actually fire.
        pub(super) fn arm(&mut self, deadline: Instant) -> Instant {
            if let Self::Kernel(fd) = self {
                match settime(fd, deadline) {
                    Ok(()) => return deadline,
                    Err(error) => tracing::warn!(%error, "suspend-aware timer failed"),
                }
                *self = Self::Coarse(Coarse::new());
            }
            match self {
                Self::Kernel(_) => deadline,
                Self::Coarse(coarse) => coarse.arm(deadline),
            }
        }

        /// May be ready early, for a deadline that was armed before; then arm it again.
        pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            match self {
                // The number of expirations need not be read: arming again clears it, and tokio's epoll is
                // edge-triggered. An error means that the runtime is shutting down.
                Self::Kernel(fd) => match ready!(fd.poll_read_ready(cx)) {
                    Ok(mut guard) => {
                        guard.clear_ready();
                        Poll::Ready(())
                    }
                    Err(_) => Poll::Pending,
                },
                Self::Coarse(coarse) => coarse.poll(cx),
            }
        }
    }

    fn timerfd() -> io::Result<Pollable> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = rustix::time::timerfd_create(TimerfdClockId::Boottime, flags)?;
        Pollable::new(fd, Interest::READABLE)
    }

    fn settime(fd: &Pollable, deadline: Instant) -> io::Result<()> {
        let origin = super::origin();
        let boot = origin.boot + deadline.saturating_duration_since(origin.awake);
        // All zeros would disarm it; no deadline of ours is before boot.
        let it_value = Timespec {
            tv_sec: boot.as_secs() as _,
            tv_nsec: boot.subsec_nanos() as _,
        };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::time::timerfd_settime(fd, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval, it_value })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn fired(timer: &mut Timer) -> Instant {
        poll_fn(|cx| timer.poll(cx)).await;
        now()
    }

    fn pending(timer: &mut Timer) -> bool {
        timer
            .poll(&mut Context::from_waker(std::task::Waker::noop()))
            .is_pending()
    }

    #[test]
    fn present_never_goes_backwards() {
        let mut last = now();
        for _ in 0..10_000 {
            let next = now();
            assert!(next >= last);
            last = next;
        }
    }

    #[test]
    fn a_moment_keeps_its_place_in_the_time_since_boot() {
        let present = now();
        for ago in [0, 7, 5_001] {
            let moment = present - Duration::from_millis(ago);
            let read_back = from_boot_millis(to_boot_millis(moment));
            assert!(read_back <= moment && moment - read_back < Duration::from_millis(2));
            assert_eq!(to_boot_millis(read_back), to_boot_millis(moment));
        }
        let ahead = from_boot_millis(u64::MAX);
        assert!(ahead >= present && ahead <= now());
        assert!(from_boot_millis(0) <= present);
    }

    #[test]
    fn machine_that_stays_awake_has_slept_nothing() {
        let before = slept();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(slept(), before);
    }

    #[tokio::test]
    async fn sleep_until_returns_at_its_deadline_and_not_before() {
        let deadline = now() + Duration::from_millis(20);
        sleep_until(deadline).await;
        let late = now().checked_duration_since(deadline).expect("not before its deadline");
        assert!(late < Duration::from_millis(500), "{late:?} late");
    }

    #[tokio::test]
    async fn deadline_in_the_past_is_ready_at_once() {
        let mut timer = Timer::new();
        timer.set(Some(now()));
        assert!(!pending(&mut timer));
    }

    #[tokio::test]
    async fn loop_over_a_deadline_in_the_past_lets_others_run() {
        let mut others = tokio::task::JoinSet::new();
        others.spawn(async {});
        let past = now();
        for _ in 0..10_000 {
            sleep_until(past).await;
        }
        assert!(others.try_join_next().is_some());
    }

    #[tokio::test]
    async fn timer_without_a_deadline_never_fires() {
        let mut timer = Timer::new();
        assert!(pending(&mut timer));
        timer.set(Some(now() + Duration::from_millis(5)));
        assert!(pending(&mut timer));
        timer.set(None);
        let waited = tokio::time::timeout(Duration::from_millis(30), fired(&mut timer)).await;
        assert!(waited.is_err());
    }

    #[tokio::test]
    async fn deadline_can_be_moved_both_ways_while_it_runs() {
        let mut timer = Timer::new();
        let start = now();
        timer.set(Some(start + Duration::from_millis(10)));
        assert!(pending(&mut timer));
        timer.set(Some(start + Duration::from_millis(60)));
        assert!(fired(&mut timer).await >= start + Duration::from_millis(60));

        let start = now();
        timer.set(Some(start + Duration::from_secs(3600)));
        assert!(pending(&mut timer));
        timer.set(Some(start + Duration::from_millis(10)));
        let at = fired(&mut timer).await;
        assert!(at >= start + Duration::from_millis(10) && at < start + Duration::from_secs(60));
    }

    #[tokio::test]
    async fn timer_is_reusable_a_thousand_times_with_one_descriptor() {
        let mut timer = Timer::new();
        for _ in 0..1000 {
            let deadline = now() + Duration::from_micros(200);
            timer.set(Some(deadline));
            assert!(fired(&mut timer).await >= deadline);
        }
    }

    #[tokio::test]
    async fn coarse_alarm_goes_off_early_rather_than_late() {
        let mut alarm = coarse::Coarse::new();
        let start = now();
        assert!(alarm.arm(start + Duration::from_secs(3600)) <= now() + Duration::from_secs(1));
        alarm.arm(start + Duration::from_millis(5));
        poll_fn(|cx| alarm.poll(cx)).await;
        assert!(now() >= start + Duration::from_millis(5));
    }
}
