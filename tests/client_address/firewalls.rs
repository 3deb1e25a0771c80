//! Firewalls of the server: either it works behind them, or the server half says what to change and sshd sees loopback.

use crate::net::{Net, SERVER};
use crate::support::Scratch;
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
        iifname \"cable\" meta l4proto udp accept
    }
}";

/// ufw's own rules, as it writes them once it is enabled and bowline's port is open (here: all of UDP).
const UFW: &str = "cp -a /etc/ufw \"$0/ufw\" && mount --bind \"$0/ufw\" /etc/ufw
cp /etc/default/ufw \"$0/default\" && mount --bind \"$0/default\" /etc/default/ufw
mount -t tmpfs tmpfs /run
ufw --force enable
ufw allow in on cable to any proto udp";

/// firewalld's, in its zone `public`. They stay: it does not stop, it is killed with the namespace of its process id.
const FIREWALLD: &str = "cp -a /etc/firewalld \"$0/firewalld\" && mount --bind \"$0/firewalld\" /etc/firewalld
mount -t tmpfs tmpfs /run && mkdir /run/dbus
mount -t tmpfs tmpfs /var/log
dbus-daemon --system --fork --nopidfile
firewalld --nofork --nopid &
for _ in $(seq 200); do firewall-cmd --state >\"$0/state\" 2>&1 && break; sleep 0.1; done
firewall-cmd --zone=public --add-rich-rule='rule protocol value=\"udp\" accept'";

/// Has a firewall's own program write its rules, on the server; `script` finds a folder for its files in `$0`.
fn write_rules(net: &Net, script: &str) {
    let folder = Scratch::new();
    let mut command = net.server().command("unshare");
    command.args([
        "--mount",
        "--pid",
        "--fork",
        "--mount-proc",
        "--kill-child",
        "sh",
        "-ec",
        script,
    ]);
    run(command.arg(folder.path()), Duration::from_secs(60)).expect_code(0);
}

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
    type SetUp<'a> = &'a dyn Fn(&Net);
    let firewalls: [(&str, SetUp); 3] = [
        ("a policy of drop", &|net| load(net, &drops)),
        ("ufw", &|net| write_rules(net, UFW)),
        ("firewalld", &|net| write_rules(net, FIREWALLD)),
    ];
    for (name, set_up) in firewalls {
        let net = Net::up();
        net.set_rp_filter(1);
        set_up(&net);
        let server = Server::start(&net, "auto", EVERYWHERE);
        assert_eq!(server.shown(), "real", "{name}: {}", server.serve.log());
        server.ssh(&net).remote("exit 7", LIMIT).expect_code(7);
        assert!(
            is_closed(&net, &server),
            "{name} lets clients reach sshd without bowline"
        );
    }
}

/// Whether the firewall is there at all: clients reach sshd through bowline only.
fn is_closed(net: &Net, server: &Server) -> bool {
    let port = server.sshd.port().to_string();
    let mut plain = net.client().command("timeout");
    plain.args(["2", "bash", "-c", "exec 3<>/dev/tcp/$0/$1", SERVER, &port]);
    run(&mut plain, Duration::from_secs(10)).code != Some(0)
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
