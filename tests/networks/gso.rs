//! Batches (GSO) are lost while single packets pass: a firewall rule by length, or a broken
//! offload.

use crate::paced_transfer::{Direction, PacedTransfer};
use crate::routed::Routed;
use crate::support::relay::Relay;
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;
use crate::support::{measured, measured_time, now};
use std::time::Duration;

const LOSES_JOINED: &str = "meta l4proto udp meta length > 1500 drop";
const LOSES_LARGE: &str = "meta l4proto udp meta length > 1000 drop";
/// The claim is a few round trips, a tenth of a second here. A slow machine takes longer.
const MAX_STALL: Duration = Duration::from_secs(3);
/// Most bytes sent that do not arrive.
const MAX_LOST: u64 = 800_000;

fn rig(net: &Routed, more: &[&str]) -> Rig {
    let options = ServeOptions {
        place: net.place("server"),
        ..ServeOptions::here()
    };
    let options = more.iter().fold(options, |options, word| options.argument(*word));
    Rig::between(net.place("client"), options, |setup| setup)
}

/// Starts a transfer, adds a rule, and checks that the transfer continues. Returns how long it
/// stalled.
fn transfer_under_rule(
    net: &Routed,
    rig: &Rig,
    direction: Direction,
    (machine, hook, rule): (&str, &str, &str),
) -> Duration {
    let sender = match direction {
        Direction::Down => "server",
        Direction::Up => "client",
    };
    let transfer = PacedTransfer::start(rig, direction, 80);
    transfer.wait_until(2_000_000, Duration::from_secs(40));
    net.rule(machine, hook, rule);
    let (start, sent, received) = (now(), net.sent_by(sender), transfer.received());
    // What was on its way still arrives.
    transfer.wait_until(received + 300_000, Duration::from_secs(30));
    let stalled = start.elapsed().saturating_sub(Duration::from_millis(300));
    let (sent, received) = (net.sent_by(sender) - sent, transfer.received() - received);
    measured_time(&format!("{direction:?} goes on"), stalled);
    measured(
        "sent in vain",
        format_args!("{} kB", sent.saturating_sub(received) / 1000),
    );
    assert!(sent < received + MAX_LOST, "{sent} bytes sent, {received} received");
    let before_end = net.sent_by(sender);
    let left = 8_000_000 - transfer.received();
    transfer.finish();
    let after = net.sent_by(sender) - before_end;
    assert!(
        after < left * 3 / 2 + MAX_LOST,
        "{after} bytes sent for the last {left}"
    );
    stalled
}

#[test]
fn a_transfer_goes_on_where_batched_packets_get_lost() {
    for direction in [Direction::Down, Direction::Up] {
        let Some(net) = Routed::up("joined packets get lost", true) else {
            return;
        };
        let rig = rig(&net, &[]);
        let stalled = transfer_under_rule(&net, &rig, direction, ("router", "forward", LOSES_JOINED));
        assert!(stalled < MAX_STALL, "{direction:?}: {stalled:?}");
        assert_eq!(
            rig.ssh.proxy_logged("event=\"resumed\""),
            0,
            "on the same path: {}",
            rig.ssh.proxy_log()
        );
    }
}

#[test]
fn a_session_opens_where_batched_packets_get_lost() {
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
    for direction in [Direction::Down, Direction::Up] {
        let Some(net) = Routed::up("large packets get lost", true) else {
            return;
        };
        let rig = rig(&net, &["--listen-tls", "443"]);
        let stalled = transfer_under_rule(&net, &rig, direction, ("router", "forward", LOSES_LARGE));
        // Two seconds until the path is left, and a race for another one.
        assert!(stalled < Duration::from_secs(6), "{direction:?}: {stalled:?}");
        assert!(
            rig.ssh.proxy_logged("carrier=tls") > 0,
            "over TLS: {}",
            rig.ssh.proxy_log()
        );
    }
}

#[test]
fn a_transfer_by_a_relay_goes_on_where_batched_packets_get_lost() {
    for (direction, machine) in [
        (Direction::Down, "client"),
        (Direction::Up, "client"),
        (Direction::Down, "router"),
        (Direction::Up, "server"),
    ] {
        let Some(net) = Routed::up("joined packets get lost on the leg to a relay", true) else {
            return;
        };
        // The only path from the client to the server is the relay on the router.
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
        let stalled = transfer_under_rule(&net, &rig, direction, (machine, "input", LOSES_JOINED));
        assert!(
            stalled < MAX_STALL,
            "{direction:?}, lost before the {machine}: {stalled:?}"
        );
    }
}
