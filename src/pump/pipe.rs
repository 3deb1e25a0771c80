//! Reads from and writes to the local pipe, and ends it: ssh sends a signal first, then its last bytes.

use super::{Moved, Pump};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::debug;

/// ssh still writes after SIGHUP (measured: 96 bytes, then EOF).
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the peer has to acknowledge them.
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);

impl<R, W> Pump<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    pub(super) fn write_output(&mut self, cx: &mut Context<'_>, now: Instant) -> Moved {
        let Some(output) = &mut self.output else { return false };
        let session = self.connection.session_mut();
        let readable = session.output();
        if !readable.is_empty() {
            return match Pin::new(output).poll_write(cx, readable) {
                Poll::Pending => false,
                Poll::Ready(Ok(written)) => {
                    session.output_written(written, now);
                    true
                }
                Poll::Ready(Err(error)) => self.handle_broken_output(&error, now),
            };
        }
        if session.is_output_end_due() {
            match Pin::new(output).poll_shutdown(cx) {
                Poll::Pending => false,
                // An error means that the pipe is already gone.
                Poll::Ready(_) => {
                    session.output_ended();
                    self.output = None;
                    true
                }
            }
        } else {
            // Buffered bytes must move on while we wait for more. This also reports a broken pipe during an outage, when nothing
            // is written to it.
            match Pin::new(output).poll_flush(cx) {
                Poll::Ready(Err(error)) => self.handle_broken_output(&error, now),
                Poll::Ready(Ok(())) | Poll::Pending => false,
            }
        }
    }

    /// The pipe accepts no more output. Its remaining input is read first: it often contains the reason.
    fn handle_broken_output(&mut self, error: &io::Error, now: Instant) -> Moved {
        debug!(%error, "pipe takes no more");
        self.shutdown.handle_broken_pipe(error.to_string(), now);
        self.refuse_output();
        true
    }

    pub(super) fn refuse_output(&mut self) {
        self.output = None;
        if self.input.is_none() {
            self.end_input(None);
        }
    }

    pub(super) fn read_input(&mut self, cx: &mut Context<'_>) -> Moved {
        let Some(input) = &mut self.input else { return false };
        let session = self.connection.session_mut();
        if session.peer_close().is_some() {
            self.input = None;
            return true;
        }
        let (held, wanted) = (session.memory_held(), session.input().len());
        let room = self.share.grant(held, wanted, session.input_held());
        if room == 0 {
            return false;
        }
        let mut buffer = ReadBuf::new(&mut session.input()[..room]);
        let read = match Pin::new(input).poll_read(cx, &mut buffer) {
            Poll::Pending => return false,
            Poll::Ready(read) => read.map(|()| buffer.filled().len()),
        };
        match read {
            Ok(len @ 1..) => session.commit_input(len),
            Ok(0) => self.end_input(None),
            Err(error) => self.end_input(Some(&error)),
        }
        true
    }

    /// Ends the input if the time for its last bytes is over.
    pub(super) fn end_drain(&mut self, now: Instant) -> Moved {
        let ends = self.shutdown.is_drain_over(now) && self.input.is_some();
        if ends {
            self.end_input(None);
        }
        ends
    }

    fn end_input(&mut self, error: Option<&io::Error>) {
        self.input = None;
        if let Some(error) = error {
            debug!(%error, "pipe broke");
        }
        let session = self.connection.session_mut();
        match (self.shutdown.why_no_output(), error) {
            (Some(why), _) => session.close(self.pipe_closed, why),
            (None, Some(error)) => session.close(self.pipe_closed, error.to_string()),
            (None, None) => session.finish_input(),
        }
    }
}

/// How a session ends.
pub(super) struct Shutdown {
    input_ends_itself: bool,
    drain_until: Option<Instant>,
    linger_until: Option<Instant>,
    why_no_output: Option<String>,
}

impl Shutdown {
    /// `input_ends_itself`: see [`super::PumpParts`].
    pub(super) fn new(input_ends_itself: bool) -> Shutdown {
        Shutdown {
            input_ends_itself,
            drain_until: None,
            linger_until: None,
            why_no_output: None,
        }
    }

    pub(super) fn handle_hang_up(&mut self, now: Instant) {
        self.drain_until.get_or_insert(now + DRAIN_TIMEOUT);
        self.why_no_output.get_or_insert("ssh has ended".to_owned());
        self.linger_until.get_or_insert(now + DRAIN_TIMEOUT + LINGER_TIMEOUT);
    }

    pub(super) fn handle_broken_pipe(&mut self, why: String, now: Instant) {
        if !self.input_ends_itself {
            self.drain_until.get_or_insert(now + DRAIN_TIMEOUT);
            // The user is gone, so nobody waits for an outage to end.
            self.linger_until.get_or_insert(now + DRAIN_TIMEOUT + LINGER_TIMEOUT);
        }
        self.why_no_output.get_or_insert(why);
    }

    /// Why the pipe accepts no more output; `None` while it does.
    pub(super) fn why_no_output(&self) -> Option<&str> {
        self.why_no_output.as_deref()
    }

    /// Whether the time for the pipe's last bytes is over.
    pub(super) fn is_drain_over(&mut self, now: Instant) -> bool {
        let over = self.drain_until.is_some_and(|until| until <= now);
        if over {
            self.drain_until = None;
        }
        over
    }

    /// Whether the time for the peer's acknowledgement is over.
    pub(super) fn is_linger_over(&self, now: Instant) -> bool {
        self.linger_until.is_some_and(|until| until <= now)
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        [self.drain_until, self.linger_until].into_iter().flatten().min()
    }
}
