//! A second `bowline serve` at the same address: says who is there, or takes its place with all sessions. Loopback only.

#[path = "survival/client.rs"]
#[allow(dead_code, reason = "made for another suite")]
mod client;
#[path = "replace/killed.rs"]
mod killed;
mod support;
#[path = "replace/takeover.rs"]
mod takeover;
#[path = "replace/tls_port.rs"]
mod tls_port;

use client::Client;
use rustix::process::Signal;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;
use support::daemon::{Daemon, Home};
use support::data::{MIB, hash_file, hash_stream, random_file};
use support::echo::TcpEcho;
use support::flow::Flow;
use support::process::{Outcome, Running, run, tree};
use support::rig::Rig;
use support::serve::{Serve, ServeOptions};
use support::server_half::{is_alive, signal};
use support::ssh::{HOST, SshSetup};
use support::sshd::TestSshd;
use support::{heavy, measured, measured_time, now, wait_for};
use takeover::{Peer, socket_files};

const LIMIT: Duration = Duration::from_secs(60);
const UNAVAILABLE: i32 = 69;

/// A session of real ssh that echoes a known stream, at a steady pace for as long as it is wanted.
struct Echo {
    client: Client,
    sent: Arc<Flow>,
    over: Arc<std::sync::atomic::AtomicBool>,
}

impl Echo {
    fn start(command: Command, seed: u64) -> Echo {
        let mut client = Client::start(command, seed);
        let sent = Arc::new(Flow::new(seed));
        let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (flow, stop, stdin) = (sent.clone(), over.clone(), client.take_stdin());
        std::thread::spawn(move || {
            flow.send(stdin, |_| {
                sleep(Duration::from_millis(2));
                (!stop.load(std::sync::atomic::Ordering::SeqCst)).then_some(2000)
            });
        });
        let mut echo = Echo { client, sent, over };
        echo.expect_alive();
        echo
    }

    /// What is sent from now on comes back.
    #[track_caller]
    fn expect_alive(&mut self) {
        let sent = self.sent.bytes();
        self.client.expect_bytes(sent + 20_000, LIMIT);
    }

    /// Everything comes back, and it ends cleanly.
    #[track_caller]
    fn finish(self) {
        self.over.store(true, std::sync::atomic::Ordering::SeqCst);
        let sent = self.sent.end_within(LIMIT);
        assert!(sent.is_some(), "everything is taken");
        let (down, outcome) = (self.client.down.clone(), self.client.finish(LIMIT));
        assert_eq!(outcome.code, Some(0), "{}", outcome.err());
        assert_eq!(down.bytes(), self.sent.bytes(), "all that was sent came back");
    }
}

fn echo(rig: &Rig, seed: u64) -> Echo {
    Echo::start(rig.ssh.ssh(&[HOST, "cat"]), seed)
}

fn serve(rig: &mut Rig) -> &mut Serve {
    rig.serve.as_mut().expect("a rig over bowline")
}

#[test]
fn second_one_says_who_is_there_and_disturbs_nobody() {
    let rig = Rig::bowline();
    let mut session = echo(&rig, 1);
    let udp = rig.serve().udp();
    let keeper = rig.serve().half().keeper();
    let second = run(&mut rig.serve().another(udp, &[]), LIMIT).expect_code(UNAVAILABLE);
    let said = second.err();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert_eq!(lines[0], format!("error: another bowline serves on udp {udp}"));
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        lines[1].starts_with(&format!("  process {keeper}, version {version}, running for ")),
        "{said}"
    );
    assert_eq!(lines[2], "hint: --replace takes over from it and keeps its sessions");
    session.expect_alive();
    assert_eq!(rig.serve().half().keeper(), keeper);
    session.finish();
}

