//! Programs with pipes: stdin, stdout and stderr apart, each with an end of its own; and what all programs share.

use std::ffi::OsStr;
use std::future::pending;
use std::io;
use std::mem::discriminant;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use russh::server::{Handle, Msg};
use russh::{ChannelWriteHalf, Sig};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};

use super::account::Account;
use super::channel::{ChannelIo, Outcome};
use super::channel_queue::QueueReader;
use super::pty::Pty;
use super::session::Program;

/// Bytes read from a program at once: one SSH packet.
const READ_BYTES: usize = 32 * 1024;

/// SSH_EXTENDED_DATA_STDERR, RFC 4254 section 5.2.
const STDERR: u32 = 1;

/// Time for a program to die of SIGHUP before it is left to itself, as sshd leaves what ignores SIGHUP.
const HANG_UP_TIMEOUT: Duration = Duration::from_secs(1);

/// A program and what it started, while the program itself lives.
pub(super) struct ProcessGroup(Mutex<Option<Pid>>);

impl ProcessGroup {
    fn of(child: &Child) -> ProcessGroup {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        ProcessGroup(Mutex::new(pid))
    }

    /// Whether there was anybody to get the signal.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        let leader = *self.0.lock();
        leader.is_some_and(|leader| rustix::process::kill_process_group(leader, signal).is_ok())
    }

    /// Waits for the program; from then on its number may be another's, and nobody is signalled.
    pub(super) async fn wait(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let status = child.wait().await;
        *self.0.lock() = None;
        status
    }

    /// Ends a program whose client has gone. What ignores SIGHUP lives on; tokio reaps it in its time.
    pub(super) async fn hang_up(&self, child: &mut Child) {
        self.signal(Signal::HUP);
        let _ = tokio::time::timeout(HANG_UP_TIMEOUT, self.wait(child)).await;
    }
}

/// The user's shell with a clean environment, in the user's home.
pub(super) fn command(account: &Account, program: &Program) -> Command {
    let mut command = Command::new(&account.shell);
    match program {
        Program::Command(line) => command.arg("-c").arg(OsStr::from_bytes(line)),
        Program::LoginShell | Program::Sftp => command.arg0(account.login_name_of_shell()),
    };
    let home = if account.home.is_dir() {
        account.home.as_path()
    } else {
        "/".as_ref()
    };
    command.env_clear().current_dir(home);
    command
}

pub(super) fn spawn_piped(mut command: Command) -> io::Result<(Child, ProcessGroup)> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    spawn(command, false)
}

pub(super) fn spawn_on(mut command: Command, pty: &Pty) -> io::Result<(Child, ProcessGroup)> {
    command
        .stdin(pty.user.try_clone()?)
        .stdout(pty.user.try_clone()?)
        .stderr(pty.user.try_clone()?);
    spawn(command, true)
}

fn spawn(mut command: Command, on_terminal: bool) -> io::Result<(Child, ProcessGroup)> {
    prepare_child(&mut command, on_terminal);
    let child = command.spawn()?;
    let group = ProcessGroup::of(&child);
    Ok((child, group))
}

/// Joins a program's three pipes with its channel until it has ended and said everything.
pub(super) async fn attend(mut child: Child, group: Arc<ProcessGroup>, mut io: ChannelIo, handle: Handle) {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let ended = {
        let output = async {
            let (_, _, status) = tokio::join!(
                say(stdout, &io.writer, None),
                say(stderr, &io.writer, Some(STDERR)),
                group.wait(&mut child)
            );
            status
        };
        tokio::select! {
            status = output => Some(status),
            () = tell(&mut io.queue, stdin) => None,
            () = io.closed.cancelled() => None,
        }
    };
    match ended {
        Some(status) => io.close_with(outcome(status), &handle).await,
        None => {
            group.hang_up(&mut child).await;
            io.close().await;
        }
    }
}

