//! A session as one stream, for programs that speak SSH themselves.

use super::{Control, OpenSession};
use crate::pump::Outcome;
use crate::tasks::Tasks;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::oneshot;

/// Bytes between the program and the pump, each way. What lies here is delivered as far as the server half knows.
const BUFFER: usize = 64 * 1024;

/// The client's end of a session. Outages are waited for; reads and writes never see them.
///
/// Dropping it hangs up: what was written is still delivered while the runtime lives (3 s at most).
pub struct ResumableStream {
    pipe: DuplexStream,
    control: Control,
    outcome: oneshot::Receiver<Outcome>,
    /// Ends the session's task with the stream.
    _tasks: Tasks,
}

impl OpenSession {
    /// Runs the session in a task of its own, and gives its other end.
    pub fn into_stream(self) -> ResumableStream {
        let (pipe, far) = tokio::io::duplex(BUFFER);
        let (input, output) = tokio::io::split(far);
        let (told, outcome) = oneshot::channel();
        let control = self.control();
        let tasks = Tasks::new();
        tasks.spawn("session", async move {
            // Nobody may be left to hear how it ended.
            let _ = told.send(self.run(input, output).await);
        });
        ResumableStream {
            pipe,
            control,
            outcome,
            _tasks: tasks,
        }
    }
}

impl ResumableStream {
    /// Looks at the session while it runs.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Ends the session in good order: everything written is delivered first. Gives how it ended.
    pub async fn finish(self) -> Outcome {
        let ResumableStream {
            pipe,
            control,
            outcome,
            _tasks,
        } = self;
        control.hang_up();
        drop(pipe);
        outcome.await.unwrap_or(Outcome::Unfinished)
    }
}

impl AsyncRead for ResumableStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buf)
    }
}

impl AsyncWrite for ResumableStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
