//! Keys that work with ssh but not with bowline: each is reported with the cause and the remedy.

use super::agent::Agent;
use super::support::process::run;
use super::support::serve::{Serve, ServeOptions};
use super::support::ssh::{HOST, SshSetup};
use super::support::sshd::{TestSshd, make_key, public_key};
use super::support::{Scratch, wait_for};
use super::{LIMIT, serve_by};
use std::fs;
use std::process::Command;

#[test]
fn a_key_for_certain_hosts_only_is_left_to_ssh() {
    let (sshd, agent, folder) = (TestSshd::start(), Agent::start(), Scratch::new());
    let name = format!("[{}]:{}", sshd.address().ip(), sshd.address().port());
    let known_hosts = folder.join("known_hosts");
    let lines: Vec<String> = sshd
        .host_keys()
        .iter()
        .map(|key| format!("{name} {}\n", public_key(key)))
        .collect();
    fs::write(&known_hosts, lines.concat()).expect("the scratch folder");
    agent.add(&["-H".into(), known_hosts, "-h".into(), name.into(), sshd.user_key()]);
    let serve = Serve::start(&sshd, ServeOptions::here());
    let setup = |fallback: &[&str]| {
        let setup = SshSetup::bowline(&sshd, serve.udp().port()).identity(None);
        let setup = setup.option("IdentitiesOnly no").proxy_arguments(fallback);
        setup
            .option(&format!("IdentityAgent {}", agent.socket().display()))
            .write()
    };
    let told = run(&mut setup(&[]).ssh(&[HOST, "true"]), LIMIT).expect_code(255).err();
    assert!(told.contains("(agent): the agent refused to sign"), "{told}");
    assert!(
        told.contains("ssh may be able to use a key that bowline cannot"),
        "{told}"
    );
    let outcome = run(&mut setup(&["--fallback", "tcp"]).ssh(&[HOST, "echo in"]), LIMIT).expect_code(0);
    assert_eq!(outcome.out(), "in\n");
}

#[test]
fn a_token_s_library_is_named_with_what_can_ask_it() {
    let sshd = TestSshd::start();
    let serve = Serve::start(&sshd, ServeOptions::here());
    let setup = SshSetup::bowline(&sshd, serve.udp().port()).identity(None);
    let ssh = setup.option("PKCS11Provider /usr/lib/token.so").write();
    let told = run(&mut ssh.ssh(&[HOST, "true"]), LIMIT).expect_code(255).err();
    let line = "PKCS11Provider /usr/lib/token.so: bowline uses no PKCS#11 library, but an agent can (ssh-add -s)";
    assert!(told.contains(line), "{told}");
}

#[test]
fn a_certificate_for_other_addresses_says_for_which() {
    let (sshd, folder) = (TestSshd::start(), Scratch::new());
    let (ca, key) = (folder.join("ca"), folder.join("key"));
    make_key(&ca, "ed25519");
    make_key(&key, "ed25519");
    let mut sign = Command::new("ssh-keygen");
    sign.args([
        "-q",
        "-I",
        "laptop",
        "-V",
        "+1h",
        "-n",
        &sshd.user(),
        "-O",
        "source-address=203.0.113.0/24",
        "-s",
    ]);
    run(sign.arg(&ca).arg(key.with_extension("pub")), LIMIT).expect_code(0);
    fs::write(sshd.authorized_keys(), format!("cert-authority {}\n", public_key(&ca))).expect("the scratch folder");
    let serve = Serve::start(&sshd, ServeOptions::here());
    let ssh = SshSetup::bowline(&sshd, serve.udp().port()).identity(Some(key)).write();
    let told = run(&mut ssh.ssh(&[HOST, "true"]), LIMIT).expect_code(255).err();
    assert!(
        told.contains("certificate \"laptop\", for clients at 203.0.113.0/24 only"),
        "{told}"
    );
}

#[test]
fn host_keys_in_an_agent_are_named_with_what_sshd_needs_beside_them() {
    let sshd = TestSshd::start();
    let folder = Scratch::new();
    let config = folder.join("sshd_config");
    let key = sshd.host_key("ed25519").with_extension("pub");
    let text = format!(
        "HostKey {}\nHostKeyAgent {}\n",
        key.display(),
        folder.join("none").display()
    );
    fs::write(&config, text).expect("the scratch folder");
    let serve = serve_by(&config, &sshd, &folder);
    let wanted = "contains only a public key: an agent (HostKeyAgent) or a token has the private key";
    let said = wait_for(LIMIT, || Some(serve.err_so_far()).filter(|said| said.contains(wanted)));
    assert!(said.is_some(), "{}", serve.err_so_far());
}
