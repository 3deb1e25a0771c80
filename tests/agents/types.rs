//! Unsupported key types in every place: they are reported and skipped, and the other keys are
//! used.

use super::agent::{Agent, AgentWithExtraKeys, string};
use super::support::process::{Outcome, run};
use super::support::serve::{Serve, ServeOptions};
use super::support::ssh::{HOST, SshFiles, SshSetup};
use super::support::sshd::{TestSshd, make_key, public_key};
use super::support::{Scratch, wait_for};
use super::{LIMIT, serve_by};
use russh::keys::ssh_encoding::base64::{Base64, Encoding};
use std::fs;
use std::process::Command;

/// A default host key of OpenSSH 10.6.
const NEW: &str = "ssh-mldsa44-ed25519";

#[test]
fn an_agent_with_a_key_of_an_unknown_type_opens_by_its_other_keys() {
    let (sshd, agent) = (TestSshd::start(), Agent::start());
    agent.add(&[sshd.user_key()]);
    let boasting = AgentWithExtraKeys::before(&agent, vec![blob(NEW), blob("ssh-future@example.org")]);
    let serve = Serve::start(&sshd, ServeOptions::here());
    let setup = SshSetup::bowline(&sshd, serve.udp().port()).identity(None);
    let ssh = setup.option("IdentitiesOnly no").write();
    let outcome = with_agent(&ssh, &boasting, "echo in").expect_code(0);
    assert_eq!(outcome.out(), "in\n", "{}", outcome.err());
}

