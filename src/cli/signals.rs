//! The signals by which ssh, a terminal that goes away, and the system end a command.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGHUP, SIGTERM, SIGINT: none of them ends the process by itself from here on.
pub(super) struct Signals {
    hang_up: Signal,
    terminate: Signal,
    interrupt: Signal,
}

/// Leaves the terminal to ssh: Ctrl-C, Ctrl-Z and a hang-up there come to everybody in its group.
///
/// ssh itself leaves once a ControlPersist master or `ssh -f` goes into the background, and what it then survives its
/// ProxyCommand has to survive too. Where ssh ends by such a signal, the end of its pipes tells it, so this process ends as well.
/// Until there is a session it stays, so that Ctrl-C ends both at once.
pub(super) fn leave_terminal() {
    if let Err(error) = rustix::process::setsid() {
        // Whoever started us gave us a group of our own: then its signals are not the terminal's for ssh.
        tracing::debug!(%error, "cannot leave the terminal's process group");
    }
}

impl Signals {
    /// # Errors
    /// What the system calls failed with.
    pub(super) fn new() -> io::Result<Signals> {
        Ok(Signals {
            hang_up: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Returns when one of them has come.
    pub(super) async fn recv(&mut self) {
        tokio::select! {
            _ = self.hang_up.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
