//! Tests that take minutes and use little CPU, in network namespaces. run-tests runs them beside the other suites.
//!
//! Needs root; without it each test prints to standard error that it was skipped. Measurements are printed.

#[path = "networks/growth.rs"]
#[allow(dead_code, reason = "the suite of networks uses the rest")]
mod growth;
#[path = "networks/paced_transfer.rs"]
#[allow(dead_code, reason = "the suite of networks uses the rest")]
mod paced_transfer;
#[path = "networks/routed.rs"]
#[allow(dead_code, reason = "the suite of networks uses the rest")]
mod routed;
mod scenarios;
mod support;

use paced_transfer::Direction;
use routed::Routed;
use rustix::process::{Signal, kill_process};
use scenarios::goodput;
use scenarios::keys::Typist;
use scenarios::ticker::Ticker;
use std::fs;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};
use support::lab::Lab;
use support::process::{Running, pid_of, run, tree};
use support::relay::Relay;
use support::rig::Rig;
use support::serve::{Serve, ServeOptions};
use support::ssh::{HOST, SshSetup};
use support::sshd::TestSshd;
use support::{Scratch, measured, measured_time, now, wait_for};

/// RTT 50 ms.
const CLIENT: &str = "delay=25";

const LIMIT: Duration = Duration::from_secs(30);

/// Bytes of each goodput measurement: 20 s at 256 kbit/s.
const BULK: usize = 640_000;

#[test]
fn a_slow_link_with_a_long_queue_brings_80_percent_of_plain_ssh() {
    slow_link("down", goodput::down);
}

#[test]
fn a_slow_link_with_a_long_queue_takes_80_percent_of_plain_ssh() {
    slow_link("up", goodput::up);
}

fn slow_link(direction: &str, rate: fn(&Rig, usize) -> f64) {
    let Some(lab) = usual("goodput at 256 kbit/s with a 10 s queue") else {
        return;
    };
    let bowline = Rig::bowline_in(&lab);
    let plain = Rig::plain_in(&lab);
    lab.set("client", "rate=0.256,queue=10000");
    let mut ratios: Vec<f64> = (0..PAIRS).map(|_| ratio(direction, rate, &bowline, &plain)).collect();
    ratios.sort_by(f64::total_cmp);
    let median = ratios[PAIRS / 2];
    assert!(
        median >= 0.8,
        "{direction}: the median of {ratios:.2?} is under 80 % of plain ssh"
    );
}

/// Pairs of runs, of which the median counts: one pair depends as much on the machine as on bowline.
const PAIRS: usize = 3;

fn ratio(direction: &str, rate: fn(&Rig, usize) -> f64, bowline: &Rig, plain: &Rig) -> f64 {
    let (theirs, ours) = (rate(plain, BULK), rate(bowline, BULK));
    let ratio = ours / theirs;
    let said = format!("bowline {ours:.0} kbit/s, plain ssh {theirs:.0} kbit/s, ratio {ratio:.2}");
    measured(&format!("goodput {direction} at 256 kbit/s with a 10 s queue"), said);
    ratio
}

#[test]
fn keys_come_back_sooner_on_a_lossy_link_because_of_their_copies() {
    let Some(lab) = usual("keys at 5 % loss") else {
        return;
    };
    let with = Rig::bowline_in(&lab);
    let without = Rig::with_in(&lab, ServeOptions::here().fault("no-copies"), |setup| {
        setup.fault("no-copies")
    });
    let [with, without] = [with, without].map(|rig| (Typist::start(&rig), rig));
    lab.set("client", "delay=25,loss=5");
    // Side by side, so that both see the same load of this machine.
    let [with, without] = [with, without].map(|(typist, rig)| (thread::spawn(move || typist.types(KEYS)), rig));
    let [with, without] = [with, without].map(|(echoes, _rig)| echoes.join().expect("every key comes back"));
    for (name, echoes) in [("with", &with), ("without", &without)] {
        for percent in [50, 95, 99] {
            let what = format!("echo of a key {name} copies, 5 % loss, RTT 50 ms, p{percent}");
            measured_time(&what, echoes.percentile(percent));
        }
    }
    // A key that is lost without a copy waits for a retransmission. One in ten keys is lost; the percentiles show one
    // in a hundred.
    let (ours, theirs) = (with.percentile(95), without.percentile(95));
    assert!(ours < theirs * 3 / 4, "{ours:?} with copies, {theirs:?} without");
}

/// Enough for 15 beyond the 95th percentile.
const KEYS: usize = 300;

#[test]
fn five_minutes_with_nothing_but_the_two_ends_and_one_relay() {
    // The lab has no name server, no gateway and no other host.
    let hosts = [("client", CLIENT), ("server", "nat"), ("r1", "")];
    let Some(lab) = Lab::possible("one relay and nobody else").then(|| Lab::up(&hosts)) else {
        return;
    };
    let relays = [Relay::start(lab.place("r1"))];
    let rig = Rig::relayed_in(&lab, &relays);
    let mut ticker = Ticker::start(&rig);
    let start = now();
    while now() - start < Duration::from_secs(300) {
        rig.ssh.remote("exit 7", Duration::from_secs(30)).expect_code(7);
        ticker.next_line_after(now(), Duration::from_secs(10));
        sleep(Duration::from_secs(20));
    }
    measured("lines in five minutes", ticker.finish_in_order());
}

