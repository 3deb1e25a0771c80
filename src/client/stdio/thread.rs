//! Files, `/dev/null` and other descriptors that cannot be polled: a thread makes the blocking calls, one at a time.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::mpsc as blocking,
    task::{Context, Poll, ready},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::FileType,
    io::Errno,
};
use tokio::{io::ReadBuf, sync::mpsc};

use super::Direction;

/// Most bytes per call: enough to pay for the two thread switches of each call.
const CHUNK: usize = 64 * 1024;

/// Most bytes per write if the write may block: after POLLOUT a pipe has room for this many (`PIPE_BUF`, pipe(7)).
const PIPE_CHUNK: usize = 4096;

/// A descriptor with its own thread. At most one call is in progress.
///
/// When this is dropped, the thread ends: at once if it waits, otherwise after its current call.
#[derive(Debug)]
pub(super) struct Thread {
    /// `None` after shutdown began.
    jobs: Option<blocking::SyncSender<Job>>,
    done: mpsc::Receiver<Done>,
    busy: bool,
    /// Moves between the two threads. While no read is in progress it holds bytes that were read and not yet
    /// returned.
    buffer: Vec<u8>,
    taken: usize,
    chunk: usize,
    /// The thread polls its descriptor and the other end of this pipe.
    _alive: OwnedFd,
}

/// The buffer to read into or to write. For a read its length is the limit.
type Job = Vec<u8>;

/// The returned buffer, and how many bytes were read or written.
struct Done {
    buffer: Vec<u8>,
    result: rustix::io::Result<usize>,
}

impl Thread {
    pub(super) fn new(fd: OwnedFd, direction: Direction, kind: FileType) -> io::Result<Self> {
        let (gone, alive) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (jobs, todo) = blocking::sync_channel(1);
        let (report, done) = mpsc::channel(1);
        // Not joined: a call on a dead network file system may never return, and must not delay the exit.
        std::thread::Builder::new()
            .name(format!("stdio {direction:?}"))
            .spawn(move || {
                serve(&fd, &gone, direction, &todo, &report);
                // Close the descriptor before the channel: the end of the channel signals that it is closed.
                drop(fd);
                drop(report);
            })?;
        let chunk = if kind == FileType::RegularFile {
            CHUNK
        } else {
            PIPE_CHUNK
        };
        Ok(Self {
            jobs: Some(jobs),
            done,
            busy: false,
            buffer: Vec::new(),
            taken: 0,
            chunk,
            _alive: alive,
        })
    }

    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.busy && self.taken == self.buffer.len() {
            let mut job = std::mem::take(&mut self.buffer);
            job.resize(buf.remaining().min(CHUNK), 0);
            self.start(job)?;
        }
        if self.busy {
            let count = ready!(self.poll_done(cx))?;
            self.buffer.truncate(count);
            self.taken = 0;
        }
        let rest = &self.buffer[self.taken..];
        let count = rest.len().min(buf.remaining());
        buf.put_slice(&rest[..count]);
        self.taken += count;
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.busy {
            let mut job = std::mem::take(&mut self.buffer);
            job.clear();
            job.extend_from_slice(&bytes[..bytes.len().min(self.chunk)]);
            self.start(job)?;
        }
        // The call was started with these bytes: the caller offers the same ones until it is done.
        self.poll_done(cx).map_ok(|count| count.min(bytes.len()))
    }

    /// Waits for the current call, then until the descriptor is closed.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.jobs = None;
        while let Some(done) = ready!(self.done.poll_recv(cx)) {
            done.result?;
        }
        Poll::Ready(Ok(()))
    }

    fn start(&mut self, job: Job) -> io::Result<()> {
        let jobs = self.jobs.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        jobs.send(job).map_err(|_| io::ErrorKind::BrokenPipe)?;
        self.busy = true;
        Ok(())
    }

    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let done = ready!(self.done.poll_recv(cx)).ok_or(io::ErrorKind::BrokenPipe)?;
        self.busy = false;
        self.buffer = done.buffer;
        if done.result.is_err() {
            self.buffer.clear();
            self.taken = 0;
        }
        Poll::Ready(Ok(done.result?))
    }
}

fn serve(
    fd: &OwnedFd,
    gone: &OwnedFd,
    direction: Direction,
    todo: &blocking::Receiver<Job>,
    report: &mpsc::Sender<Done>,
) {
    for mut buffer in todo {
        let result = loop {
            match wait(fd, gone, direction) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => break Err(error),
            }
            let result = match direction {
                Direction::Read => rustix::io::read(fd, buffer.as_mut_slice()),
                Direction::Write => rustix::io::write(fd, &buffer),
            };
            // Another process read first, or made it non-blocking.
            if !matches!(result, Err(Errno::AGAIN | Errno::INTR)) {
                break result;
            }
        };
        // The channel has room: there is one call at a time.
        if report.try_send(Done { buffer, result }).is_err() {
            return;
        }
    }
}

/// `true` if the descriptor is ready, `false` if it is no longer needed.
fn wait(fd: &OwnedFd, gone: &OwnedFd, direction: Direction) -> rustix::io::Result<bool> {
    let ready = match direction {
        Direction::Read => PollFlags::IN,
        Direction::Write => PollFlags::OUT,
    };
    loop {
        let mut fds = [
            PollFd::new(gone, PollFlags::IN),
            PollFd::from_borrowed_fd(fd.as_fd(), ready),
        ];
        match poll(&mut fds, None) {
            Ok(_) if !fds[0].revents().is_empty() => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}
