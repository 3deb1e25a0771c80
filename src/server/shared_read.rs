//! One reading for all who ask at the same time, none of it older than the question.
//!
//! Whoever asks while a reading is under way waits for the next one: what the present one finds may have been so
//! before the question came.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::sleep_until;

use crate::clock;

/// Shares readings of one thing.
#[derive(Debug)]
pub(super) struct SharedRead<T> {
    interval: Duration,
    /// Held while it is read. Fair: those who wait are served in the order in which they came.
    last: Mutex<Option<Reading<T>>>,
}

/// What was read, and when.
#[derive(Clone, Debug)]
pub(super) struct Reading<T> {
    begun: Instant,
    /// When it was there.
    pub(super) at: Instant,
    pub(super) what: T,
}

impl<T: Clone> SharedRead<T> {
    /// Readings begin at least `interval` apart, however many ask.
    pub(super) fn new(interval: Duration) -> SharedRead<T> {
        SharedRead {
            interval,
            last: Mutex::new(None),
        }
    }

    /// Gives a reading that began after this was called: somebody else's, or that of `read`.
    ///
    /// # Errors
    /// Those of `read`, which are shared with nobody: the next one reads again.
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