/// From a program to the client, until either ends.
async fn say(output: Option<impl AsyncRead + Unpin>, writer: &ChannelWriteHalf<Msg>, kind: Option<u32>) {
    let Some(mut output) = output else { return };
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ_BYTES);
        match output.read_buf(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let data = buffer.split().freeze();
        let sent = match kind {
            None => writer.data_bytes(data).await,
            Some(kind) => writer.extended_data_bytes(kind, data).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

/// From the client to a program. Never returns: that the client has said everything, or that the program no longer
/// listens, ends neither.
async fn tell(queue: &mut QueueReader, input: Option<impl AsyncWrite + Unpin>) {
    if let Some(mut input) = input {
        while let Some(data) = queue.next().await {
            if input.write_all(&data).await.is_err() {
                break;
            }
        }
    }
    queue.discard();
    pending().await
}

/// What the client is told of an end.
pub(super) fn outcome(status: io::Result<ExitStatus>) -> Outcome {
    // 255 is what ssh itself says when it cannot know.
    let Ok(status) = status else {
        return Outcome::Exited(255);
    };
    match status.signal() {
        None => Outcome::Exited(status.code().map_or(255, |code| code as u32)),
        Some(number) => Outcome::Killed {
            signal: name_of_signal(number),
            core_dumped: status.core_dumped(),
        },
    }
}

/// The signals that RFC 4254 section 6.10 names, less ILL, which sshd does not deliver either.
const NAMED: [(Sig, Signal); 11] = [
    (Sig::ABRT, Signal::ABORT),
    (Sig::ALRM, Signal::ALARM),
    (Sig::FPE, Signal::FPE),
    (Sig::HUP, Signal::HUP),
    (Sig::INT, Signal::INT),
    (Sig::KILL, Signal::KILL),
    (Sig::PIPE, Signal::PIPE),
    (Sig::QUIT, Signal::QUIT),
    (Sig::SEGV, Signal::SEGV),
    (Sig::TERM, Signal::TERM),
    (Sig::USR1, Signal::USR1),
];

/// The signal a client means, if it may be sent.
pub(super) fn signal_named(name: &Sig) -> Option<Signal> {
    match name {
        Sig::Custom(name) if name == "USR2" => Some(Signal::USR2),
        name => NAMED
            .iter()
            .find(|(known, _)| discriminant(known) == discriminant(name))
            .map(|(_, signal)| *signal),
    }
}

fn name_of_signal(number: i32) -> Sig {
    if number == Signal::ILL.as_raw() {
        return Sig::ILL;
    }
    if number == Signal::USR2.as_raw() {
        return Sig::Custom("USR2".to_owned());
    }
    let known = NAMED.iter().find(|(_, signal)| signal.as_raw() == number);
    // A local name needs a domain: RFC 4254 section 6.10.
    known.map_or_else(|| Sig::Custom(format!("SIG{number}@bowline")), |(name, _)| name.clone())
}

/// Makes the child a session of its own, with the default answer to every signal and no descriptor but its three.
#[allow(unsafe_code)]
fn prepare_child(command: &mut Command, on_terminal: bool) {
    let prepare = move || {
        rustix::process::setsid()?;
        if on_terminal {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
        }
        reset_signals();
        close_on_exec();
        Ok(())
    };
    // SAFETY: between fork and exec `prepare` only makes system calls; it neither allocates nor locks.
    unsafe { command.pre_exec(prepare) };
}

/// An ignored SIGINT or SIGHUP would be inherited through exec, and Ctrl-C would do nothing.
#[allow(unsafe_code)]
fn reset_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: sets a disposition, no handler; signals that cannot be changed give an error, which is no harm.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// What this process inherited without CLOEXEC is not for its clients' programs.
#[allow(unsafe_code)]
fn close_on_exec() {
    #[cfg(target_os = "linux")]
    // SAFETY: only marks descriptors. Kernels before 5.11 refuse the flag; then they stay as they were.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_that_can_be_sent_comes_back_under_its_name() {
        for (name, signal) in NAMED {
            assert_eq!(signal_named(&name), Some(signal));
            assert_eq!(discriminant(&name_of_signal(signal.as_raw())), discriminant(&name));
        }
        assert_eq!(signal_named(&Sig::Custom("STOP".to_owned())), None);
    }
}
