//! Relays found by DNS, with a real name server; the cached answers are used when it is down.

use crate::scenarios::ticker::Ticker;
use crate::shared_lab;
use crate::support::lab::Lab;
use crate::support::process::Running;
use crate::support::relay::{REGISTERED, Relay};
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;
use crate::support::{measured_time, now, wait_for};
use std::time::Duration;

const FLEET: &str = "_bowline-relay._udp.fleet.test";
const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn relays_named_by_srv_records_serve_also_when_dns_is_gone() {
    let hosts = [("server", "nat"), ("r1", ""), ("r2", ""), ("dns", "")];
    let Some((_turn, lab)) = shared_lab("relays by SRV records", &hosts) else {
        return;
    };
    let mut relays = [Relay::start(lab.place("r1")), Relay::start(lab.place("r2"))];
    let dns = dnsmasq(&lab, &["r1", "r2"]);
    let options = ServeOptions::here().argument("--relay").argument(FLEET);
    let rig = Rig::with_in(&lab, options, |setup| setup.proxy_arguments(&["--relay", FLEET]));
    let registered = |times| {
        let listed = || rig.serve().logged("event=\"registered\"") >= times;
        assert!(
            wait_for(REGISTERED, || listed().then_some(())).is_some(),
            "{times} times registered: {}",
            rig.serve().log()
        );
    };
    registered(2);
    let mut ticker = Ticker::start(&rig);
    drop(dns);

    // Neither half can query DNS any more: not the client half of a new session, nor a new worker.
    let worker = rig.serve().half().kill_worker();
    rig.serve().half().worker_after(worker);
    registered(4);
    ticker.next_line_after(now(), LIMIT);
    let outcome = rig.ssh.remote("exit 7", LIMIT).expect_code(7);
    measured_time("ssh from start to end with DNS gone", outcome.took);
    relays[0].kill();
    ticker.next_line_after(now(), LIMIT);
    let outcome = rig.ssh.remote("exit 7", LIMIT).expect_code(7);
    measured_time("the same with one of two relays gone too", outcome.took);
    ticker.finish_in_order();
}

#[test]
fn a_relay_of_the_hosts_file_serves_while_the_name_server_is_silent() {
    let hosts = [("server", "nat"), ("r1", ""), ("dns", "")];
    let Some((_turn, lab)) = shared_lab("a relay of the hosts file", &hosts) else {
        return;
    };
    lab.resolve_at("dns");
    lab.cut("dns");
    let relay = Relay::start(lab.place("r1"));
    let name = relay.name().replacen(&relay.address().ip().to_string(), "r1", 1);
    let options = ServeOptions::here().argument("--relay").argument(&name);
    let rig = Rig::with_in(&lab, options, |setup| setup.proxy_arguments(&["--relay", &name]));
    let outcome = rig.ssh.remote("exit 7", LIMIT).expect_code(7);
    measured_time("ssh from start to end by a relay of the hosts file", outcome.took);
}

/// Answers for the relays, at the lab's host `dns`, which all other hosts use from now on.
fn dnsmasq(lab: &Lab, relays: &[&str]) -> Running {
    let place = lab.place("dns");
    lab.resolve_at("dns");
    let mut command = place.command("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
    ]);
    command.args(["--no-resolv", "--no-hosts", "--bind-interfaces", "--log-facility=-"]);
    command.arg(format!("--listen-address={}", place.address));
    for relay in relays {
        let name = format!("{relay}.fleet.test");
        command.arg(format!("--srv-host={FLEET},{name},443,10,10"));
        command.arg(format!("--host-record={name},{}", lab.place(relay).address));
    }
    let dnsmasq = Running::start(&mut command);
    let answers = wait_for(LIMIT, || dnsmasq.err_so_far().contains("started").then_some(()));
    assert!(answers.is_some(), "dnsmasq: {}", dnsmasq.err_so_far());
    dnsmasq
}
