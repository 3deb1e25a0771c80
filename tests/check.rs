//! `bowline check` against one fault at a time: the diagnosis of each path, and the exit code.
//!
//! Tests that use network namespaces need root; without it each prints to standard error that it was skipped.

mod support;

use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;
use support::lab::Lab;
use support::place::Place;
use support::process::{Outcome, run};
use support::relay::Relay;
use support::rig::Rig;
use support::serve::{Serve, ServeOptions};
use support::server_half::signal;
use support::ssh::{SshFiles, SshSetup};
use support::sshd::{TestSshd, make_key, public_key};
use support::{Turn, heavy, measured, measured_time};

/// `bowline check` gives each path 5 s.
const AT_MOST: Duration = Duration::from_secs(9);

/// RTT 50 ms.
const CLIENT: (&str, &str) = ("client", "delay=25");

fn lab(test: &str, hosts: &[(&str, &str)]) -> Option<(Turn, Lab)> {
    let hosts: Vec<_> = [CLIENT].iter().chain(hosts).copied().collect();
    Lab::possible(test).then(|| (heavy(), Lab::up(&hosts)))
}

/// The output of `bowline check --json`.
struct Account {
    document: Value,
    outcome: Outcome,
}

impl Account {
    fn of(ssh: &SshFiles, more: &[&str]) -> Account {
        let more: Vec<&str> = more.iter().copied().chain(["--json"]).collect();
        Account::from(run(&mut ssh.check(&more), Duration::from_secs(30)))
    }

    #[track_caller]
    fn from(outcome: Outcome) -> Account {
        let document = serde_json::from_slice(&outcome.stdout);
        let document = document.unwrap_or_else(|error| panic!("{error}: {}{}", outcome.out(), outcome.err()));
        assert!(outcome.took <= AT_MOST, "{:?}", outcome.took);
        measured_time("bowline check", outcome.took);
        Account { document, outcome }
    }

    /// The path whose name begins with `name`.
    #[track_caller]
    fn path(&self, name: &str) -> &Value {
        let paths = self.document["paths"].as_array().expect("paths");
        let begins = |path: &&Value| path["path"].as_str().is_some_and(|path| path.starts_with(name));
        let found = paths.iter().find(begins);
        found.unwrap_or_else(|| panic!("no path {name} in {:#}", self.document))
    }

    #[track_caller]
    fn diagnosis(&self, name: &str) -> &str {
        self.path(name)["diagnosis"].as_str().expect("a diagnosis")
    }

    /// The exit code, and the diagnoses of QUIC and of TLS at the server half's own ports.
    #[track_caller]
    fn expect(&self, rig: &Rig, code: i32, quic: &str, tls: &str) {
        let ip = rig.sshd.address().ip();
        let port = rig.serve.as_ref().map_or(22, |serve| serve.udp().port());
        let found = (
            self.outcome.code,
            self.diagnosis(&format!("quic {ip}:{port}")),
            self.diagnosis(&format!("tls {ip}:443")),
        );
        assert_eq!(
            found,
            (Some(code), quic, tls),
            "{:#}\n{}",
            self.document,
            self.outcome.err()
        );
        assert_eq!(self.document["works"], code == 0);
    }
}

