//! Many and large keys and certificates: those that can never be sent are skipped and reported, the
//! others are sent in several hellos.

use super::LIMIT;
use super::agent::{Agent, AgentWithExtraKeys, string};
use super::support::process::{Outcome, run};
use super::support::serve::{Serve, ServeOptions};
use super::support::ssh::{HOST, SshFiles, SshSetup};
use super::support::sshd::{TestSshd, make_key};
use super::support::{Scratch, heavy};
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn a_certificate_that_is_too_long_for_any_open_is_left_out_and_named() {
    let (sshd, agent, folder) = (TestSshd::start(), Agent::start(), Scratch::new());
    agent.add(&[certified(&folder, "long", 250)]);
    agent.add(&[sshd.user_key()]);
    let (serve, ssh) = by_agent(&sshd, &agent);
    let outcome = run(&mut ssh.ssh(&[HOST, "echo in"]), LIMIT).expect_code(0);
    assert_eq!(outcome.out(), "in\n", "{}", outcome.err());
    assert!(ssh.proxy_log().contains("key not usable"), "{}", ssh.proxy_log());
    assert!(ssh.proxy_log().contains("too long for an open"), "{}", ssh.proxy_log());
    assert_eq!(serve.logged("lost before the hello"), 0, "{}", serve.log());
}

#[test]
fn certificates_that_fit_one_by_one_are_offered_one_by_one() {
    let (sshd, agent, folder) = (TestSshd::start(), Agent::start(), Scratch::new());
    for name in ["a", "b", "c"] {
        agent.add(&[certified(&folder, name, 170)]);
    }
    agent.add(&[sshd.user_key()]);
    let (_serve, ssh) = by_agent(&sshd, &agent);
    opens_once(&ssh);
}

#[test]
fn four_certified_rsa_keys_of_4096_bits_before_the_right_one_take_no_more_than_a_few_hellos() {
    let _turn = heavy();
    let (sshd, agent, folder) = (TestSshd::start(), Agent::start(), Scratch::new());
    keygen(&["-t", "rsa", "-b", "4096"], &folder.join("ca"));
    for number in 0..4 {
        let key = folder.join(&format!("rsa{number}"));
        keygen(&["-t", "rsa", "-b", "4096"], &key);
        certify(&folder.join("ca"), &key, "root,ann,bob");
        agent.add(&[key]);
    }
    agent.add(&[sshd.user_key()]);
    let (_serve, ssh) = by_agent(&sshd, &agent);
    opens_once(&ssh);
}

#[test]
fn rsa_keys_of_other_sizes_than_are_supported_are_named_with_their_bits() {
    let (sshd, agent, folder) = (TestSshd::start(), Agent::start(), Scratch::new());
    let short = folder.join("short");
    keygen(&["-t", "rsa", "-b", "1024"], &short);
    agent.add(&[short]);
    // Generating one takes minutes.
    let modulus = [&[0, 0xc0][..], &[7; 16384 / 8 - 1]].concat();
    let long = [string(b"ssh-rsa"), string(&[1, 0, 1]), string(&modulus)].concat();
    let boasting = AgentWithExtraKeys::before(&agent, vec![long]);
    let serve = Serve::start(&sshd, ServeOptions::here());
    let setup = SshSetup::bowline(&sshd, serve.udp().port()).identity(None);
    let ssh = setup.option("IdentitiesOnly no").write();
    let told = with_agent(&ssh, &boasting).expect_code(255).err();
    for bits in [1024, 16384] {
        let line = format!("(agent): an RSA key of {bits} bits; 2048 to 8192 can be used");
        assert!(told.contains(&line), "{line}: {told}");
    }
    agent.add(&[sshd.user_key()]);
    with_agent(&ssh, &boasting).expect_code(0);
}

fn opens_once(ssh: &SshFiles) {
    let outcome = run(
        &mut ssh.ssh(&["-o", "NumberOfPasswordPrompts=0", HOST, "echo in"]),
        LIMIT,
    );
    // sshd's limit of attempts may end the inner login, but by then the session has been opened.
    assert!(outcome.code.is_some(), "{}", outcome.err());
    assert_eq!(
        ssh.proxy_logged("session opened"),
        1,
        "{}\n{}",
        outcome.err(),
        ssh.proxy_log()
    );
}

/// An Ed25519 key whose certificate has this many principals of about 40 bytes each.
fn certified(folder: &Scratch, name: &str, principals: usize) -> PathBuf {
    let (ca, key) = (folder.join(&format!("{name}-ca")), folder.join(name));
    make_key(&ca, "ed25519");
    make_key(&key, "ed25519");
    let names: Vec<String> = (0..principals)
        .map(|n| format!("customer-namespace-{n:03}-readwrite-account"))
        .collect();
    certify(&ca, &key, &names.join(","));
    key
}

fn certify(ca: &Path, key: &Path, principals: &str) {
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-q", "-I", "test", "-V", "+1h", "-n", principals, "-s"])
        .arg(ca);
    run(command.arg(key.with_extension("pub")), LIMIT).expect_code(0);
}

fn keygen(kind: &[&str], path: &Path) {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-N", "", "-f"]).arg(path).args(kind);
    run(&mut command, LIMIT).expect_code(0);
}

fn with_agent(ssh: &SshFiles, agent: &AgentWithExtraKeys) -> Outcome {
    run(ssh.ssh(&[HOST, "true"]).env("SSH_AUTH_SOCK", agent.socket()), LIMIT)
}

fn by_agent(sshd: &TestSshd, agent: &Agent) -> (Serve, SshFiles) {
    let serve = Serve::start(sshd, ServeOptions::here());
    let setup = SshSetup::bowline(sshd, serve.udp().port()).identity(None);
    let ssh = setup
        .option("IdentitiesOnly no")
        .option(&format!("IdentityAgent {}", agent.socket().display()))
        .write();
    (serve, ssh)
}
