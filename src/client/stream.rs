//! A session as one async stream, for programs with an SSH library of their own.

use super::{Control, OpenSession};
use crate::pump::Outcome;
use crate::tasks::Tasks;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::watch;

/// Buffer size between the program and the pump, in each direction. The server half counts bytes in it as delivered.
const BUFFER: usize = 64 * 1024;

/// The client's end of a session. During an outage reads and writes wait; they do not fail.
///
/// Dropping it closes the session: written bytes are still delivered while the runtime lives, for up to 3 s;
/// [`ResumableStream::outcome`] waits for that.
pub struct ResumableStream {
    pipe: DuplexStream,
    outcome: watch::Receiver<Option<Outcome>>,
    running: Running,
}

/// The session's task. It ends by itself after its pipe is closed, and must not be aborted before.
struct Running {
    control: Control,
    tasks: Option<Tasks>,
}

impl OpenSession {
    /// Runs the session in a task, and returns its other end.
    pub fn into_stream(self) -> ResumableStream {
        let (pipe, far) = tokio::io::duplex(BUFFER);
        let (input, output) = tokio::io::split(far);
        let (told, outcome) = watch::channel(None);
        let control = self.control();
        let tasks = Tasks::new();
        tasks.spawn("session", async move {
            told.send_replace(Some(self.run(input, output).await));
        });
        let tasks = Some(tasks);
        ResumableStream {
            pipe,
            outcome,
            running: Running { control, tasks },
        }
    }
}

impl ResumableStream {
    /// A handle of the session while it runs.
    pub fn control(&self) -> Control {
        self.running.control.clone()
    }

    /// Waits until the session has ended, and returns how. Does not need the stream, which may be owned elsewhere by
    /// then.
    pub fn outcome(&self) -> impl Future<Output = Outcome> + Send + use<> {
        let mut outcome = self.outcome.clone();
        async move {
            let told = outcome.wait_for(Option::is_some).await.ok();
            // If the runtime ended first, nobody reports an outcome.
            told.and_then(|told| told.clone()).unwrap_or(Outcome::Unfinished)
        }
    }

    /// Closes the session after all written bytes are delivered, and returns how it ended.
    pub async fn finish(self) -> Outcome {
        let outcome = self.outcome();
        drop(self);
        outcome.await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.control.hang_up();
        if let Some(tasks) = self.tasks.take() {
            tasks.detach();
        }
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