#[test]
fn whoever_asks_is_answered_after_a_reload_and_by_a_keeper_that_was_raised() {
    let rig = Rig::bowline();
    let (udp, half) = (rig.serve().udp(), rig.serve().half());
    let keeper = half.keeper();
    let who = || {
        let said = run(&mut rig.serve().another(udp, &[]), LIMIT)
            .expect_code(UNAVAILABLE)
            .err();
        let pid = said.split("  process ").nth(1).and_then(|rest| rest.split(',').next());
        pid.and_then(|pid| pid.parse::<u32>().ok())
            .unwrap_or_else(|| panic!("{said}"))
    };
    rig.serve().signal(Signal::HUP);
    assert!(
        wait_for(LIMIT, || (rig
            .serve()
            .logged("keeper continues with an existing worker")
            == 1)
            .then_some(()))
        .is_some()
    );
    assert_eq!(who(), keeper);
    half.kill_keeper();
    let raised = half.keeper_after(keeper);
    assert_eq!(who(), raised);
}

#[test]
fn another_program_at_the_port_is_named_and_left_alone() {
    let rig = Rig::bowline();
    let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let taken = other.local_addr().expect("a bound socket");
    for more in [&[][..], &["--replace"]] {
        let second = run(&mut rig.serve().another(taken, more), LIMIT).expect_code(UNAVAILABLE);
        let said = second.err();
        assert!(
            said.starts_with(&format!("error: cannot listen on udp {taken}: ")),
            "{said}"
        );
        assert!(
            said.contains(&format!("\n  process {} (", std::process::id())),
            "{said}"
        );
    }
}

#[test]
fn replaced_ones_hand_on_sessions_with_flowing_bytes_again_and_again() {
    let _turn = heavy();
    let mut rig = Rig::bowline();
    let source = rig.ssh.path("source");
    random_file(&source, 7, 300 * MIB);
    let mut session = echo(&rig, 1);
    let download = format!("cat {}", source.display());
    let (running, _stdin, mut stdout) = Running::start_piped(&mut rig.ssh.ssh(&[HOST, &download]));
    let mut first = vec![0; MIB as usize];
    stdout.read_exact(&mut first).expect("the download begins");
    let reader = std::thread::spawn(move || hash_stream(first.as_slice().chain(stdout)));

    let udp = rig.serve().udp();
    let mut before = rig.serve().half().keeper();
    let fingerprint = rig.serve().ready_field("fingerprint").map(str::to_owned);
    let mut gaps = vec![];
    for round in 0..5 {
        let start = now();
        let outcome: Outcome = serve(&mut rig).replace(None, &[]);
        assert_eq!(outcome.code, Some(0), "round {round}: the one before ends cleanly");
        sleep(Duration::from_millis(500));
        gaps.push(session.client.down.longest_silence_since(start));
        session.expect_alive();
        let serve = rig.serve();
        assert_eq!(
            serve.ready_field("udp"),
            Some(udp.to_string().as_str()),
            "the same port"
        );
        assert_eq!(serve.ready_field("fingerprint").map(str::to_owned), fingerprint);
        assert_eq!(serve.logged("another keeper has taken over"), round + 1);
        assert_ne!(serve.half().keeper(), before);
        before = serve.half().keeper();
    }
    gaps.sort();
    for gap in &gaps {
        measured_time("gap of a replacement under load", *gap);
    }
    session.finish();
    let (hash, length) = reader.join().expect("the reader").expect("our own pipe");
    running.finish(LIMIT).expect_code(0);
    assert_eq!((hash, length), (hash_file(&source), 300 * MIB));
    assert_eq!(rig.serve().logged("worker died"), 0, "{}", rig.serve().log());
}

#[test]
fn idle_replacement_is_not_noticed() {
    let _turn = heavy();
    let mut rig = Rig::bowline();
    let mut session = echo(&rig, 1);
    let mut gaps = vec![];
    for _ in 0..5 {
        let start = now();
        assert_eq!(serve(&mut rig).replace(None, &[]).code, Some(0));
        sleep(Duration::from_millis(500));
        gaps.push(session.client.down.longest_silence_since(start));
        session.expect_alive();
    }
    gaps.sort();
    measured_time("median gap of a replacement", gaps[2]);
    assert!(gaps[2] < Duration::from_millis(300), "{gaps:?}");
    session.finish();
}

