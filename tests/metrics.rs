//! Metrics as a scraper reads them: names, types and units follow Prometheus's conventions, and the dashboard uses
//! existing metrics only.

mod support;

use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::place::Place;
use support::process::{Outcome, Running, run, run_with_input};
use support::relay::Relay;
use support::rig::Rig;
use support::serve::ServeOptions;
use support::ssh::HOST;
use support::{BOWLINE, wait_for};

const LIMIT: Duration = Duration::from_secs(20);

/// A free port.
fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address")
}

fn try_to_scrape(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    assert!(head.starts_with("HTTP/1.1 200 OK"), "{head}");
    Some(body.to_owned())
}

fn scrape(address: SocketAddr) -> String {
    wait_for(LIMIT, || try_to_scrape(address)).expect("metrics are served")
}

/// The value of a sample, by name and labels as written.
fn value(page: &str, sample: &str) -> f64 {
    let found = page
        .lines()
        .find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    found
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no {sample} in {page}"))
}

fn wait_for_value(address: SocketAddr, sample: &str, wanted: f64) {
    let reached = wait_for(LIMIT, || (value(&scrape(address), sample) == wanted).then_some(()));
    assert!(reached.is_some(), "{sample} is not {wanted}: {}", scrape(address));
}

/// `promtool check metrics` reports no problem.
fn check(page: &str) {
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]);
    let Outcome {
        code, stdout, stderr, ..
    } = run_with_input(&mut command, page.as_bytes().to_vec(), LIMIT);
    let said = [stdout, stderr].concat();
    assert_eq!((code, String::from_utf8_lossy(&said).as_ref()), (Some(0), ""), "{page}");
}

fn names(page: &str) -> BTreeSet<String> {
    let helps = page.lines().filter_map(|line| line.strip_prefix("# HELP "));
    helps
        .filter_map(|help| help.split(' ').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn a_server_half_counts_its_sessions() {
    let address = free();
    let options = ServeOptions::here().argument("--metrics").argument(address.to_string());
    let rig = Rig::with(options, |setup| setup);
    let before = scrape(address);
    check(&before);
    assert_eq!(value(&before, "bowline_sessions{state=\"connected\"}"), 0.0);
    let mut command = rig.ssh.ssh(&[HOST, "head -c 100000 /dev/zero; exec cat"]);
    let (ssh, stdin, mut stdout) = Running::start_piped(&mut command);
    stdout.read_exact(&mut [0; 100_000]).expect("ssh's output");
    wait_for_value(address, "bowline_sessions{state=\"connected\"}", 1.0);
    let is_carried = || value(&scrape(address), "bowline_bytes_total{direction=\"out\"}") > 100_000.0;
    assert!(
        wait_for(LIMIT, || is_carried().then_some(())).is_some(),
        "{}",
        scrape(address)
    );
    assert!(value(&scrape(address), "bowline_silence_seconds") < 40.0);
    drop(stdin);
    ssh.finish(LIMIT).expect_code(0);
    wait_for_value(address, "bowline_sessions{state=\"connected\"}", 0.0);
    wait_for_value(address, "bowline_sessions_ended_total", 1.0);
    let after = scrape(address);
    check(&after);
    assert_eq!(value(&after, "bowline_sessions_opened_total"), 1.0);
    assert!(
        value(&after, "bowline_bytes_total{direction=\"out\"}") > 100_000.0,
        "what ended is still counted"
    );
    // The next worker takes over the port, and its counters start at zero.
    rig.serve().reload();
    wait_for_value(address, "bowline_sessions_opened_total", 0.0);
}

#[test]
fn a_relay_counts_what_it_carries() {
    let address = free();
    let _relay = Relay::with(Place::here(), &["--open", "--metrics", &address.to_string()]);
    let page = scrape(address);
    check(&page);
    assert_eq!(value(&page, "bowline_relay_splices"), 0.0);
}

#[test]
fn only_this_machine_is_told() {
    for (command, more) in [("serve", None), ("relay", Some("--open"))] {
        let mut told = Command::new(BOWLINE);
        told.args([command, "--metrics", "0.0.0.0:9470"]).args(more);
        let refused = run(&mut told, LIMIT).expect_code(64);
        assert!(
            refused.err().contains("0.0.0.0 is not a loopback address"),
            "{}",
            refused.err()
        );
    }
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let folder = tempfile::tempdir().expect("a folder");
    let mut relay = Command::new(BOWLINE);
    relay.args([
        "relay",
        "--open",
        "--listen",
        "127.0.0.1:0",
        "--listen-tls",
        "127.0.0.1:0",
    ]);
    relay
        .args(["--metrics", &address])
        .arg("--state-dir")
        .arg(folder.path());
    relay.arg("--runtime-dir").arg(folder.path());
    let refused = run(&mut relay, LIMIT);
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.err().contains("--metrics") && refused.err().contains(&address),
        "{}",
        refused.err()
    );
}

#[test]
fn the_dashboard_and_the_documentation_name_what_there_is() {
    let (server, relay) = (free(), free());
    let options = ServeOptions::here().argument("--metrics").argument(server.to_string());
    let _rig = Rig::with(options, |setup| setup);
    let _relay = Relay::with(Place::here(), &["--open", "--metrics", &relay.to_string()]);
    let known: BTreeSet<String> = names(&scrape(server)).union(&names(&scrape(relay))).cloned().collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dashboard = std::fs::read_to_string(root.join("packaging/grafana/bowline.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    let mut queries = Vec::new();
    collect_queries(&dashboard, &mut queries);
    assert!(queries.len() > 10, "{queries:?}");
    let asked: BTreeSet<String> = queries.iter().flat_map(|query| names_in(query)).collect();
    let unknown: Vec<_> = asked.difference(&known).collect();
    assert!(
        unknown.is_empty(),
        "the dashboard asks for what nobody tells: {unknown:?}"
    );
    let documented = std::fs::read_to_string(root.join("packaging/grafana/README.md")).expect("the documentation");
    let documented: BTreeSet<String> = names_in(&documented).into_iter().collect();
    assert_eq!(documented, known, "packaging/grafana/README.md names every metric");
}

/// Every `expr`, and every query of a variable.
fn collect_queries(value: &Value, queries: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(query) if name == "expr" || name == "query" => queries.push(query.clone()),
                    field => collect_queries(field, queries),
                }
            }
        }
        Value::Array(values) => values.iter().for_each(|value| collect_queries(value, queries)),
        _ => {}
    }
}

/// Words with the prefix of our metrics.
fn names_in(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("bowline_"))
        .map(str::to_owned)
        .collect()
}
