//! A keeper's process, as the tests drive it.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal as OsSignal, kill_process};
use tempfile::TempDir;

use super::roles::{CONFIGURATION, PROGRAM, REPORT_TO, ROLE, test_arguments};
use crate::clock;

/// A keeper's process, and the socket to its worker. Dropping it ends all processes that were started for it.
pub(super) struct KeeperProcess {
    pub(super) child: Child,
    pub(super) socket: UdpSocket,
    pub(super) worker: u32,
    /// The configuration that the worker was given.
    pub(super) configuration: String,
    /// Program and configuration.
    pub(super) folder: TempDir,
}

impl KeeperProcess {
    /// Starts a keeper from a folder of its own, which the worker's user may not enter.
    pub(super) fn start(role: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        install(&std::env::current_exe().unwrap(), &folder.path().join("bowline"));
        fs::write(folder.path().join("configuration"), "first").unwrap();
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let program = folder.path().join("bowline");
        let child = Command::new(&program)
            .args(test_arguments("role_keeper"))
            .env(ROLE, role)
            .env(REPORT_TO, socket.local_addr().unwrap().to_string())
            .env(PROGRAM, &program)
            .env(CONFIGURATION, folder.path().join("configuration"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut keeper = Self {
            child,
            socket,
            worker: 0,
            configuration: String::new(),
            folder,
        };
        keeper.next_worker();
        keeper
    }

    /// Waits for a worker to start. Skips all reports of earlier ones.
    pub(super) fn next_worker(&mut self) -> u32 {
        loop {
            let mut report = [0; 1000];
            let (length, from) = uninterrupted(|| self.socket.recv_from(&mut report)).expect("a worker starts");
            if let Some(started) = std::str::from_utf8(&report[..length]).unwrap().strip_prefix("started ") {
                let (pid, configuration) = started.split_once(' ').unwrap();
                self.socket.connect(from).unwrap();
                self.worker = pid.parse().unwrap();
                self.configuration = configuration.to_owned();
                return self.worker;
            }
        }
    }

    pub(super) fn order(&self, order: &str) {
        self.socket.send(order.as_bytes()).unwrap();
    }

    pub(super) fn ask(&self, order: &str) -> String {
        self.order(order);
        self.hear()
    }

    pub(super) fn hear(&self) -> String {
        let mut report = [0; 10_000];
        let length = uninterrupted(|| self.socket.recv(&mut report)).expect("a report");
        String::from_utf8(report[..length].to_vec()).unwrap()
    }

    pub(super) fn signal(&self, signal: OsSignal) {
        send_signal(self.child.id(), signal);
    }

    pub(super) fn kill_worker(&self) {
        send_signal(self.worker, OsSignal::KILL);
    }

    /// Replaces the program on disk as installers do: a new file under the old name.
    pub(super) fn install(&self, program: &Path) {
        install(program, &self.folder.path().join("bowline"));
    }

    pub(super) fn configure(&self, configuration: Option<&str>) {
        let path = self.folder.path().join("configuration");
        match configuration {
            Some(text) => fs::write(path, text).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
    }

    pub(super) fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub(super) fn children(&self) -> Vec<u32> {
        children(self.child.id())
    }

    /// The keeper that the worker has started.
    pub(super) fn new_keeper(&self) -> u32 {
        let deadline = clock::now() + Duration::from_secs(20);
        loop {
            if let Some(&new_keeper) = children(self.worker).first() {
                return new_keeper;
            }
            assert!(clock::now() < deadline, "no new keeper was started");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// All its running processes, whoever is their parent.
    pub(super) fn running(&self) -> Vec<u32> {
        let mark = format!("{REPORT_TO}={}", self.socket.local_addr().unwrap());
        let environment = |pid: u32| fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let has_mark = |environment: &[u8]| {
            environment
                .split(|&byte| byte == 0)
                .any(|entry| entry == mark.as_bytes())
        };
        // Between fork and the end of exec a process has none, and is its parent's.
        let is_ours = |pid: &u32| match &environment(*pid)[..] {
            [] => parent(*pid).is_some_and(|parent| has_mark(&environment(parent))),
            known => has_mark(known),
        };
        let entries = fs::read_dir("/proc").unwrap();
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        pids.filter(is_ours).filter(|&pid| is_running(pid)).collect()
    }
}

impl Drop for KeeperProcess {
    fn drop(&mut self) {
        for _ in 0..1000 {
            let running = self.running();
            if running.is_empty() {
                break;
            }
            running.into_iter().for_each(|pid| send_signal(pid, OsSignal::KILL));
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.child.wait();
    }
}

fn install(program: &Path, place: &Path) {
    let new = place.with_extension("new");
    // Copied by another process: a program that this process starts meanwhile would inherit the file open for writing,
    // which then could not be executed.
    let copied = Command::new("cp").arg(program).arg(&new).status().unwrap();
    assert!(copied.success());
    fs::rename(&new, place).unwrap();
}

/// The running children. A process that has ended and was not waited for is not one of them.
pub(super) fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).unwrap_or_default());
    let pids = lists.flat_map(|list| {
        list.split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect::<Vec<_>>()
    });
    pids.filter(|pid| is_running(*pid)).collect()
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // State and parent follow the name, which may contain anything.
    stat.rsplit_once(") ")?.1.split_whitespace().nth(1)?.parse().ok()
}

/// A process that has ended already needs no signal.
pub(super) fn send_signal(pid: u32, signal: OsSignal) {
    let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), signal);
}

/// A killed process that its parent has not waited for counts as gone.
pub(super) fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

pub(super) fn wait_until_gone(pid: u32) {
    let deadline = clock::now() + Duration::from_secs(20);
    while is_running(pid) {
        assert!(clock::now() < deadline, "process {pid} still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(super) fn status_field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim()
        .to_owned()
}

/// Other tests of this process catch signals, which interrupts a read with a time limit.
fn uninterrupted<T>(mut read: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match read() {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
