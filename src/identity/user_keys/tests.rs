use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Stdio};

use russh::keys::ssh_encoding::Decode;
use russh::keys::ssh_encoding::base64::{Base64, Encoding};
use russh::keys::ssh_key::{LineEnding, SshSig};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::*;
use crate::identity::ssh_config::{AddressFamily, IdentityAgent};
use crate::identity::test_tools::{certify, keygen, opaque_blob, run, write_script};

const KINDS: [&str; 5] = ["ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521", "rsa-2048"];

/// A real ssh-agent, ended when dropped.
struct RealAgent {
    socket: PathBuf,
    pid: Pid,
}

impl RealAgent {
    fn start(folder: &Path) -> Self {
        let socket = folder.join("agent.sock");
        // It forks into the background once it listens. Every confirmation is answered with no.
        let program = Command::new("ssh-agent")
            .arg("-s")
            .arg("-a")
            .arg(&socket)
            .env("DISPLAY", ":none")
            .env("SSH_ASKPASS", "/bin/false")
            .output()
            .unwrap();
        let text = String::from_utf8(program.stdout).unwrap();
        let pid = text
            .split("SSH_AGENT_PID=")
            .nth(1)
            .and_then(|rest| rest.split(';').next())
            .unwrap();
        Self {
            socket,
            pid: Pid::from_raw(pid.parse().unwrap()).unwrap(),
        }
    }

