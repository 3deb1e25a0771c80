//! Networks that can only be left through a proxy, and hosts that can only be reached through a
//! tunnel.

use crate::scenarios::ticker::Ticker;
use crate::support::lab::Lab;
use crate::support::process::{Running, run};
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;
use crate::support::ssh::INNER;
use crate::support::{Scratch, measured_time, now, wait_for};
use crate::{lab, shared_lab};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread::sleep;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
const HOSTS: [(&str, &str); 2] = [("server", ""), ("proxy", "")];

/// The client can reach the server only through the host `proxy`, which an environment variable
/// names.
fn firewalled(lab: &Lab, (variable, url): (&str, &str)) -> Rig {
    let options = ServeOptions::here().argument("--listen-tls").argument("443");
    let rig = Rig::with_in(lab, options, |setup| setup.environment(variable, url));
    firewall(lab, "add");
    rig
}

/// Adds (`add`) or removes (`del`) a firewall rule between the client and the server.
fn firewall(lab: &Lab, word: &str) {
    let server = lab.place("server").address.to_string();
    let mut wall = lab.command("client", "ip");
    let done = wall.args(["route", word, "blackhole", &server]).status();
    assert!(done.expect("ip runs").success());
}

/// An HTTP proxy on the host `proxy`, and its URL.
fn tinyproxy(lab: &Lab, scratch: &Scratch) -> (Running, String) {
    let config = scratch.join("tinyproxy.conf");
    fs::write(&config, "Port 3128\nBasicAuth ada secret\nConnectPort 443\n").expect("the scratch folder");
    let mut command = lab.command("proxy", "tinyproxy");
    let running = Running::start(command.args(["-d", "-c"]).arg(&config));
    listening(lab, 3128);
    (
        running,
        format!("http://ada:secret@{}:3128", lab.place("proxy").address),
    )
}

/// Waits until a port is listened on.
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
    let Some((_turn, lab)) = shared_lab("an HTTP proxy", &HOSTS) else {
        return;
    };
    let scratch = Scratch::new();
    let (_tinyproxy, url) = tinyproxy(&lab, &scratch);
    let rig = firewalled(&lab, ("BOWLINE_PROXY", &url));
    let outcome = rig.ssh.remote("exit 7", LIMIT).expect_code(7);
    measured_time("ssh through an HTTP proxy from start to end, RTT 50 ms", outcome.took);
    assert!(!rig.ssh.proxy_log().contains("secret"), "{}", rig.ssh.proxy_log());
    let wrong = url.replace("secret", "wrong");
    let mut again = rig.ssh.proxy();
    again.args(["--proxy", &wrong, "--connect-timeout", "2s"]);
    let refused = run(&mut again, LIMIT).expect_code(69);
    assert!(
        refused.err().contains("it refused the user name and password"),
        "{}",
        refused.err()
    );
    assert!(!refused.err().contains("wrong"), "{}", refused.err());
}

#[test]
fn a_session_opens_through_a_socks_proxy_of_the_environment() {
    let Some((_turn, lab)) = shared_lab("a SOCKS proxy", &HOSTS) else {
        return;
    };
    let proxy = lab.place("proxy").address;
    let mut command = lab.command("proxy", "microsocks");
    let _microsocks = Running::start(command.args(["-p", "1080", "-u", "ada", "-P", "secret"]));
    listening(&lab, 1080);
    let rig = firewalled(&lab, ("ALL_PROXY", &format!("socks5h://ada:secret@{proxy}:1080")));
    rig.ssh.remote("exit 7", LIMIT).expect_code(7);
    assert!(!rig.ssh.proxy_log().contains("secret"), "{}", rig.ssh.proxy_log());
    let wrong = format!("socks5://ada:wrong@{proxy}:1080");
    let mut again = rig.ssh.proxy();
    again.args(["--proxy", &wrong, "--connect-timeout", "2s"]);
    let refused = run(&mut again, LIMIT).expect_code(69);
    assert!(refused.err().contains("it refused the user name"), "{}", refused.err());
    assert!(!refused.err().contains("wrong"), "{}", refused.err());
}

