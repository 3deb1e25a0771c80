//! Copies bytes between two streams in both directions.
//!
//! Each direction buffers at most 16 KiB, and only while the writer is slow: idle splices and
//! splices whose writer keeps up hold no buffer and no timer. A half-close is forwarded. The
//! content is not inspected.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::windows::{StalledStream, Windows};
use crate::fault;

/// Largest read, and therefore the most bytes that wait for the writer, per direction.
pub(super) const BUFFER: usize = 16 * 1024;

/// A splice yields to others after this many buffers.
const MAX_BUFFERS_PER_POLL: usize = 32;

thread_local! {
    /// The read buffer, shared by all splices of a thread: bytes are usually written before the
    /// next read.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER]);
}

/// Accounting for the bytes of one direction.
#[derive(Clone, Copy)]
pub(super) struct Meter<'a> {
    /// Byte counters: the relay's, and that of this splice.
    pub(super) counts: [&'a AtomicU64; 2],
    /// Flow-control windows of the source and the destination, if these are QUIC connections.
    pub(super) from: Option<&'a Windows>,
    pub(super) to: Option<&'a Windows>,
    /// Set if other streams share the source's connection.
    pub(super) stalled: Option<&'a StalledStream>,
}

impl Meter<'_> {
    fn handle_read(&self, bytes: usize) {
        for count in self.counts {
            count.fetch_add(bytes as u64, Relaxed);
        }
        if let Some(windows) = self.from {
            windows.handle_read(bytes as u64);
        }
    }

    fn handle_written(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        if let Some(windows) = self.to {
            windows.handle_written(bytes as u64);
        }
        if let Some(stalled) = self.stalled {
            stalled.handle_transferred();
        }
    }

    fn handle_blocked(&self) {
        if let Some(stalled) = self.stalled {
            stalled.handle_blocked();
        }
    }
}

/// Copies bytes in both directions until both have ended. `up` accounts for bytes from `near`,
/// `down` for bytes from `far`.
///
/// # Errors
/// Either stream failed.
pub(super) async fn copy_bidirectional<A, B>(
    near: &mut A,
    far: &mut B,
    up: Meter<'_>,
    down: Meter<'_>,
) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut forth, mut back) = (Direction::default(), Direction::default());
    poll_fn(|cx| {
        let forth = forth.poll(cx, near, far, up)?;
        let back = back.poll(cx, far, near, down)?;
        match (forth, back) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
    .await
}

#[derive(Default)]
struct Direction {
    /// Read, and not yet written.
    waiting: BytesMut,
    has_ended: bool,
    is_shut: bool,
    /// The writer may hold bytes that need a flush.
    is_unflushed: bool,
}

impl Direction {
    /// Ready once the end of the stream was forwarded.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        meter: Meter<'_>,
    ) -> Result<Poll<()>, io::Error>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..MAX_BUFFERS_PER_POLL {
            match self.poll_step(cx, from, to, meter) {
                Poll::Ready(Ok(true)) => return Ok(Poll::Ready(())),
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        cx.waker().wake_by_ref();
        Ok(Poll::Pending)
    }

    /// `true` once the direction has ended; `false` if there may be more to do immediately.
    fn poll_step<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        meter: Meter<'_>,
    ) -> Poll<io::Result<bool>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        if self.is_shut {
            return Poll::Ready(Ok(true));
        }
        while !self.waiting.is_empty() {
            let Poll::Ready(taken) = Pin::new(&mut *to).poll_write(cx, &self.waiting) else {
                meter.handle_blocked();
                return Poll::Pending;
            };
            let taken = written(taken)?;
            meter.handle_written(taken);
            self.waiting.advance(taken);
        }
        // Freed, because most splices are idle.
        self.waiting = BytesMut::new();
        if self.has_ended {
            ready!(Pin::new(to).poll_shutdown(cx))?;
            self.is_shut = true;
            return Poll::Ready(Ok(true));
        }
        match self.poll_pass_on(cx, from, to, meter) {
            Poll::Pending if self.is_unflushed => {
                ready!(Pin::new(to).poll_flush(cx))?;
                self.is_unflushed = false;
                Poll::Pending
            }
            passed => passed.map_ok(|()| false),
        }
    }

    fn poll_pass_on<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        meter: Meter<'_>,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
            let read = buffer.filled();
            if read.is_empty() {
                self.has_ended = true;
                return Poll::Ready(Ok(()));
            }
            meter.handle_read(read.len());
            self.is_unflushed = true;
            if let Some(tampered) = fault::tamper(read) {
                self.waiting.extend_from_slice(&tampered);
                return Poll::Ready(Ok(()));
            }
            let taken = match Pin::new(to).poll_write(cx, read) {
                Poll::Ready(result) => written(result)?,
                Poll::Pending => 0,
            };
            meter.handle_written(taken);
            self.waiting.extend_from_slice(&read[taken..]);
            Poll::Ready(Ok(()))
        })
    }
}

