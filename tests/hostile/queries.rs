//! Strangers who would have sshd work for nothing: user names that end a query in an error, and queries without end.

use crate::support::peer::{RawClient, open_by};
use crate::support::rig::Rig;
use crate::support::sshd;
use crate::support::{Scratch, data, heavy, measured, now};
use bowline::identity::raw_key::TlsKey;
use bowline::identity::sshsig;
use bowline::identity::statement::OPEN_NAMESPACE;
use bowline::wire::{Answer, Authorization, Refusal, RefusalCode, SessionId};
use russh::keys::ssh_key::PrivateKey;
use std::process::Command;
use std::time::Duration;

const SESSION: SessionId = SessionId::new([0x44; 16]);
/// Stands in for what no `UserName` holds; shorter names are made as long.
const PLACEHOLDER: &str = "placeholder-for-a-name";

#[test]
fn a_user_name_that_no_program_should_be_given_is_refused_before_anybody_is_asked() {
    let rig = Rig::bowline();
    let stranger = Stranger::new();
    // What the server half asks for itself.
    let before = rig.sshd.connections_from("");
    for name in [
        "root\0comment",
        "-oProxyC=ls",
        "\u{1b}[2Jcleared",
        "line\nbreak\n",
        "\u{202e}turned",
        "\u{85}control",
    ] {
        let refusal = stranger.open_as(&rig, name);
        assert_eq!(refusal.code, RefusalCode::Desync, "{name:?}: {refusal}");
        assert!(refusal.message.contains("user name"), "{refusal}");
    }
    assert_eq!(rig.sshd.connections_from(""), before, "{}", rig.sshd.log());
    // The same question with a name that may be asked about does reach sshd.
    let refusal = stranger.open_as(&rig, "nosuchuser1");
    assert_eq!(refusal.code, RefusalCode::NotAuthorized, "{refusal}");
    assert_eq!(rig.sshd.connections_from(""), before + 1, "{}", rig.sshd.log());
}

#[test]
fn one_source_has_sshd_asked_no_more_often_than_it_may_fail() {
    let _turn = heavy();
    let rig = Rig::bowline();
    let stranger = Stranger::new();
    let before = rig.sshd.connections_from("");
    let start = now();
    let mut refused = 0;
    while now().saturating_duration_since(start) < Duration::from_secs(3) {
        // One that is closed without an answer is turned away as well.
        let refusal = stranger.try_open_as(&rig, "nosuchuser1");
        refused += u64::from(refusal.is_none_or(|refusal| refusal.code == RefusalCode::RetryLater));
    }
    let asked = rig.sshd.connections_from("") - before;
    measured("queries that one source caused at sshd in 3 s", asked);
    assert!(refused > 10, "no flood: {refused}");
    // A sshd with penalties locks the source's alias out before that.
    let least = if sshd::version() >= 908 { 3 } else { 10 };
    assert!((least..=12).contains(&asked), "{asked} queries: {}", rig.sshd.log());
}

/// Somebody with a key of his own, which nobody knows.
struct Stranger {
    key: PrivateKey,
}

impl Stranger {
    fn new() -> Stranger {
        let scratch = Scratch::new();
        let path = scratch.join("stranger");
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path);
        assert!(keygen.status().expect("ssh-keygen").success());
        let key = PrivateKey::read_openssh_file(&path).expect("a key");
        Stranger { key }
    }

    /// What an open under that name, properly signed, is answered.
    fn open_as(&self, rig: &Rig, name: &str) -> Refusal {
        let refusal = self.try_open_as(rig, name);
        refusal.unwrap_or_else(|| panic!("{name:?}: closed without an answer"))
    }

    /// The same; `None` when the server half closes the carrier instead of answering, or does not take it.
    fn try_open_as(&self, rig: &Rig, name: &str) -> Option<Refusal> {
        let padding = "x".repeat(PLACEHOLDER.len() - name.len());
        let name = &format!("{name}{padding}");
        let tls_key = TlsKey::generate();
        let mut carrier = RawClient::try_dial(rig.serve().udp(), &tls_key)?;
        let message = carrier.open_message(&tls_key, SESSION, name);
        let authorization = Authorization {
            key: self.key.public_key().to_bytes().expect("a public key").into(),
            signature: sshsig::sign(&self.key, OPEN_NAMESPACE, &message)
                .expect("a signature")
                .into(),
        };
        let open = open_by(PLACEHOLDER, SESSION, vec![authorization]);
        let hello = data::replaced(&open.encode(), PLACEHOLDER.as_bytes(), name.as_bytes());
        match carrier.ask_raw(hello)? {
            Answer::Refused(refusal) => Some(refusal),
            other => panic!("{name:?}: {other:?}"),
        }
    }
}
