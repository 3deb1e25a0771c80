//! Streams whose every byte is known beforehand: sent at any pace, checked on arrival, watched for silences.

use super::data::Pattern;
use super::{now, wait_for};
use std::io::{ErrorKind, Read, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Shorter ones are no silences: a scheduler's turn.
const SILENCE: Duration = Duration::from_millis(5);

/// How a stream ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By its end.
    Clean,
    /// By an error.
    Broken(ErrorKind),
}

/// One direction, as one of its ends sees it.
pub struct Flow {
    pattern: Pattern,
    seen: Mutex<Seen>,
}

struct Seen {
    bytes: u64,
    wrong: Option<u64>,
    end: Option<End>,
    last: Instant,
    silences: Vec<(Instant, Instant)>,
}

impl Flow {
    /// Nothing has come yet.
    pub fn new(seed: u64) -> Flow {
        Flow {
            pattern: Pattern::new(seed),
            seen: Mutex::new(Seen {
                bytes: 0,
                wrong: None,
                end: None,
                last: now(),
                silences: vec![],
            }),
        }
    }

    /// Reads to the end, and checks every byte.
    pub fn check(&self, reader: impl Read) {
        self.check_slowly(reader, || {});
    }

    /// The same, with a pause before each read.
    pub fn check_slowly(&self, mut reader: impl Read, mut pause: impl FnMut()) {
        let mut buffer = vec![0; 1 << 16];
        let end = loop {
            pause();
            match reader.read(&mut buffer) {
                Ok(0) => break End::Clean,
                Ok(n) => self.take(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => break End::Broken(e.kind()),
            }
        };
        self.seen().end = Some(end);
    }

    /// The next bytes have come.
    pub fn take(&self, bytes: &[u8]) {
        let at = self.bytes();
        let wrong = self.pattern.first_difference(at, bytes);
        let mut seen = self.seen();
        let seen = &mut *seen;
        seen.wrong = seen.wrong.or(wrong);
        seen.bytes += bytes.len() as u64;
        let now = now();
        if now - seen.last >= SILENCE {
            seen.silences.push((seen.last, now));
        }
        seen.last = now;
    }

    /// Writes as many bytes as `next` says, again and again, until it says `None`; it is told how many were sent.
    pub fn send(&self, mut writer: impl Write, mut next: impl FnMut(u64) -> Option<usize>) {
        let mut buffer = vec![];
        let end = loop {
            let at = self.bytes();
            let Some(length) = next(at) else {
                break End::Clean;
            };
            buffer.resize(length, 0);
            self.pattern.fill(at, &mut buffer);
            match writer.write_all(&buffer).and_then(|()| writer.flush()) {
                Ok(()) => self.seen().bytes += length as u64,
                Err(e) => break End::Broken(e.kind()),
            }
        };
        drop(writer);
        self.seen().end = Some(end);
    }

    /// How many bytes have passed.
    pub fn bytes(&self) -> u64 {
        self.seen().bytes
    }

    /// How it ended, once it has.
    pub fn end(&self) -> Option<End> {
        self.seen().end.clone()
    }

    /// Waits for the end.
    pub fn end_within(&self, limit: Duration) -> Option<End> {
        wait_for(limit, || self.end())
    }

    /// The offset of the first wrong byte.
    pub fn wrong(&self) -> Option<u64> {
        self.seen().wrong
    }

    /// How long after `from` nothing came, at the longest, until now.
    pub fn longest_silence_since(&self, from: Instant) -> Duration {
        self.longest_silence(from, now())
    }

    /// The longest silence of those that began before `until` and ended after `from`, as far as it is after `from`.
    pub fn longest_silence(&self, from: Instant, until: Instant) -> Duration {
        let seen = self.seen();
        // It may still last.
        let last = [(seen.last, now())];
        let silences = seen.silences.iter().chain(&last);
        let silences = silences.filter(|(start, end)| *start < until && *end > from);
        silences
            .map(|(start, end)| *end - *start.max(&from))
            .max()
            .unwrap_or_default()
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