/// The only proxy closes connections that are silent for 100 s, as some in cloud networks do.
#[test]
fn an_idle_session_lives_for_fifteen_minutes_through_a_proxy_that_ends_idle_tunnels() {
    let hosts = [("client", CLIENT), ("server", ""), ("proxy", "")];
    let Some(lab) = Lab::possible("a proxy that ends idle tunnels").then(|| Lab::up(&hosts)) else {
        return;
    };
    let scratch = Scratch::new();
    let config = scratch.join("tinyproxy.conf");
    fs::write(&config, "Port 3128\nTimeout 100\nConnectPort 443\n").expect("the scratch folder");
    let _proxy = Running::start(lab.command("proxy", "tinyproxy").args(["-d", "-c"]).arg(&config));
    let url = format!("http://{}:3128", lab.place("proxy").address);
    let options = ServeOptions::here().argument("--listen-tls").argument("443");
    let rig = Rig::with_in(&lab, options, |setup| setup.environment("BOWLINE_PROXY", &url));
    let server = lab.place("server").address.to_string();
    let mut wall = lab.command("client", "ip");
    run(wall.args(["route", "add", "blackhole", &server]), LIMIT).expect_code(0);
    let mut typist = Typist::start(&rig);
    sleep(Duration::from_secs(15 * 60));
    let echo = typist.press(b'b');
    measured_time("the first key after 15 idle minutes through a proxy, RTT 50 ms", echo);
    assert!(echo < Duration::from_secs(2), "{echo:?}");
    assert_eq!(rig.resumes(), 0, "the proxy never ended it: {}", rig.ssh.proxy_log());
}

/// What Visual Studio Code does with its ssh: it sends a byte every three seconds, and ends ssh five seconds after
/// wake-up if no answer has come.
const PINGS: &str = r#"
const { spawn } = require("child_process");
const ssh = spawn(process.argv[2], process.argv.slice(3), { stdio: ["pipe", "pipe", "inherit"] });
let woke = 0, before = Date.now();
ssh.stdout.on("data", () => {
    console.log(woke ? `awake ${Date.now() - woke}` : "answer");
    woke = 0;
});
ssh.on("exit", (code) => process.exit(code ?? 1));
setInterval(() => ssh.stdin.write("p"), 3000);
setInterval(() => {
    const now = Date.now();
    if (now - before > 10000) { woke = now; ssh.stdin.write("p"); }
    if (woke && now - woke > 5000) { console.log("dead"); process.exit(7); }
    before = now;
}, 200);
"#;

/// Suspend is simulated: all processes of the client are stopped, and its network is cut.
#[test]
fn a_program_of_node_that_pings_through_ssh_is_answered_within_two_seconds_of_waking() {
    let hosts = [("client", "delay=25,nat"), ("server", "")];
    let Some(lab) = Lab::possible("a ping after sleep").then(|| Lab::up(&hosts)) else {
        return;
    };
    let rig = Rig::bowline_in(&lab);
    let program = rig.ssh.path("pings.js");
    fs::write(&program, PINGS).expect("the scratch folder");
    let mut node = rig.ssh.command("node");
    node.arg(&program)
        .arg("ssh")
        .arg("-F")
        .arg(rig.ssh.config())
        .args([HOST, "cat"]);
    let running = Running::start(&mut node);
    let begun = wait_for(LIMIT, || running.out_so_far().contains("answer").then_some(()));
    assert!(begun.is_some(), "{}", running.err_so_far());
    for nap in 1..=NAPS {
        asleep(&lab, &running, Duration::from_secs(60));
        let told = || (running.out_so_far().matches("awake ").count() == nap).then(|| running.out_so_far());
        let told = wait_for(LIMIT, told).unwrap_or_else(|| panic!("{}", running.out_so_far()));
        let took = told
            .rsplit("awake ")
            .next()
            .and_then(|rest| rest.lines().next()?.parse().ok());
        let took = Duration::from_millis(took.expect("a number of milliseconds"));
        measured_time(
            "from waking to the first answer, RTT 50 ms, a new address at the NAT",
            took,
        );
        assert!(took < Duration::from_secs(2), "{told}");
    }
}

const NAPS: usize = 3;

/// Stops the processes, cuts the network, and restores both after a while; by then the NAT has another mapping.
fn asleep(lab: &Lab, running: &Running, time: Duration) {
    let all = tree(running.id());
    all.iter().for_each(|&pid| signal(pid, Signal::STOP));
    lab.cut("client");
    sleep(time);
    lab.rebind("client");
    lab.restore("client");
    all.iter().rev().for_each(|&pid| signal(pid, Signal::CONT));
}

fn signal(pid: u32, signal: Signal) {
    kill_process(pid_of(pid), signal).expect("a process of our own");
}

