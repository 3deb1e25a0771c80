//! Other servers than the sshd whose settings are known: they prove other keys, or answer the question about keys otherwise.

use super::LIMIT;
use super::elsewhere::Serve;
use super::support::place::Place;
use super::support::process::{Running, run};
use super::support::ssh::{HOST, SshSetup};
use super::support::sshd::{TestSshd, fingerprint, make_key, public_key};
use super::support::{BOWLINE, Scratch, wait_for};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Command, Stdio};

fn here() -> Place {
    Place::on_this_machine(Ipv4Addr::LOCALHOST.into())
}

/// A server that `command` runs at a port of its own on loopback.
fn running(command: &mut Command, port: u16) -> (Running, String) {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let running = Running::spawn(command);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let is_up = wait_for(LIMIT, || TcpStream::connect(address).ok());
    assert!(is_up.is_some(), "nothing comes up at {address}");
    (running, address.to_string())
}

#[test]
fn a_server_that_says_yes_to_every_key_is_not_asked_who_may_open() {
    let (scratch, port) = (Scratch::new(), Place::free_port());
    let keys = scratch.join("keys");
    run(Command::new("/usr/sbin/tinysshd-makekey").arg(&keys), LIMIT).expect_code(0);
    let mut socat = Command::new("socat");
    socat.arg(format!("TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr"));
    socat.arg(format!("EXEC:/usr/sbin/tinysshd {}", keys.display()));
    let (_tinysshd, target) = running(&mut socat, port);
    let serve = |auth: &[&str]| {
        let mut command = Command::new(BOWLINE);
        command.args(["serve", "--listen", "127.0.0.1:0", "--target", &target]);
        command.arg("--state-dir").arg(scratch.join("state"));
        command.arg("--runtime-dir").arg(scratch.join("run"));
        command.args(auth);
        command
    };
    let said = run(&mut serve(&[]), LIMIT).expect_code(69).err();
    assert!(
        said.contains("accepts every key") && said.contains("--auth none"),
        "{said}"
    );
    // Whoever knows that starts it all the same.
    let ready = scratch.join("ready");
    let mut none = serve(&["--auth", "none"]);
    none.stdout(fs::File::create(&ready).expect("the scratch folder"))
        .stderr(Stdio::null());
    let _running = Running::spawn(&mut none);
    let is_ready = || fs::read_to_string(&ready).is_ok_and(|text| text.contains("fingerprint="));
    assert!(
        wait_for(LIMIT, || is_ready().then_some(())).is_some(),
        "it does not start"
    );
}

#[test]
fn a_server_that_is_not_this_machine_s_sshd_gets_in_every_time_with_the_server_half_s_own_key() {
    let (machine, other) = (TestSshd::start_at(here(), ""), TestSshd::start_at(here(), ""));
    let target = other.address().to_string();
    let serve = Serve::start(&machine, &["--target", &target, "--accept-loopback-match"]);
    let log = serve.log();
    let told = log.lines().find(|line| line.contains("event=\"other-host-key\""));
    let told = told.unwrap_or_else(|| panic!("no warning: {log}"));
    let pin = serve.fingerprint();
    assert!(told.contains(&format!("--pin {pin}")), "{told}");
    assert_ne!(pin, fingerprint(&machine.host_key("ed25519")));
    // ssh knows the key of the login inside, as after a first one.
    let client = SshSetup::bowline(&other, serve.port())
        .proxy_arguments(&["--pin", &pin])
        .write();
    for _ in 0..3 {
        client.remote("exit 7", LIMIT).expect_code(7);
    }
    // The private key of the target's is at hand: clients need to learn nothing.
    let key = other.host_key("ed25519");
    let key = key.to_str().expect("text");
    let serve = Serve::start(
        &machine,
        &["--target", &target, "--accept-loopback-match", "--host-key", key],
    );
    serve.login(&other).expect_code(7);
}

/// Nothing is opened at a target that was silent at the start until it is known who answers there.
#[test]
fn a_server_that_comes_up_later_and_says_yes_to_every_key_is_not_asked_either() {
    let (scratch, port, machine) = (Scratch::new(), Place::free_port(), TestSshd::start_at(here(), ""));
    let target = format!("127.0.0.1:{port}");
    let key = machine.host_key("ed25519");
    let key = key.to_str().expect("text");
    let serve = Serve::start(
        &machine,
        &["--target", &target, "--accept-loopback-match", "--host-key", key],
    );
    assert!(serve.log().contains("event=\"target-silent\""), "{}", serve.log());
    let client = SshSetup::bowline(&machine, serve.port()).proxy_arguments(&["--connect-timeout", "3s"]);
    let client = client.write();
    let open = || run(&mut client.proxy(), LIMIT);
    let said = open().expect_code(69).err();
    assert!(said.contains(&format!("no SSH server at {target}")), "{said}");
    let keys = scratch.join("keys");
    run(Command::new("/usr/sbin/tinysshd-makekey").arg(&keys), LIMIT).expect_code(0);
    let mut socat = Command::new("socat");
    socat.arg(format!("TCP-LISTEN:{port},bind=127.0.0.1,fork,reuseaddr"));
    socat.arg(format!("EXEC:/usr/sbin/tinysshd {}", keys.display()));
    let _tinysshd = running(&mut socat, port);
    for _ in 0..3 {
        let said = open().expect_code(77).err();
        assert!(said.contains("until an administrator"), "{said}");
    }
    let told = told_once(&serve, "opens-refused");
    assert!(
        told.contains("says yes to every key") && told.contains("--auth none"),
        "{told}"
    );
    assert!(!serve.log().contains("event=\"opened\""), "{}", serve.log());
}

