//! Runs a program with limits on its time and output, and without an async runtime.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::clock;

/// The most bytes of each output. `sshd -T` prints about 6 KiB.
const MAX_OUTPUT: usize = 1024 * 1024;

/// How often to check whether a program that has closed its outputs has ended.
const REAP_INTERVAL: Duration = Duration::from_millis(2);

/// A program's output and exit status.
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// Runs `command` without input. It is killed after `limit`, or if it prints more than a megabyte.
///
/// # Errors
/// The errors of the system calls; `TimedOut`; `FileTooLarge`.
pub(crate) fn run(command: &mut Command, limit: Duration) -> io::Result<Output> {
    let deadline = clock::now() + limit;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = Killed(command.spawn()?);
    let out = child.0.stdout.take().expect("piped above");
    let err = child.0.stderr.take().expect("piped above");
    let (stdout, stderr) = read_both(out, err, deadline)?;
    loop {
        if let Some(status) = child.0.try_wait()? {
            return Ok(Output { status, stdout, stderr });
        }
        remaining(deadline)?;
        std::thread::sleep(REAP_INTERVAL);
    }
}

/// Kills and waits for its program when dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only if it has already been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn read_both(out: ChildStdout, err: ChildStderr, deadline: Instant) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut pipes = [
        Pipe::new(File::from(OwnedFd::from(out))),
        Pipe::new(File::from(OwnedFd::from(err))),
    ];
    while pipes.iter().any(|pipe| pipe.open) {
        let timeout = Timespec::try_from(remaining(deadline)?).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut fds: Vec<_> = pipes.iter().filter(|pipe| pipe.open).map(Pipe::poll_fd).collect();
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (pipe, _) in pipes
            .iter_mut()
            .filter(|pipe| pipe.open)
            .zip(ready)
            .filter(|(_, ready)| *ready)
        {
            pipe.read()?;
        }
    }
    let [out, err] = pipes;
    Ok((out.said, err.said))
}

/// One of the program's outputs.
struct Pipe {
    file: File,
    open: bool,
    said: Vec<u8>,
}

impl Pipe {
    fn new(file: File) -> Self {
        let said = Vec::new();
        Self { file, open: true, said }
    }

    fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(&self.file, PollFlags::IN)
    }

    /// Reads once, after poll has said that it will not block.
    fn read(&mut self) -> io::Result<()> {
        let mut bytes = [0; 8192];
        match self.file.read(&mut bytes)? {
            0 => self.open = false,
            count => self.said.extend_from_slice(&bytes[..count]),
        }
        if self.said.len() > MAX_OUTPUT {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(())
    }
}

fn remaining(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(clock::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        remaining => Ok(remaining),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> io::Result<Output> {
        run(Command::new("sh").args(["-c", script]), limit)
    }

    #[test]
    fn both_outputs_and_the_end_are_reported_however_much_is_said() {
        let script = "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero; exit 3";
        let output = sh(script, Duration::from_secs(20)).unwrap();
        assert_eq!((output.stdout.len(), output.stderr.len()), (300_000, 300_000));
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn a_program_that_hangs_is_killed_whether_it_holds_its_outputs_or_not() {
        for script in ["exec sleep 1000", "exec sleep 1000 >&- 2>&-"] {
            let error = sh(script, Duration::from_millis(200)).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{script}");
        }
    }

    #[test]
    fn endless_output_is_cut() {
        let error = sh("exec cat /dev/zero", Duration::from_secs(20)).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }
}