    fn add(&self, arguments: &[&str]) {
        let output = Command::new("ssh-add")
            .arg("-q")
            .args(arguments)
            .env("SSH_AUTH_SOCK", &self.socket)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for RealAgent {
    fn drop(&mut self) {
        kill_process(self.pid, Signal::TERM).unwrap();
    }
}

struct Lab {
    folder: TempDir,
    config: SshConfig,
}

impl Lab {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            config: config(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn key(&self, name: &str, kind: &str, passphrase: &str) -> PathBuf {
        keygen(self.folder.path(), name, kind, passphrase)
    }

    fn agent(&mut self) -> RealAgent {
        let agent = RealAgent::start(self.folder.path());
        self.config.identity_agent = IdentityAgent::Socket(agent.socket.clone());
        agent
    }

    async fn gather(&self) -> UserKeys {
        let nobody = Prompter {
            terminal: None,
            askpass: None,
            prefer_askpass: false,
        };
        UserKeys::gather(&self.config, &[], None).await.with_prompter(nobody)
    }

    /// An askpass program that prints the answers one after the other, and repeats the last one.
    fn askpass(&self, answers: &[&str]) -> Prompter {
        let (program, asked) = (self.path("askpass"), self.path("asked"));
        let answers = answers
            .iter()
            .map(|answer| format!("'{answer}'"))
            .collect::<Vec<_>>()
            .join(" ");
        let body = "n=$(wc -l < \"$log\"); set -- %; while [ $n -gt 1 ] && [ $# -gt 1 ]; do shift; n=$((n-1)); done";
        let log = asked.display();
        write_script(
            &program,
            &format!(
                "log='{log}'\necho \"$1\" >> \"$log\"\n{}\nprintf %s \"$1\"",
                body.replace('%', &answers)
            ),
        );
        Prompter {
            terminal: None,
            askpass: Some(OsString::from(program)),
            prefer_askpass: false,
        }
    }

    fn prompts(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("asked")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Whether ssh-keygen accepts the signature by that key over `message`.
    fn ssh_keygen_verifies(&self, key: &Path, signed: &SignedKey, message: &[u8]) -> bool {
        let (allowed, signature) = (self.path("allowed"), self.path("message.sig"));
        std::fs::write(&allowed, format!("u {}", crate::identity::test_tools::public_text(key))).unwrap();
        let armoured = SshSig::decode(&mut signed.signature.as_slice())
            .unwrap()
            .to_pem(LineEnding::LF)
            .unwrap();
        std::fs::write(&signature, armoured).unwrap();
        let mut child = Command::new("ssh-keygen")
            .args(["-Y", "verify", "-I", "u", "-n", NAMESPACE, "-f"])
            .arg(&allowed)
            .arg("-s")
            .arg(&signature)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(message).unwrap();
        child.wait().unwrap().success()
    }
}

fn config() -> SshConfig {
    SshConfig {
        alias: "h".into(),
        hostname: "h".into(),
        port: 22,
        user: "u".into(),
        host_key_alias: None,
        identity_files: Vec::new(),
        certificate_files: Vec::new(),
        identities_only: false,
        identity_agent: IdentityAgent::None,
        user_known_hosts_files: Vec::new(),
        global_known_hosts_files: Vec::new(),
        revoked_host_keys: Vec::new(),
        check_host_ip: false,
        batch_mode: false,
        password_prompts: 3,
        connect_timeout: None,
        address_family: AddressFamily::Any,
        server_alive_interval: None,
        server_alive_count_max: 3,
        channel_timeout: None,
        known_hosts_command: None,
        pkcs11_provider: None,
        ignores_host_keys: false,
        proxy_command: None,
        proxy_use_fdpass: false,
    }
}

fn fingerprint(key: &Path) -> Fingerprint {
    let listed = run("ssh-keygen", ["-l", "-f", key.to_str().unwrap()]);
    listed.split(' ').nth(1).unwrap().parse().unwrap()
}

fn fingerprints(keys: &[UserKey]) -> Vec<Fingerprint> {
    keys.iter().map(UserKey::fingerprint).collect()
}

fn reason_of(round: &SignedRound) -> &SkipReason {
    assert!(round.authorizations.is_empty(), "{round:?}");
    assert_eq!(round.skipped.len(), 1, "{round:?}");
    &round.skipped[0].reason
}

#[tokio::test]
async fn every_kind_of_key_in_files_signs_what_ssh_keygen_accepts() {
    let mut lab = Lab::new();
    lab.config.identity_files = KINDS.iter().map(|kind| lab.key(kind, kind, "")).collect();
    let keys = lab.gather().await;
    let round = keys.sign_round(Round::Unattended(0), None, b"message").await;
    assert_eq!(round.authorizations.len(), KINDS.len(), "{:?}", round.skipped);
    for (path, signed) in lab.config.identity_files.iter().zip(&round.authorizations) {
        assert!(lab.ssh_keygen_verifies(path, signed, b"message"), "{path:?}");
        assert!(!lab.ssh_keygen_verifies(path, signed, b"another"), "{path:?}");
        assert_eq!(signed.fingerprint, fingerprint(path));
    }
}

#[tokio::test]
async fn every_kind_of_key_in_the_agent_signs_what_ssh_keygen_accepts() {
    let mut lab = Lab::new();
    let paths: Vec<PathBuf> = KINDS.iter().map(|kind| lab.key(kind, kind, "")).collect();
    let agent = lab.agent();
    agent.add(&paths.iter().map(|path| path.to_str().unwrap()).collect::<Vec<_>>());
    let round = lab
        .gather()
        .await
        .sign_round(Round::Unattended(0), None, b"message")
        .await;
    assert_eq!(round.authorizations.len(), KINDS.len(), "{:?}", round.skipped);
    for (path, signed) in paths.iter().zip(&round.authorizations) {
        assert!(lab.ssh_keygen_verifies(path, signed, b"message"), "{path:?}");
        assert!(signed.description.ends_with("(agent)"), "{}", signed.description);
    }
}

#[tokio::test]
async fn keys_in_pem_files_sign_with_and_without_passphrase() {
    for (kind, format, passphrase) in [
        ("rsa-2048", "PEM", ""),
        ("ecdsa-256", "PEM", ""),
        ("rsa-2048", "PKCS8", ""),
        ("ecdsa-384", "PKCS8", ""),
        ("rsa-2048", "PEM", "secret"),
        ("rsa-2048", "PKCS8", "secret"),
    ] {
        let mut lab = Lab::new();
        let path = lab.key("key", kind, "");
        let text = path.to_str().unwrap();
        run(
            "ssh-keygen",
            ["-q", "-p", "-P", "", "-N", passphrase, "-m", format, "-f", text],
        );
        lab.config.identity_files = vec![path.clone()];
        let keys = lab.gather().await.with_prompter(lab.askpass(&["secret"]));
        let round = keys.sign_round(keys.rounds()[0], None, b"message").await;
        assert_eq!(round.authorizations.len(), 1, "{kind} {format}: {:?}", round.skipped);
        assert!(
            lab.ssh_keygen_verifies(&path, &round.authorizations[0], b"message"),
            "{kind} {format}"
        );
        assert_eq!(lab.prompts().is_empty(), passphrase.is_empty());
    }
}

#[tokio::test]
async fn order_is_named_agent_keys_then_other_agent_keys_then_files() {
    let mut lab = Lab::new();
    let [other, named, file, extra] = ["other", "named", "file", "extra"].map(|name| lab.key(name, "ed25519", ""));
    let agent = lab.agent();
    agent.add(&[other.to_str().unwrap(), named.to_str().unwrap()]);
    lab.config.identity_files = vec![file.clone(), named.clone(), file.clone()];
    let gathered = UserKeys::gather(&lab.config, std::slice::from_ref(&extra), None).await;
    assert_eq!(
        fingerprints(gathered.keys()),
        [&named, &other, &extra, &file].map(|path| fingerprint(path))
    );

    lab.config.identities_only = true;
    let gathered = UserKeys::gather(&lab.config, std::slice::from_ref(&extra), None).await;
    assert_eq!(
        fingerprints(gathered.keys()),
        [&named, &extra, &file].map(|path| fingerprint(path))
    );
}

#[tokio::test]
async fn public_half_alone_names_a_key_of_the_agent() {
    let mut lab = Lab::new();
    let [named, beside, other] = ["named", "beside", "other"].map(|name| lab.key(name, "ed25519", ""));
    let agent = lab.agent();
    agent.add(&[
        other.to_str().unwrap(),
        named.to_str().unwrap(),
        beside.to_str().unwrap(),
    ]);
    std::fs::remove_file(&named).unwrap();
    std::fs::remove_file(&beside).unwrap();
    lab.config.identities_only = true;
    lab.config.identity_files = vec![lab.path("named.pub"), beside];
    let keys = lab.gather().await;
    assert_eq!(
        fingerprints(keys.keys()),
        [lab.path("named.pub"), lab.path("beside.pub")].map(|path| fingerprint(&path))
    );
    assert_eq!(
        keys.sign_round(Round::Unattended(0), None, b"message")
            .await
            .authorizations
            .len(),
        2
    );
}

#[tokio::test]
async fn encrypted_file_whose_key_is_in_the_agent_needs_no_passphrase() {
    let mut lab = Lab::new();
    let path = lab.key("key", "ed25519", "");
    let agent = lab.agent();
    agent.add(&[path.to_str().unwrap()]);
    run(
        "ssh-keygen",
        ["-q", "-p", "-P", "", "-N", "secret", "-f", path.to_str().unwrap()],
    );
    lab.config.identity_files = vec![path];
    assert_eq!(lab.gather().await.rounds(), [Round::Unattended(0)]);
}

#[tokio::test]
async fn encrypted_key_waits_for_its_own_round_and_its_passphrase() {
    let mut lab = Lab::new();
    let [open, locked] = [("open", ""), ("locked", "secret")].map(|(name, pass)| lab.key(name, "ed25519", pass));
    lab.config.identity_files = vec![locked.clone(), open.clone()];
    let keys = lab.gather().await.with_prompter(lab.askpass(&["wrong", "secret"]));
    assert_eq!(keys.rounds(), [Round::Unattended(0), Round::Interactive(0)]);
    let silent = keys.sign_round(Round::Unattended(0), None, b"message").await;
    assert_eq!(silent.authorizations[0].fingerprint, fingerprint(&open));
    assert!(lab.prompts().is_empty());
    let interactive = keys.sign_round(Round::Interactive(0), None, b"message").await;
    assert!(lab.ssh_keygen_verifies(&locked, &interactive.authorizations[0], b"message"));
    assert_eq!(
        lab.prompts(),
        vec![format!("Enter passphrase for key '{}': ", locked.display()); 2]
    );
}

#[tokio::test]
async fn wrong_or_no_passphrase_is_a_reason() {
    let mut lab = Lab::new();
    lab.config.identity_files = vec![lab.key("locked", "ed25519", "secret")];
    let wrong = lab.gather().await.with_prompter(lab.askpass(&["wrong"]));
    let round = wrong.sign_round(Round::Interactive(0), None, b"message").await;
    assert!(matches!(reason_of(&round), SkipReason::WrongPassphrase { tries: 3 }));
    assert_eq!(lab.prompts().len(), 3);

    let empty = lab.gather().await.with_prompter(lab.askpass(&[""]));
    let round = empty.sign_round(Round::Interactive(0), None, b"message").await;
    assert!(matches!(reason_of(&round), SkipReason::NoPassphrase));
    assert_eq!(lab.prompts().len(), 4);
    let lines = empty.describe(&[round]);
    let path = lab.path("locked");
    let expected = format!(
        "ED25519 {} {}: encrypted, no passphrase given",
        fingerprint(&path),
        path.display()
    );
    assert_eq!(lines, [expected]);

    let nobody = lab
        .gather()
        .await
        .sign_round(Round::Interactive(0), None, b"message")
        .await;
    assert!(matches!(reason_of(&nobody), SkipReason::NoPrompt));
}

#[tokio::test]
async fn last_used_key_goes_first_and_alone_unless_it_needs_the_user() {
    let mut lab = Lab::new();
    let [first, second] = ["first", "second"].map(|name| lab.key(name, "ed25519", ""));
    let [locked, locked_too] = ["locked", "locked-too"].map(|name| lab.key(name, "ed25519", "secret"));
    lab.config.identity_files = vec![first.clone(), second.clone(), locked, locked_too.clone()];
    let last_used = fingerprint(&second);
    let keys = UserKeys::gather(&lab.config, &[], Some(&last_used)).await;
    assert_eq!(
        keys.rounds(),
        [
            Round::LastUsed,
            Round::Unattended(0),
            Round::Interactive(0),
            Round::Interactive(1)
        ]
    );
    let round = |round| -> Vec<Fingerprint> { keys.keys_of(round).iter().map(|key| key.fingerprint()).collect() };
    assert_eq!(round(Round::LastUsed), [last_used]);
    assert_eq!(round(Round::Unattended(0)), [fingerprint(&first)]);

    let locked_winner = fingerprint(&locked_too);
    let keys = UserKeys::gather(&lab.config, &[], Some(&locked_winner)).await;
    assert_eq!(
        keys.rounds(),
        [Round::Unattended(0), Round::Interactive(0), Round::Interactive(1)]
    );
    assert_eq!(keys.keys_of(Round::Interactive(0))[0].fingerprint(), locked_winner);
}

#[tokio::test]
async fn one_round_never_has_more_than_eight_authorizations() {
    let mut lab = Lab::new();
    let authority = lab.key("authority", "ed25519", "");
    let paths: Vec<PathBuf> = (0..9).map(|n| lab.key(&format!("key{n}"), "ed25519", "")).collect();
    for path in &paths[..3] {
        certify(&authority, path, &["-n", "u"]);
    }
    lab.config.identity_files = paths;
    let keys = lab.gather().await;
    assert_eq!(keys.rounds(), [Round::Unattended(0), Round::Unattended(1)]);
    let first = keys
        .sign_round(Round::Unattended(0), None, b"message")
        .await
        .authorizations
        .len();
    let second = keys
        .sign_round(Round::Unattended(1), None, b"message")
        .await
        .authorizations
        .len();
    assert_eq!((first, second), (8, 4));
}

#[tokio::test]
async fn certificates_are_offered_before_their_key_and_signed_by_it() {
    let mut lab = Lab::new();
    let [authority, beside, named, in_agent] =
        ["authority", "beside", "named", "in-agent"].map(|name| lab.key(name, "ed25519", ""));
    for path in [&beside, &named, &in_agent] {
        certify(&authority, path, &["-n", "u"]);
    }
    let agent = lab.agent();
    agent.add(&[in_agent.to_str().unwrap()]);
    let moved = lab.path("moved-cert.pub");
    std::fs::rename(lab.path("named-cert.pub"), &moved).unwrap();
    lab.config.identity_files = vec![beside.clone(), named.clone()];

    let offered = async |lab: &Lab| -> Vec<(Fingerprint, bool)> {
        let round = lab
            .gather()
            .await
            .sign_round(Round::Unattended(0), None, b"message")
            .await;
        assert!(round.skipped.is_empty(), "{:?}", round.skipped);
        for signed in &round.authorizations {
            let path = [&beside, &named, &in_agent]
                .into_iter()
                .find(|path| fingerprint(path) == signed.fingerprint);
            assert!(lab.ssh_keygen_verifies(path.unwrap(), signed, b"message"));
        }
        let is_certificate = |signed: &SignedKey| Certificate::from_bytes(&signed.key).is_ok();
        round
            .authorizations
            .iter()
            .map(|signed| (signed.fingerprint, is_certificate(signed)))
            .collect()
    };
    let [agent_key, beside_key, named_key] = [&in_agent, &beside, &named].map(|path| fingerprint(path));
    let agent_offers = [(agent_key, true), (agent_key, false)];
    let expected = [
        agent_offers.as_slice(),
        &[(beside_key, true), (beside_key, false), (named_key, false)],
    ]
    .concat();
    assert_eq!(offered(&lab).await, expected);

    // If certificates are configured, those beside the keys are not used, as in ssh.
    lab.config.certificate_files = vec![moved];
    let expected = [
        agent_offers.as_slice(),
        &[(beside_key, false), (named_key, true), (named_key, false)],
    ]
    .concat();
    assert_eq!(offered(&lab).await, expected);
}

#[tokio::test]
async fn agent_that_has_only_the_certificate_signs_with_it() {
    let mut lab = Lab::new();
    let [authority, key] = [("authority", "ed25519"), ("key", "rsa-2048")].map(|(name, kind)| lab.key(name, kind, ""));
    certify(&authority, &key, &["-n", "u"]);
    let agent = lab.agent();
    agent.add(&[key.to_str().unwrap()]);
    let plain = lab.path("plain.pub");
    std::fs::rename(lab.path("key.pub"), &plain).unwrap();
    std::fs::remove_file(lab.path("key-cert.pub")).unwrap();
    agent.add(&["-d", plain.to_str().unwrap()]);
    let round = lab
        .gather()
        .await
        .sign_round(Round::Unattended(0), None, b"message")
        .await;
    assert_eq!(round.authorizations.len(), 1, "{round:?}");
    assert!(Certificate::from_bytes(&round.authorizations[0].key).is_ok());
    assert!(lab.ssh_keygen_verifies(&lab.path("plain"), &round.authorizations[0], b"message"));
}

#[tokio::test]
async fn host_certificate_is_not_offered() {
    let mut lab = Lab::new();
    let [authority, key] = ["authority", "key"].map(|name| lab.key(name, "ed25519", ""));
    certify(&authority, &key, &["-h", "-n", "h"]);
    lab.config.identity_files = vec![key];
    let keys = lab.gather().await;
    assert_eq!(
        keys.sign_round(Round::Unattended(0), None, b"message")
            .await
            .authorizations
            .len(),
        1
    );
    assert!(matches!(
        keys.unusable(),
        [Skipped {
            reason: SkipReason::Unsupported,
            ..
        }]
    ));
}

#[tokio::test]
async fn key_that_the_agent_refuses_is_skipped_and_the_next_one_signs() {
    let mut lab = Lab::new();
    let [confirmed, constrained, free] = ["confirmed", "constrained", "free"].map(|name| lab.key(name, "ed25519", ""));
    let known_hosts = lab.path("known_hosts");
    std::fs::write(
        &known_hosts,
        format!("far {}\n", crate::identity::test_tools::public_text(&free)),
    )
    .unwrap();
    let agent = lab.agent();
    agent.add(&["-c", confirmed.to_str().unwrap()]);
    agent.add(&[
        "-H",
        known_hosts.to_str().unwrap(),
        "-h",
        "far",
        constrained.to_str().unwrap(),
    ]);
    agent.add(&[free.to_str().unwrap()]);
    let round = lab
        .gather()
        .await
        .sign_round(Round::Unattended(0), None, b"message")
        .await;
    let signed: Vec<Fingerprint> = round.authorizations.iter().map(|signed| signed.fingerprint).collect();
    assert_eq!(signed, [fingerprint(&free)]);
    assert_eq!(round.skipped.len(), 2);
    assert!(
        round
            .skipped
            .iter()
            .all(|skipped| matches!(skipped.reason, SkipReason::AgentRefused)),
        "{round:?}"
    );
}

#[tokio::test]
async fn unreachable_agent_is_a_skip_reason_and_files_still_sign() {
    let mut lab = Lab::new();
    lab.config.identity_files = vec![lab.key("key", "ed25519", "")];
    lab.config.identity_agent = IdentityAgent::Socket(lab.path("nobody.sock"));
    let keys = lab.gather().await;
    assert!(
        matches!(
            keys.unusable(),
            [Skipped {
                reason: SkipReason::AgentUnreachable(_),
                ..
            }]
        ),
        "{:?}",
        keys.unusable()
    );
    let round = keys.sign_round(Round::Unattended(0), None, b"message").await;
    assert_eq!(round.authorizations.len(), 1);
    let lines = keys.describe(&[round]);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[1].contains("the agent cannot be reached"), "{lines:?}");
}

#[tokio::test]
async fn hung_agent_is_given_up() {
    let lab = Lab::new();
    let socket = lab.path("hung.sock");
    let _listening = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let agent = agent::Agent::at(&socket).with_deadline(std::time::Duration::from_millis(20));
    assert!(matches!(agent.keys().await, Err(SkipReason::AgentTimeout)));
    assert!(matches!(
        agent.sign(b"key", b"data").await,
        Err(SkipReason::AgentTimeout)
    ));
}

/// An agent with keys of many types, of which it has only the public keys.
fn serve_list(socket: &Path, blobs: &[Vec<u8>]) -> std::thread::JoinHandle<()> {
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    let string = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let mut answer = vec![12];
    answer.extend(u32::try_from(blobs.len()).unwrap().to_be_bytes());
    for blob in blobs {
        answer.extend([string(blob), string(b"a comment")].concat());
    }
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Read::read_exact(&mut stream, &mut [0; 5]).unwrap();
        stream.write_all(&string(&answer)).unwrap();
    })
}

#[tokio::test]
async fn a_key_of_an_unknown_type_in_the_agent_is_named_and_the_others_are_used() {
    let mut lab = Lab::new();
    let key = lab.key("key", "ed25519", "");
    let public = PublicKey::read_openssh_file(key.with_extension("pub")).unwrap();
    let socket = lab.path("new.sock");
    let broken = public.to_bytes().unwrap()[..40].to_vec();
    let blobs = [opaque_blob("ssh-mldsa44-ed25519"), public.to_bytes().unwrap(), broken];
    let serving = serve_list(&socket, &blobs);
    lab.config.identity_agent = IdentityAgent::Socket(socket);
    let keys = lab.gather().await;
    serving.join().unwrap();
    assert_eq!(fingerprints(keys.keys()), [fingerprint(&key)]);
    let lines = keys.describe(&[]);
    assert!(
        lines[0].starts_with("ssh-mldsa44-ed25519 SHA256:")
            && lines[0]
                .ends_with("(agent): keys of type ssh-mldsa44-ed25519 are not supported by this version of bowline"),
        "{lines:?}"
    );
    assert_eq!(lines[1], "a comment (agent): not a valid key");
    assert!(keys.unusable()[0].reason.may_work_with_ssh() && !keys.unusable()[1].reason.may_work_with_ssh());
}

#[tokio::test]
async fn key_files_of_unknown_types_are_named() {
    let mut lab = Lab::new();
    let public = Base64::encode_string(&opaque_blob("ssh-mldsa44-ed25519"));
    std::fs::write(
        lab.path("lonely.pub"),
        format!("ssh-mldsa44-ed25519 {public} me@here\n"),
    )
    .unwrap();
    let mut container = b"openssh-key-v1\0".to_vec();
    let string = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    for part in [b"none".as_slice(), b"none", b""] {
        container.extend(string(part));
    }
    container.extend(1_u32.to_be_bytes());
    container.extend([string(&opaque_blob("ssh-mldsa44-ed25519")), string(b"secret")].concat());
    let text = Base64::encode_string(&container);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(70)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    let (begin, end) = (
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "-----END OPENSSH PRIVATE KEY-----",
    );
    let private = lab.path("private");
    std::fs::write(&private, format!("{begin}\n{}\n{end}\n", lines.join("\n"))).unwrap();
    std::fs::set_permissions(&private, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    lab.config.identity_files = vec![lab.path("lonely"), private];
    let keys = lab.gather().await;
    assert_eq!(keys.unusable().len(), 2, "{:?}", keys.unusable());
    for skipped in keys.unusable() {
        let is_named = matches!(&skipped.reason, SkipReason::UnsupportedType { name } if name == "ssh-mldsa44-ed25519");
        assert!(is_named, "{skipped}");
    }
}

#[tokio::test]
async fn invalid_answer_of_the_agent_is_a_skip_reason() {
    for answer in [
        b"\xff\xff\xff\xff".as_slice(),
        b"\0\0\0\x05\x0c\xff\xff\xff\xff",
        b"\0\0\0\x09\x0c\0\0\0\x01\0\0\0\x7f",
        b"\0\0\0\x01",
    ] {
        let mut lab = Lab::new();
        let socket = lab.path("odd.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 5];
            std::io::Read::read_exact(&mut stream, &mut request).unwrap();
            stream.write_all(answer).unwrap();
        });
        lab.config.identity_agent = IdentityAgent::Socket(socket);
        let keys = lab.gather().await;
        serving.join().unwrap();
        assert!(keys.keys().is_empty());
        let expected =
            |reason: &SkipReason| matches!(reason, SkipReason::AgentProtocol(_) | SkipReason::AgentUnreachable(_));
        assert!(
            matches!(keys.unusable(), [Skipped { reason, .. }] if expected(reason)),
            "{:?}",
            keys.unusable()
        );
    }
}

#[tokio::test]
async fn files_that_cannot_be_used_are_reasons() {
    use std::os::unix::fs::PermissionsExt;
    let mut lab = Lab::new();
    let [open, lonely] = ["open", "lonely"].map(|name| lab.key(name, "ed25519", ""));
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::remove_file(&lonely).unwrap();
    let rubbish = lab.path("rubbish");
    std::fs::write(&rubbish, "rubbish").unwrap();
    let binary = lab.path("binary");
    std::fs::write(&binary, b"\xff\xfe\0").unwrap();
    lab.config.identity_files = vec![lab.path("missing-default")];
    let extra = [
        open,
        lonely,
        rubbish,
        binary,
        lab.path("missing"),
        lab.folder.path().to_owned(),
    ];
    let keys = UserKeys::gather(&lab.config, &extra, None).await;
    assert!(keys.keys().is_empty());
    let reason = |name: &str| {
        let path = if name.is_empty() {
            lab.folder.path().to_owned()
        } else {
            lab.path(name)
        };
        let found = keys
            .unusable()
            .iter()
            .find(|skipped| skipped.description == path.display().to_string());
        &found.unwrap_or_else(|| panic!("{name}: {:?}", keys.unusable())).reason
    };
    assert!(matches!(reason("open"), SkipReason::TooOpen { mode: 0o644 }));
    assert!(matches!(reason("lonely"), SkipReason::NoPrivateKey));
    assert!(matches!(reason("rubbish"), SkipReason::Unsupported));
    assert!(matches!(reason("binary"), SkipReason::Unsupported));
    assert!(matches!(reason("missing"), SkipReason::Missing));
    assert!(matches!(reason(""), SkipReason::Unreadable(_)));
    assert_eq!(keys.unusable().len(), extra.len());
}
