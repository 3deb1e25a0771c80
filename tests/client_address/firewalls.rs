//! Firewalls of the server: either it works behind them, or the server half says what to change and sshd sees loopback.

use crate::net::Net;
use crate::support::process::run;
use crate::{EVERYWHERE, LIMIT, Server, possible};
use std::fs;
use std::time::Duration;

/// As an administrator writes it: everything is dropped but answers, ssh and bowline.
const DROPS: &str = "table inet filter {
    chain input {
        type filter hook input priority 0; policy drop
        LOOPBACK
        ct state established,related accept
        iifname \"cable\" accept
    }
}";

/// As ufw 0.36 writes it by default, in the words of nft.
const UFW: &str = "table inet ufw {
    chain input {
        type filter hook input priority 0; policy drop
        jump before
    }
    chain before {
        iifname \"lo\" accept
        ct state established,related accept
        ct state invalid drop
        meta l4proto icmp accept
        meta l4proto ipv6-icmp accept
        jump not_local
        tcp dport 22 accept
        iifname \"cable\" accept
    }
    chain not_local {
        fib daddr type local return
        fib daddr type multicast return
        fib daddr type broadcast return
        drop
    }
    chain output {
        type filter hook output priority 0; policy accept
        oifname \"lo\" accept
        ct state established,related accept
    }
}";

/// As firewalld 1.3 writes it for the zone `public`, with its check of the way back for IPv6.
const FIREWALLD: &str = "table inet firewalld {
    chain mangle_PREROUTING {
        type filter hook prerouting priority mangle + 10; policy accept
    }
    chain filter_PREROUTING {
        type filter hook prerouting priority filter + 10; policy accept
        icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
        meta nfproto ipv6 fib saddr . mark . iif oif missing drop
    }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept
        ct state { established, related } accept
        ct status dnat accept
        iifname \"lo\" accept
        ct state invalid drop
        iifname \"cable\" accept
        reject with icmpx admin-prohibited
    }
    chain filter_OUTPUT {
        type filter hook output priority filter + 10; policy accept
        ct state { established, related } accept
        oifname \"lo\" accept
        ip6 daddr { ::/96, ::ffff:0.0.0.0/96, 2002::/24, 2002:a00::/24, 2002:7f00::/24 } reject with icmpv6 addr-unreachable
    }
}";

fn load(net: &Net, ruleset: &str) {
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), ruleset).expect("a file");
    let mut command = net.server().command("nft");
    run(command.arg("-f").arg(file.path()), Duration::from_secs(10)).expect_code(0);
}

#[test]
fn behind_usual_firewalls_sshd_sees_clients_addresses() {
    if !possible("firewalls") {
        return;
    }
    let drops = DROPS.replace("LOOPBACK", "iif lo accept");
    for (name, ruleset) in [
        ("a policy of drop", drops.as_str()),
        ("ufw", UFW),
        ("firewalld", FIREWALLD),
    ] {
        let net = Net::up();
        net.set_rp_filter(1);
        load(&net, ruleset);
        let server = Server::start(&net, "auto", EVERYWHERE);
        assert_eq!(server.shown(), "real", "{name}: {}", server.serve.log());
        server.ssh(&net).remote("exit 7", LIMIT).expect_code(7);
    }
}

#[test]
fn a_firewall_that_drops_such_connections_is_reported_and_sshd_sees_loopback() {
    if !possible("a firewall in the way") {
        return;
    }
    let net = Net::up();
    load(
        &net,
        &DROPS.replace(
            "LOOPBACK",
            "iif lo ip saddr 127.0.0.0/8 accept\niif lo ip6 saddr ::1 accept",
        ),
    );
    let server = Server::start(&net, "auto", EVERYWHERE);
    assert_eq!(server.shown(), "loopback", "{}", server.serve.log());
    assert!(
        server.serve.log().contains("iif lo accept"),
        "what to change: {}",
        server.serve.log()
    );
    assert!(!net.is_set_up(), "nothing is left behind");
}
