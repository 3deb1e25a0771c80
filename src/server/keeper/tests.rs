//! Real processes: the test binary starts itself as a keeper, which starts it as a worker. The worker reports to the
//! test, and takes orders from it, through the listening socket that it inherited.

use std::{
    fs,
    io::{Seek, Write},
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal as OsSignal, kill_process};

use super::*;
use crate::tasks::Tasks;

/// Tells a test process what it is, and where to report.
const ROLE: &str = "BOWLINE_TEST_KEEPER_ROLE";
const REPORT_TO: &str = "BOWLINE_TEST_KEEPER_REPORT_TO";
const PROGRAM: &str = "BOWLINE_TEST_KEEPER_PROGRAM";

/// 1 MiB that no accident could reproduce.
fn settings() -> Vec<u8> {
    (0..1024 * 1024u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

fn test_command(program: &Path, name: &str) -> Command {
    let mut command = Command::new(program);
    command.args(["--exact", &format!("server::keeper::tests::{name}"), "--nocapture"]);
    command
}

/// Not a test of its own: the keeper's process.
#[test]
fn role_keeper() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let program = std::env::var_os(PROGRAM).map_or_else(|| std::env::current_exe().unwrap(), PathBuf::from);
    let command = test_command(&program, "role_worker");
    let companion = role.contains("companion").then(|| CompanionPlan {
        program: "/bin/sleep".into(),
        args: vec!["1000".into()],
        stdin: None,
    });
    let plan = WorkerPlan {
        program,
        args: command.get_args().map(Into::into).collect(),
        listeners: vec![UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()],
        handover: settings(),
        user: choose_worker_user(None).unwrap(),
        companion,
        grace: Duration::from_millis(if role.contains("impatient") { 300 } else { 30_000 }),
    };
    let answer = Box::new(|request| {
        Reply::from(match request {
            Request::OpenKeyFile => return open_file(),
            Request::LoopbackMatch { user, .. } if user == "unasked" => Response::Unavailable,
            Request::LoopbackMatch {
                user,
                real_address,
                local_address,
                local_port,
            } => {
                let keyword = format!("{user} {real_address} {local_address} {local_port}");
                let difference = Difference {
                    keyword,
                    real: "yes".into(),
                    loopback: String::new(),
                    match_line: Some("line 7".into()),
                };
                Response::LoopbackMatch {
                    differences: vec![difference],
                }
            }
        })
    });
    let code = match Keeper::start(plan, answer).and_then(Keeper::run) {
        Ok(KeeperEnd::Stopped) => 0,
        Ok(KeeperEnd::WorkerGaveUp { code }) => code,
        Err(_) => 99,
    };
    std::process::exit(code);
}

/// Not a test of its own: the worker's process.
#[test]
fn role_worker() {
    let Some(report_to) = std::env::var_os(REPORT_TO) else {
        return;
    };
    let report_to: SocketAddr = report_to.to_str().unwrap().parse().unwrap();
    let inheritance = WorkerInheritance::take().unwrap();
    let socket = &inheritance.listeners[0];
    socket.connect(report_to).unwrap();
    let intact = *inheritance.handover == settings();
    socket
        .send(format!("started {} intact={intact}", std::process::id()).as_bytes())
        .unwrap();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work(inheritance));
}

async fn work(inheritance: WorkerInheritance) {
    let tasks = Tasks::new();
    let keeper = inheritance.control.connect(&tasks).unwrap();
    let socket = inheritance.listeners[0].try_clone().unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = tokio::net::UdpSocket::from_std(socket).unwrap();
    let deaf = std::env::var(ROLE).unwrap().contains("deaf");
    loop {
        let mut order = [0; 1000];
        let length = tokio::select! {
            length = socket.recv(&mut order) => length.unwrap(),
            () = async { keeper.stop_token().cancelled().await }, if !deaf => {
                socket.send(b"stopping").await.unwrap();
                std::process::exit(0);
            }
        };
        let order = String::from_utf8(order[..length].to_vec()).unwrap();
        let report = match order.split_once(' ').unwrap_or((&order, "")) {
            ("exit", code) => std::process::exit(code.parse().unwrap()),
            ("status", _) => fs::read_to_string("/proc/thread-self/status").unwrap(),
            ("stdin", _) => fs::read_link("/proc/self/fd/0").unwrap().display().to_string(),
            ("ask", user) => format!("{:?}", keeper.request(request(user)).await.unwrap().response),
            ("open", _) => read_all(keeper.request(Request::OpenKeyFile).await.unwrap()),
            ("babble", _) => {
                rustix::net::send(babble_socket(), b"?", rustix::net::SendFlags::empty()).unwrap();
                continue;
            }
            _ => format!("what is {order}"),
        };
        socket.send(report.as_bytes()).await.unwrap();
    }
}

