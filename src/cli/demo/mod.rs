//! `bowline demo`: everything on one machine, a real SSH session, and a path that breaks in front of your eyes.
//!
//! Nothing here is simulated but the path: the halves, sshd and the client are those that run everywhere else.

mod counter;
mod fixture;
mod keys;
mod openssh;
mod outage;
mod own_client;
mod path;
mod picture;
mod screen;
mod script;
mod shell;
mod ssh_client;
mod table;
mod transfer;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use russh::keys::ssh_key;

use self::fixture::Fixture;
use self::screen::Screen;
use self::ssh_client::SshClient;
use self::transfer::Hash;
use super::args::DemoArgs;
use super::logging::LogSettings;
use super::report::{self, Failure};
use super::signals::Signals;
use crate::client::OpenError;
use crate::identity::statement::StatementError;
use crate::server::ServerError;
use crate::sshd::SshdError;
use crate::transport::ConfigError;
use crate::wire::InvalidUserName;

pub(crate) use self::counter::OutOfOrder;

/// What `bowline demo` works by. It reads and writes nothing outside a temporary folder.
#[derive(Debug, Clone)]
pub(crate) struct DemoSettings {
    /// Give the user the shell, and keys that break the path. Default: false, a show of under 30 s.
    pub(crate) shell: bool,
    /// Where the proxies log, beside the demo itself. They say nothing where that is stderr: it is the user's screen.
    pub(crate) log: LogSettings,
}

impl DemoSettings {
    /// Takes the arguments and the log's settings as they are.
    pub(super) fn new(args: &DemoArgs, log: LogSettings) -> Self {
        DemoSettings { shell: args.shell, log }
    }
}

/// Why the demo did not come to its good end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// The counter was not what it should be: the promise is broken.
    #[error(transparent)]
    Counter(#[from] OutOfOrder),
    /// The file was not what it should be: the promise is broken.
    #[error("{copy} differs from the file that was sent")]
    Damaged {
        /// Which copy.
        copy: &'static str,
        /// SHA-256 of what was sent.
        expected: Hash,
        /// SHA-256 of the copy.
        found: Hash,
    },
    /// The session did not come back.
    #[error("nothing came from the remote shell within {waited:?} after `{outage}`")]
    Silent {
        /// What happened to the path.
        outage: &'static str,
        /// How long was waited.
        waited: Duration,
    },
    /// The session ended before it was told to.
    #[error("the session ended early")]
    EarlyEnd {
        /// What the SSH client said on stderr.
        said: String,
    },
    /// The remote shell's exit code did not arrive as it was.
    #[error("the remote shell's exit code was {}, but {code} arrived", counter::EXIT_CODE)]
    WrongExitCode {
        /// What arrived.
        code: u32,
    },
    /// The program that takes the file failed.
    #[error("the program that receives the file on the other side exited with code {code}")]
    TransferFailed {
        /// What it ended with.
        code: u32,
    },
    /// The session was to end, and went on.
    #[error("the session did not end")]
    DoesNotEnd,
    /// The session's pipes broke.
    #[error("the session's pipe broke")]
    Stream(#[source] io::Error),
    /// The user of this machine has a name that no server half takes.
    #[error(transparent)]
    UserName(#[from] InvalidUserName),
    /// No temporary folder.
    #[error("cannot make a folder in {}", parent.display())]
    Folder {
        /// Where it was to be.
        parent: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A temporary file cannot be used.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// No UDP socket, or one that does not do as it is told.
    #[error("cannot use a UDP socket on loopback")]
    Socket(#[source] io::Error),
    /// `--shell` without a terminal to show it on.
    #[error("stdin and stdout must be a terminal for --shell")]
    NoTerminal,
    /// The terminal does not do as it is told, or there is none for ssh.
    #[error("cannot use a terminal")]
    Terminal(#[source] io::Error),
    /// ssh cannot be run.
    #[error("cannot run ssh")]
    Ssh(#[source] io::Error),
    /// A key cannot be written.
    #[error("cannot write a key")]
    Key(#[source] ssh_key::Error),
    /// The host key cannot sign.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The built-in SSH server cannot start.
    #[error("the built-in SSH server cannot start")]
    Sshd(#[from] SshdError),
    /// The server half cannot start.
    #[error("the server half cannot start")]
    Server(#[from] ServerError),
    /// QUIC cannot be set up.
    #[error(transparent)]
    Quic(#[from] ConfigError),
    /// The client half found no way.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// SSH failed.
    #[error("the SSH connection failed")]
    Russh(#[from] russh::Error),
    /// The demo's own host is another.
    #[error("another server half than the demo's own answered")]
    OtherHost,
    /// The demo's own key is refused.
    #[error("the built-in SSH server refused the demo's own key")]
    NotLoggedIn,
    /// The user stopped it.
    #[error("the demo was stopped")]
    Interrupted,
}

/// Runs the show.
///
/// # Errors
/// Something on this machine does not let it run, or the session did not survive.
pub(super) async fn run(settings: DemoSettings) -> Result<(), Failure> {
    let screen = Screen::new();
    let mut signals = Signals::new().map_err(|error| report::cannot_start(&error))?;
    let played = tokio::select! {
        played = play(&settings, &screen) => played,
        () = signals.recv() => Err(DemoError::Interrupted),
    };
    screen.clear();
    played.map_err(|error| report::demo_failed(&error))
}

async fn play(settings: &DemoSettings, screen: &Screen) -> Result<(), DemoError> {
    let ssh_client = SshClient::choose().await;
    let fixture = Fixture::start(&settings.log).await?;
    let played = if settings.shell {
        shell::run(&fixture, &ssh_client, screen).await
    } else {
        script::run(&fixture, &ssh_client, screen).await
    };
    fixture.shut_down().await;
    played
}