#[test]
fn all_well_is_told_with_times_mtu_banner_and_limits() {
    let Some((_turn, lab)) = lab("check: all well", &[("server", "")]) else {
        return;
    };
    let rig = Rig::tls_in(&lab);
    let account = Account::of(&rig.ssh, &[]);
    account.expect(&rig, 0, "works", "works");
    let quic = account.path(&format!("quic {}", rig.serve().udp()));
    let handshake = quic["handshake_ms"].as_f64().expect("a time");
    let banner = quic["banner_ms"].as_f64().expect("a time");
    assert!(handshake >= 50.0 && banner >= handshake + 50.0, "{handshake} {banner}");
    assert!(quic["mtu"].as_u64() >= Some(1400), "{quic:#}");
    assert!(
        quic["banner"]
            .as_str()
            .is_some_and(|banner| banner.starts_with("SSH-2.0-"))
    );
    assert_eq!(quic["known_host"], true);
    // Nothing listens on UDP port 443.
    assert_eq!(
        account.diagnosis(&format!("quic {}:443", rig.sshd.address().ip())),
        "nobody-listens"
    );
    let hints = account.document["paths"].as_array().expect("paths").iter();
    assert!(
        hints.clone().count() > 2 && hints.clone().all(|path| path["hint"].is_null()),
        "{:#}",
        account.document
    );
    assert_eq!(account.document["sshd_known"], true);
    assert_eq!(account.document["survives_s"], 7 * 86_400);
    // A probe opens no session and no login.
    assert_eq!(rig.sshd.logins(), 0);
    let table = run(&mut rig.ssh.check(&[]), AT_MOST).expect_code(0).out();
    assert!(table.starts_with("PATH "), "{table}");
    assert!(table.contains("works: SSH-2.0-"), "{table}");
    assert!(table.contains("survives an outage of up to 7 days"), "{table}");
}

#[test]
fn blocked_udp_is_told_from_a_server_half_that_is_gone() {
    let Some((_turn, lab)) = lab("check: UDP blocked", &[("server", "")]) else {
        return;
    };
    let mut rig = Rig::tls_in(&lab);
    lab.drop_udp("client", true);
    let before = rig.sshd.connections_from("");
    let account = Account::of(&rig.ssh, &[]);
    account.expect(&rig, 0, "udp-blocked", "works");
    // sshd counts connections without a login against the client: it saw the server half's key query once.
    assert_eq!(account.document["asked_sshd"], json!([]));
    // The second query came from an address of its own, where a key for loopback only is not accepted.
    assert_eq!(rig.sshd.connections_from("127.64."), 1, "{}", rig.sshd.log());
    assert_eq!(rig.sshd.connections_from("") - before, 2, "{}", rig.sshd.log());
    lab.drop_tcp("client", true);
    Account::of(&rig.ssh, &[]).expect(&rig, 69, "host-silent", "host-silent");
    lab.drop_tcp("client", false);
    let udp = rig.serve().udp();
    rig.serve = None;
    let account = Account::of(&rig.ssh, &[]);
    assert_eq!(account.diagnosis(&format!("quic {udp}")), "udp-silent");
    lab.drop_udp("client", false);
    let account = Account::of(&rig.ssh, &[]);
    assert_eq!(account.outcome.code, Some(69));
    assert_eq!(account.diagnosis(&format!("quic {udp}")), "nobody-listens");
    assert_eq!(account.diagnosis("tls "), "nobody-listens");
}

#[test]
fn a_path_that_takes_no_long_packets_is_called_a_black_hole() {
    let Some((_turn, lab)) = lab("check: MTU black hole", &[("server", "")]) else {
        return;
    };
    let rig = Rig::tls_in(&lab);
    lab.set("client", "mtu=1000");
    let account = Account::of(&rig.ssh, &[]);
    account.expect(&rig, 69, "mtu-black-hole", "mtu-black-hole");
    assert_eq!(account.document["asked_sshd"], json!([]), "TLS has told enough");
    // QUIC alone can be diagnosed without TLS.
    let account = Account::of(&rig.ssh, &["--transport", "quic"]);
    assert_eq!(
        account.diagnosis(&format!("quic {}", rig.serve().udp())),
        "mtu-black-hole"
    );
    assert_eq!(account.document["asked_sshd"], json!([rig.sshd.address().to_string()]));
    let table = run(&mut rig.ssh.check(&["--transport", "quic"]), AT_MOST).expect_code(69);
    assert!(
        table
            .out()
            .contains("note: no path works, so check also connected to sshd itself"),
        "{}",
        table.out()
    );
    // Enough for QUIC, which starts small and discovers the MTU; too little for TCP, which trusts the interface's
    // MTU.
    lab.set("client", "mtu=1300");
    let account = Account::of(&rig.ssh, &[]);
    account.expect(&rig, 0, "works", "mtu-black-hole");
    let mtu = account.path("quic ")["mtu"].as_u64();
    assert!(mtu.is_some_and(|mtu| (1200..=1272).contains(&mtu)), "{mtu:?}");
}

