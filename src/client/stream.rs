//! A session as one stream, for programs that speak SSH themselves.

use super::{Control, OpenSession};
use crate::pump::Outcome;
use crate::tasks::Tasks;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::watch;

/// Bytes between the program and the pump, each way. What lies here is delivered as far as the server half knows.
const BUFFER: usize = 64 * 1024;

/// The client's end of a session. Outages are waited for; reads and writes never see them.
///
/// Dropping it hangs up: what was written is still delivered while the runtime lives (3 s at most), which
/// [`ResumableStream::outcome`] waits for.
pub struct ResumableStream {
    pipe: DuplexStream,
    outcome: watch::Receiver<Option<Outcome>>,
    running: Running,
}

/// The session's task. It ends by itself once its pipe is closed, and must have the time for it.
struct Running {
    control: Control,
    tasks: Option<Tasks>,
}

impl OpenSession {
    /// Runs the session in a task of its own, and gives its other end.
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
    /// Looks at the session while it runs.
    pub fn control(&self) -> Control {
        self.running.control.clone()
    }

    /// Waits until the session is over, and gives how it ended. It does not need the stream, which may belong to
    /// somebody else by then.
    pub fn outcome(&self) -> impl Future<Output = Outcome> + Send + use<> {
        let mut outcome = self.outcome.clone();
        async move {
            let told = outcome.wait_for(Option::is_some).await.ok();
            // A session that nobody tells the end of ended with its runtime.
            told.and_then(|told| told.clone()).unwrap_or(Outcome::Unfinished)
        }
    }

    /// Ends the session in good order: everything written is delivered first. Gives how it ended.
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
            tasks.let_end();
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
