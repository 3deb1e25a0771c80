//! What a client has sent on one channel and nobody has taken yet.
//!
//! russh opens a channel's window again as soon as data *arrives*, and its own queue, once full, stops the whole
//! connection: the client's window adjustments too, without which a program that must write before it reads (`cat`)
//! never takes what fills the queue. So channels here have this queue instead. It never waits for its reader; it
//! holds the client back by the one handle russh gives, the size of the next window ([`window`]).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// The window of a channel whose reader keeps up. OpenSSH's own, 64 packets of 32 KiB.
pub(super) const OPEN_WINDOW: u32 = 2 * 1024 * 1024;

/// The window left while some reader of the connection does not keep up.
///
/// russh opens a window when less than half of it is left, and only as data arrives. With 0 it would never open
/// again; with 2 it opens when nothing is left, so two bytes per round trip come to ask anew.
pub(super) const CLOSED_WINDOW: u32 = 2;

/// Bytes held from which on the window is closed.
const HIGH_WATERMARK: usize = 4 * 1024 * 1024;

/// Bytes held at which the window opens again: covers the two round trips that takes, at 40 MB/s and 50 ms.
const LOW_WATERMARK: usize = 2 * 1024 * 1024;

/// Most bytes ever held. HIGH_WATERMARK + 1.5 windows is what a client that obeys them can reach; the rest is for the two
/// bytes per [`CONGESTION_CHECK_INTERVAL`], days of them.
const MAX_QUEUED: usize = 64 * 1024 * 1024;

/// Least time between two questions for a window, so that a closed one costs no CPU on a fast link.
const CONGESTION_CHECK_INTERVAL: Duration = Duration::from_millis(10);

/// Bytes merged into one chunk: what one write to a pipe or socket takes well.
const CHUNK: usize = 32 * 1024;

/// The window russh should give next, when a reader lags (`congested`) or none does.
pub(super) fn window(congested: bool) -> u32 {
    if congested { CLOSED_WINDOW } else { OPEN_WINDOW }
}

/// The client ignores its window; the connection has to end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Overrun {
    pub(super) held: usize,
}

/// The filling end.
#[derive(Default)]
pub(super) struct ChannelQueue {
    queue: Mutex<Queue>,
    filled: Notify,
    drained: Notify,
}

#[derive(Default)]
struct Queue {
    chunks: VecDeque<BytesMut>,
    bytes: usize,
    congested: bool,
    finished: bool,
    discarded: bool,
}

impl ChannelQueue {
    /// Takes what the client sent. Nothing is kept once the reader has gone.
    pub(super) fn push(&self, data: &[u8]) -> Result<(), Overrun> {
        self.with(|queue| queue.push(data))?;
        self.filled.notify_one();
        Ok(())
    }

    /// The client sends no more.
    pub(super) fn finish(&self) {
        self.with(|queue| queue.finished = true);
        self.filled.notify_one();
    }

    pub(super) fn is_congested(&self) -> bool {
        self.with(|queue| queue.congested)
    }

    /// After `received` bytes on a closed window: lets some time pass, or the reader catch up.
    pub(super) async fn pace(&self, received: usize) {
        if received <= CLOSED_WINDOW as usize && self.is_congested() {
            let _ = tokio::time::timeout(CONGESTION_CHECK_INTERVAL, self.drained.notified()).await;
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Queue) -> T) -> T {
        act(&mut self.queue.lock())
    }
}

impl Queue {
    fn push(&mut self, data: &[u8]) -> Result<(), Overrun> {
        if self.discarded || data.is_empty() {
            return Ok(());
        }
        self.bytes += data.len();
        if self.bytes > MAX_QUEUED {
            return Err(Overrun { held: self.bytes });
        }
        self.congested |= self.bytes >= HIGH_WATERMARK;
        match self.chunks.back_mut() {
            Some(last) if last.len() + data.len() <= CHUNK => last.extend_from_slice(data),
            _ => self.chunks.push_back(BytesMut::from(data)),
        }
        Ok(())
    }

    fn pop(&mut self) -> Option<Bytes> {
        let chunk = self.chunks.pop_front()?.freeze();
        self.bytes -= chunk.len();
        self.congested &= self.bytes > LOW_WATERMARK;
        Some(chunk)
    }
}

/// The draining end. Dropping it throws away what is left and whatever still comes.
pub(super) struct QueueReader(Arc<ChannelQueue>);

impl QueueReader {
    pub(super) fn new(queue: Arc<ChannelQueue>) -> QueueReader {
        QueueReader(queue)
    }

    /// The next bytes, never empty; `None` after the client's EOF. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            let (chunk, over, relieved) = self.0.with(|queue| {
                let before = queue.congested;
                let chunk = queue.pop();
                (chunk, queue.finished || queue.discarded, before && !queue.congested)
            });
            if relieved {
                self.0.drained.notify_one();
            }
            if chunk.is_some() || over {
                return chunk;
            }
            self.0.filled.notified().await;
        }
    }

    /// Nobody wants the client's bytes any more; it is not held back for them either.
    pub(super) fn discard(&mut self) {
        self.0.with(|queue| {
            *queue = Queue {
                discarded: true,
                ..Queue::default()
            }
        });
        self.0.drained.notify_one();
    }
}

impl Drop for QueueReader {
    fn drop(&mut self) {
        self.discard();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> (Arc<ChannelQueue>, QueueReader) {
        let queue = Arc::new(ChannelQueue::default());
        (queue.clone(), QueueReader::new(queue))
    }

    #[tokio::test]
    async fn bytes_come_out_in_order_and_then_the_end() {
        let (queue, mut reader) = queue();
        queue.push(b"one ").unwrap();
        queue.push(&[b'x'; CHUNK]).unwrap();
        queue.finish();
        assert_eq!(reader.next().await.unwrap(), "one ");
        assert_eq!(reader.next().await.unwrap().len(), CHUNK);
        assert_eq!(reader.next().await, None);
    }

    #[tokio::test]
    async fn a_lagging_reader_closes_the_window_until_it_has_caught_up() {
        let (queue, mut reader) = queue();
        while !queue.is_congested() {
            queue.push(&[0; CHUNK]).unwrap();
        }
        let mut left = HIGH_WATERMARK;
        while queue.is_congested() {
            left -= reader.next().await.unwrap().len();
        }
        assert_eq!(left, LOW_WATERMARK);
    }

    #[test]
    fn a_client_that_ignores_its_window_is_found_out() {
        let (queue, _reader) = queue();
        let megabyte = vec![0; 1024 * 1024];
        let held = (0..).find_map(|_| queue.push(&megabyte).err()).unwrap();
        assert_eq!(
            held,
            Overrun {
                held: MAX_QUEUED + megabyte.len()
            }
        );
    }

    #[test]
    fn a_reader_that_left_holds_nobody_back() {
        let (queue, reader) = queue();
        queue.push(&vec![0; HIGH_WATERMARK]).unwrap();
        drop(reader);
        assert!(!queue.is_congested());
        assert_eq!(queue.push(&vec![0; MAX_QUEUED + 1]), Ok(()));
    }

    #[test]
    fn single_bytes_share_a_chunk() {
        let (queue, _reader) = queue();
        for _ in 0..CHUNK {
            queue.push(b"k").unwrap();
        }
        assert_eq!(queue.with(|queue| queue.chunks.len()), 1);
    }
}
