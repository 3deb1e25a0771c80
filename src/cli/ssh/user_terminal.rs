//! The user's terminal: raw while bowline stands between it and ssh.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, SpecialCodeIndex, Termios, Winsize, tcgetattr, tcgetwinsize, tcsetattr};

/// The controlling terminal, through a description of its own, so that the mode of the shell's does not change.
#[derive(Debug)]
pub(super) struct UserTerminal {
    device: OwnedFd,
    /// The modes to restore.
    before: Termios,
}

impl UserTerminal {
    /// Opens it. Its modes stay as they are.
    ///
    /// # Errors
    /// This process has no controlling terminal.
    pub(super) fn open() -> io::Result<UserTerminal> {
        let device = open_device("/dev/tty")?;
        let before = tcgetattr(&device)?;
        Ok(UserTerminal { device, before })
    }

    /// For reading and writing without blocking.
    pub(super) fn device(&self) -> io::Result<OwnedFd> {
        self.device.try_clone()
    }

    pub(super) fn size(&self) -> io::Result<Winsize> {
        Ok(tcgetwinsize(&self.device)?)
    }

    /// A new terminal with the modes and the size of this one: our end, and the end for ssh.
    ///
    /// # Errors
    /// As posix_openpt(3).
    pub(super) fn make_inner(&self) -> io::Result<(OwnedFd, OwnedFd)> {
        let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::grantpt(&ours)?;
        rustix::pty::unlockpt(&ours)?;
        let name = rustix::pty::ptsname(&ours, Vec::new())?;
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let theirs = rustix::fs::open(name.as_c_str(), flags, Mode::empty())?;
        tcsetattr(&theirs, OptionalActions::Now, &self.before)?;
        if let Ok(size) = self.size() {
            rustix::termios::tcsetwinsize(&theirs, size)?;
        }
        rustix::fs::fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK)?;
        Ok((ours, theirs))
    }

    /// Hands on every key as it is from now on. What was typed before stays.
    ///
    /// # Errors
    /// The terminal has gone.
    pub(super) fn make_raw(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        raw.make_raw();
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        Ok(tcsetattr(&self.device, OptionalActions::Now, &raw)?)
    }

    /// Gives the terminal back as it was.
    pub(super) fn restore(&self) {
        // A terminal that has gone needs no care.
        let _ = tcsetattr(&self.device, OptionalActions::Now, &self.before);
    }
}

impl AsFd for UserTerminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

impl Drop for UserTerminal {
    fn drop(&mut self) {
        self.restore();
    }
}

fn open_device(path: &str) -> io::Result<OwnedFd> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = File::options();
    let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
    let opened = options.read(true).write(true).custom_flags(flags.bits().cast_signed());
    Ok(opened.open(path)?.into())
}
