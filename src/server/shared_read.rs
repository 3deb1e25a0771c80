//! One read for all who ask at the same time, never older than the question.
//!
//! If a read is in progress, a caller waits for the next one: the current one may return a state from before the
//! question.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::sleep_until;

use crate::clock;

/// Shares reads of one thing.
#[derive(Debug)]
pub(super) struct SharedRead<T> {
    interval: Duration,
    /// Locked during a read. Fair: waiting callers are served in order.
    last: Mutex<Option<Reading<T>>>,
}

/// A result and its times.
#[derive(Clone, Debug)]
pub(super) struct Reading<T> {
    begun: Instant,
    /// When the read had ended.
    pub(super) at: Instant,
    pub(super) what: T,
}

impl<T: Clone> SharedRead<T> {
    /// Reads start at least `interval` apart, however many callers there are.
    pub(super) fn new(interval: Duration) -> SharedRead<T> {
        SharedRead {
            interval,
            last: Mutex::new(None),
        }
    }

    /// Returns the result of a read that started after this call: another caller's, or that of `read`.
    ///
    /// # Errors
    /// The errors of `read`. They are not shared: the next caller reads again.
    pub(super) async fn get<E>(&self, read: impl Future<Output = Result<T, E>>) -> Result<Reading<T>, E> {
        let asked = clock::now();
        let mut last = self.last.lock().await;
        if let Some(reading) = &*last {
            if reading.begun >= asked {
                return Ok(reading.clone());
            }
            sleep_until((reading.begun + self.interval).into()).await;
        }
        let begun = clock::now();
        let what = read.await?;
        let at = clock::now();
        Ok(last.insert(Reading { begun, at, what }).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::convert::Infallible;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn those_who_come_during_a_reading_share_the_next_one() {
        let shared = SharedRead::new(Duration::ZERO);
        let (reads, begun, go_on) = (Cell::new(0), Notify::new(), Notify::new());
        let read = || async {
            reads.set(reads.get() + 1);
            begun.notify_one();
            go_on.notified().await;
            Ok::<_, Infallible>(reads.get())
        };
        let late = async {
            begun.notified().await;
            let latecomers = async { tokio::join!(shared.get(read()), shared.get(read()), shared.get(read())) };
            let readings = async {
                go_on.notify_one();
                begun.notified().await;
                go_on.notify_one();
            };
            let ((one, other, third), ()) = tokio::join!(latecomers, readings);
            [one, other, third].map(|reading| reading.unwrap().what)
        };
        let (first, late) = tokio::join!(shared.get(read()), late);
        assert_eq!((first.unwrap().what, late), (1, [2; 3]));
    }

    #[tokio::test]
    async fn readings_begin_an_interval_apart_and_a_failed_one_is_nobodys() {
        let interval = Duration::from_millis(50);
        let shared = SharedRead::new(interval);
        let failed = shared.get(async { Err::<u8, _>("down") }).await;
        assert_eq!(failed.err(), Some("down"));
        let one = shared.get(async { Ok::<u8, &str>(1) }).await.unwrap();
        let two = shared.get(async { Ok::<u8, &str>(2) }).await.unwrap();
        assert_eq!((one.what, two.what), (1, 2));
        assert!(two.begun.saturating_duration_since(one.begun) >= interval);
    }
}