#[test]
fn keeper_that_is_stopped_is_replaced_and_its_sessions_go_on() {
    let mut rig = Rig::bowline();
    let mut session = echo(&rig, 1);
    let udp = rig.serve().udp();
    let (keeper, worker) = (rig.serve().half().keeper(), rig.serve().half().worker());
    signal(keeper, Signal::STOP);
    let said = run(&mut rig.serve().another(udp, &[]), LIMIT)
        .expect_code(UNAVAILABLE)
        .err();
    let expected = format!(
        "error: another bowline serves on udp {udp} but does not answer\n  process {keeper} is stopped\n  its \
         worker, \
         process {worker}, runs\nhint: --replace takes over from it and keeps its sessions\n"
    );
    assert_eq!(said, expected);
    session.expect_alive();

    let start = now();
    let outcome = serve(&mut rig).replace(None, &[]);
    measured_time("taking over from a stopped keeper", start.elapsed());
    assert_eq!(outcome.code, Some(128 + 9), "it was killed");
    assert_eq!(
        rig.serve().logged("does not answer: killed"),
        1,
        "{}",
        rig.serve().log()
    );
    session.expect_alive();
    session.finish();
}

#[test]
fn keeper_that_is_stopped_with_its_worker_is_not_touched() {
    let rig = Rig::bowline();
    let mut session = echo(&rig, 1);
    let udp = rig.serve().udp();
    let (keeper, worker) = (rig.serve().half().keeper(), rig.serve().half().worker());
    signal(keeper, Signal::STOP);
    signal(worker, Signal::STOP);
    let said = run(&mut rig.serve().another(udp, &["--replace"]), LIMIT)
        .expect_code(UNAVAILABLE)
        .err();
    assert!(said.contains(&format!("hint: kill -CONT {keeper} resumes")), "{said}");
    signal(worker, Signal::CONT);
    signal(keeper, Signal::CONT);
    session.expect_alive();
    assert_eq!(rig.serve().half().keeper(), keeper);
    session.finish();
}

#[test]
fn replacement_counts_by_its_own_settings_and_old_sessions_keep_their_target() {
    let sshd = TestSshd::start();
    let (first, second) = (TcpEcho::start(), TcpEcho::start());
    let mut options = ServeOptions::here().argument("--auth").argument("none");
    for key in sshd.host_keys() {
        options = options.argument("--host-key").argument(key);
    }
    let mut serve = Serve::start_before(first.address(), options);
    let ssh = SshSetup::bowline(&sshd, serve.udp().port()).write();
    let mut old = Echo::start(ssh.proxy(), 1);
    assert_eq!((first.accepted(), second.accepted()), (1, 0));
    assert_eq!(
        serve.replace(Some(second.address()), &["--max-sessions", "2"]).code,
        Some(0)
    );
    old.expect_alive();
    let new = Echo::start(ssh.proxy(), 2);
    let third = run(&mut ssh.proxy(), LIMIT);
    assert_eq!(third.code, Some(77), "two sessions are enough now: {}", third.err());
    assert_eq!((first.accepted(), second.accepted()), (1, 1));
    old.finish();
    new.finish();
}

#[test]
fn any_port_is_that_of_the_one_that_is_replaced() {
    let rig = Rig::bowline();
    let mut session = echo(&rig, 1);
    let udp = rig.serve().udp();
    let any = SocketAddr::new(udp.ip(), 0);
    let file = std::fs::File::create(rig.serve().path("second")).expect("the scratch folder");
    let mut command = rig.serve().another(any, &["--replace"]);
    let before = rig.serve().half().keeper();
    let _second = Running::spawn(command.stdin(Stdio::null()).stdout(file).stderr(Stdio::null()));
    let ready = wait_for(LIMIT, || {
        let text = std::fs::read_to_string(rig.serve().path("second")).ok()?;
        text.ends_with('\n').then_some(text)
    });
    assert!(ready.is_some_and(|ready| ready.contains(&format!("udp={udp} "))));
    rig.serve().half().keeper_after(before);
    session.expect_alive();
    session.finish();
}

