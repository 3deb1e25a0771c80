//! A terminal of our own with a program on it that believes a user sits there.

use crate::programs::MoshServer;
use crate::support::process::Running;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::Duration;

const SIZE: Winsize = Winsize {
    ws_col: 80,
    ws_row: 24,
    ws_xpixel: 0,
    ws_ypixel: 0,
};

/// The program ends with its owner, and its server side with it where that is its own.
pub(crate) struct Terminal {
    _running: Running,
    _server: Option<MoshServer>,
    ours: File,
}

impl Terminal {
    /// Starts a program.
    ///
    /// # Panics
    /// When the system has no terminal for us.
    pub(crate) fn start(mut command: Command, server: Option<MoshServer>) -> Terminal {
        let (ours, theirs) = pair().expect("a terminal");
        let more = || theirs.try_clone().expect("a descriptor");
        command.stdin(more()).stdout(more()).stderr(more()).env("TERM", "xterm");
        let running = Running::spawn(&mut command);
        // No descriptor of the other end stays here: a terminal that somebody has open shows no end.
        Terminal {
            _running: running,
            _server: server,
            ours,
        }
    }

    /// Another descriptor of it, for a thread that reads.
    pub(crate) fn reader(&self) -> File {
        self.ours.try_clone().expect("a descriptor")
    }

    /// Presses keys.
    ///
    /// # Errors
    /// Those of the system.
    pub(crate) fn press(&mut self, keys: &[u8]) -> io::Result<()> {
        self.ours.write_all(keys)
    }

    /// What it shows next.
    ///
    /// # Errors
    /// `TimedOut` where that is nothing; `EIO` once the program has ended.
    pub(crate) fn read(&mut self, buffer: &mut [u8], limit: Duration) -> io::Result<usize> {
        let limit = Timespec::try_from(limit).expect("a limit of days at most");
        if poll(&mut [PollFd::new(&self.ours, PollFlags::IN)], Some(&limit))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.ours.read(buffer)
    }
}

/// Both ends of a new terminal.
fn pair() -> io::Result<(File, File)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    tcsetwinsize(&ours, SIZE)?;
    let name = ptsname(&ours, vec![])?;
    let theirs = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NOCTTY.bits().cast_signed())
        .open(name.to_string_lossy().as_ref())?;
    Ok((ours.into(), theirs))
}
