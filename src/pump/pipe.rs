//! The pump's side of the local pipe: what it gives and takes, and how it ends.

use super::{Moved, Pump};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::debug;

impl<R, W> Pump<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    pub(super) fn write_output(&mut self, cx: &mut Context<'_>, now: Instant) -> Moved {
        let Some(output) = &mut self.output else { return false };
        let readable = self.session.output();
        if !readable.is_empty() {
            return match Pin::new(output).poll_write(cx, readable) {
                Poll::Pending => false,
                Poll::Ready(Ok(written)) => {
                    self.session.output_written(written, now);
                    true
                }
                Poll::Ready(Err(error)) => self.handle_broken_output(&error, now),
            };
        }
        if self.session.is_output_end_due() {
            match Pin::new(output).poll_shutdown(cx) {
                Poll::Pending => false,
                // A pipe that is already gone has also been told.
                Poll::Ready(_) => {
                    self.session.output_ended();
                    self.output = None;
                    true
                }
            }
        } else {
            // Whatever buffers below us passes its bytes on while we wait for more. A pipe that nobody reads any more says so
            // here, if it can: in an outage nothing comes that could be written to it.
            match Pin::new(output).poll_flush(cx) {
                Poll::Ready(Err(error)) => self.handle_broken_output(&error, now),
                Poll::Ready(Ok(())) | Poll::Pending => false,
            }
        }
    }

    /// The pipe takes no more. What it still says is read first: its last words are often why it left.
    fn handle_broken_output(&mut self, error: &io::Error, now: Instant) -> Moved {
        debug!(%error, "pipe takes no more");
        self.ending.handle_broken_pipe(error.to_string(), now);
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
        if self.session.peer_close().is_some() {
            self.input = None;
            return true;
        }
        let (held, wanted) = (self.session.memory_held(), self.session.input().len());
        let room = self.share.grant(held, wanted, self.session.input_held());
        if room == 0 {
            return false;
        }
        let mut buffer = ReadBuf::new(&mut self.session.input()[..room]);
        let read = match Pin::new(input).poll_read(cx, &mut buffer) {
            Poll::Pending => return false,
            Poll::Ready(read) => read.map(|()| buffer.filled().len()),
        };
        match read {
            Ok(len @ 1..) => self.session.commit_input(len),
            Ok(0) => self.end_input(None),
            Err(error) => self.end_input(Some(&error)),
        }
        true
    }

    /// Ends a pipe that takes nothing more and had its time to say more.
    pub(super) fn end_drain(&mut self, now: Instant) -> Moved {
        let ends = self.ending.is_drain_over(now) && self.input.is_some();
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
        match (self.ending.why_no_output(), error) {
            (Some(why), _) => self.session.close(self.pipe_closed, why),
            (None, Some(error)) => self.session.close(self.pipe_closed, error.to_string()),
            (None, None) => self.session.finish_input(),
        }
    }
}