#[test]
fn a_running_session_goes_on_through_a_proxy_when_a_wall_rises_and_returns_to_quic() {
    let Some((_turn, lab)) = lab("a wall in mid-session", &HOSTS) else {
        return;
    };
    let scratch = Scratch::new();
    let (_tinyproxy, url) = tinyproxy(&lab, &scratch);
    let options = ServeOptions::here().argument("--listen-tls").argument("443");
    let rig = Rig::with_in(&lab, options, |setup| setup.environment("HTTPS_PROXY", &url));
    let mut ticker = Ticker::start(&rig);
    let firewalled = now();
    lab.drop_udp("client", true);
    firewall(&lab, "add");
    let through = wait_for(LIMIT, || (rig.ssh.proxy_logged("via=\"http://") > 0).then(now));
    let through = through.unwrap_or_else(|| panic!("through the proxy: {}", rig.ssh.proxy_log()));
    ticker.next_line_after(through, LIMIT);
    measured_time(
        "longest silence when a wall rose",
        ticker.longest_silence_since(firewalled),
    );
    assert!(!rig.ssh.proxy_log().contains("secret"), "{}", rig.ssh.proxy_log());
    sleep(Duration::from_secs(4));
    firewall(&lab, "del");
    lab.drop_udp("client", false);
    let freed = now();
    let back = wait_for(Duration::from_secs(60), || {
        (rig.ssh.proxy_logged("path_upgraded") > 0).then(now)
    });
    measured_time("back on QUIC", back.expect("on QUIC within a minute") - freed);
    ticker.finish_in_order();
}

#[test]
fn a_running_session_goes_on_when_the_tunnel_below_it_dies() {
    let Some((_turn, lab)) = lab("a tunnel killed in mid-session", &HOSTS[..1]) else {
        return;
    };
    let scratch = Scratch::new();
    let (tunnel, ids) = (scratch.join("tunnel"), scratch.join("ids"));
    let by = tunnel.display().to_string();
    // The TLS port can only be reached through ssh: it is bound to the server's loopback address.
    let options = ServeOptions::here().argument("--listen-tls").argument("127.0.0.1:443");
    let rig = Rig::with_in(&lab, options, |setup| {
        setup.proxy_arguments(&["--transport", "tls", "--path-command", &by])
    });
    let (config, ids) = (rig.ssh.config().display().to_string(), ids.display().to_string());
    let script = format!("#!/bin/sh\necho $$ >>{ids}\nexec ssh -F {config} -W 127.0.0.1:443 {INNER}\n");
    fs::write(&tunnel, script).expect("the scratch folder");
    fs::set_permissions(&tunnel, fs::Permissions::from_mode(0o700)).expect("our own file");
    let mut ticker = Ticker::start(&rig);
    for _ in 0..2 {
        let text = fs::read_to_string(&ids).expect("the tunnel ran");
        let running = text
            .lines()
            .filter_map(|line| line.parse().ok().and_then(Pid::from_raw));
        let killed = now();
        running.for_each(|id| {
            // Some have ended already.
            let _ = kill_process(id, Signal::KILL);
        });
        sleep(Duration::from_millis(100));
        let took = ticker.next_line_after(killed + Duration::from_millis(100), LIMIT);
        measured_time("output over a new ssh -W after the old one was killed", took);
        sleep(Duration::from_secs(1));
    }
    assert!(rig.resumes() >= 2, "{}", rig.ssh.proxy_log());
    assert!(
        rig.ssh.proxy_logged(&format!("via=\"{by}\"")) > 0,
        "{}",
        rig.ssh.proxy_log()
    );
    ticker.finish_in_order();
}

#[test]
fn a_session_goes_through_any_program_that_leads_to_the_tls_port() {
    // A real ssh -W as the tunnel. The server half listens on other ports than the client expects.
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