/// In place of a file of keys: a file for the keeper alone, written just now.
fn open_file() -> Reply {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(format!("by {}", std::process::id()).as_bytes()).unwrap();
    file.rewind().unwrap();
    Reply {
        response: Response::KeyFile,
        descriptor: Some(file.into()),
    }
}

fn read_all(reply: Reply) -> String {
    assert_eq!(reply.response, Response::KeyFile);
    std::io::read_to_string(fs::File::from(reply.descriptor.unwrap())).unwrap()
}

fn request(user: &str) -> Request {
    Request::LoopbackMatch {
        user: user.to_owned(),
        real_address: "2001:db8::7".parse().unwrap(),
        local_address: "192.0.2.1".parse().unwrap(),
        local_port: 22,
    }
}

/// The control socket of this worker, found anew.
fn babble_socket() -> OwnedFd {
    let sockets = (3..100).filter_map(|number| {
        // SAFETY: only borrowed for this expression; a closed one fails with EBADF.
        #[allow(unsafe_code)]
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        fd.try_clone_to_owned().ok()
    });
    sockets.into_iter().find(|fd| control::is_control(fd.as_fd())).unwrap()
}

/// A keeper's process, and the socket to its worker. Dropped, both end: the keeper by SIGKILL.
struct KeeperProcess {
    child: Child,
    socket: UdpSocket,
    worker: u32,
}

impl KeeperProcess {
    fn start(role: &str) -> Self {
        Self::start_with(role, &std::env::current_exe().unwrap())
    }

    fn start_with(role: &str, worker_program: &Path) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let child = test_command(&std::env::current_exe().unwrap(), "role_keeper")
            .env(ROLE, role)
            .env(REPORT_TO, socket.local_addr().unwrap().to_string())
            .env(PROGRAM, worker_program)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut keeper = Self {
            child,
            socket,
            worker: 0,
        };
        keeper.next_worker();
        keeper
    }

    /// Waits for a worker to start. All that earlier ones had to say is skipped.
    fn next_worker(&mut self) -> u32 {
        loop {
            let mut report = [0; 1000];
            let (length, from) = self.socket.recv_from(&mut report).expect("a worker starts");
            if let Some(started) = std::str::from_utf8(&report[..length]).unwrap().strip_prefix("started ") {
                let (pid, intact) = started.split_once(' ').unwrap();
                assert_eq!(intact, "intact=true");
                self.socket.connect(from).unwrap();
                self.worker = pid.parse().unwrap();
                return self.worker;
            }
        }
    }

    fn order(&self, order: &str) {
        self.socket.send(order.as_bytes()).unwrap();
    }

    fn ask(&self, order: &str) -> String {
        self.order(order);
        self.hear()
    }

    fn hear(&self) -> String {
        let mut report = [0; 10_000];
        let length = self.socket.recv(&mut report).expect("a report");
        String::from_utf8(report[..length].to_vec()).unwrap()
    }

    fn signal(&self, signal: OsSignal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn kill_worker(&self) {
        kill_process(Pid::from_raw(self.worker as i32).unwrap(), OsSignal::KILL).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    fn children(&self) -> Vec<u32> {
        let pid = self.child.id();
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let lists = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).unwrap());
        lists
            .flat_map(|list| {
                list.split_whitespace()
                    .map(|pid| pid.parse().unwrap())
                    .collect::<Vec<_>>()
            })
            .collect()
    }
}

