//! One run of a unit's program: started as sd_listen_fds(3) and sd_watchdog_enabled(3) have it, and found again in /proc.

use super::unit::Unit;
use crate::support::data::random_bytes;
use crate::support::process::pid_of;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The first descriptor that a service inherits.
pub const LISTEN_FDS_START: RawFd = 3;

/// The main process of a unit, and all that it has started.
pub struct Run {
    child: Child,
    main: Pid,
    pidfd: OwnedFd,
    /// In the environment of every process of this run.
    marker: String,
}

impl Run {
    /// Starts the unit's program with these descriptors.
    pub fn start(unit: &Unit, notify: &Path, stored: &[(String, OwnedFd)], log: File) -> io::Result<Run> {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let seed = u64::from(std::process::id()) << 32 | RUNS.fetch_add(1, Relaxed);
        let id: String = random_bytes(seed, 16)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut command = Command::new("/bin/sh");
        // Only the process itself knows the id that it is told.
        command.args(["-c", "[ -z \"$LISTEN_FDS\" ] || export LISTEN_PID=$$\n[ -z \"$WATCHDOG_USEC\" ] || export WATCHDOG_PID=$$\nexec \"$@\"", "sh"]);
        command.args(&unit.command).current_dir("/").env_clear();
        for name in ["PATH", "LANG"] {
            command.envs(std::env::var_os(name).map(|value| (name, value)));
        }
        command.env("NOTIFY_SOCKET", notify).env("INVOCATION_ID", &id);
        if !stored.is_empty() {
            let names: Vec<_> = stored.iter().map(|(name, _)| name.as_str()).collect();
            command
                .env("LISTEN_FDS", stored.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"));
        }
        if let Some(watchdog) = unit.watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        command.envs(unit.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        inherit(
            &mut command,
            stored.iter().map(|(_, descriptor)| descriptor.as_raw_fd()),
            unit.limit_nofile,
        );
        let child = command.spawn()?;
        let main = pid_of(child.id());
        Ok(Run {
            pidfd: pidfd_open(main, PidfdFlags::empty())?,
            child,
            main,
            marker: format!("INVOCATION_ID={id}"),
        })
    }

    pub fn main(&self) -> Pid {
        self.main
    }

    /// Readable once the main process has ended.
    pub fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// Another process of this run is the main process from now on.
    pub fn set_main(&mut self, pid: u32) {
        if let Ok(pidfd) = pidfd_open(pid_of(pid), PidfdFlags::empty())
            && self.is_member(pid)
        {
            (self.main, self.pidfd) = (pid_of(pid), pidfd);
        }
    }

    /// A stopped process gets on with it.
    pub fn signal_main(&self, signal: Signal) {
        let _ = kill_process(self.main, signal);
        let _ = kill_process(self.main, Signal::CONT);
    }

    /// Signals all processes; how many there are.
    pub fn signal_all(&mut self, signal: Option<Signal>) -> usize {
        let _ = self.child.try_wait();
        let ids = fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = ids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let members: Vec<u32> = ids.filter(|id| self.is_member(*id)).collect();
        if let Some(signal) = signal {
            for id in &members {
                let _ = kill_process(pid_of(*id), signal);
            }
        }
        members.len()
    }

    /// Of the session (setsid(2)) of this run, or with its environment; not a process that has ended.
    fn is_member(&self, pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<_> = stat
            .rsplit_once(')')
            .map_or("", |(_, rest)| rest)
            .split_whitespace()
            .collect();
        let (Some(state), Some(session)) = (fields.first(), fields.get(3)) else {
            return false;
        };
        if matches!(*state, "Z" | "X") {
            return false;
        }
        *session == self.child.id().to_string() || {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment
                .split(|byte| *byte == 0)
                .any(|variable| variable == self.marker.as_bytes())
        }
    }
}

/// The child becomes the leader of a session, and has these descriptors from number 3 on.
#[allow(unsafe_code, reason = "std gives a child no descriptors but the first three")]
fn inherit(command: &mut Command, descriptors: impl Iterator<Item = RawFd>, limit: Option<u64>) {
    let descriptors: Vec<_> = descriptors.collect();
    let first_free = LISTEN_FDS_START + descriptors.len() as RawFd;
    assert!(
        descriptors.iter().all(|descriptor| *descriptor >= first_free),
        "none is in the way of another"
    );
    let prepare = move || {
        for (number, descriptor) in (LISTEN_FDS_START..).zip(&descriptors) {
            // This may replace std's own pipe, by which a failure to start sh would have been told: sh is there.
            // SAFETY: dup2(2) is async-signal-safe, and what it replaces is of a process that is about to exec.
            if unsafe { libc::dup2(*descriptor, number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        if let Some(most) = limit {
            let limit = rustix::process::Rlimit {
                current: Some(most),
                maximum: Some(most),
            };
            rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?;
        }
        rustix::process::setsid()?;
        Ok(())
    };
    // SAFETY: it only makes system calls that are async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(prepare) };
}
