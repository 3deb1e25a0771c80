//! Child processes with a hard limit: killed by id, with all they started, when time is up or their owner goes.

use super::{now, wait_for};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, Resource, Signal, kill_process, pidfd_open};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What a program left behind.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; 128 + signal when a signal ended it. `None`: it was killed because its time was up.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// From its start to its end.
    pub took: Duration,
}

impl Outcome {
    /// Standard output as text.
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Insists on an exit code; a failure shows what the program said.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Outcome {
        assert_eq!(
            self.code,
            Some(code),
            "exit code after {:?} (None: its time was up)\nstdout ends: {}\nstderr: {}",
            self.took,
            tail(&self.out()),
            self.err()
        );
        self
    }
}

fn tail(text: &str) -> &str {
    text.char_indices().nth_back(500).map_or(text, |(at, _)| &text[at..])
}

/// A running child. Dropping it kills it and all its descendants.
pub struct Running {
    child: Child,
    pidfd: OwnedFd,
    started: std::time::Instant,
    stdout: Option<Collected>,
    stderr: Option<Collected>,
    done: bool,
}

impl Running {
    /// Starts it with a null stdin and both outputs collected.
    pub fn start(command: &mut Command) -> Running {
        Running::spawn(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        )
        .collecting()
    }

    /// Starts it with stdin and stdout as pipes of the caller, stderr collected.
    pub fn start_piped(command: &mut Command) -> (Running, ChildStdin, ChildStdout) {
        let mut running = Running::spawn(
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped()),
        );
        let stdin = running.child.stdin.take().expect("a piped stdin");
        let stdout = running.child.stdout.take().expect("a piped stdout");
        (running.collecting(), stdin, stdout)
    }

    /// Starts it with the streams that the command was given.
    pub fn spawn(command: &mut Command) -> Running {
        // A group of its own: a Ctrl-C at the terminal is for the test run, whose drops then clean up.
        let child = command
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let pidfd = pidfd_open(pid_of(child.id()), PidfdFlags::empty()).expect("a pidfd of our own child");
        Running {
            child,
            pidfd,
            started: now(),
            stdout: None,
            stderr: None,
            done: false,
        }
    }

    fn collecting(mut self) -> Running {
        self.stdout = self.child.stdout.take().map(Collected::from);
        self.stderr = self.child.stderr.take().map(Collected::from);
        self
    }

    /// What it has written to standard output so far, where that is collected.
    pub fn out_so_far(&self) -> String {
        self.stdout.as_ref().map(Collected::so_far).unwrap_or_default()
    }

    /// What it has written to standard error so far.
    pub fn err_so_far(&self) -> String {
        self.stderr.as_ref().map(Collected::so_far).unwrap_or_default()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it (alone) a signal.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(pid_of(self.id()), signal);
    }

    /// Whether it has ended.
    pub fn ended(&mut self, within: Duration) -> bool {
        let limit = Timespec::try_from(within).expect("a limit of days at most");
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&limit)), Ok(1..))
    }

    /// Waits for its end, for at most `limit`; then it is killed, and the outcome has no code.
    pub fn finish(mut self, limit: Duration) -> Outcome {
        let ended = self.ended(limit);
        let took = self.started.elapsed();
        if !ended {
            kill_tree(self.id());
        }
        let status = self.child.wait().expect("our own child can be waited for");
        self.done = true;
        let code = ended.then(|| status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)));
        Outcome {
            code,
            stdout: all(self.stdout.take()),
            stderr: all(self.stderr.take()),
            took,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.done {
            kill_tree(self.id());
            let _ = self.child.wait();
        }
    }
}

/// Runs a command to its end with a null stdin.
pub fn run(command: &mut Command, limit: Duration) -> Outcome {
    Running::start(command).finish(limit)
}

/// Runs a command to its end with `input` on its stdin.
pub fn run_with_input(command: &mut Command, input: Vec<u8>, limit: Duration) -> Outcome {
    let (mut running, mut stdin, stdout) = Running::start_piped(command);
    running.stdout = Some(Collected::from(stdout));
    // A program that ends before it has read everything is no failure of ours.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let outcome = running.finish(limit);
    let _ = writer.join();
    outcome
}

/// A process and all its descendants, the process first.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut parents = vec![];
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        parents.extend(parent_of(child).map(|parent| (child, parent)));
    }
    let mut found = vec![pid];
    let mut at = 0;
    while at < found.len() {
        let parent = found[at];
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        at += 1;
    }
    found
}

/// Kills a process that we started and everything below it.
pub fn kill_tree(pid: u32) {
    for pid in tree(pid) {
        let _ = kill_process(pid_of(pid), Signal::KILL);
    }
}

/// What a process (with all below it) uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub processes: usize,
    pub threads: usize,
    pub descriptors: usize,
    /// Resident memory in KiB.
    pub resident: u64,
}

/// Processor time of one process, user and system together (proc(5): `stat`, fields 14 and 15, in clock ticks).
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name in parentheses may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / rustix::param::clock_ticks_per_second() as f64
}

/// Sums the use of a process and its descendants.
pub fn usage(pid: u32) -> Usage {
    let mut sum = Usage::default();
    for pid in tree(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
                .unwrap_or(0)
        };
        sum.processes += 1;
        sum.threads += field("Threads:") as usize;
        sum.resident += field("VmRSS:");
        sum.descriptors += fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    }
    sum
}

/// A process id as the system calls take it.
pub fn pid_of(pid: u32) -> Pid {
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .expect("a process id above 0")
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may contain anything: count from the last one.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A stream read to its end by a thread of its own.
struct Collected {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl<R: Read + Send + 'static> From<R> for Collected {
    fn from(mut stream: R) -> Collected {
        let bytes = Arc::new(Mutex::new(vec![]));
        let filled = bytes.clone();
        let reader = std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                filled.lock().expect("no reader panics").extend_from_slice(&buffer[..n]);
            }
        });
        Collected { bytes, reader }
    }
}

impl Collected {
    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().expect("no reader panics")).into_owned()
    }
}

/// Everything up to the stream's end. A daemon that a program left behind may hold its outputs open for ever
/// (ssh's ControlMaster does), so the wait for that end has a limit.
fn all(stream: Option<Collected>) -> Vec<u8> {
    let Some(stream) = stream else { return vec![] };
    wait_for(Duration::from_secs(2), || stream.reader.is_finished().then_some(()));
    std::mem::take(&mut stream.bytes.lock().expect("no reader panics"))
}

/// Reads as much as asked for, with a limit for the whole.
///
/// # Errors
/// `TimedOut`; those of [`Read::read_exact`].
pub fn read_within(stream: &mut ChildStdout, bytes: &mut [u8], limit: Duration) -> io::Result<()> {
    let end = now() + limit;
    let mut filled = 0;
    while filled < bytes.len() {
        let left = end.saturating_duration_since(now());
        let left = Timespec {
            tv_sec: left.as_secs() as _,
            tv_nsec: left.subsec_nanos() as _,
        };
        if poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&left))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        match stream.read(&mut bytes[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => filled += length,
        }
    }
    Ok(())
}

/// As many descriptors as this process may have at all: a usual soft limit is 1024.
///
/// # Panics
/// Where even that may not be set.
pub fn raise_descriptor_limit() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(Resource::Nofile, limit).expect("up to the hard limit");
}