#[test]
fn sshd_that_is_down_is_told_from_a_server_half_that_is_down() {
    let mut rig = loopback(|options| options, |setup| setup);
    rig.sshd.stop_listening();
    Account::of(&rig.ssh, &["--tls-port", &tls_port(&rig)]).expect_all(69, "sshd-down");
}

#[test]
fn sshd_that_dies_between_two_checks_is_down_to_the_second() {
    for auth in ["sshd", "none"] {
        let mut rig = loopback(|options| options.argument("--auth").argument(auth), |setup| setup);
        let port = tls_port(&rig);
        Account::of(&rig.ssh, &["--tls-port", &port]).expect_all(0, "works");
        rig.sshd.stop_listening();
        Account::of(&rig.ssh, &["--tls-port", &port]).expect_all(69, "sshd-down");
    }
}

/// As many as the monitoring of a fleet starts at once.
const CHECKS: usize = 20;

#[test]
fn twenty_checks_at_once_work_and_cost_sshd_a_few_connections() {
    let _turn = heavy();
    for auth in ["sshd", "none"] {
        let rig = loopback(|options| options.argument("--auth").argument(auth), |setup| setup);
        let (port, before) = (tls_port(&rig), rig.sshd.connections_from(""));
        let check = || {
            let arguments = ["--tls-port", &port, "--connect-timeout", "20s", "--json"];
            run(&mut rig.ssh.check(&arguments), Duration::from_secs(40))
        };
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let checks: Vec<_> = (0..CHECKS).map(|_| scope.spawn(check)).collect();
            checks.into_iter().map(|check| check.join().expect("a check")).collect()
        });
        let longest = outcomes.iter().map(|outcome| outcome.took).max().expect("some");
        measured_time(&format!("longest of {CHECKS} checks at once, --auth {auth}"), longest);
        for outcome in outcomes {
            let document: Value = serde_json::from_slice(&outcome.stdout).expect("a document");
            for name in ["quic", "tls"] {
                let works = |path: &Value| path["kind"] == name && path["diagnosis"] == "works";
                let paths = document["paths"].as_array().expect("paths");
                assert!(
                    paths.iter().any(works),
                    "{name}, --auth {auth}: {document:#}\n{}",
                    rig.serve().log()
                );
            }
        }
        let connections = rig.sshd.connections_from("") - before;
        measured(
            &format!("connections to sshd for {CHECKS} checks, --auth {auth}"),
            connections,
        );
        assert!(connections < CHECKS, "{connections} connections for {CHECKS} checks");
    }
}

#[test]
fn an_sshd_that_hangs_is_told_by_every_path_that_leads_to_it() {
    let rig = loopback(|options| options, |setup| setup);
    rig.sshd.freeze();
    // Less than the server half's limit for sshd, so that the client's limit is reached first.
    let account = Account::of(&rig.ssh, &["--tls-port", &tls_port(&rig), "--connect-timeout", "3s"]);
    account.expect_all(69, "sshd-slow");
    for name in [format!("quic {}", rig.serve().udp()), "tls ".to_owned()] {
        let path = account.path(&name);
        assert!(
            path["handshake_ms"].as_f64().is_some_and(|time| time < 3000.0),
            "{path:#}"
        );
        assert_eq!(path["banner_ms"], Value::Null, "{path:#}");
    }
}

#[test]
fn a_server_half_that_hangs_is_told_where_the_system_still_connects() {
    let rig = loopback(|options| options, |setup| setup);
    let half = rig.serve().half();
    // Stop the keeper first: it replaces a worker that hangs.
    for pid in [half.keeper(), half.worker()] {
        signal(pid, Signal::STOP);
    }
    let account = Account::of(&rig.ssh, &["--tls-port", &tls_port(&rig), "--connect-timeout", "3s"]);
    assert_eq!(account.outcome.code, Some(69), "{:#}", account.document);
    assert_eq!(account.diagnosis("tls "), "stalled");
    assert_eq!(account.path("tls ")["handshake_ms"], Value::Null);
    // Without TLS it looks like a firewall.
    assert_eq!(account.diagnosis(&format!("quic {}", rig.serve().udp())), "udp-silent");
}

