//! Programs on a terminal: a real pty, the client's modes and size, and the end that Linux reports as EIO.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;

use bytes::Bytes;
use russh::ChannelWriteHalf;
use russh::server::{Handle, Msg};
use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tokio::io::unix::AsyncFd;
use tokio::process::Child;

use super::channel::ChannelIo;
use super::channel_queue::QueueReader;
use super::process::{self, ProcessGroup};

mod modes;

/// Bytes read from a terminal at once; the kernel gives at most 4 KiB.
const READ_BYTES: usize = 4 * 1024;

/// Most bytes still sent after the program has ended. What it wrote is in the kernel's buffer, which is smaller; the
/// rest is from programs it left behind, which may never stop.
const MAX_FINAL_OUTPUT: usize = 256 * 1024;

/// A terminal nobody uses yet.
pub(super) struct Pty {
    /// Our end.
    pub(super) tty: Arc<Tty>,
    /// The program's end.
    pub(super) user: OwnedFd,
    /// The device, such as `/dev/pts/3`.
    pub(super) name: PathBuf,
    /// The client's kind of terminal, for `TERM`.
    pub(super) term: String,
}

/// Our end of a terminal.
pub(super) struct Tty(AsyncFd<OwnedFd>);

/// A size from a client. What does not fit, as no real screen does, is taken as unknown.
pub(super) fn size(columns: u32, rows: u32, width: u32, height: u32) -> Winsize {
    let cells = |count| u16::try_from(count).unwrap_or(0);
    Winsize {
        ws_col: cells(columns),
        ws_row: cells(rows),
        ws_xpixel: cells(width),
        ws_ypixel: cells(height),
    }
}

impl Pty {
    pub(super) fn open(term: &str, size: Winsize, modes: &[(russh::Pty, u32)]) -> io::Result<Pty> {
        let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        rustix::pty::grantpt(&ours)?;
        rustix::pty::unlockpt(&ours)?;
        let name = rustix::pty::ptsname(&ours, Vec::new())?;
        let user = rustix::fs::open(
            name.as_c_str(),
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        modes::apply(&user, modes)?;
        rustix::termios::tcsetwinsize(&user, size)?;
        rustix::fs::fcntl_setfl(&ours, OFlags::RDWR | OFlags::NONBLOCK)?;
        let name = PathBuf::from(OsStr::from_bytes(name.as_bytes()));
        Ok(Pty {
            tty: Arc::new(Tty::new(ours)?),
            user,
            name,
            term: term.replace('\0', ""),
        })
    }
}

impl Tty {
    /// Takes a descriptor that does not block.
    #[allow(unsafe_code)]
    fn new(ours: OwnedFd) -> io::Result<Tty> {
        // SAFETY: an `OwnedFd` is open and stays the same descriptor for as long as the `AsyncFd` owns it.
        Ok(Tty(unsafe { AsyncFd::register(ours) }?))
    }

    /// The program gets SIGWINCH.
    pub(super) fn resize(&self, size: Winsize) -> io::Result<()> {
        Ok(rustix::termios::tcsetwinsize(self.0.get_ref(), size)?)
    }

    /// The next bytes; `None` when nobody has the other end open, which Linux reports as EIO. Cancel safe.
    async fn read(&self) -> Option<Bytes> {
        loop {
            let mut ready = self.0.readable().await.ok()?;
            if let Ok(read) = ready.try_io(|_| self.read_now()) {
                return read.ok().filter(|bytes| !bytes.is_empty());
            }
        }
    }

    /// What is there already.
    fn read_now(&self) -> io::Result<Bytes> {
        let mut buffer = [0; READ_BYTES];
        let count = rustix::io::read(self.0.get_ref(), &mut buffer)?;
        Ok(Bytes::copy_from_slice(&buffer[..count]))
    }

    async fn write_all(&self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            let mut ready = self.0.writable().await?;
            if let Ok(written) = ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), data)?)) {
                data = &data[written?..];
            }
        }
        Ok(())
    }
}

/// Joins a terminal with its channel until the program on it has ended.
pub(super) async fn attend(
    mut child: Child,
    group: Arc<ProcessGroup>,
    tty: Arc<Tty>,
    mut io: ChannelIo,
    handle: Handle,
) {
    let ended = {
        tokio::select! {
            status = show(&mut child, &group, &tty, &io.writer) => Some(status),
            () = type_in(&mut io.queue, &tty) => None,
            () = io.closed.cancelled() => None,
        }
    };
    drop(tty);
    match ended {
        Some(status) => io.close_with(process::outcome(status), &handle).await,
        None => {
            group.hang_up(&mut child).await;
            io.close().await;
        }
    }
}

async fn show(
    child: &mut Child,
    group: &ProcessGroup,
    tty: &Tty,
    writer: &ChannelWriteHalf<Msg>,
) -> io::Result<ExitStatus> {
    let exited = group.wait(child);
    tokio::pin!(exited);
    let status = loop {
        let output = tokio::select! {
            output = tty.read() => output,
            status = &mut exited => break status,
        };
        let sent = match output {
            Some(output) => writer.data_bytes(output).await.is_ok(),
            None => false,
        };
        if !sent {
            // The program may have left its terminal and live on.
            break exited.await;
        }
    };
    let mut left = MAX_FINAL_OUTPUT;
    while let Some(output) = tty.read_now().ok().filter(|output| !output.is_empty() && left > 0) {
        left = left.saturating_sub(output.len());
        if writer.data_bytes(output).await.is_err() {
            break;
        }
    }
    status
}

/// Never returns. A client's EOF means nothing to a terminal: there ^D is typed.
async fn type_in(queue: &mut QueueReader, tty: &Tty) {
    while let Some(keys) = queue.next().await {
        if tty.write_all(&keys).await.is_err() {
            break;
        }
    }
    queue.discard();
    std::future::pending().await
}