impl Drop for KeeperProcess {
    fn drop(&mut self) {
        let children = self.children_if_alive();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in children {
            let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), OsSignal::KILL);
        }
    }
}

impl KeeperProcess {
    fn children_if_alive(&mut self) -> Vec<u32> {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.children()
        } else {
            Vec::new()
        }
    }
}

/// A killed process that its parent has not waited for counts as gone.
fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn wait_until_gone(pid: u32) {
    let deadline = clock::now() + Duration::from_secs(20);
    while is_running(pid) {
        assert!(clock::now() < deadline, "process {pid} still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn status_field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
    line.unwrap_or_else(|| panic!("no {name} in {status}"))
        .trim()
        .to_owned()
}

#[test]
fn killed_worker_is_replaced_with_the_same_sockets_and_settings() {
    let mut keeper = KeeperProcess::start("plain");
    let address = keeper.socket.peer_addr().unwrap();
    for _ in 0..3 {
        let before = keeper.worker;
        keeper.kill_worker();
        assert_ne!(keeper.next_worker(), before);
        assert_eq!(keeper.socket.peer_addr().unwrap(), address);
    }
}

#[test]
fn worker_that_ends_by_itself_is_replaced() {
    let mut keeper = KeeperProcess::start("plain");
    for code in [0, 1, 70, 75, 101] {
        keeper.order(&format!("exit {code}"));
        keeper.next_worker();
    }
}

#[test]
fn worker_that_says_it_cannot_work_ends_the_keeper() {
    for code in FINAL_EXIT_CODES {
        let mut keeper = KeeperProcess::start("plain");
        keeper.order(&format!("exit {code}"));
        assert_eq!(keeper.wait().code(), Some(code));
    }
}

#[test]
fn sigterm_and_sigint_stop_the_worker_in_order_then_the_keeper() {
    for signal in [OsSignal::TERM, OsSignal::INT] {
        let mut keeper = KeeperProcess::start("plain");
        keeper.signal(signal);
        assert_eq!(keeper.hear(), "stopping");
        assert_eq!(keeper.wait().code(), Some(0));
        assert!(!is_running(keeper.worker));
    }
}

#[test]
fn sighup_replaces_the_worker_after_it_has_stopped_in_order() {
    let mut keeper = KeeperProcess::start("plain");
    for _ in 0..7 {
        let before = keeper.worker;
        keeper.signal(OsSignal::HUP);
        assert_eq!(keeper.hear(), "stopping");
        assert_ne!(keeper.next_worker(), before);
        assert!(!is_running(before));
    }
}

#[test]
fn worker_that_does_not_stop_is_killed_after_the_grace_period() {
    let mut keeper = KeeperProcess::start("deaf impatient");
    keeper.signal(OsSignal::TERM);
    assert_eq!(keeper.wait().code(), Some(0));
    assert!(!is_running(keeper.worker));
}

#[test]
fn second_sigterm_does_not_wait_for_the_grace_period() {
    let mut keeper = KeeperProcess::start("deaf");
    let start = clock::now();
    keeper.signal(OsSignal::TERM);
    // Two signals that are both pending are one; the worker's answer shows that the first was seen.
    while clock::now() - start < Duration::from_millis(100) {
        keeper.ask("stdin");
    }
    keeper.signal(OsSignal::TERM);
    assert_eq!(keeper.wait().code(), Some(0));
    assert!(clock::now() - start < Duration::from_secs(20));
    assert!(!is_running(keeper.worker));
}

#[test]
fn worker_stops_when_its_keeper_is_killed() {
    let mut keeper = KeeperProcess::start("plain");
    keeper.signal(OsSignal::KILL);
    keeper.wait();
    assert_eq!(keeper.hear(), "stopping");
    wait_until_gone(keeper.worker);
}

#[test]
fn requests_are_answered_by_the_keeper() {
    let keeper = KeeperProcess::start("plain");
    let answer = keeper.ask("ask ann");
    assert!(
        answer.contains("ann 2001:db8::7 192.0.2.1 22") && answer.contains("line 7"),
        "{answer}"
    );
    assert_eq!(keeper.ask("ask unasked"), "Unavailable");
}

#[test]
fn file_that_the_keeper_opens_is_read_by_the_worker() {
    let keeper = KeeperProcess::start("plain");
    assert_eq!(keeper.ask("open"), format!("by {}", keeper.child.id()));
}

#[test]
fn worker_that_speaks_another_language_is_replaced() {
    let mut keeper = KeeperProcess::start("plain");
    let before = keeper.worker;
    keeper.order("babble");
    assert_ne!(keeper.next_worker(), before);
}

#[test]
fn companion_is_kept_running_through_workers_and_stopped_at_the_end() {
    let mut keeper = KeeperProcess::start("companion");
    let companion = |keeper: &KeeperProcess| keeper.children().into_iter().find(|&pid| pid != keeper.worker);
    let first = companion(&keeper).unwrap();
    keeper.kill_worker();
    keeper.next_worker();
    assert_eq!(companion(&keeper), Some(first));
    kill_process(Pid::from_raw(first as i32).unwrap(), OsSignal::KILL).unwrap();
    wait_until_gone(first);
    keeper.signal(OsSignal::HUP);
    keeper.next_worker();
    let second = companion(&keeper).unwrap();
    keeper.signal(OsSignal::TERM);
    assert_eq!(keeper.wait().code(), Some(0));
    assert!(!is_running(second) && !is_running(keeper.worker));
}

#[test]
fn worker_has_no_privileges_left_and_a_clean_slate() {
    let keeper = KeeperProcess::start("plain");
    assert_eq!(keeper.ask("stdin"), "/dev/null");
    let status = keeper.ask("status");
    assert_eq!(status_field(&status, "NoNewPrivs"), "1");
    assert_eq!(status_field(&status, "SigBlk"), "0".repeat(16));
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for ids in ["Uid", "Gid"] {
        let ids = status_field(&status, ids);
        assert!(ids.split_whitespace().all(|id| id != "0"), "{ids}");
    }
    assert_eq!(status_field(&status, "Groups"), "");
    for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(status_field(&status, capabilities), "0".repeat(16), "{capabilities}");
    }
}

#[test]
fn worker_starts_from_a_folder_that_its_user_may_not_enter() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("bowline");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut keeper = KeeperProcess::start_with("plain", &program);
    keeper.kill_worker();
    keeper.next_worker();
}