#[test]
fn a_wrong_host_key_is_told_and_the_user_s_keys_are_not_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    make_key(&folder.path().join("other"), "ed25519");
    let line = format!("KEY_NAME {}\n", public_key(&folder.path().join("other")));
    let rig = loopback(|options| options, |setup| setup.known_hosts(&line));
    let account = Account::of(&rig.ssh, &["--tls-port", &tls_port(&rig)]);
    account.expect_all(77, "wrong-key");
    assert_eq!(rig.serve().logged("probe answered"), 0);
}

#[test]
fn an_unknown_host_works_and_it_is_said_that_ssh_will_ask() {
    let rig = loopback(|options| options, |setup| setup.known_hosts(""));
    let table = run(&mut rig.ssh.check(&["--tls-port", &tls_port(&rig)]), AT_MOST).expect_code(0);
    assert!(table.out().contains("ssh will ask"), "{}", table.out());
}

#[test]
fn a_refused_user_key_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("other");
    make_key(&key, "ed25519");
    let rig = loopback(|options| options, |setup| setup.identity(Some(key)));
    Account::of(&rig.ssh, &["--tls-port", &tls_port(&rig)]).expect_all(77, "key-refused");
    // One path tried the keys for all paths: sshd counts each try against the user.
    assert_eq!(
        rig.serve().logged("refused: no key was accepted"),
        1,
        "{}",
        rig.serve().log()
    );
}

#[test]
fn strangers_do_not_learn_the_settings_of_sshd() {
    let anybody = |options: ServeOptions| options.argument("--auth").argument("none");
    let rig = loopback(anybody, |setup| setup.identity(None));
    let account = Account::of(&rig.ssh, &["--tls-port", &tls_port(&rig)]);
    account.expect_all(0, "works");
    assert_eq!(account.document["sshd_known"], false);
}

#[test]
fn settings_that_end_sessions_are_named_with_their_times_and_lines() {
    let sshd = TestSshd::start_at(
        Place::here(),
        "ClientAliveInterval 15\nClientAliveCountMax 3\nLoginGraceTime 90",
    );
    let serve = Serve::start(&sshd, ServeOptions::here());
    let setup = SshSetup::bowline(&sshd, serve.udp().port());
    let ssh = setup
        .option("ServerAliveInterval 10")
        .option("ServerAliveCountMax 2")
        .write();
    let account = Account::of(&ssh, &["--transport", "quic"]);
    assert_eq!(account.outcome.code, Some(0), "{:#}", account.document);
    let limits = account.document["limits"].as_array().expect("limits");
    let told: Vec<_> = limits
        .iter()
        .map(|limit| {
            (
                limit["side"].as_str(),
                limit["survives_s"].as_u64(),
                limit["fix"].as_str(),
            )
        })
        .collect();
    assert_eq!(told[0], (Some("ssh"), Some(20), Some("ServerAliveInterval 0")));
    assert_eq!(told[1], (Some("sshd"), Some(45), Some("ClientAliveInterval 0")));
    assert_eq!(told[2], (Some("sshd"), Some(90), None));
    assert_eq!(account.document["survives_s"], 20);
    let table = run(&mut ssh.check(&["--transport", "quic"]), AT_MOST)
        .expect_code(0)
        .out();
    assert!(table.contains("fix:  ClientAliveInterval 0"), "{table}");
}

#[test]
fn a_name_that_leads_nowhere_is_told_with_one_document() {
    let rig = loopback(|options| options, |setup| setup);
    let account = Account::of(&rig.ssh, &["-o", "HostName nowhere.invalid"]);
    assert_eq!(account.outcome.code, Some(69));
    assert_eq!(account.document["problem"]["diagnosis"], "name-unresolved");
    let told = run(&mut rig.ssh.check(&["-o", "HostName nowhere.invalid"]), AT_MOST).expect_code(69);
    assert!(
        told.err().starts_with("error: cannot resolve nowhere.invalid"),
        "{}",
        told.err()
    );
    assert_eq!(told.out(), "");
}

