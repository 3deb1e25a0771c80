//! Packets that the kernel was given joined are lost while single ones pass: a rule by length, a broken offload.

use crate::paced::{Paced, Way};
use crate::routed::Routed;
use crate::support::relay::Relay;
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;
use crate::support::{measured, measured_time, now};
use std::time::Duration;

const LOSES_JOINED: &str = "meta l4proto udp meta length > 1500 drop";
const LOSES_LARGE: &str = "meta l4proto udp meta length > 1000 drop";
/// The promise is a few round trips, which take a tenth of a second here; slow machines take longer.
const SOON: Duration = Duration::from_secs(3);
/// What may leave the sender beyond what arrives.
const IN_VAIN: u64 = 800_000;

fn rig(net: &Routed, more: &[&str]) -> Rig {
    let options = ServeOptions {
        place: net.place("server"),
        ..ServeOptions::here()
    };
    let options = more.iter().fold(options, |options, word| options.argument(*word));
    Rig::between(net.place("client"), options, |setup| setup)
}

/// Lets a transfer run, adds a rule, and looks what becomes of it. Gives how long it stood.
fn under(net: &Routed, rig: &Rig, way: Way, (machine, hook, rule): (&str, &str, &str)) -> Duration {
    let sender = match way {
        Way::Down => "server",
        Way::Up => "client",
    };
    let transfer = Paced::start(rig, way, 80);
    transfer.wait_until(2_000_000, Duration::from_secs(40));
    net.rule(machine, hook, rule);
    let (start, sent, received) = (now(), net.sent_by(sender), transfer.received());
    // What was on its way still arrives.
    transfer.wait_until(received + 300_000, Duration::from_secs(30));
    let stood = start.elapsed().saturating_sub(Duration::from_millis(300));
    let (sent, received) = (net.sent_by(sender) - sent, transfer.received() - received);
    measured_time(&format!("{way:?} goes on"), stood);
    measured(
        "sent in vain",
        format_args!("{} kB", sent.saturating_sub(received) / 1000),
    );
    assert!(sent < received + IN_VAIN, "{sent} bytes sent, {received} received");
    let before_end = net.sent_by(sender);
    let left = 8_000_000 - transfer.received();
    transfer.finish();
    let after = net.sent_by(sender) - before_end;
    assert!(after < left * 3 / 2 + IN_VAIN, "{after} bytes sent for the last {left}");
    stood
}

#[test]
fn a_transfer_goes_on_where_joined_packets_get_lost() {
    for way in [Way::Down, Way::Up] {
        let Some(net) = Routed::up("joined packets get lost", true) else {
            return;
        };
        let rig = rig(&net, &[]);
        let stood = under(&net, &rig, way, ("router", "forward", LOSES_JOINED));
        assert!(stood < SOON, "{way:?}: {stood:?}");
        assert_eq!(
            rig.ssh.proxy_logged("event=\"resumed\""),
            0,
            "on the same path: {}",
            rig.ssh.proxy_log()
        );
    }
}

#[test]
fn a_session_opens_where_joined_packets_get_lost() {
    let Some(net) = Routed::up("a session opens without joined packets", false) else {
        return;
    };
    net.rule("router", "forward", LOSES_JOINED);
    let rig = rig(&net, &[]);
    let outcome = rig
        .ssh
        .remote("head -c 3000000 /dev/zero", Duration::from_secs(40))
        .expect_code(0);
    measured_time("ssh with 3 MB from start to end", outcome.took);
    assert_eq!(outcome.stdout.len(), 3_000_000);
}

#[test]
fn a_path_that_delivers_nothing_but_small_packets_is_left() {
    for way in [Way::Down, Way::Up] {
        let Some(net) = Routed::up("large packets get lost", true) else {
            return;
        };
        let rig = rig(&net, &["--listen-tls", "443"]);
        let stood = under(&net, &rig, way, ("router", "forward", LOSES_LARGE));
        // Two seconds until the path is left, and a race for another.
        assert!(stood < Duration::from_secs(6), "{way:?}: {stood:?}");
        assert!(
            rig.ssh.proxy_logged("carrier=tls") > 0,
            "over TLS: {}",
            rig.ssh.proxy_log()
        );
    }
}

#[test]
fn a_transfer_by_a_relay_goes_on_where_joined_packets_get_lost() {
    for (way, machine) in [
        (Way::Down, "client"),
        (Way::Up, "client"),
        (Way::Down, "router"),
        (Way::Up, "server"),
    ] {
        let Some(net) = Routed::up("joined packets get lost on the leg to a relay", true) else {
            return;
        };
        // Nothing leads from the client to the server but the relay on the router.
        net.rule("router", "forward", "drop");
        let relay = Relay::start(net.place("router"));
        let options = ServeOptions {
            place: net.place("server"),
            ..ServeOptions::here()
        };
        let options = options.argument("--relay").argument(relay.name());
        let rig = Rig::between(net.place("client"), options, |setup| {
            setup.proxy_arguments(&["--relay", &relay.name()])
        });
        let stood = under(&net, &rig, way, (machine, "input", LOSES_JOINED));
        assert!(stood < SOON, "{way:?}, lost before the {machine}: {stood:?}");
    }
}