#[test]
fn two_in_one_folder_are_told_apart_by_their_ports() {
    let mut rig = Rig::bowline();
    let mut session = echo(&rig, 1);
    let udp = rig.serve().udp();
    let port = support::place::Place::free_port();
    let beside = SocketAddr::new(udp.ip(), port);
    let file = std::fs::File::create(rig.serve().path("beside")).expect("the scratch folder");
    let mut command = rig.serve().another(beside, &["--replace"]);
    let other = Running::spawn(command.stdin(Stdio::null()).stdout(file).stderr(Stdio::null()));
    let doors_of = |rig: &Rig| socket_files(&rig.serve().path("run")).len();
    assert!(wait_for(LIMIT, || (doors_of(&rig) == 2).then_some(())).is_some());
    let any = SocketAddr::new(udp.ip(), 0);
    let said = run(&mut rig.serve().another(any, &["--replace"]), LIMIT)
        .expect_code(UNAVAILABLE)
        .err();
    assert!(
        said.starts_with("error: several bowline server halves run on this machine\n"),
        "{said}"
    );
    assert!(
        said.contains(&udp.to_string()) && said.contains(&beside.to_string()),
        "{said}"
    );
    // Each is replaced by its own.
    assert_eq!(serve(&mut rig).replace(None, &[]).code, Some(0));
    assert!(is_alive(other.id()));
    session.expect_alive();
    session.finish();
    other.signal(Signal::TERM);
    assert_eq!(other.finish(LIMIT).code, Some(0));
    assert_eq!(doors_of(&rig), 1, "a clean end removes the file");
}

#[test]
fn asker_that_goes_away_half_way_leaves_the_keeper_as_it_was() {
    let rig = Rig::bowline();
    let mut session = echo(&rig, 1);
    let keeper = rig.serve().half().keeper();
    let file = socket_files(&rig.serve().path("run")).remove(0);
    let peer = Peer::enter(&file);
    let said = peer.ask("\"Identify\"");
    assert!(said.contains(&format!("\"keeper\":{keeper}")), "{said}");
    // It hears that it may, gets everything but the worker, and leaves.
    let version: u32 = granted_version(&peer);
    drop(peer);
    session.expect_alive();
    // The same, but it stays and says nothing.
    let peer = Peer::enter(&file);
    let said = peer.ask(&format!("{{\"TakeOver\":{{\"version\":{version}}}}}"));
    assert_eq!(said, "\"Granted\"");
    assert!(
        wait_for(LIMIT, || (rig.serve().logged("this keeper continues") >= 2)
            .then_some(()))
        .is_some()
    );
    session.expect_alive();
    assert_eq!(rig.serve().half().keeper(), keeper);
    // Somebody else can.
    let mut rig = rig;
    assert_eq!(serve(&mut rig).replace(None, &[]).code, Some(0));
    session.expect_alive();
    session.finish();
}

/// Asks with ever other versions until the keeper hands over: a refusal names the right one.
fn granted_version(peer: &Peer) -> u32 {
    let said = peer.ask("{\"TakeOver\":{\"version\":9999}}");
    let version = said
        .split("\"theirs\":")
        .nth(1)
        .and_then(|rest| rest.trim_end_matches('}').parse().ok());
    let version = version.unwrap_or_else(|| panic!("no version: {said}"));
    let said = peer.ask(&format!("{{\"TakeOver\":{{\"version\":{version}}}}}"));
    assert_eq!(said, "\"Granted\"");
    version
}

#[test]
fn guests_that_babble_or_say_nothing_disturb_nobody() {
    let rig = Rig::bowline();
    let mut session = echo(&rig, 1);
    let file = socket_files(&rig.serve().path("run")).remove(0);
    let silent: Vec<Peer> = (0..24).map(|_| Peer::enter(&file)).collect();
    let babbling: Vec<Peer> = (0..8).map(|_| Peer::enter(&file)).collect();
    for (number, peer) in babbling.iter().enumerate() {
        peer.say(&vec![number as u8; 1 + number * 4000]);
        peer.say(b"\"Ready\"");
    }
    // The keeper does its work meanwhile.
    let start = now();
    let before = rig.serve().half().kill_worker();
    rig.serve().half().worker_after(before);
    measured_time("a new worker with all control connections in use", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(1));
    session.expect_alive();
    // Whoever asks properly gets an answer once the others were shown out.
    let udp = rig.serve().udp();
    let said = run(&mut rig.serve().another(udp, &[]), LIMIT)
        .expect_code(UNAVAILABLE)
        .err();
    assert!(said.starts_with("error: another bowline serves on udp "), "{said}");
    drop((silent, babbling));
    session.expect_alive();
    session.finish();
}

