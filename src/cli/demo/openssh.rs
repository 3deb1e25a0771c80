//! The real `ssh`, with this program as its ProxyCommand.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::process::{Child, Command};

use super::DemoError;
use super::fixture::{Fixture, HOST};
use super::ssh_client::{Remote, RemoteProcess};
use crate::cli::ssh::proxy_option;
use crate::descriptor::Pollable;

/// How long ssh may take to end once the remote program has.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A proxy whose ssh was killed, and the demo with it, gives up after this long.
const PROXY_PATIENCE: &str = "10m";

/// A running `ssh` and its proxy. Both are killed when it is dropped before its end.
pub(super) struct SshProcess {
    child: Child,
    /// ssh leads a process group that its proxy is in.
    group: Option<Pid>,
    stderr: Option<PathBuf>,
    terminal: Option<Arc<Pollable>>,
}

/// Starts `ssh HOST COMMAND`.
pub(super) fn run(fixture: &Fixture, command: &str) -> Result<Remote, DemoError> {
    static STARTED: AtomicU32 = AtomicU32::new(0);
    let stderr = fixture
        .folder
        .path(&format!("ssh-{}.log", STARTED.fetch_add(1, Ordering::Relaxed)));
    let file = File::create(&stderr).map_err(|source| DemoError::File {
        path: stderr.clone(),
        source,
    })?;
    let mut ssh = ssh(fixture)?;
    // A Ctrl-C is for the demo, which then ends its children in order.
    ssh.process_group(0);
    ssh.args(["-T", HOST, command]);
    ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(file);
    let mut child = ssh.spawn().map_err(DemoError::Ssh)?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    Ok(Remote {
        input: Box::new(input.expect("stdin is piped")),
        output: Box::new(output.expect("stdout is piped")),
        process: RemoteProcess::OpenSsh(SshProcess {
            child,
            group,
            stderr: Some(stderr),
            terminal: None,
        }),
    })
}

/// Starts `ssh -tt HOST` on a terminal of its own, between which and the user's the demo stands.
pub(super) fn shell(fixture: &Fixture, size: Winsize) -> Result<Remote, DemoError> {
    let (ours, theirs) = open_terminal(size).map_err(DemoError::Terminal)?;
    let share = || theirs.try_clone().map(Stdio::from).map_err(DemoError::Terminal);
    let mut ssh = ssh(fixture)?;
    ssh.process_group(0);
    ssh.args(["-tt", HOST]);
    ssh.stdin(share()?).stdout(share()?).stderr(share()?);
    let child = ssh.spawn().map_err(DemoError::Ssh)?;
    let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    let ours = Pollable::new(ours, Interest::READABLE | Interest::WRITABLE).map_err(DemoError::Terminal)?;
    let ours = Arc::new(ours);
    Ok(Remote {
        input: Box::new(Terminal(Arc::clone(&ours))),
        output: Box::new(Terminal(Arc::clone(&ours))),
        process: RemoteProcess::OpenSsh(SshProcess {
            child,
            group,
            stderr: None,
            terminal: Some(ours),
        }),
    })
}

impl SshProcess {
    /// Waits for its end.
    pub(super) async fn wait(mut self) -> Result<u32, DemoError> {
        let status = tokio::time::timeout(EXIT_TIMEOUT, self.child.wait()).await;
        let status = status.map_err(|_| DemoError::DoesNotEnd)?.map_err(DemoError::Ssh)?;
        self.group = None;
        // A signal has no code; 255 is what ssh gives where it cannot know.
        Ok(status.code().map_or(255, |code| code as u32))
    }

    /// Has it leave before its end, in order.
    pub(super) async fn leave(mut self) {
        self.signal(Signal::TERM);
        // What does not heed that is killed with the drop.
        if tokio::time::timeout(EXIT_TIMEOUT, self.child.wait()).await.is_ok() {
            self.group = None;
        }
    }

    /// What it wrote to stderr.
    pub(super) fn stderr_text(&self) -> String {
        let said = self.stderr.as_ref().and_then(|path| std::fs::read(path).ok());
        String::from_utf8_lossy(&said.unwrap_or_default()).trim().to_owned()
    }

    /// Hands the size on. ssh does not have this terminal for its own, so the signal comes from here.
    pub(super) fn resize(&self, size: Winsize) {
        let Some(terminal) = &self.terminal else { return };
        if rustix::termios::tcsetwinsize(terminal.as_fd(), size).is_ok() {
            self.signal(Signal::WINCH);
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // It may have ended a moment ago; it was not waited for, so the number is still its own.
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}

impl Drop for SshProcess {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

fn ssh(fixture: &Fixture) -> Result<Command, DemoError> {
    let own = std::env::current_exe().map_err(DemoError::Ssh)?;
    let at = |name: &str| fixture.folder.path(name).into_os_string();
    let mut words: Vec<OsString> = [
        own.into_os_string(),
        "proxy".into(),
        "--config".into(),
        at("bowline.toml"),
        "--state-dir".into(),
        at("state"),
        "--runtime-dir".into(),
        at("run"),
        "--patience".into(),
        PROXY_PATIENCE.into(),
        "-F".into(),
        fixture.ssh_config().into_os_string(),
    ]
    .into();
    words.extend(fixture.proxy_log.iter().cloned());
    let mut ssh = Command::new("ssh");
    ssh.arg("-F").arg(fixture.ssh_config());
    ssh.arg("-o").arg(proxy_option(&words, b" -- '%r@%n' %p"));
    // What the user has set for real sessions is not for this one.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BOWLINE_") {
            ssh.env_remove(name);
        }
    }
    ssh.kill_on_drop(true);
    Ok(ssh)
}

/// Our end and the program's end of a new terminal.
fn open_terminal(size: Winsize) -> io::Result<(OwnedFd, OwnedFd)> {
    let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&ours)?;
    rustix::pty::unlockpt(&ours)?;
    let name = rustix::pty::ptsname(&ours, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(name.as_c_str(), flags, Mode::empty())?;
    rustix::termios::tcsetwinsize(&theirs, size)?;
    rustix::fs::fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK)?;
    Ok((ours, theirs))
}

/// Our end of a terminal, to read from or to write to.
struct Terminal(Arc<Pollable>);

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(cx))?;
            let room = buf.initialize_unfilled();
            match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut *room)?)) {
                Ok(Ok(count)) => {
                    buf.advance(count);
                    return Poll::Ready(Ok(()));
                }
                // Linux's way to say that nobody has the other end open any more.
                Ok(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), buf)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
