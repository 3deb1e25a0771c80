//! A service that does what it is told over a socket: for tests of service managers, with nothing of bowline in it.

use crate::support::manager::{Kind, Manager, Unit};
use crate::support::process::pid_of;
use crate::support::{Scratch, wait_for};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    sendmsg_addr, socket_with,
};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, kill_process};
use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// Where the program listens for what to do; tells it as well that it is meant to run.
const CONTROL: &str = "TEST_SERVICE_CONTROL";

/// Set in a child of the program, which stores something under this name and ends.
const CHILD: &str = "TEST_SERVICE_CHILD_STORES";

/// The program under a manager.
pub(crate) struct Service {
    pub(crate) manager: Box<dyn Manager>,
    scratch: Scratch,
}

impl Service {
    /// Started; `None` where there is no such manager.
    pub(crate) fn start(kind: Kind, adjust: impl FnOnce(&mut Unit)) -> Option<Service> {
        let scratch = Scratch::new();
        let own = std::env::current_exe().expect("the test program");
        let mut unit = Unit::of(vec![
            own.into(),
            "--exact".into(),
            "managers::service_program".into(),
            "--nocapture".into(),
        ]);
        let control = scratch.join("control").display().to_string();
        unit.environment = vec![(CONTROL.into(), control)];
        unit.timeout_start = Duration::from_secs(15);
        adjust(&mut unit);
        let manager = kind.manage("service managers", unit)?;
        manager.start().unwrap_or_else(|e| panic!("{e}\n{}", manager.log()));
        Some(Service { manager, scratch })
    }

    /// Tells the program to do something, and waits for its answer.
    pub(crate) fn ask(&self, what: &str) -> String {
        let answer = wait_for(LIMIT, || {
            let mut stream = self.send(what)?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok()?;
            answer.strip_suffix('\n').map(str::to_owned)
        });
        answer.unwrap_or_else(|| panic!("no answer to {what}: {}", self.manager.log()))
    }

    fn send(&self, what: &str) -> Option<UnixStream> {
        let mut stream = UnixStream::connect(self.scratch.join("control")).ok()?;
        writeln!(stream, "{what}").ok()?;
        Some(stream)
    }

    /// A child of the program's that ignores SIGTERM, has a session of its own and outlives its parent.
    pub(crate) fn spawned(&self) -> u32 {
        let script = "trap '' TERM; echo $$; exec sleep 1000";
        let inside: u32 = self.ask(&format!("spawn {script}")).parse().expect("a process id");
        let main = self.manager.main_pid().expect("runs");
        let below = crate::support::process::tree(main);
        let found = below
            .into_iter()
            .find(|pid| *pid == inside || last_id(*pid) == Some(inside));
        found.expect("a child of the main process")
    }

    /// As by an accident; waits until the manager has started the next one.
    pub(crate) fn kill_main(&self) {
        let before = self.manager.restarts();
        kill_process(pid_of(self.manager.main_pid().expect("runs")), Signal::KILL).expect("a process of our own");
        let again = wait_for(LIMIT, || (self.manager.restarts() > before).then_some(()));
        assert!(again.is_some(), "it is started again");
    }
}

/// As the process itself sees its id.
fn last_id(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    ids.split_whitespace().last()?.parse().ok()
}

/// Runs as the service, until it is killed. Returns at once in a process that no manager has started.
pub(crate) fn program() {
    if let Ok(name) = std::env::var(CHILD) {
        store(&name, &file_of(&name), "");
        return barrier();
    }
    let Ok(control) = std::env::var(CONTROL) else { return };
    let inherited = inherited();
    reload_says_so();
    let _ = std::fs::remove_file(&control);
    let listener = UnixListener::bind(&control).expect("the scratch folder");
    notify("WATCHDOG=1", &[]);
    notify(&format!("READY=1\nSTATUS=inherited {}", inherited.len()), &[]);
    if let Ok(within) = std::env::var("WATCHDOG_USEC") {
        assert_eq!(std::env::var("WATCHDOG_PID"), Ok(std::process::id().to_string()));
        let half = Duration::from_micros(within.parse().expect("a number")) / 2;
        std::thread::spawn(move || {
            loop {
                notify("WATCHDOG=1", &[]);
                std::thread::sleep(half);
            }
        });
    }
    for mut stream in listener.incoming().flatten() {
        let mut line = String::new();
        let _ = BufReader::new(&stream).read_line(&mut line);
        let answer = obey(line.trim(), &inherited);
        let _ = writeln!(stream, "{answer}");
    }
}

