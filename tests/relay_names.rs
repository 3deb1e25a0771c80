//! Relay names with real name servers: BIND, and dnsmasq as a server that does not know the names.

mod support;

use bowline::carrier::relays::{LookupError, RelayName, RelayResolver, Resolved};
use russh::keys::ssh_key::Fingerprint;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use support::place::Place;
use support::process::Running;
use support::{Scratch, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

const FLEET: &str = "\
$TTL 60
@ SOA ns root 1 60 60 60 60
@ NS ns
ns A 127.0.0.1
_relays._udp SRV 1 5 443 r1
_relays._udp SRV 1 5 443 r_2
r1 A 192.0.2.1
r_2 A 192.0.2.2
_alias._udp CNAME _near._udp
_near._udp CNAME _relays._udp
_elsewhere._udp CNAME _relays._udp.other.test.
_loop._udp CNAME _pool._udp
_pool._udp CNAME _loop._udp
_none._udp SRV 0 0 0 .
_portless._udp SRV 0 0 0 r1
_broken._udp CNAME _nothing._udp
";

const OTHER: &str = "\
$TTL 60
@ SOA ns root 1 60 60 60 60
@ NS ns
ns A 127.0.0.1
_relays._udp SRV 1 5 4433 r3
r3 A 192.0.2.3
";

/// BIND on loopback.
struct Named {
    address: SocketAddr,
    running: Running,
    _folder: Scratch,
}

impl Named {
    fn start() -> Named {
        Named::start_with(&[("fleet.test", FLEET), ("other.test", OTHER)])
    }

    /// With these zones: names and content.
    fn start_with(zones: &[(&str, &str)]) -> Named {
        let (folder, port) = (Scratch::new(), Place::free_port());
        let mut settings = format!(
            "options {{ directory \"{}\"; pid-file none; session-keyfile none; recursion no; dnssec-validation no;
listen-on port {port} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; }};\ncontrols {{ }};\n",
            folder.path().display()
        );
        for (name, records) in zones {
            std::fs::write(folder.join(name), records).expect("the scratch folder");
            settings += &format!("zone \"{name}\" {{ type primary; file \"{name}\"; check-names ignore; }};\n");
        }
        let file = folder.join("named.conf");
        std::fs::write(&file, settings).expect("the scratch folder");
        // `-g`: in the foreground, with the log on standard error.
        let mut command = Place::here().command("named");
        let running = Running::start(command.arg("-g").arg("-c").arg(&file));
        started(&running, "named", "all zones loaded");
        Named {
            address: (Ipv4Addr::LOCALHOST, port).into(),
            running,
            _folder: folder,
        }
    }
}

/// A name server that answers NXDOMAIN for each name under `test`.
fn nxdomain_server() -> (Running, SocketAddr) {
    let port = Place::free_port();
    let mut command = Place::here().command("dnsmasq");
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
    ]);
    command.args(["--no-resolv", "--no-hosts", "--bind-interfaces", "--log-facility=-"]);
    command.args(["--listen-address=127.0.0.1", "--local=/test/"]);
    let running = Running::start(command.arg(format!("--port={port}")));
    started(&running, "dnsmasq", "started");
    (running, (Ipv4Addr::LOCALHOST, port).into())
}

fn started(server: &Running, name: &str, word: &str) {
    let started = wait_for(LIMIT, || server.err_so_far().contains(word).then_some(()));
    assert!(started.is_some(), "{name}: {}", server.err_so_far());
}

async fn resolve(servers: &[SocketAddr], name: &str) -> Resolved {
    let name: RelayName = name.parse().expect("a relay's name");
    let resolver = RelayResolver::new(None).with_name_servers(servers.to_vec());
    resolver.resolve(&[name], &[Fingerprint::Sha256([1; 32])], 3).await
}

/// The addresses of a name, in order.
#[track_caller]
fn addresses(resolved: &Resolved) -> Vec<String> {
    assert!(resolved.failures.is_empty(), "{:?}", resolved.failures);
    let each = resolved.relays.iter().flat_map(|relay| &relay.addresses);
    let mut addresses: Vec<String> = each.map(ToString::to_string).collect();
    addresses.sort();
    addresses
}

#[tokio::test]
async fn aliases_of_a_service_are_followed() {
    let named = Named::start();
    for name in [
        "_relays._udp.fleet.test",
        "_near._udp.fleet.test",
        "_alias._udp.fleet.test",
    ] {
        let found = resolve(&[named.address], name).await;
        assert_eq!(addresses(&found), ["192.0.2.1:443", "192.0.2.2:443"], "{name}");
    }
    let found = resolve(&[named.address], "_elsewhere._udp.fleet.test").await;
    assert_eq!(addresses(&found), ["192.0.2.3:4433"], "an alias into another zone");
    for name in ["_loop._udp.fleet.test", "_broken._udp.fleet.test"] {
        let found = resolve(&[named.address], name).await;
        assert!(
            found.relays.is_empty() && found.failures.len() == 1,
            "{name}: {:?}",
            found.failures
        );
    }
}

#[tokio::test]
async fn a_relay_may_have_an_underscore_in_its_name() {
    let named = Named::start();
    let found = resolve(&[named.address], "r_2.fleet.test:4433").await;
    assert_eq!(addresses(&found), ["192.0.2.2:4433"]);
}

#[tokio::test]
async fn a_service_that_has_no_relay_by_its_own_word_is_told_of() {
    let named = Named::start();
    let found = resolve(&[named.address], "_none._udp.fleet.test").await;
    assert!(
        matches!(&found.failures[..], [LookupError::NotOffered { name }] if name.as_str() == "_none._udp.fleet.test"),
        "{:?}",
        found.failures
    );
    let found = resolve(&[named.address], "_portless._udp.fleet.test").await;
    assert!(
        matches!(&found.failures[..], [LookupError::NoTarget { records: 1, .. }]),
        "{:?}",
        found.failures
    );
}

#[tokio::test]
async fn a_name_server_that_knows_no_such_name_does_not_answer_for_another_that_does() {
    let named = Named::start();
    let (_ignorant, ignorant) = nxdomain_server();
    // Which of them answers first is random.
    for round in 0..10 {
        for servers in [[ignorant, named.address], [named.address, ignorant]] {
            for (name, count) in [("_relays._udp.fleet.test", 2), ("r1.fleet.test", 1)] {
                let found = resolve(&servers, name).await;
                assert_eq!(addresses(&found).len(), count, "round {round}, {name}");
            }
        }
    }
    let nobody = resolve(&[ignorant, named.address], "r9.fleet.test").await;
    assert!(
        matches!(&nobody.failures[..], [LookupError::Unknown { .. }]),
        "{:?}",
        nobody.failures
    );
}

/// The limit that the man pages state.
#[test]
fn bind_serves_no_zone_with_more_than_a_hundred_records_of_a_service() {
    let many = |records: usize| {
        let records = (1..=records).map(|port| format!("_many._udp SRV 1 5 {port} r1\n"));
        format!("{FLEET}{}", records.collect::<String>())
    };
    let named = Named::start_with(&[("many.test", &many(100)), ("more.test", &many(101))]);
    let said = named.running.err_so_far();
    assert!(said.contains("many.test/IN: loaded serial"), "{said}");
    assert!(said.contains("more.test failed: too many records"), "{said}");
}