#[test]
fn a_relay_without_the_server_half_is_told_from_one_that_is_down() {
    let Some((_turn, lab)) = lab("check: a relay without the server half", &[("server", ""), ("r1", "")]) else {
        return;
    };
    let mut relay = Relay::start(lab.place("r1"));
    let name = relay.name();
    let rig = Rig::tls_in(&lab);
    let account = Account::of(&rig.ssh, &["--relay", &name]);
    account.expect(&rig, 0, "works", "works");
    assert_eq!(account.diagnosis("relay "), "not-registered");
    relay.kill();
    let account = Account::of(&rig.ssh, &["--relay", &name]);
    assert_eq!(account.diagnosis("relay "), "nobody-listens");
}

#[test]
fn a_path_by_a_relay_is_checked_to_the_end() {
    let Some((_turn, lab)) = lab("check: by a relay", &[("server", "nat"), ("r1", "")]) else {
        return;
    };
    let rig = Rig::relayed_in(&lab, &[Relay::start(lab.place("r1"))]);
    let account = Account::of(&rig.ssh, &[]);
    assert_eq!(
        account.outcome.code,
        Some(69),
        "the relay has ended: {:#}",
        account.document
    );
    let relay = Relay::start(lab.place("r1"));
    let rig = Rig::relayed_in(&lab, std::slice::from_ref(&relay));
    let account = Account::of(&rig.ssh, &[]);
    assert_eq!(account.outcome.code, Some(0), "{:#}", account.document);
    let relayed = account.document["paths"].as_array().expect("paths").iter();
    let relayed: Vec<_> = relayed
        .filter(|path| !path["relay"].is_null())
        .map(|path| &path["diagnosis"])
        .collect();
    assert_eq!(
        relayed,
        ["works", "works"],
        "by QUIC and by TLS: {:#}",
        account.document
    );
    assert_eq!(account.diagnosis("quic "), "host-silent");
}

#[test]
fn a_relay_whose_name_leads_nowhere_is_told() {
    let rig = loopback(|options| options, |setup| setup);
    let arguments = ["--tls-port", &tls_port(&rig), "--relay", "relay.invalid"];
    let account = Account::of(&rig.ssh, &arguments);
    assert_eq!(account.outcome.code, Some(0), "{:#}", account.document);
    let said = account.document["unresolved_relays"][0].as_str().unwrap_or_default();
    assert!(said.contains("relay.invalid"), "{:#}", account.document);
    let table = run(&mut rig.ssh.check(&arguments), AT_MOST).expect_code(0).out();
    assert!(
        table.contains("\nno relay: ") && table.contains("relay.invalid"),
        "{table}"
    );
}

/// Over loopback, with QUIC and TLS.
fn loopback(options: impl FnOnce(ServeOptions) -> ServeOptions, adjust: impl FnOnce(SshSetup) -> SshSetup) -> Rig {
    let tls = Place::free_port();
    let here = ServeOptions::here()
        .argument("--listen-tls")
        .argument(format!("127.0.0.1:{tls}"));
    Rig::with(options(here), adjust)
}

fn tls_port(rig: &Rig) -> String {
    let address = rig.serve().ready_field("tls").expect("TLS");
    address.rsplit(':').next().expect("a port").to_owned()
}

impl Account {
    /// Expects the same diagnosis on every path but UDP port 443, which something else on this machine may use.
    #[track_caller]
    fn expect_all(&self, code: i32, diagnosis: &str) {
        assert_eq!(self.outcome.code, Some(code), "{:#}", self.document);
        let paths = self.document["paths"].as_array().expect("paths");
        let own: Vec<_> = paths
            .iter()
            .filter(|path| {
                !path["path"]
                    .as_str()
                    .is_some_and(|path| path.starts_with("quic") && path.ends_with(":443"))
            })
            .collect();
        assert!(own.len() >= 2, "{:#}", self.document);
        for path in own {
            assert_eq!(path["diagnosis"], diagnosis, "{:#}", self.document);
        }
    }
}