/// Once it has answered, the manager has dealt with it.
fn obey(line: &str, inherited: &[(String, OwnedFd)]) -> String {
    let (order, rest) = line.split_once(' ').unwrap_or((line, ""));
    match order {
        "inherited" => return describe(inherited),
        "spawn" => return spawn(rest),
        "deaf" => ignore(libc::SIGTERM),
        "store" => rest.split_whitespace().for_each(|name| store(name, &file_of(name), "")),
        "store-many" => {
            for number in 0..rest.parse().expect("a number") {
                let name: u32 = number;
                store(&name.to_string(), &file_of(&name.to_string()), "");
            }
        }
        "twice" => {
            let file = file_of(rest);
            store(rest, &file, "");
            store("other", &file.try_clone().expect("a duplicate"), "");
        }
        "store-hung-up" => store(rest, &hung_up(), ""),
        "store-hung-up-unpolled" => store(rest, &hung_up(), "\nFDPOLL=0"),
        "remove" => notify(&format!("FDSTOREREMOVE=1\nFDNAME={rest}"), &[]),
        "child-stores" => {
            let own = std::env::current_exe().expect("this program");
            let mut child = Command::new(own);
            child.args(["--exact", "managers::service_program"]).env(CHILD, rest);
            child.stdout(Stdio::null()).status().expect("this program");
        }
        other => panic!("{other} is not known"),
    }
    barrier();
    "stored".into()
}

/// sd_listen_fds(3): what came, with its names.
fn inherited() -> Vec<(String, OwnedFd)> {
    let Ok(count) = std::env::var("LISTEN_FDS") else {
        return vec![];
    };
    assert_eq!(std::env::var("LISTEN_PID"), Ok(std::process::id().to_string()));
    let count: i32 = count.parse().expect("a number");
    let names = std::env::var("LISTEN_FDNAMES").expect("as many names");
    let names: Vec<_> = names.split(':').map(str::to_owned).collect();
    assert_eq!(names.len(), count as usize);
    (3..).zip(names).map(|(number, name)| (name, own(number))).collect()
}

#[allow(unsafe_code, reason = "an inherited number becomes a descriptor")]
fn own(number: i32) -> OwnedFd {
    // SAFETY: the manager has opened it for this process, and nobody else here knows of it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    assert_eq!(
        fcntl_getfd(&descriptor).expect("it is open"),
        FdFlags::empty(),
        "it was inherited"
    );
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC).expect("an open descriptor");
    descriptor
}

/// `NAME=CONTENT` of each, in order of their names.
fn describe(inherited: &[(String, OwnedFd)]) -> String {
    let content = |descriptor: &OwnedFd| {
        let mut bytes = [0; 64];
        let file = File::from(descriptor.try_clone().expect("a duplicate"));
        let length = file.read_at(&mut bytes, 0).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let mut all: Vec<_> = inherited
        .iter()
        .map(|(name, of)| format!("{name}={}", content(of)))
        .collect();
    all.sort();
    all.join(" ")
}

fn file_of(content: &str) -> OwnedFd {
    let file = File::from(memfd_create("stored", MemfdFlags::CLOEXEC).expect("memory"));
    file.write_all_at(content.as_bytes(), 0).expect("memory");
    file.into()
}

/// An end of a pair whose other end is closed.
fn hung_up() -> OwnedFd {
    let (ours, _theirs) = UnixStream::pair().expect("a pair");
    ours.into()
}

#[allow(clippy::zombie_processes, reason = "it is to outlive this process")]
fn spawn(script: &str) -> String {
    let mut child = Command::new("setsid");
    child.args(["sh", "-c", script]).stdout(Stdio::piped());
    let mut child = child.spawn().expect("a shell");
    let mut line = String::new();
    let out = child.stdout.take().expect("a pipe");
    let _ = BufReader::new(out).read_line(&mut line);
    line.trim().to_owned()
}

fn store(name: &str, descriptor: &OwnedFd, more: &str) {
    notify(&format!("FDSTORE=1\nFDNAME={name}{more}"), &[descriptor.as_fd()]);
}

/// Until the manager has dealt with everything before it: it closes the pipe's end that it is sent.
fn barrier() {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
    notify("BARRIER=1", &[theirs.as_fd()]);
    drop(theirs);
    let limit = Timespec::try_from(LIMIT).expect("seconds");
    let answered = poll(&mut [PollFd::new(&ours, PollFlags::empty())], Some(&limit));
    assert_eq!(answered, Ok(1), "the barrier is passed");
}

fn notify(text: &str, descriptors: &[BorrowedFd<'_>]) {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).expect("a socket");
    let path = std::env::var("NOTIFY_SOCKET").expect("a manager has started this");
    let address = SocketAddrUnix::new(path).expect("a path");
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors)),
            "room for 4"
        );
    }
    let text = [IoSlice::new(text.as_bytes())];
    sendmsg_addr(&socket, &address, &text, &mut ancillary, SendFlags::empty()).expect("the manager listens");
}

#[allow(unsafe_code, reason = "no crate here wraps signal(2)")]
fn ignore(signal: libc::c_int) {
    // SAFETY: no handler is run.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

#[allow(unsafe_code, reason = "no crate here wraps signal(2)")]
fn reload_says_so() {
    extern "C" fn say(_: libc::c_int) {
        let _ = rustix::io::write(rustix::stdio::stderr(), b"reloading\n");
    }
    // SAFETY: the handler only makes one system call, write(2).
    unsafe { libc::signal(libc::SIGHUP, say as extern "C" fn(libc::c_int) as libc::sighandler_t) };
}
