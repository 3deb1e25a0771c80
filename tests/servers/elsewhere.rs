//! sshd where nobody has said it to be: at a port of its own, or at another address of its name.

use super::LIMIT;
use super::support::place::Place;
use super::support::process::{Outcome, Running, run};
use super::support::serve::sshd_arguments;
use super::support::ssh::SshSetup;
use super::support::sshd::TestSshd;
use super::support::{self, BOWLINE, Scratch, wait_for, write_program};
use rustix::process::Signal;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;

/// A server half that is told nothing but what a test says, at a port of its own.
pub(super) struct Serve {
    scratch: Scratch,
    running: Running,
    port: u16,
}

impl Serve {
    pub(super) fn start(sshd: &TestSshd, arguments: &[&str]) -> Serve {
        let told = sshd_arguments(sshd);
        Serve::start_by(
            BOWLINE.as_ref(),
            told.into_iter().chain(arguments.iter().map(Into::into)),
        )
    }

    fn start_by(program: &Path, arguments: impl IntoIterator<Item = OsString>) -> Serve {
        let (scratch, port) = (Scratch::new(), Place::free_port());
        let file = |name| File::create(scratch.join(name)).expect("the scratch folder");
        let mut command = std::process::Command::new(program);
        command.arg("serve").arg("--listen").arg(format!("127.0.0.1:{port}"));
        command.args(arguments);
        let folders = ["--state-dir", "--runtime-dir"].map(OsString::from);
        let [state, runtime] = folders.map(|option| [option, scratch.join("state").into()]);
        command.args(state).args(runtime).args(["--client-address", "loopback"]);
        command.stdin(Stdio::null()).stdout(file("ready")).stderr(file("log"));
        let serve = Serve {
            running: Running::spawn(&mut command),
            scratch,
            port,
        };
        let ready = || fs::read_to_string(serve.scratch.join("ready")).unwrap_or_default();
        let is_ready = wait_for(LIMIT, || ready().contains("fingerprint=").then_some(()));
        assert!(is_ready.is_some(), "not ready: {}", serve.log());
        serve
    }

    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What clients can pin.
    pub(super) fn fingerprint(&self) -> String {
        let ready = fs::read_to_string(self.scratch.join("ready")).unwrap_or_default();
        let (_, fingerprint) = ready.split_once("fingerprint=").expect("a fingerprint");
        fingerprint.trim_end().to_owned()
    }

    /// Has it read everything anew.
    pub(super) fn reload(&self) {
        self.running.signal(Signal::HUP);
    }

    fn warned(&self) -> bool {
        self.log().contains("event=\"target-silent\"")
    }

    pub(super) fn login(&self, sshd: &TestSshd) -> Outcome {
        SshSetup::bowline(sshd, self.port).write().remote("exit 7", LIMIT)
    }
}

#[test]
fn sshd_is_joined_where_its_settings_say_that_it_listens() {
    let sshd = TestSshd::start_at(Place::on_this_machine(Ipv4Addr::LOCALHOST.into()), "");
    let serve = Serve::start(&sshd, &[]);
    serve.login(&sshd).expect_code(7);
    assert!(!serve.warned(), "{}", serve.log());
    // Whoever looks whether sshd is there makes no connection that it counts.
    assert_eq!(sshd.connections_from("127.64.0.1 "), 0, "{}", sshd.log());
}

#[test]
fn sshd_is_found_at_whichever_address_of_its_name_it_is() {
    if !rustix::process::geteuid().is_root() {
        return support::measured(
            "a name with two addresses",
            "SKIPPED, only root can show a program another /etc/hosts",
        );
    }
    let scratch = Scratch::new();
    let (hosts, program) = (scratch.join("hosts"), scratch.join("bowline"));
    fs::write(&hosts, "127.0.0.1 localhost\n::1 localhost\n").expect("the scratch folder");
    let script = format!("mount --bind {} /etc/hosts && exec {BOWLINE} \"$@\"", hosts.display());
    write_program(
        &program,
        &format!("exec unshare --mount sh -c '{script}' bowline \"$@\""),
    );
    let mut sshd = TestSshd::start_at(Place::on_this_machine(Ipv6Addr::LOCALHOST.into()), "");
    let target = format!("localhost:{}", sshd.port());
    let login = |serve: &Serve, sshd: &TestSshd| {
        let setup = SshSetup::bowline(sshd, serve.port).option("HostName 127.0.0.1");
        setup
            .option(&format!("HostKeyAlias [::1]:{}", sshd.port()))
            .write()
            .remote("exit 7", LIMIT)
    };
    let told = sshd_arguments(&sshd).into_iter();
    let serve = Serve::start_by(&program, told.chain(["--target".into(), target.clone().into()]));
    login(&serve, &sshd).expect_code(7);
    assert!(!serve.warned(), "{}", serve.log());
    // One that is not there yet when the server half starts, and of whose settings that knows nothing.
    sshd.stop_listening();
    let key = sshd.host_key("ed25519");
    let key = key.to_str().expect("text");
    let blind = ["--target", &target, "--host-key", key, "--sshd-binary", "/nowhere/sshd"];
    let blind = blind.into_iter().chain(["--accept-loopback-match"]);
    let serve = Serve::start_by(&program, blind.map(OsString::from));
    assert!(serve.warned(), "{}", serve.log());
    sshd.resume_service();
    login(&serve, &sshd).expect_code(7);
}

#[test]
fn a_target_at_which_nothing_answers_is_named_with_where_sshd_listens() {
    let sshd = TestSshd::start_at(Place::on_this_machine(Ipv4Addr::LOCALHOST.into()), "");
    let silent = SocketAddr::from((Ipv4Addr::LOCALHOST, Place::free_port())).to_string();
    let serve = Serve::start(&sshd, &["--target", &silent]);
    let log = serve.log();
    let told = log.lines().find(|line| line.contains("event=\"target-silent\""));
    let told = told.unwrap_or_else(|| panic!("no warning: {log}"));
    assert!(
        told.contains(&silent) && told.contains(&sshd.address().to_string()),
        "{told}"
    );
    let client = SshSetup::bowline(&sshd, serve.port).write();
    let said = run(&mut client.proxy(), LIMIT).expect_code(69).err();
    assert!(said.contains(&silent), "{said}");
}
