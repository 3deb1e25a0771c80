//! One session channel: its preparation (environment, terminal, agent), then the one program it runs.

use crate::identity::glob_matches;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use russh::Sig;
use russh::server::Handle;
use rustix::termios::Winsize;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::account::Account;
use super::channel::ChannelIo;
use super::process::{self, ProcessGroup};
use super::pty::{self, Pty, Tty};
use super::sftp;

/// Most variables a client may set for one session, and most bytes of one name or value.
const MAX_ENV: usize = 128;
const MAX_ENV_BYTES: usize = 32 * 1024;

/// What a session runs.
pub(super) enum Program {
    /// The user's shell, as at a login.
    LoginShell,
    /// A command line for the user's shell.
    Command(Vec<u8>),
    /// The file transfer subsystem, within this process.
    Sftp,
}

pub(super) struct SessionChannel {
    state: State,
    env: Vec<(String, String)>,
    agent: Option<PathBuf>,
    peer: SocketAddr,
    local: SocketAddr,
}

enum State {
    Preparing {
        io: ChannelIo,
        pty: Option<Pty>,
    },
    Running {
        group: Option<Arc<ProcessGroup>>,
        tty: Weak<Tty>,
    },
}

impl SessionChannel {
    pub(super) fn new(io: ChannelIo, peer: SocketAddr, local: SocketAddr) -> SessionChannel {
        SessionChannel {
            state: State::Preparing { io, pty: None },
            env: Vec::new(),
            agent: None,
            peer,
            local,
        }
    }

    /// Sets a variable whose name is on the list; says whether it did.
    pub(super) fn set_env(&mut self, name: &str, value: &str, accepted: &[String]) -> bool {
        let sound = !name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0');
        let small = name.len().max(value.len()) <= MAX_ENV_BYTES && self.env.len() < MAX_ENV;
        let set = sound
            && small
            && accepted
                .iter()
                .any(|pattern| glob_matches(name.as_bytes(), pattern.as_bytes()));
        if set {
            self.env.push((name.to_owned(), value.to_owned()));
        }
        set
    }

    /// Opens a terminal for the program to come.
    pub(super) fn give_pty(&mut self, term: &str, size: Winsize, modes: &[(russh::Pty, u32)]) -> bool {
        let State::Preparing { pty, .. } = &mut self.state else {
            return false;
        };
        match Pty::open(term, size, modes) {
            Ok(opened) => {
                *pty = Some(opened);
                true
            }
            Err(error) => {
                warn!(%error, "cannot open a pseudo-terminal");
                false
            }
        }
    }

    pub(super) fn resize(&mut self, size: Winsize) -> bool {
        match &self.state {
            State::Preparing { pty, .. } => pty.as_ref().is_some_and(|pty| pty.tty.resize(size).is_ok()),
            State::Running { tty, .. } => tty.upgrade().is_some_and(|tty| tty.resize(size).is_ok()),
        }
    }

    /// Lets the program to come reach the client's agent.
    pub(super) fn use_agent(&mut self, socket: &Path) -> bool {
        self.agent = Some(socket.to_owned());
        true
    }

    /// Sends a signal to everything that runs here.
    pub(super) fn signal(&mut self, signal: &Sig) -> bool {
        let State::Running { group: Some(group), .. } = &self.state else {
            return false;
        };
        process::signal_named(signal).is_some_and(|signal| group.signal(signal))
    }

    /// Starts the one program; `false` when there is one already, or it cannot be started.
    pub(super) fn start(&mut self, program: Program, account: &Account, handle: Handle, tasks: &TaskTracker) -> bool {
        let State::Preparing { pty, .. } = &self.state else {
            return false;
        };
        if matches!(program, Program::Sftp) {
            return self.start_sftp(account, handle, tasks);
        }
        let mut command = process::command(account, &program);
        command.envs(self.environment(account, pty.as_ref()));
        let started = match pty {
            Some(pty) => process::spawn_on(command, pty),
            None => process::spawn_piped(command),
        };
        match started {
            Ok((child, group)) => {
                self.run(child, group, handle, tasks);
                true
            }
            Err(error) => {
                warn!(shell = %account.shell.display(), %error, "cannot start the shell");
                false
            }
        }
    }

    fn start_sftp(&mut self, account: &Account, handle: Handle, tasks: &TaskTracker) -> bool {
        let running = State::Running {
            group: None,
            tty: Weak::new(),
        };
        if let State::Preparing { io, .. } = std::mem::replace(&mut self.state, running) {
            tasks.spawn(sftp::serve(io, handle, account.home.clone()));
        }
        true
    }

    fn run(&mut self, child: tokio::process::Child, group: ProcessGroup, handle: Handle, tasks: &TaskTracker) {
        let group = Arc::new(group);
        let tty = match &self.state {
            State::Preparing { pty: Some(pty), .. } => Arc::downgrade(&pty.tty),
            _ => Weak::new(),
        };
        let running = State::Running {
            group: Some(group.clone()),
            tty,
        };
        let State::Preparing { io, pty } = std::mem::replace(&mut self.state, running) else {
            return;
        };
        debug!(pid = child.id(), terminal = pty.is_some(), "started");
        match pty {
            Some(pty) => tasks.spawn(pty::attend(child, group, pty.tty, io, handle)),
            None => tasks.spawn(process::attend(child, group, io, handle)),
        };
    }

    /// What the program finds: what the client set, then what sshd(8) says a login has, which the client cannot change.
    fn environment(&self, account: &Account, pty: Option<&Pty>) -> Vec<(String, String)> {
        let (peer, local) = (self.peer, self.local);
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let search = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".to_owned());
        let mut fixed = vec![
            ("USER", account.name.clone()),
            ("LOGNAME", account.name.clone()),
            ("HOME", path(&account.home)),
            ("SHELL", path(&account.shell)),
            ("PATH", search),
            ("SSH_CLIENT", format!("{} {} {}", peer.ip(), peer.port(), local.port())),
            (
                "SSH_CONNECTION",
                format!("{} {} {} {}", peer.ip(), peer.port(), local.ip(), local.port()),
            ),
        ];
        fixed.extend(std::env::var("TZ").ok().map(|zone| ("TZ", zone)));
        fixed.extend(self.agent.as_deref().map(|socket| ("SSH_AUTH_SOCK", path(socket))));
        if let Some(pty) = pty {
            fixed.push(("SSH_TTY", path(&pty.name)));
            fixed.push(("TERM", pty.term.clone()));
        }
        let fixed = fixed.into_iter().map(|(name, value)| (name.to_owned(), value));
        self.env.iter().cloned().chain(fixed).collect()
    }
}
