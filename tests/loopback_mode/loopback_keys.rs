//! Keys that are for this machine alone do not open for the network, though sshd sees it on loopback.

use super::support::lab::Lab;
use super::support::process::{Outcome, run};
use super::support::serve::{Serve, ServeOptions};
use super::support::ssh::SshSetup;
use super::support::sshd::TestSshd;
use super::{LIMIT, REFUSED};
use std::fs;
use std::process::Command;
use std::time::Duration;

struct Machines {
    lab: Lab,
    sshd: TestSshd,
    serve: Serve,
    key: String,
}

impl Machines {
    fn up() -> Option<Machines> {
        if !Lab::possible("keys that are for loopback") {
            return None;
        }
        let lab = Lab::up(&[("server", ""), ("client", "")]);
        let sshd = TestSshd::start_at(lab.place("server"), "ListenAddress 127.0.0.1");
        let mut options = ServeOptions {
            place: lab.place("server"),
            ..ServeOptions::here()
        };
        options.arguments = super::support::serve::sshd_arguments(&sshd);
        for key in sshd.host_keys() {
            options.arguments.extend(["--host-key".into(), key.into()]);
        }
        let serve = Serve::start_before(([127, 0, 0, 1], sshd.port()).into(), options);
        let key = fs::read_to_string(sshd.authorized_keys()).expect("the scratch folder");
        Some(Machines { lab, sshd, serve, key })
    }

    fn authorize(&self, options: &str) {
        let line = format!("{options} {}", self.key);
        fs::write(self.sshd.authorized_keys(), line).expect("the scratch folder");
    }

    fn login(&self, from: &str) -> Outcome {
        let setup = SshSetup::bowline(&self.sshd, self.serve.udp().port()).at(self.lab.place(from));
        let files = setup.write();
        let opened = run(&mut files.proxy(), Duration::from_secs(10));
        if opened.code == Some(REFUSED) {
            return opened;
        }
        files.remote("exit 7", LIMIT)
    }
}

#[test]
fn a_key_that_is_for_loopback_addresses_opens_for_nobody_else() {
    let Some(machines) = Machines::up() else { return };
    for list in ["127.0.0.0/8", "127.*", "127.0.0.1,::1", "127.0.0.0/8,10.0.0.0/8"] {
        machines.authorize(&format!("from=\"{list}\""));
        machines.login("client").expect_code(REFUSED);
    }
    let log = machines.serve.log();
    assert!(
        log.contains("refused: sshd accepts this key from loopback only"),
        "{log}"
    );
    machines.authorize("");
    let asked = || machines.sshd.connections_from("198.18.");
    let before = asked();
    machines.login("client").expect_code(7);
    assert_eq!(
        asked() - before,
        1,
        "one question from elsewhere does for a while: {}",
        machines.sshd.log()
    );
}

#[test]
fn a_certificate_opens_from_the_addresses_that_it_names_alone() {
    let Some(machines) = Machines::up() else { return };
    let ca = machines.sshd.authorized_keys().with_file_name("ca");
    super::support::sshd::make_key(&ca, "ed25519");
    let ca_key = fs::read_to_string(ca.with_extension("pub")).expect("made");
    fs::write(machines.sshd.authorized_keys(), format!("cert-authority {ca_key}")).expect("the scratch folder");
    let certify = |options: &[&str]| {
        let mut command = Command::new("ssh-keygen");
        command
            .args(["-q", "-I", "test", "-n", &machines.sshd.user(), "-s"])
            .arg(&ca)
            .args(options);
        command.arg(machines.sshd.user_key().with_extension("pub"));
        run(&mut command, Duration::from_secs(10)).expect_code(0);
    };
    certify(&["-O", "source-address=127.0.0.0/8"]);
    machines.login("client").expect_code(REFUSED);
    certify(&["-O", "source-address=127.0.0.0/8,198.18.0.0/16"]);
    machines.login("client").expect_code(7);
    certify(&["-O", "source-address=127.0.0.0/8,198.18.1.0/24"]);
    machines.login("client").expect_code(REFUSED);
    certify(&[]);
    machines.login("client").expect_code(7);
}