/// The only line of the log with this event.
fn told_once(serve: &Serve, event: &str) -> String {
    let (log, event) = (serve.log(), format!("event=\"{event}\""));
    let told: Vec<&str> = log.lines().filter(|line| line.contains(&event)).collect();
    assert_eq!(told.len(), 1, "{log}");
    told[0].to_owned()
}

#[test]
fn a_server_that_comes_up_later_with_another_host_key_gets_in_after_a_reload() {
    let (machine, mut other) = (TestSshd::start_at(here(), ""), TestSshd::start_at(here(), ""));
    let target = other.address().to_string();
    other.stop_listening();
    let serve = Serve::start(&machine, &["--target", &target, "--accept-loopback-match"]);
    other.resume_service();
    // Its first flight proves the keys of this machine's sshd, by which the client knows it.
    let known: Vec<String> = [&machine, &other]
        .map(|sshd| {
            let keys = sshd.host_keys();
            keys.iter()
                .map(|key| format!("KEY_NAME {}\n", public_key(key)))
                .collect::<String>()
        })
        .into();
    let client = SshSetup::bowline(&other, serve.port())
        .known_hosts(&known.concat())
        .write();
    for _ in 0..3 {
        let said = run(&mut client.proxy(), LIMIT).expect_code(77).err();
        assert!(said.contains("until an administrator"), "{said}");
    }
    let told = told_once(&serve, "opens-refused");
    assert!(
        told.contains("proves the host key") && told.contains("reload"),
        "{told}"
    );
    serve.reload();
    let pin = wait_for(LIMIT, || {
        let log = serve.log();
        let (_, rest) = log.split_once("`bowline ssh --pin ")?;
        Some(rest.split_once('`')?.0.to_owned())
    });
    let pin = pin.unwrap_or_else(|| panic!("no key of its own: {}", serve.log()));
    let client = SshSetup::bowline(&other, serve.port())
        .proxy_arguments(&["--pin", &pin])
        .write();
    let in_time = wait_for(LIMIT, || {
        let code = client.remote("exit 7", LIMIT).code;
        (code == Some(7)).then_some(())
    });
    assert!(in_time.is_some(), "{}", serve.log());
}

#[test]
fn this_machine_s_sshd_that_comes_up_later_is_looked_at_once_and_served() {
    let mut machine = TestSshd::start_at(here(), "");
    machine.stop_listening();
    let serve = Serve::start(&machine, &[]);
    let hasty = SshSetup::bowline(&machine, serve.port()).proxy_arguments(&["--connect-timeout", "3s"]);
    run(&mut hasty.write().proxy(), LIMIT).expect_code(69);
    let client = SshSetup::bowline(&machine, serve.port()).write();
    machine.resume_service();
    for _ in 0..2 {
        client.remote("exit 7", LIMIT).expect_code(7);
    }
    told_once(&serve, "opens-allowed");
}

#[test]
fn dropbear_whose_key_is_known_to_nobody_here_is_told_apart_from_sshd() {
    let (scratch, port) = (Scratch::new(), Place::free_port());
    let (machine, key) = (TestSshd::start_at(here(), ""), scratch.join("host"));
    make_key(&key, "ed25519");
    let of_dropbear = scratch.join("dropbear");
    let mut convert = Command::new("/usr/bin/dropbearconvert");
    convert.args(["openssh", "dropbear"]).arg(&key).arg(&of_dropbear);
    run(&mut convert, LIMIT).expect_code(0);
    let mut dropbear = Command::new("/usr/sbin/dropbear");
    dropbear
        .args(["-F", "-p", &format!("127.0.0.1:{port}")])
        .arg("-P")
        .arg(scratch.join("pid"));
    let (_dropbear, target) = running(dropbear.arg("-r").arg(&of_dropbear), port);
    let serve = Serve::start(&machine, &["--target", &target, "--accept-loopback-match"]);
    assert!(serve.log().contains(&fingerprint(&key)), "{}", serve.log());
    // It decides about keys as sshd does: nobody has allowed this one.
    let known = format!("KEY_NAME {}\n", public_key(&key));
    let setup = SshSetup::bowline(&machine, serve.port()).known_hosts(&known);
    let stranger = scratch.join("stranger");
    make_key(&stranger, "ed25519");
    let pin = serve.fingerprint();
    let client = setup.identity(Some(stranger)).proxy_arguments(&["--pin", &pin]).write();
    let said = run(&mut client.proxy(), LIMIT).expect_code(77).err();
    assert!(said.contains("accepted none of your keys"), "{HOST}: {said}");
}