fn written(result: io::Result<usize>) -> io::Result<usize> {
    match result? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        taken => Ok(taken),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    struct Ends {
        near: DuplexStream,
        far: DuplexStream,
        spliced: tokio::task::JoinSet<(io::Result<()>, u64, u64)>,
    }

    fn spliced(room: usize) -> Ends {
        let ((near, mut one), (mut two, far)) = (duplex(room), duplex(room));
        let mut task = tokio::task::JoinSet::new();
        task.spawn(async move {
            let counts = [const { AtomicU64::new(0) }; 4];
            let [up, all_up, down, all_down] = &counts;
            let meter = |one, other| Meter {
                counts: [one, other],
                from: None,
                to: None,
                stalled: None,
            };
            let ended = copy_bidirectional(&mut one, &mut two, meter(up, all_up), meter(down, all_down)).await;
            let [up, all_up, down, all_down] = counts.map(AtomicU64::into_inner);
            assert_eq!((up, down), (all_up, all_down));
            (ended, up, down)
        });
        Ends {
            near,
            far,
            spliced: task,
        }
    }

    #[tokio::test]
    async fn half_close_is_forwarded_and_the_other_direction_continues() {
        let mut ends = spliced(1000);
        ends.near.write_all(b"request").await.unwrap();
        ends.near.shutdown().await.unwrap();
        let mut request = String::new();
        ends.far.read_to_string(&mut request).await.unwrap();
        assert_eq!(request, "request");
        ends.far.write_all(b"answer").await.unwrap();
        ends.far.shutdown().await.unwrap();
        let mut answer = String::new();
        ends.near.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        let (ended, up, down) = ends.spliced.join_next().await.unwrap().unwrap();
        ended.unwrap();
        assert_eq!((up, down), (7, 6));
    }

    #[tokio::test]
    async fn everything_arrives_in_order_through_small_buffers() {
        let Ends {
            near,
            far,
            spliced: _running,
        } = spliced(7);
        let sent: Vec<u8> = (0..500_000u32).flat_map(u32::to_le_bytes).take(300_000).collect();
        let (mut read_near, mut write_near) = tokio::io::split(near);
        let (mut read_far, mut write_far) = tokio::io::split(far);
        let (mut there, mut back) = (Vec::new(), Vec::new());
        let forth = async {
            write_near.write_all(&sent).await.unwrap();
            write_near.shutdown().await.unwrap();
        };
        let echo = async {
            let mut buffer = [0; 4096];
            loop {
                let read = read_far.read(&mut buffer).await.unwrap();
                there.extend_from_slice(&buffer[..read]);
                write_far.write_all(&buffer[..read]).await.unwrap();
                if read == 0 {
                    break write_far.shutdown().await.unwrap();
                }
            }
        };
        let returned = async { read_near.read_to_end(&mut back).await.unwrap() };
        tokio::join!(forth, echo, returned);
        assert!(there == sent && back == sent);
    }

    #[tokio::test]
    async fn blocked_writer_makes_at_most_one_buffer_wait() {
        let mut ends = spliced(1);
        let chunk = vec![1; 16 * 1024];
        let mut sent = 0;
        // Each pipe holds one byte.
        let flood = async {
            loop {
                sent += ends.near.write(&chunk).await.unwrap();
            }
        };
        assert!(
            tokio::time::timeout(std::time::Duration::from_millis(100), flood)
                .await
                .is_err()
        );
        assert!(sent <= BUFFER + 2, "{sent} bytes wait");
    }

    #[tokio::test]
    async fn failure_of_one_stream_ends_both() {
        let mut ends = spliced(1000);
        drop(ends.far);
        ends.near.write_all(b"into the void").await.unwrap();
        let (ended, ..) = ends.spliced.join_next().await.unwrap().unwrap();
        assert!(ended.is_err());
    }
}