#[test]
fn one_that_a_service_manager_runs_is_left_to_it() {
    let scratch = support::Scratch::new();
    let manager = UnixDatagram::bind(scratch.join("notify")).expect("the scratch folder");
    let address = scratch.join("notify").display().to_string();
    // It keeps nothing: what comes with a message is closed.
    std::thread::spawn(move || while manager.recv(&mut [0; 4096]).is_ok() {});
    let sshd = TestSshd::start();
    let mut options = ServeOptions::here();
    options.environment.push(("NOTIFY_SOCKET".into(), address));
    let serve = Serve::start(&sshd, options);
    let keeper = serve.half().keeper();
    for (more, hint) in [
        (&[][..], "systemctl reload applies"),
        (&["--replace"], "systemctl reload or"),
    ] {
        let mut second = serve.another(serve.udp(), more);
        second.env_remove("NOTIFY_SOCKET");
        let said = run(&mut second, LIMIT).expect_code(UNAVAILABLE).err();
        assert!(said.contains(hint), "{said}");
    }
    assert_eq!(serve.half().keeper(), keeper);
    assert_eq!(serve.stop(LIMIT), Some(0));
}

#[test]
fn one_of_another_user_is_not_replaced_and_goes_on() {
    if !rustix::process::geteuid().is_root() {
        return measured("a keeper of another user", "SKIPPED, only root can start one");
    }
    let home = Home::of_nobody();
    let run_dir = home.path("state/run").display().to_string();
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--target",
        "127.0.0.1:1",
        "--auth",
        "none",
    ];
    let more = ["--runtime-dir", &run_dir];
    let daemon = Daemon::start(&home, &[&arguments[..], &more].concat());
    let address = format!("127.0.0.1:{}", daemon.port("udp"));
    let scratch = support::Scratch::new();
    let mut command = Command::new(support::BOWLINE);
    command.args([
        "serve",
        "--listen",
        &address,
        "--target",
        "127.0.0.1:1",
        "--auth",
        "none",
        "--replace",
    ]);
    command.args(more).arg("--state-dir").arg(scratch.path());
    let said = run(&mut command, LIMIT).expect_code(UNAVAILABLE).err();
    assert!(said.contains("it runs as user id 65534, not 0"), "{said}");
    assert_eq!(daemon.stop(), Some(0), "it has gone on");
}

#[test]
fn one_of_another_version_is_not_replaced_and_goes_on() {
    let rig = Rig::bowline();
    let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let udp = other.local_addr().expect("a bound socket");
    let folder = rig.serve().path("run");
    let host = takeover::Host::open(&folder.join(format!("serve-{}-00000000.sock", udp.port())), udp);
    let said = run(&mut rig.serve().another(udp, &["--replace"]), LIMIT)
        .expect_code(UNAVAILABLE)
        .err();
    assert!(
        said.starts_with("error: cannot take over from the running bowline: "),
        "{said}"
    );
    assert!(said.contains("version 9.9.9") && said.contains("hint: "), "{said}");
    assert_eq!(host.asked(), ["\"Identify\"", "TakeOver"]);
}

#[test]
fn built_in_server_goes_on_with_its_sessions() {
    let home = Home::mine();
    let arguments = ["serve", "--target", "builtin", "--listen", "127.0.0.1:0", "--replace"];
    let run_dir = home.path("run").display().to_string();
    let arguments = [&arguments[..], &["--runtime-dir", &run_dir]].concat();
    let before = Daemon::start(&home, &arguments);
    let port = before.port("udp");
    let mut session = Echo::start(home.ssh(port, "user", true, &["cat"]), 1);
    let children = tree(before.id());
    let after = Daemon::start(&home, &arguments);
    assert_eq!(after.port("udp"), port);
    assert!(wait_for(LIMIT, || (!is_alive(before.id())).then_some(())).is_some());
    session.expect_alive();
    run(&mut home.ssh(port, "user", true, &["exit 7"]), LIMIT).expect_code(7);
    session.finish();
    assert_eq!(after.stop(), Some(0));
    // What was not the new one's child is ended by it all the same.
    let ended = || (!children.iter().any(|pid| is_alive(*pid))).then_some(());
    assert!(wait_for(LIMIT, ended).is_some(), "{children:?}");
}
