//! sshd's own rules decide by the client's own address, for the question about a key and for the session.

use crate::net::{CLIENT, CLIENT_V6, ELSEWHERE, Net, SERVER, SERVER_V6};
use crate::support::process::{Running, run};
use crate::support::relay::{REGISTERED, Relay};
use crate::support::serve::{Serve, ServeOptions};
use crate::support::ssh::{HOST, SshSetup};
use crate::support::sshd::TestSshd;
use crate::support::wait_for;
use crate::{EVERYWHERE, LIMIT, REFUSED, Server, options, possible};
use std::fs;

#[test]
fn sshd_logs_the_client_s_address_and_port_and_the_address_that_it_reached() {
    if !possible("addresses in sshd's log") {
        return;
    }
    for rp_filter in [0, 1, 2] {
        let net = Net::up();
        net.set_rp_filter(rp_filter);
        let server = Server::start(&net, "real", EVERYWHERE);
        assert_eq!(server.shown(), "real");
        let said = server.ssh(&net).remote("echo $SSH_CONNECTION", LIMIT).expect_code(0);
        let out = said.out();
        let connection: Vec<&str> = out.split_whitespace().collect();
        let port = server.sshd.port().to_string();
        let [client, own_port, at, sshd_port] = connection[..] else {
            panic!("SSH_CONNECTION is {connection:?}")
        };
        assert_eq!(
            (client, at, sshd_port),
            (CLIENT, SERVER, port.as_str()),
            "rp_filter {rp_filter}"
        );
        let line = format!("Connection from {CLIENT} port {own_port} on {SERVER} port {port}");
        assert!(server.sshd.log().contains(&line), "{}", server.sshd.log());
        // The port is that of the client's QUIC connection.
        let opened = format!("remote={CLIENT}:{own_port}");
        assert!(server.serve.log().contains(&opened), "{opened}\n{}", server.serve.log());
        // The question about the key came from there too.
        let asked = server
            .sshd
            .log()
            .matches(&format!("Connection from {CLIENT} port "))
            .count();
        assert_eq!(asked, 2, "{}", server.sshd.log());
        assert!(
            !server.sshd.log().contains("Connection from 127."),
            "{}",
            server.sshd.log()
        );
    }
}

#[test]
fn sshd_sees_ipv6_clients_too_and_those_that_come_by_tls() {
    if !possible("IPv6 addresses in sshd's log") {
        return;
    }
    let net = Net::up();
    let place = net.server_at(SERVER_V6);
    let sshd = TestSshd::start_at(place.clone(), EVERYWHERE);
    let at = format!("[{SERVER_V6}]:0");
    let mut options = options(&net, "real").argument("--listen-tls").argument(at);
    options.place = place;
    let serve = Serve::start(&sshd, options);
    let tls = serve
        .ready_field("tls")
        .expect("a TLS address")
        .rsplit_once(':')
        .expect("a port")
        .1
        .to_owned();
    for proxy in [vec![], vec!["--transport", "tls", "--tls-port", &tls]] {
        let setup = SshSetup::bowline(&sshd, serve.udp().port()).at(net.client());
        let ssh = setup.proxy_arguments(&proxy).write();
        let said = ssh.remote("echo $SSH_CONNECTION", LIMIT).expect_code(0);
        assert!(
            said.out().starts_with(&format!("{CLIENT_V6} ")),
            "{proxy:?}: {}",
            said.out()
        );
        assert!(
            said.out().contains(&format!(" {SERVER_V6} ")),
            "{proxy:?}: {}",
            said.out()
        );
    }
}

/// Killed clients leave their sessions, which go on to hold the ports that sshd saw, while others of that machine get the
/// same UDP ports.
#[test]
fn clients_whose_port_an_older_session_holds_get_another_port_of_their_address() {
    if !possible("clients with the same port") {
        return;
    }
    let net = Net::up();
    let three_ports = ["-qw", "net.ipv4.ip_local_port_range=40001 40003"];
    run(net.client().command("sysctl").args(three_ports), LIMIT).expect_code(0);
    let server = Server::start(&net, "real", EVERYWHERE);
    let ssh = server.ssh(&net);
    let mut seen: Vec<String> = Vec::new();
    for _ in 0..4 {
        let killed = Running::start(&mut ssh.ssh(&[HOST, "echo $SSH_CONNECTION; sleep 600"]));
        let said = wait_for(LIMIT, || killed.out_so_far().lines().next().map(str::to_owned));
        let said = said.unwrap_or_else(|| panic!("{}", killed.err_so_far()));
        assert!(said.starts_with(&format!("{CLIENT} ")), "{said}");
        assert!(!seen.contains(&said), "one of {seen:?} has ended");
        seen.push(said);
    }
    // Four connections to sshd at once, and three ports that the clients can have had.
    let held = |line: &String| (40001..=40003).any(|port| line.starts_with(&format!("{CLIENT} {port} ")));
    assert!(seen.iter().any(held) && !seen.iter().all(held), "{seen:?}");
}

