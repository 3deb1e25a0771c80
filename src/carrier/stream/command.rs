//! A program's standard input and output as a byte stream: `nc`, `ssh -W`, or any other tunnel.

use super::command_line::CommandLine;
use crate::tasks::Tasks;
use crate::transport::Duplex;
use crate::wire::{PeerText, Quoting};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How much of a program's standard error is kept: the last bytes.
const STDERR_TAIL_BYTES: usize = 512;
/// Time between SIGTERM and SIGKILL.
const KILL_DELAY: Duration = Duration::from_secs(2);
/// Wait for standard error after the program has closed its output.
const STDERR_DELAY: Duration = Duration::from_millis(200);

/// A program did not lead to a server half.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program could not be started.
    #[error("cannot run {program}")]
    Start {
        /// The program.
        program: String,
        /// The error of the system call.
        #[source]
        source: io::Error,
    },
    /// The program ran, and the TLS handshake through it failed.
    #[error("{program} did not lead to a server half{said}")]
    Failed {
        /// The program.
        program: String,
        /// The end of its standard error, in brackets; empty if there is none.
        said: PeerText,
        /// The error of the TLS handshake.
        source: Quoting<io::Error>,
    },
}

impl CommandLine {
    /// Runs the program, which ends with the stream.
    ///
    /// # Errors
    /// `Start`.
    pub fn run(&self) -> Result<CommandStream, CommandError> {
        let failed = |source| CommandError::Start {
            program: self.name().to_owned(),
            source,
        };
        let mut command = Command::new("sh");
        command.arg("-c").arg(self.text()).kill_on_drop(true);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: one system call between fork and exec. The new session has no controlling
        // terminal.
        #[allow(unsafe_code)]
        unsafe {
            command.pre_exec(|| rustix::process::setsid().map(|_| ()).map_err(io::Error::from));
        }
        let mut child = command.spawn().map_err(failed)?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed(io::ErrorKind::BrokenPipe.into()));
        };
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let running = Group {
            leader: child,
            id: group,
        };
        let stop = CancellationToken::new();
        let stderr_tail = Arc::new(Mutex::new(Vec::new()));
        let tasks = Tasks::new();
        tasks.spawn("command", end(running, stop.clone()));
        tasks.spawn("command's errors", listen(stderr, Arc::clone(&stderr_tail)));
        // Both tasks end when the program has ended.
        tasks.detach();
        Ok(CommandStream {
            stdin: Some(stdin),
            stdout,
            stderr_tail,
            group,
            stop,
        })
    }
}

/// A program and its children. The group is killed at the latest before its leader is waited for:
/// until then the process group id cannot be reused.
struct Group {
    leader: Child,
    /// `None` once it was killed.
    id: Option<Pid>,
}

impl Group {
    fn kill(&mut self) {
        signal(self.id.take(), Signal::KILL);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The runtime ends, so there is no time for SIGTERM, and the children would otherwise keep
        // running.
        self.kill();
    }
}

/// Ends the program after `stop`.
async fn end(mut running: Group, stop: CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(KILL_DELAY).await;
    running.kill();
    let ended = running.leader.wait().await;
    debug!(?ended, "the command has ended");
}

fn signal(group: Option<Pid>, signal: Signal) {
    // The group may be gone already.
    let _ = group.map(|group| kill_process_group(group, signal));
}

async fn listen(mut stderr: ChildStderr, stderr_tail: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 1024];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        let mut words = stderr_tail.lock();
        words.extend_from_slice(&buffer[..read]);
        let beyond = words.len().saturating_sub(STDERR_TAIL_BYTES);
        words.drain(..beyond);
    }
}

/// A running program as a byte stream. When it is dropped, its process group gets SIGTERM, and
/// SIGKILL after 2 s or when the runtime ends.
pub struct CommandStream {
    /// `None` once our direction was shut down.
    stdin: Option<ChildStdin>,
    stdout: ChildStdout,
    stderr_tail: Arc<Mutex<Vec<u8>>>,
    group: Option<Pid>,
    stop: CancellationToken,
}

impl Drop for CommandStream {
    fn drop(&mut self) {
        // Immediately: the runtime may end before a task runs.
        signal(self.group, Signal::TERM);
        self.stop.cancel();
    }
}

/// The end of a program's standard error, for error messages.
#[derive(Clone)]
pub struct StderrTail(Arc<Mutex<Vec<u8>>>);

impl CommandStream {
    /// Access to its standard error.
    pub fn stderr_tail(&self) -> StderrTail {
        StderrTail(Arc::clone(&self.stderr_tail))
    }
}

impl StderrTail {
    /// The text so far, in brackets and escaped; empty if there is none.
    pub async fn quoted(&self) -> PeerText {
        tokio::time::sleep(STDERR_DELAY).await;
        let words = self.0.lock();
        let text = String::from_utf8_lossy(&words);
        let text = text.trim();
        match text.is_empty() {
            true => PeerText::default(),
            false => PeerText::new(format_args!(" (it said: {text})")),
        }
    }
}

impl Duplex for CommandStream {}

impl AsyncRead for CommandStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(cx, buffer)
    }
}

impl AsyncWrite for CommandStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stdin {
            Some(stdin) => Pin::new(stdin).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// The program sees the end of its input.
    fn poll_shutdown(mut self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stdin = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn line(text: &str) -> CommandLine {
        CommandLine::expand(text, "build", 443).unwrap()
    }

    /// A child that prints its id and ignores SIGTERM.
    const STUBBORN: &str = "(trap '' TERM; sh -c 'echo $PPID'; sleep 1000) & wait";

    async fn read_id(stream: &mut CommandStream) -> String {
        let mut text = [0; 32];
        let read = stream.read(&mut text).await.unwrap();
        String::from_utf8_lossy(&text[..read]).trim().to_owned()
    }

    async fn ended(id: &str) {
        let program = std::path::PathBuf::from(format!("/proc/{id}/exe"));
        let gone = async {
            while program.exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone)
            .await
            .expect("ended in time");
    }

    #[tokio::test]
    async fn bytes_go_through_a_program_and_a_half_close_ends_its_input() {
        let mut stream = line("tr a-z A-Z; echo done").run().unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "HELLOdone\n");
    }

    #[tokio::test]
    async fn what_a_program_says_on_standard_error_is_kept_for_the_message() {
        let mut stream = line("echo no such %h >&2").run().unwrap();
        let words = stream.stderr_tail();
        stream.read_to_string(&mut String::new()).await.unwrap();
        assert_eq!(words.quoted().await, " (it said: no such build)");
    }

    #[tokio::test]
    async fn a_program_and_its_children_end_with_the_stream() {
        let mut stream = line(STUBBORN).run().unwrap();
        let id = read_id(&mut stream).await;
        drop(stream);
        ended(&id).await;
    }

    #[test]
    fn program_that_ignores_sigterm_is_killed_when_the_runtime_ends() {
        let runtime = || {
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_all().build().unwrap()
        };
        let first = runtime();
        let id = first.block_on(async {
            let mut stream = line(STUBBORN).run().unwrap();
            read_id(&mut stream).await
        });
        // As `bowline proxy` ends its runtime.
        first.shutdown_background();
        runtime().block_on(ended(&id));
    }
}