#[test]
fn a_user_who_has_keys_of_unknown_types_only_is_told_their_names() {
    let (sshd, agent) = (TestSshd::start(), Agent::start());
    let boasting = AgentWithExtraKeys::before(&agent, vec![blob(NEW)]);
    let serve = Serve::start(&sshd, ServeOptions::here());
    let setup = SshSetup::bowline(&sshd, serve.udp().port()).identity(None);
    let ssh = setup.option("IdentitiesOnly no").write();
    let told = with_agent(&ssh, &boasting, "echo in").expect_code(255).err();
    for part in [
        "accepted none of your keys",
        "ssh-mldsa44-ed25519 SHA256:",
        "(agent): keys of type ssh-mldsa44-ed25519 are not supported by this version of bowline",
        "with `--fallback tcp`",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let checked = run(ssh.check(&[]).env("SSH_AUTH_SOCK", boasting.socket()), LIMIT).expect_code(77);
    let said = checked.out();
    assert!(said.contains("accepts none of the offered keys"), "{said}");
    assert!(said.contains("key: ssh-mldsa44-ed25519 SHA256:"), "{said}");
}

#[test]
fn ssh_goes_on_without_bowline_where_only_it_may_have_a_key_that_is_accepted() {
    let sshd = TestSshd::start();
    let serve = Serve::start(&sshd, ServeOptions::here());
    let folder = Scratch::new();
    let key = folder.join("id_new");
    fs::write(key.with_extension("pub"), format!("{} me@here\n", line(NEW))).expect("the scratch folder");
    // The key of an agent that ssh uses and bowline is told not to use stands for a key that only
    // ssh supports.
    let agent = Agent::start();
    agent.add(&[sshd.user_key()]);
    let setup = SshSetup::bowline(&sshd, serve.udp().port()).identity(Some(key));
    let setup = setup.option(&format!("IdentityAgent {}", agent.socket().display()));
    let setup = setup.option("IdentitiesOnly no");
    let ssh = setup
        .proxy_arguments(&["--fallback", "tcp", "-o", "IdentityAgent=none"])
        .write();
    let outcome = run(&mut ssh.ssh(&[HOST, "echo in"]), LIMIT);
    let outcome = outcome.expect_code(0);
    assert_eq!(outcome.out(), "in\n");
    let told = outcome.err();
    assert!(told.contains("no key that bowline supports is accepted"), "{told}");
}

#[test]
fn a_host_that_is_known_by_an_unknown_type_only_is_left_to_ssh_and_told_so() {
    let sshd = TestSshd::start();
    let serve = Serve::start(&sshd, ServeOptions::here());
    let setup = SshSetup::bowline(&sshd, serve.udp().port());
    let setup = setup.known_hosts(&format!("KEY_NAME {}\n", line(NEW)));
    let ssh = setup.option("StrictHostKeyChecking accept-new").write();
    let said = run(&mut ssh.check(&[]), LIMIT).expect_code(0).out();
    let sentence = "known_hosts has only keys of types that bowline does not support (ssh-mldsa44-ed25519): ssh checks";
    assert!(said.contains(sentence), "{said}");
    assert!(!said.contains("No key of this host is known"), "{said}");
    // An ssh that does not know the type learns another key of the host. OpenSSH 10.6 knows it, and
    // refuses.
    let known = run(Command::new("ssh").args(["-Q", "key"]), LIMIT).expect_code(0).out();
    let knows = known.lines().any(|name| name == NEW);
    ssh.remote("true", LIMIT).expect_code(if knows { 255 } else { 0 });
    let log = ssh.proxy_log();
    assert!(log.contains("ssh checks the host key itself"), "{log}");
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn a_server_half_whose_sshd_has_no_host_key_of_a_usual_type_says_which_it_needs() {
    let sshd = TestSshd::start();
    let folder = Scratch::new();
    let key = folder.join("ssh_host_new_key.pub");
    fs::write(&key, format!("{}\n", line(NEW))).expect("the scratch folder");
    let config = folder.join("sshd_config");
    fs::write(&config, format!("HostKey {}\n", key.display())).expect("the scratch folder");
    // Without root the keys of sshd cannot be read anyway, and the server half uses a key of its
    // own.
    let serve = serve_by(&config, &sshd, &folder);
    let said = wait_for(LIMIT, || Some(serve.err_so_far()).filter(|said| said.contains(NEW)));
    let told = said.unwrap_or_else(|| panic!("{}", serve.err_so_far()));
    assert!(
        told.contains("has the type ssh-mldsa44-ed25519, which this version of bowline does not support"),
        "{told}"
    );
}

/// Every key type and every signature name of this OpenSSH, in the agent and in known_hosts at
/// once.
#[test]
fn every_type_that_ssh_knows_may_be_in_the_agent_and_in_known_hosts() {
    let mut names: Vec<String> = Vec::new();
    for list in ["key", "sig"] {
        let listed = run(Command::new("ssh").args(["-Q", list]), LIMIT).expect_code(0).out();
        names.extend(listed.lines().map(str::to_owned));
    }
    names.sort();
    names.dedup();
    assert!(names.len() >= 10, "{names:?}");
    let (sshd, agent, folder) = (TestSshd::start(), Agent::start(), Scratch::new());
    let mut blobs = Vec::new();
    let mut lines = String::new();
    for name in &names {
        let text = made_by_ssh_keygen(&folder, name).unwrap_or_else(|| line(name));
        let base64 = text.split(' ').nth(1).expect("TYPE BASE64");
        blobs.push(Base64::decode_vec(base64).expect("base64"));
        lines += &format!("[{}]:{} {text}\n", sshd.address().ip(), sshd.address().port());
    }
    agent.add(&[sshd.user_key()]);
    let boasting = AgentWithExtraKeys::before(&agent, blobs);
    lines += &format!(
        "[{}]:{} {}\n",
        sshd.address().ip(),
        sshd.address().port(),
        public_key(&sshd.host_key("ed25519"))
    );
    let serve = Serve::start(&sshd, ServeOptions::here());
    let setup = SshSetup::bowline(&sshd, serve.udp().port()).identity(Some(sshd.user_key()));
    let ssh = setup
        .known_hosts(&lines)
        .option("HostKeyAlgorithms ssh-ed25519")
        .write();
    let outcome = with_agent(&ssh, &boasting, "echo in").expect_code(0);
    assert_eq!(outcome.out(), "in\n", "{}", outcome.err());
    // Also with the agent alone, in its own order.
    let setup = SshSetup::bowline(&sshd, serve.udp().port()).identity(None);
    let ssh = setup.known_hosts(&lines).option("IdentitiesOnly no").write();
    let said = run(ssh.check(&[]).env("SSH_AUTH_SOCK", boasting.socket()), LIMIT);
    said.expect_code(0);
}

/// `TYPE BASE64` of a new key; `None` if ssh-keygen cannot make the type without a token.
fn made_by_ssh_keygen(folder: &Scratch, name: &str) -> Option<String> {
    let kind = match name {
        "ssh-ed25519" => "ed25519",
        "ssh-rsa" => "rsa",
        "ecdsa-sha2-nistp256" => "ecdsa",
        _ => return None,
    };
    let path = folder.join(kind);
    make_key(&path, kind);
    Some(public_key(&path))
}

/// `TYPE BASE64` of [`blob`].
fn line(name: &str) -> String {
    format!("{name} {}", Base64::encode_string(&blob(name)))
}

/// A public key of this type that can only be recognised as invalid by those who know the type.
fn blob(name: &str) -> Vec<u8> {
    [string(name.as_bytes()), string(&[7; 1344])].concat()
}

fn with_agent(ssh: &SshFiles, agent: &AgentWithExtraKeys, remote: &str) -> Outcome {
    run(ssh.ssh(&[HOST, remote]).env("SSH_AUTH_SOCK", agent.socket()), LIMIT)
}
