//! Other obstacles in a network: a small MTU, a proxy that refuses, a middlebox that terminates
//! TLS.

use crate::routed::Routed;
use crate::support::process::{Outcome, Running, run};
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;
use crate::support::{Scratch, wait_for};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(40);

/// A server half with TLS on this port.
fn rig(net: &Routed, tls: &str) -> Rig {
    let options = ServeOptions {
        place: net.place("server"),
        ..ServeOptions::here()
    };
    let options = options.argument("--listen-tls").argument(tls);
    Rig::between(net.place("client"), options, |setup| setup)
}

/// The verdict of `bowline check` on the path whose name contains this.
#[track_caller]
fn verdict(rig: &Rig, more: &[&str], path: &str) -> String {
    let more: Vec<&str> = more.iter().copied().chain(["--json"]).collect();
    let outcome = run(&mut rig.ssh.check(&more), LIMIT);
    let told: Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
    let paths = told["paths"].as_array().expect("paths");
    let is_it = |found: &&Value| found["path"].as_str().is_some_and(|name| name.contains(path));
    let found = paths.iter().find(is_it);
    let found = found.unwrap_or_else(|| panic!("no path {path}: {told:#}"));
    found["diagnosis"].as_str().expect("a diagnosis").to_owned()
}

/// What a client half says that finds no path.
#[track_caller]
fn refused(rig: &Rig, more: &[&str]) -> Outcome {
    let mut proxy = rig.ssh.proxy();
    run(proxy.args(more).args(["--connect-timeout", "3s"]), LIMIT).expect_code(69)
}

#[test]
fn a_path_that_is_too_narrow_for_quic_is_told_of_and_tls_takes_it() {
    let Some(net) = Routed::up("an MTU of 576", false) else {
        return;
    };
    net.set_mtu("server", 576);
    let rig = rig(&net, "443");
    rig.ssh.remote("exit 7", LIMIT).expect_code(7);
    let quic = format!("quic {}", rig.serve().udp());
    assert_eq!(verdict(&rig, &[], &quic), "mtu-too-small");
    assert_eq!(verdict(&rig, &[], "tls "), "works");
    let said = refused(&rig, &["--transport", "quic"]).err();
    assert!(
        said.contains("the path MTU is 576 bytes, and QUIC needs 1228"),
        "{said}"
    );
    assert!(said.contains("--listen-tls") && !said.contains("firewall"), "{said}");
}

#[test]
fn a_tls_server_that_is_no_bowline_is_told_of() {
    let Some(net) = Routed::up("TLS of somebody else", false) else {
        return;
    };
    let (rig, scratch) = (rig(&net, "444"), Scratch::new());
    let (key, certificate) = (scratch.join("key"), scratch.join("certificate"));
    let mut make = net.place("server").command("openssl");
    make.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    make.args(["-subj", "/CN=server", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate);
    run(&mut make, LIMIT).expect_code(0);
    let mut serve = net.place("server").command("openssl");
    serve.args(["s_server", "-quiet", "-accept", "443", "-key"]);
    let _server = Running::start(serve.arg(&key).arg("-cert").arg(&certificate));
    listening(&net, "server", 443);
    assert_eq!(verdict(&rig, &[], "tls "), "other-tls");
    let said = refused(&rig, &["--transport", "tls"]).err();
    assert!(said.contains("a TLS server answered that is not bowline"), "{said}");
    assert!(said.contains("intercepts TLS"), "{said}");
}

#[test]
fn what_a_proxy_says_no_to_is_told_of() {
    let Some(net) = Routed::up("a proxy says no", false) else {
        return;
    };
    // The only path from the client to the server is the proxy on the router.
    net.rule("router", "forward", "drop");
    let (rig, scratch) = (rig(&net, "443"), Scratch::new());
    let running = squid(&net, &scratch);
    let _tinyproxy = tinyproxy(&net, &scratch);
    let address = net.place("router").address;
    let (squid, tinyproxy) = (format!("ada:secret@{address}:3128"), format!("{address}:8888"));
    let cases: [(String, &[&str], &str, &str); 4] = [
        (
            squid,
            &[],
            "it requires Digest authentication (407), but bowline supports only Basic",
            "proxy-credentials",
        ),
        (
            tinyproxy.clone(),
            &[],
            "it requires credentials, and none that it accepts were given",
            "proxy-credentials",
        ),
        (
            format!("ada:wrong@{tinyproxy}"),
            &[],
            "it refused the user name and password",
            "proxy-credentials",
        ),
        (
            format!("ada:secret@{tinyproxy}"),
            &["--tls-port", "4433"],
            "it does not allow a tunnel to 203.0.113.1:4433: 403",
            "proxy-forbids",
        ),
    ];
    for (proxy, more, sentence, name) in cases {
        let url = format!("http://{proxy}");
        let all: Vec<&str> = ["--proxy", &url].iter().chain(more).copied().collect();
        let said = refused(&rig, &all).err();
        assert!(said.contains(sentence), "{sentence}: {said}");
        assert!(!said.contains("secret"), "{said}");
        assert_eq!(verdict(&rig, &all, " by http"), name);
    }
    end(running);
}

/// Requires Digest authentication.
fn squid(net: &Routed, scratch: &Scratch) -> Running {
    let (config, users) = (scratch.join("squid.conf"), scratch.join("squid.users"));
    fs::write(&users, "ada:secret\n").expect("the scratch folder");
    let text = format!(
        "http_port 3128\nauth_param digest program /usr/lib/squid/digest_file_auth {}\nauth_param digest realm here\n\
         acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\npid_filename none\n\
         access_log none\ncache_log /dev/null\ncache deny all\n\
         shutdown_lifetime 0 seconds\n",
        users.display()
    );
    fs::write(&config, text).expect("the scratch folder");
    // squid drops its privileges and reads the users as another user.
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).expect("our own folder");
    let mut command = net.place("router").command("squid");
    // squid's shared memory is named after the service, and survives if squid is killed.
    let service = format!("bowline{}", std::process::id());
    let running = Running::start(command.args(["-N", "-n", &service, "-f"]).arg(&config));
    listening(net, "router", 3128);
    running
}

/// Stops squid properly, so that it removes its shared memory.
fn end(mut squid: Running) {
    squid.signal(Signal::TERM);
    assert!(squid.ended(LIMIT), "squid ends");
}

/// Requires Basic authentication, and allows tunnels to port 443 only.
fn tinyproxy(net: &Routed, scratch: &Scratch) -> Running {
    let config = scratch.join("tinyproxy.conf");
    fs::write(&config, "Port 8888\nBasicAuth ada secret\nConnectPort 443\n").expect("the scratch folder");
    let mut command = net.place("router").command("tinyproxy");
    let running = Running::start(command.args(["-d", "-c"]).arg(&config));
    listening(net, "router", 8888);
    running
}

/// Waits until a port is listened on.
#[track_caller]
fn listening(net: &Routed, machine: &str, port: u16) {
    let listens = || {
        net.on(machine, &["ss", "-ltnH"])
            .contains(&format!(":{port} "))
            .then_some(())
    };
    assert!(wait_for(LIMIT, listens).is_some(), "nobody listens at port {port}");
}