/// A configuration of sshd and options of the key, and whether the client may log in by them.
struct Case {
    name: &'static str,
    sshd: &'static str,
    matches: &'static str,
    key_options: &'static str,
    is_allowed: bool,
}

/// Of sshd's configuration there are the lines that stand first and the `Match` blocks, which stand last.
const fn case(
    name: &'static str,
    [sshd, matches]: [&'static str; 2],
    key_options: &'static str,
    is_allowed: bool,
) -> Case {
    Case {
        name,
        sshd,
        matches,
        key_options,
        is_allowed,
    }
}

const NO_ROOT: &str = "PermitRootLogin no\n";

const CASES: [Case; 13] = [
    case("a key from anywhere", ["", ""], "", true),
    case("from= the client", ["", ""], "from=\"198.51.100.7\"", true),
    case("from= loopback", ["", ""], "from=\"127.0.0.0/8\"", false),
    case("from= another client", ["", ""], "from=\"198.51.100.9\"", false),
    case(
        "Match Address of the client",
        [NO_ROOT, "Match Address 198.51.100.7\nPermitRootLogin yes\n"],
        "",
        true,
    ),
    case(
        "Match Address of loopback",
        [NO_ROOT, "Match Address 127.0.0.1\nPermitRootLogin yes\n"],
        "",
        false,
    ),
    case(
        "Match Address against the client",
        ["", "Match User root Address 198.51.100.0/24\nPermitRootLogin no\n"],
        "",
        false,
    ),
    case(
        "Match LocalAddress",
        [NO_ROOT, "Match LocalAddress 198.51.100.1\nPermitRootLogin yes\n"],
        "",
        true,
    ),
    case(
        "Match LocalAddress of loopback",
        [NO_ROOT, "Match LocalAddress 127.0.0.1\nPermitRootLogin yes\n"],
        "",
        false,
    ),
    case(
        "Match LocalPort beside another rule",
        [
            NO_ROOT,
            "Match LocalPort 2222\nX11Forwarding no\nMatch Address 127.0.0.1\nPermitRootLogin yes\n",
        ],
        "",
        false,
    ),
    case(
        "AllowUsers of the client",
        ["AllowUsers root@198.51.100.*\n", ""],
        "",
        true,
    ),
    case("AllowUsers of loopback", ["AllowUsers root@127.*\n", ""], "", false),
    case(
        "DenyUsers of the client",
        ["DenyUsers root@198.51.100.*\n", ""],
        "",
        false,
    ),
];

#[test]
fn every_rule_by_address_is_sshd_s_own_verdict() {
    if !possible("rules by address") {
        return;
    }
    let net = Net::up();
    for Case {
        name,
        sshd,
        matches,
        key_options,
        is_allowed,
    } in CASES
    {
        let server = Server::with_rules(&net, &format!("{EVERYWHERE}{sshd}"), matches);
        let key = fs::read_to_string(server.sshd.user_key().with_extension("pub")).expect("the user's key");
        fs::write(server.sshd.authorized_keys(), format!("{key_options} {key}")).expect("sshd's folder");
        let outcome = server.ssh(&net).remote("exit 7", LIMIT);
        let expected = if is_allowed { 7 } else { REFUSED };
        assert_eq!(
            outcome.code,
            Some(expected),
            "{name}: {}\n{}",
            outcome.err(),
            server.sshd.log()
        );
        // Whether root may log in at all sshd says only once a key has signed: what it is asked about is the key.
        let is_about_root = format!("{sshd}{matches}").contains("PermitRootLogin");
        let opened = server.serve.log().contains("session opened");
        assert!(
            opened == is_allowed || is_about_root,
            "{name}: refused before anything reaches sshd's login\n{}",
            server.serve.log()
        );
    }
}

#[test]
fn a_session_opened_for_one_account_gives_nothing_to_another() {
    if !possible("logging in as another account") {
        return;
    }
    let net = Net::up();
    let rules = "Match User root Address 198.51.100.0/24\nPermitRootLogin no\n";
    for who_decides in [&[][..], &["--auth", "none"], &["--authorized-keys", "KEYS"]] {
        let sshd = TestSshd::start_with(net.server(), EVERYWHERE, rules);
        let keys = sshd.authorized_keys().display().to_string();
        let arguments = who_decides.iter().map(|word| word.replace("KEYS", &keys));
        let options: ServeOptions = arguments.fold(options(&net, "real"), ServeOptions::argument);
        let serve = Serve::start(&sshd, options);
        // The open is for another account; inside, root logs in.
        let ssh = SshSetup::bowline(&sshd, serve.udp().port()).at(net.client());
        let ssh = ssh.proxy_user("daemon").write();
        let outcome = ssh.remote("exit 7", LIMIT);
        assert_eq!(outcome.code, Some(REFUSED), "{who_decides:?}: {}", outcome.err());
        assert!(
            serve.log().contains("session opened"),
            "{who_decides:?}: {}",
            serve.log()
        );
        assert!(
            outcome.err().contains("Permission denied"),
            "{who_decides:?}, sshd itself refuses: {}",
            outcome.err()
        );
    }
}

#[test]
fn a_client_on_the_machine_itself_is_on_loopback_for_sshd_and_nobody_else_is() {
    if !possible("local clients") {
        return;
    }
    let net = Net::up();
    let rules = "Match Address 127.0.0.1,198.51.100.1\nPermitRootLogin yes\n";
    let server = Server::with_rules(&net, &format!("{EVERYWHERE}{NO_ROOT}"), rules);
    server.ssh(&net).remote("exit 7", LIMIT).expect_code(REFUSED);
    // From its own address to its own address, as without bowline.
    let here = server.setup(&net).at(net.server()).write();
    let said = here.remote("echo $SSH_CONNECTION", LIMIT).expect_code(0);
    assert!(said.out().starts_with(&format!("{SERVER} ")), "{}", said.out());
}

#[test]
fn where_sshd_listens_on_loopback_alone_clients_are_seen_there_by_their_own_address() {
    if !possible("sshd on loopback") {
        return;
    }
    let net = Net::up();
    let sshd = TestSshd::start_at(net.server_at("127.0.0.1"), "AllowUsers root@198.51.100.7\n");
    let serve = Serve::start(&sshd, options(&net, "auto"));
    assert_eq!(
        serve.ready_field("client-address"),
        Some("real-ipv4"),
        "{}",
        serve.log()
    );
    let ssh = SshSetup::bowline(&sshd, serve.udp().port()).at(net.client());
    let known_as = format!("HostKeyAlias [127.0.0.1]:{}", sshd.port());
    let ssh = ssh.option(&format!("HostName {SERVER}")).option(&known_as).write();
    let said = ssh.remote("echo $SSH_CONNECTION", LIMIT).expect_code(0);
    assert!(said.out().starts_with(&format!("{CLIENT} ")), "{}", said.out());
    assert!(said.out().contains(" 127.0.0.1 "), "{}", said.out());
}

#[test]
fn a_client_that_comes_by_a_relay_has_the_relay_s_address_for_sshd() {
    if !possible("clients behind a relay") {
        return;
    }
    let net = Net::up();
    // A relay at an address of its own, and server half and client know nothing of each other.
    let relay = Relay::start(net.client_at_second_address());
    let sshd = TestSshd::start_at(net.server(), EVERYWHERE);
    let register = options(&net, "real").argument("--relay").argument(relay.name());
    let serve = Serve::start(&sshd, register);
    let registered = wait_for(REGISTERED, || serve.log().contains("registered").then_some(()));
    assert!(registered.is_some(), "{}", serve.log());
    let ssh = SshSetup::bowline(&sshd, 9).at(net.client());
    let ssh = ssh
        .proxy_arguments(&["--tls-port", "9", "--relay", &relay.name()])
        .write();
    let said = ssh.remote("echo $SSH_CONNECTION", LIMIT).expect_code(0);
    assert!(said.out().starts_with(&format!("{ELSEWHERE} ")), "{}", said.out());
}
