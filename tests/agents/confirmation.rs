//! Agents that ask the user: only about the key that will be accepted, and for as long as the user
//! takes.

use super::LIMIT;
use super::agent::Agent;
use super::support::Scratch;
use super::support::peer::{RawClient, open_by};
use super::support::process::run;
use super::support::serve::{Serve, ServeOptions};
use super::support::ssh::{HOST, SshFiles, SshSetup};
use super::support::sshd::{TestSshd, fingerprint, make_key};
use bowline::identity::raw_key::TlsKey;
use bowline::identity::sshsig;
use bowline::identity::statement::OPEN_NAMESPACE;
use bowline::wire::{Answer, Authorization, Hello, KeyQuery, RefusalCode, SessionId, UserName, VERSION};
use russh::keys::ssh_key::{PrivateKey, PublicKey};
use std::fs;
use std::path::PathBuf;

/// bowline, and ssh for the login inside the session.
const ONCE_EACH: usize = 2;

#[test]
fn an_agent_that_answers_after_8_s_is_waited_for_and_named() {
    let (sshd, agent) = (TestSshd::start(), Agent::asking("sleep 8"));
    agent.add(&["-c".into(), sshd.user_key()]);
    let serve = Serve::start(&sshd, ServeOptions::here());
    let ssh = by_agent(&sshd, &serve, &agent);
    let outcome = run(&mut ssh.ssh(&[HOST, "echo in"]), LIMIT).expect_code(0);
    assert_eq!(outcome.out(), "in\n");
    let told = outcome.err();
    assert!(
        told.contains("bowline: waiting for the agent to sign with ED25519 SHA256:"),
        "{told}"
    );
    assert_eq!(agent.asked().len(), ONCE_EACH);
    // The key is known to be accepted now and signs at once, so that the first hello takes long.
    run(&mut ssh.ssh(&[HOST, "true"]), LIMIT).expect_code(0);
    assert_eq!(agent.asked().len(), 2 * ONCE_EACH);
    run(&mut ssh.check(&[]), LIMIT).expect_code(0);
}

#[test]
fn of_six_keys_that_want_to_be_confirmed_the_accepted_one_alone_is_asked_about() {
    let (sshd, agent, folder) = (TestSshd::start(), Agent::start(), Scratch::new());
    let keys = confirmed_keys(&agent, &folder, 6);
    fs::copy(keys[3].with_extension("pub"), sshd.authorized_keys()).expect("the scratch folder");
    let serve = Serve::start(&sshd, ServeOptions::here());
    let ssh = by_agent(&sshd, &serve, &agent);
    run(&mut ssh.check(&[]), LIMIT).expect_code(0);
    let by_check = agent.asked().len();
    run(&mut ssh.ssh(&[HOST, "true"]), LIMIT).expect_code(0);
    let asked = agent.asked();
    assert_eq!(asked.len(), by_check + ONCE_EACH, "{asked:?}");
    let right = fingerprint(&keys[3]);
    assert!(asked.iter().all(|line| line.contains(&right)), "{asked:?}, not {right}");
    // One question to sshd for each of the two, none to look again after the key has signed.
    assert_eq!(
        serve.logged("cannot learn from sshd whether it accepts the key"),
        0,
        "{}",
        serve.log()
    );
}

#[test]
fn after_a_no_to_one_accepted_key_the_next_one_is_used() {
    let (sshd, folder) = (TestSshd::start(), Scratch::new());
    let refused = folder.join("refused");
    let agent = Agent::asking(&format!(
        "case \"$1\" in *\"$(cat {})\"*) exit 1;; esac; exit 0",
        refused.display()
    ));
    let keys = confirmed_keys(&agent, &folder, 3);
    fs::write(&refused, fingerprint(&keys[1])).expect("the scratch folder");
    let accepted: Vec<String> = keys[1..]
        .iter()
        .map(|key| fs::read_to_string(key.with_extension("pub")).expect("a public half"))
        .collect();
    fs::write(sshd.authorized_keys(), accepted.concat()).expect("the scratch folder");
    let serve = Serve::start(&sshd, ServeOptions::here());
    let ssh = by_agent(&sshd, &serve, &agent);
    run(&mut ssh.ssh(&[HOST, "true"]), LIMIT).expect_code(0);
}

