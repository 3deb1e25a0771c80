//! Who logs in: OpenSSH's `ssh` where it is installed, as newcomers know it, else a small client of our own.
//!
//! Either way the SSH connection goes through a client half of its own, so each remote program has its own session.

use std::process::Stdio;

use rustix::termios::Winsize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::process::Command;

use super::DemoError;
use super::fixture::Fixture;
use super::openssh::{self, SshProcess};
use super::own_client::{self, OwnConnection};

/// What is written here arrives at the remote program's stdin.
pub(super) type Input = Box<dyn AsyncWrite + Send + Unpin>;

/// The remote program's stdout.
pub(super) type Output = Box<dyn AsyncRead + Send + Unpin>;

/// The SSH client that is used.
pub(super) enum SshClient {
    /// OpenSSH, with `bowline proxy` as its ProxyCommand.
    OpenSsh {
        /// As it calls itself: `OpenSSH_9.2p1`.
        version: String,
    },
    /// russh over a stream of the library.
    Own,
}

/// A program that runs on the other side.
pub(super) struct Remote {
    pub(super) input: Input,
    pub(super) output: Output,
    pub(super) process: RemoteProcess,
}

/// How it ends, and what is known of it apart from its bytes.
pub(super) enum RemoteProcess {
    /// An `ssh` process.
    OpenSsh(SshProcess),
    /// A connection within this process.
    Own(OwnConnection),
}

impl SshClient {
    /// OpenSSH if `ssh -V` says that it is that.
    pub(super) async fn choose() -> SshClient {
        let asked = Command::new("ssh").arg("-V").stdin(Stdio::null()).output().await;
        let said = asked.map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
        let word = said
            .ok()
            .and_then(|said| said.split([' ', ',']).next().map(str::to_owned));
        match word {
            Some(version) if version.starts_with("OpenSSH_") => SshClient::OpenSsh { version },
            _ => SshClient::Own,
        }
    }

    /// Logs in and runs `command` in the user's shell.
    ///
    /// # Errors
    /// The session cannot be opened. With OpenSSH that shows at the program's early end.
    pub(super) async fn run(&self, fixture: &Fixture, command: &str) -> Result<Remote, DemoError> {
        match self {
            SshClient::OpenSsh { .. } => openssh::run(fixture, command),
            SshClient::Own => own_client::run(fixture, command).await,
        }
    }

    /// Logs in and gives a shell on a terminal.
    ///
    /// # Errors
    /// As [`SshClient::run`], and where the machine has no terminal to give.
    pub(super) async fn shell(&self, fixture: &Fixture, size: Winsize) -> Result<Remote, DemoError> {
        match self {
            SshClient::OpenSsh { .. } => openssh::shell(fixture, size),
            SshClient::Own => own_client::shell(fixture, size).await,
        }
    }
}

impl RemoteProcess {
    /// Waits for the end, which is near: the exit code, as ssh gives it.
    ///
    /// # Errors
    /// It does not end.
    pub(super) async fn wait(self) -> Result<u32, DemoError> {
        match self {
            RemoteProcess::OpenSsh(process) => process.wait().await,
            RemoteProcess::Own(connection) => connection.wait().await,
        }
    }

    /// Leaves before the end.
    pub(super) async fn leave(self) {
        match self {
            RemoteProcess::OpenSsh(process) => process.leave().await,
            // Dropping it hangs up.
            RemoteProcess::Own(_) => {}
        }
    }

    /// What the client had to say on stderr.
    pub(super) fn stderr_text(&self) -> String {
        match self {
            RemoteProcess::OpenSsh(process) => process.stderr_text(),
            RemoteProcess::Own(_) => String::new(),
        }
    }

    /// The user's terminal has another size.
    pub(super) async fn resize(&self, size: Winsize) {
        match self {
            RemoteProcess::OpenSsh(process) => process.resize(size),
            RemoteProcess::Own(connection) => connection.resize(size).await,
        }
    }
}
