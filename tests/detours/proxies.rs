//! Networks that only a proxy leaves, and hosts that only somebody else's tunnel reaches.

use crate::lab;
use crate::support::lab::Lab;
use crate::support::process::{Running, run};
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;
use crate::support::ssh::INNER;
use crate::support::{Scratch, measured_time, wait_for};
use std::fs;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const HOSTS: [(&str, &str); 2] = [("server", ""), ("proxy", "")];

/// The client has no way to the server but by the host `proxy`, which a variable of its environment names.
fn walled(lab: &Lab, (variable, url): (&str, &str)) -> Rig {
    let options = ServeOptions::here().argument("--listen-tls").argument("443");
    let rig = Rig::with_in(lab, options, |setup| setup.environment(variable, url));
    let server = lab.place("server").address.to_string();
    let mut wall = lab.command("client", "ip");
    let built = wall.args(["route", "add", "blackhole", &server]).status();
    assert!(built.expect("ip runs").success());
    rig
}

/// Waits until somebody listens on a host.
#[track_caller]
fn listening(lab: &Lab, port: u16) {
    let listens = || {
        let out = lab.command("proxy", "ss").args(["-ltnH"]).output().ok()?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        text.contains(&format!(":{port} ")).then_some(())
    };
    assert!(wait_for(LIMIT, listens).is_some(), "nobody listens at port {port}");
}

#[test]
fn a_session_opens_through_an_http_proxy_that_wants_a_password() {
    let Some((_turn, lab)) = lab("an HTTP proxy", &HOSTS) else {
        return;
    };
    let (proxy, scratch) = (lab.place("proxy").address, Scratch::new());
    let config = scratch.join("tinyproxy.conf");
    fs::write(&config, "Port 3128\nBasicAuth ada secret\nConnectPort 443\n").expect("the scratch folder");
    let mut command = lab.command("proxy", "tinyproxy");
    let _tinyproxy = Running::start(command.args(["-d", "-c"]).arg(&config));
    listening(&lab, 3128);
    let url = format!("http://ada:secret@{proxy}:3128");
    let rig = walled(&lab, ("BOWLINE_PROXY", &url));
    let outcome = rig.ssh.remote("exit 7", LIMIT).expect_code(7);
    measured_time("ssh through an HTTP proxy from start to end, RTT 50 ms", outcome.took);
    assert!(!rig.ssh.proxy_log().contains("secret"), "{}", rig.ssh.proxy_log());
    let wrong = format!("http://ada:wrong@{proxy}:3128");
    let mut again = rig.ssh.proxy();
    again.args(["--proxy", &wrong, "--connect-timeout", "2s"]);
    let refused = run(&mut again, LIMIT).expect_code(69);
    assert!(
        refused.err().contains("it answered 401") || refused.err().contains("it answered 407"),
        "{}",
        refused.err()
    );
    assert!(!refused.err().contains("wrong"), "{}", refused.err());
}

#[test]
fn a_session_opens_through_a_socks_proxy_of_the_environment() {
    let Some((_turn, lab)) = lab("a SOCKS proxy", &HOSTS) else {
        return;
    };
    let proxy = lab.place("proxy").address;
    let mut command = lab.command("proxy", "microsocks");
    let _microsocks = Running::start(command.args(["-p", "1080", "-u", "ada", "-P", "secret"]));
    listening(&lab, 1080);
    let rig = walled(&lab, ("ALL_PROXY", &format!("socks5h://ada:secret@{proxy}:1080")));
    rig.ssh.remote("exit 7", LIMIT).expect_code(7);
}

#[test]
fn a_session_goes_through_any_program_that_leads_to_the_tls_port() {
    // Real ssh -W as somebody else's tunnel; the server half's own ports are not where the client looks.
    let options = ServeOptions::here().argument("--listen-tls").argument("127.0.0.1:0");
    let rig = Rig::with(options, |setup| setup);
    let tls = rig.serve().ready_field("tls").expect("a TLS port").to_owned();
    let config = rig.ssh.config();
    let tunnel = format!("ssh -F {} -W {tls} {INNER}", config.display());
    let mut proxy = rig.ssh.proxy();
    proxy.args(["--transport", "tls", "--tls-port", "9", "--path-command", &tunnel]);
    run(&mut proxy, LIMIT).expect_code(0);
    assert_eq!(rig.ssh.proxy_logged("carrier=tls"), 1, "{}", rig.ssh.proxy_log());
    let mut proxy = rig.ssh.proxy();
    proxy.args([
        "--transport",
        "tls",
        "--tls-port",
        "9",
        "--path-command",
        "echo no such tunnel >&2",
    ]);
    proxy.args(["--connect-timeout", "2s"]);
    let failed = run(&mut proxy, LIMIT).expect_code(69);
    assert!(failed.err().contains("it said: no such tunnel"), "{}", failed.err());
}