#[test]
fn reload_takes_the_program_that_is_on_disk_by_then() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("bowline");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut keeper = KeeperProcess::start_with("plain", &program);
    // As installers do: a new file under the old name.
    let new = folder.path().join("new");
    fs::copy("/bin/false", &new).unwrap();
    fs::rename(&new, &program).unwrap();
    keeper.signal(OsSignal::HUP);
    assert_eq!(keeper.hear(), "stopping");
    let back = folder.path().join("back");
    fs::copy(std::env::current_exe().unwrap(), &back).unwrap();
    fs::rename(&back, &program).unwrap();
    keeper.next_worker();
}

#[test]
fn process_that_no_keeper_started_is_told_so() {
    if std::env::var_os(ROLE).is_some() {
        return;
    }
    assert!(matches!(
        WorkerInheritance::take(),
        Err(InheritanceError::NotStartedByKeeper)
    ));
}

#[test]
fn plan_that_cannot_be_handed_over_is_refused() {
    let plan = |listeners: usize, handover: usize| WorkerPlan {
        program: "/nonexistent".into(),
        args: Vec::new(),
        listeners: (0..listeners)
            .map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap())
            .collect(),
        handover: vec![0; handover],
        user: None,
        companion: None,
        grace: Duration::ZERO,
    };
    let start = |plan| {
        Keeper::start(plan, Box::new(|_| Response::Unavailable.into()))
            .err()
            .unwrap()
    };
    assert!(matches!(
        start(plan(MOST_LISTENERS + 1, 0)),
        KeeperError::TooManyListeners { given: 65 }
    ));
    assert!(matches!(
        start(plan(0, MOST_HANDOVER + 1)),
        KeeperError::HandoverTooLarge { .. }
    ));
}