#[test]
fn a_server_half_that_knows_no_questions_about_keys_is_offered_all_signed_keys() {
    let (sshd, agent, folder) = (TestSshd::start(), Agent::start(), Scratch::new());
    let keys = confirmed_keys(&agent, &folder, 3);
    fs::copy(keys[2].with_extension("pub"), sshd.authorized_keys()).expect("the scratch folder");
    let serve = Serve::start(&sshd, ServeOptions::here().fault("no-key-query"));
    let ssh = by_agent(&sshd, &serve, &agent);
    let outcome = run(&mut ssh.ssh(&[HOST, "echo in"]), LIMIT).expect_code(0);
    assert_eq!(outcome.out(), "in\n");
    assert_eq!(serve.logged("event=\"opened\""), 1, "{}", serve.log());
    // That is why there are questions: bowline signs with each, and then ssh with the one.
    assert_eq!(agent.asked().len(), keys.len() + 1, "{:?}", agent.asked());
    let known = run(&mut ssh.check(&[]), LIMIT).expect_code(0).out();
    assert!(!known.contains("every key signs"), "{known}");
    // A client that does not know yet which key is accepted asks first, and goes on as `bowline proxy` does.
    let asked = agent.asked().len();
    let unknown = run(&mut by_agent(&sshd, &serve, &agent).check(&[]), LIMIT);
    let unknown = unknown.expect_code(0).out();
    assert!(unknown.contains("works: SSH-2.0"), "{unknown}");
    assert!(
        unknown.contains("note: this server half is an older version"),
        "{unknown}"
    );
    assert_eq!(agent.asked().len() - asked, keys.len(), "{:?}", agent.asked());
}

#[test]
fn a_client_half_that_asks_no_questions_about_keys_is_served() {
    let sshd = TestSshd::start();
    let serve = Serve::start(&sshd, ServeOptions::here());
    let key = PrivateKey::read_openssh_file(sshd.user_key()).expect("a key");
    let tls_key = TlsKey::generate();
    let mut client = RawClient::dial(serve.udp(), &tls_key);
    let session = SessionId::new([0x44; 16]);
    let message = client.open_message(&tls_key, session, &sshd.user());
    let authorization = Authorization {
        key: key.public_key().to_bytes().expect("a public key").into(),
        signature: sshsig::sign(&key, OPEN_NAMESPACE, &message)
            .expect("a signature")
            .into(),
    };
    let answer = client.ask(&open_by(&sshd.user(), session, vec![authorization]));
    assert!(
        matches!(&answer, Some(Answer::Accepted(accepted)) if accepted.key == Some(0)),
        "{answer:?}"
    );
}

#[test]
fn who_asks_about_keys_and_never_signs_is_made_to_wait() {
    let sshd = TestSshd::start();
    let serve = Serve::start(&sshd, ServeOptions::here());
    let public = PublicKey::read_openssh_file(sshd.user_key().with_extension("pub")).expect("a key");
    let query = Hello::KeyQuery(KeyQuery {
        version: VERSION,
        user: UserName::new(sshd.user()).expect("a user name"),
        keys: vec![public.to_bytes().expect("it was decoded").into()],
    });
    let mut answers = Vec::new();
    for _ in 0..5 {
        let mut client = RawClient::dial(serve.udp(), &TlsKey::generate());
        for _ in 0..5 {
            answers.extend(client.ask(&query));
        }
    }
    let is_yes = |answer: &&Answer| **answer == Answer::KeyOk(Some(0));
    // Once the server half knows that the others have gone, it refuses.
    let is_later = |answer: &&Answer| match answer {
        Answer::Refused(no) => no.code == RefusalCode::RetryLater,
        answer => matches!(answer, Answer::Asking(_)),
    };
    let yes = answers.iter().filter(is_yes).count();
    assert!((5..20).contains(&yes), "{answers:?}");
    assert!(answers.iter().any(|answer| is_later(&answer)), "{answers:?}");
}

fn confirmed_keys(agent: &Agent, folder: &Scratch, count: usize) -> Vec<PathBuf> {
    let paths: Vec<PathBuf> = (0..count).map(|number| folder.join(&format!("key{number}"))).collect();
    for path in &paths {
        make_key(path, "ed25519");
        agent.add(&["-c".into(), path.clone()]);
    }
    paths
}

/// A user without key files.
fn by_agent(sshd: &TestSshd, serve: &Serve, agent: &Agent) -> SshFiles {
    let socket = agent.socket();
    let setup = SshSetup::bowline(sshd, serve.udp().port()).identity(None);
    setup
        .option("IdentitiesOnly no")
        .option("ConnectTimeout 60")
        .option(&format!("IdentityAgent {}", socket.display()))
        .write()
}