#[test]
fn what_a_session_sends_from_where_it_moved_grows_with_the_path() {
    if let Some(net) = Routed::up("from 1280 to 1500 bytes, up", false) {
        growth::grow(&net, Direction::Up, 1500, Duration::from_secs(160));
    }
}

#[test]
fn an_idle_session_learns_how_soon_a_nat_forgets() {
    const FORGETS: Duration = Duration::from_secs(12);
    let Some(net) = Routed::up("a NAT that forgets after 12 s", false) else {
        return;
    };
    net.nat(FORGETS);
    let options = ServeOptions {
        place: net.place("server"),
        ..ServeOptions::here()
    };
    let rig = Rig::between(net.place("client"), options, |setup| setup);
    let go = rig.ssh.path("go");
    let wait = format!(
        "while [ ! -e {0} ]; do sleep 0.05; done; rm {0}; echo line; sleep 1000",
        go.display()
    );
    let ssh = Running::start(&mut rig.ssh.ssh(&[HOST, &wait]));
    // Output arrives at a NAT that has just dropped the client's mapping.
    let mut rests = Rests::new(&net);
    while rests.look() < FORGETS + Duration::from_millis(700) {
        assert!(rests.began.elapsed() < LIMIT * 4, "{}", rig.ssh.proxy_log());
        sleep(LOOK);
    }
    fs::write(&go, "").expect("the scratch folder");
    let said = now();
    let line = wait_for(LIMIT, || ssh.out_so_far().contains("line").then_some(()));
    assert!(line.is_some(), "{}", rig.ssh.proxy_log());
    let took = said.elapsed();
    measured_time("output that met a NAT which had forgotten", took);
    assert!(took < Duration::from_secs(5), "{took:?}");
    // Later outputs do not.
    let mut rests = Rests::new(&net);
    let mut longest = Duration::ZERO;
    while rests.began.elapsed() < Duration::from_secs(75) {
        longest = longest.max(rests.look());
        sleep(LOOK);
    }
    measured_time("longest rest afterwards", longest);
    assert!(
        longest < FORGETS && longest > FORGETS / 2,
        "below it, and no more often than needed: {longest:?}"
    );
}

const LOOK: Duration = Duration::from_millis(50);

/// How long the client has been silent.
struct Rests<'a> {
    net: &'a Routed,
    began: Instant,
    sent: u64,
    since: Instant,
}

impl Rests<'_> {
    fn new(net: &Routed) -> Rests<'_> {
        Rests {
            net,
            began: now(),
            sent: 0,
            since: now(),
        }
    }

    fn look(&mut self) -> Duration {
        let sent = self.net.datagrams_of("client");
        if std::mem::replace(&mut self.sent, sent) != sent {
            self.since = now();
        }
        self.since.elapsed()
    }
}

/// Two hosts; `None` without root.
fn usual(test: &str) -> Option<Lab> {
    Lab::possible(test).then(|| Lab::up(&[("client", CLIENT), ("server", "")]))
}

/// How long a session is kept of which the client has never said a word.
const UNCONFIRMED: Duration = Duration::from_secs(120);

#[test]
fn a_session_whose_client_was_killed_while_sshd_was_asked_counts_for_two_minutes() {
    const LOOKUP: Duration = Duration::from_secs(3);
    let mut sshd = TestSshd::start();
    let keys = sshd.authorized_keys().with_extension("slow");
    fs::rename(sshd.authorized_keys(), &keys).expect("the scratch folder");
    sshd.configure(&format!(
        "AuthorizedKeysCommand /bin/sh -c \"sleep {}; cat {}\"\nAuthorizedKeysCommandUser {}",
        LOOKUP.as_secs(),
        keys.display(),
        sshd.user()
    ));
    let options = ServeOptions::here().argument("--max-sessions-per-key").argument("1");
    let serve = Serve::start(&sshd, options);
    let client = SshSetup::bowline(&sshd, serve.udp().port()).write();
    let (killed, _input, _output) = Running::start_piped(&mut client.proxy());
    let asked = wait_for(LIMIT, || (sshd.connections_from("") > 0).then_some(()));
    assert!(asked.is_some(), "{}", serve.log());
    killed.signal(Signal::KILL);
    let opened = wait_for(LIMIT, || (serve.logged("event=\"opened\"") == 1).then(now));
    let opened = opened.unwrap_or_else(|| panic!("nobody has learned that it was killed: {}", serve.log()));
    let said = run(&mut client.proxy(), LIMIT).err();
    assert!(said.contains("this key has 1 sessions"), "{said}");
    let ended = wait_for(UNCONFIRMED + LIMIT, || {
        (serve.logged("event=\"closed\"") == 1).then(now)
    });
    let took = ended.unwrap_or_else(|| panic!("it stays: {}", serve.log())) - opened;
    measured_time("until a session ends that its client never confirmed", took);
    assert!(took < UNCONFIRMED + Duration::from_secs(5), "{took:?}: {}", serve.log());
    client.remote("exit 7", LIMIT).expect_code(7);
}
