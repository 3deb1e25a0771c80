//! What `bowline status` shows of a relay.

use super::{BOTH, Server, TIME, TestServerHalf, ask, echoes};
use crate::support::process::run;
use crate::support::relay::Relay;
use crate::support::{BOWLINE, Scratch, place::Place};
use bowline::carrier::via::RelayTransport;
use serde_json::Value;
use std::process::Command;
use std::time::Duration;
use tokio::time::timeout;

fn status(relay: &Relay, more: &[&str]) -> String {
    let mut command = Command::new(BOWLINE);
    command.arg("status").args(more);
    command.arg("--runtime-dir").arg(relay.runtime_dir());
    run(&mut command, TIME).expect_code(0).out()
}

fn reported(relay: &Relay) -> Value {
    let document: Value = serde_json::from_str(&status(relay, &["--json"])).unwrap();
    document["relays"][0].clone()
}

/// Waits until this many paths are reported.
async fn paths(relay: &Relay, count: usize) -> Vec<Value> {
    let there = async {
        loop {
            let paths = reported(relay)["paths"].as_array().unwrap().clone();
            if paths.len() == count {
                return paths;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(TIME, there)
        .await
        .unwrap_or_else(|_| panic!("{:#}", reported(relay)))
}

/// The sockets in its runtime directory.
fn sockets(relay: &Relay) -> usize {
    std::fs::read_dir(relay.runtime_dir()).unwrap().count()
}

/// As root, a relay drops its privileges, and may not remove its socket from a directory of root's
/// at its end.
#[test]
fn what_a_dead_relay_leaves_is_no_relay_and_gone_when_the_next_one_starts() {
    let mut relay = Relay::start(Place::here());
    let pid = reported(&relay)["pid"].clone();
    assert!(pid.is_u64());
    for round in 0..3 {
        match round {
            0 => assert_eq!(relay.stop(TIME), Some(0)),
            _ => relay.kill(),
        }
        relay.start_again();
        assert_eq!(sockets(&relay), 1);
    }
    assert_ne!(reported(&relay)["pid"], pid);

    relay.kill();
    assert_eq!(sockets(&relay), 1, "nobody removes the socket of one that is killed");
    assert_eq!(status(&relay, &[]), "no sessions on this machine\n");
    assert_eq!(sockets(&relay), 0, "who may remove it has done so");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_tells_of_each_path_whose_it_is_where_it_leads_and_what_it_carried() {
    let (relay, scratch) = (Relay::start(Place::here()), Scratch::new());
    let servers = [Server::new(scratch.path(), "one"), Server::new(scratch.path(), "other")];
    let mut registered: Vec<_> = servers
        .iter()
        .map(|server| TestServerHalf::at(relay.address(), server))
        .collect();
    for one in &mut registered {
        one.is_registered().await;
    }
    assert_eq!(paths(&relay, 0).await, Vec::<Value>::new());

    let mut streams = Vec::new();
    for (server, (by, bytes)) in servers.iter().zip(BOTH.into_iter().zip([1000, 70_000])) {
        let mut stream = ask(relay.address(), by, server.digest).await.unwrap();
        echoes(&mut stream, bytes).await;
        streams.push(stream);
    }
    let paths_told = paths(&relay, 2).await;
    // Newest first.
    let expected = servers.iter().zip(BOTH.into_iter().zip([1000u64, 70_000])).rev();
    for (path, (server, (by, bytes))) in paths_told.iter().zip(expected) {
        assert_eq!(path["host_key"], server.digest.to_string());
        assert_eq!(path["transport"], by.to_string());
        assert!(path["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{path:#}");
        assert_eq!((&path["bytes_up"], &path["bytes_down"]), (&bytes.into(), &bytes.into()));
        assert!(path["age_ms"].as_u64() < Some(60_000), "{path:#}");
    }
    let totals = reported(&relay);
    assert_eq!((&totals["splices"], &totals["bytes_up"]), (&2.into(), &71_000.into()));

    let text = status(&relay, &[]);
    for (at, by) in [(1, RelayTransport::Tls), (2, RelayTransport::Quic)] {
        let line = text.lines().nth(at).unwrap();
        let key = servers[2 - at].digest.to_string();
        let is_told = line.contains(&key[..15]) && line.contains(&by.to_string());
        assert!(is_told, "{text}");
    }
    drop(streams);
    paths(&relay, 0).await;
}
