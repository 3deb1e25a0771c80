//! Strangers whose opens carry signatures that are not valid: what verifies them is not what carries sessions.

use crate::scenarios::echo_probe::{EchoProbe, UNDISTURBED};
use crate::support::peer::{RawClient, open_by};
use crate::support::rig::Rig;
use crate::support::{Scratch, heavy, measured, now};
use bowline::identity::raw_key::TlsKey;
use bowline::identity::sshsig;
use bowline::identity::statement::OPEN_NAMESPACE;
use bowline::wire::{Answer, Authorization, Hello, MAX_AUTHORIZATIONS, RefusalCode, SessionId};
use russh::keys::ssh_key::PrivateKey;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How long the flood lasts.
const FLOOD: Duration = Duration::from_secs(6);
/// Carriers that one source uses at once.
const CARRIERS: usize = 4;
/// The opens that a source may fail at once, and those that it may fail in addition during a flood.
const BUDGET: u64 = 10;
const REFILL: Duration = Duration::from_secs(6);

#[test]
fn a_flood_of_invalid_signatures_leaves_the_echo_of_a_session_prompt() {
    let _turn = heavy();
    let rig = Rig::bowline();
    let server = rig.serve().udp();
    let invalid = invalid_open();
    let probe = EchoProbe::start(&rig);
    let quiet = probe.watch(Duration::from_secs(2));
    let (start, asked) = (now(), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CARRIERS {
            scope.spawn(|| {
                while now().saturating_duration_since(start) < FLOOD {
                    asked.fetch_add(ask_until_closed(server, &invalid).len() as u64, Relaxed);
                }
            });
        }
    });
    let flooded = probe.since(start);
    measured(
        "opens with eight invalid signatures each from one source",
        asked.load(Relaxed),
    );
    measured(
        "echo before and under a flood of invalid signatures",
        format_args!("{quiet}; {flooded}"),
    );
    assert!(asked.load(Relaxed) > 100, "no flood: {}", asked.load(Relaxed));
    flooded.expect_p99_within(UNDISTURBED);
    probe.finish();
}

#[test]
fn the_first_invalid_signature_ends_the_carrier_and_counts_against_the_source() {
    let _turn = heavy();
    let rig = Rig::bowline();
    let (server, invalid) = (rig.serve().udp(), invalid_open());
    let before = rig.sshd.connections_from("");
    let start = now();
    let mut verified = 0;
    let unverified = loop {
        let answers = ask_until_closed(server, &invalid);
        match &answers[..] {
            [RefusalCode::Desync] => verified += 1,
            [RefusalCode::RetryLater] => break true,
            other => panic!("{other:?} to {verified} opens before: {}", rig.serve().log()),
        }
        assert!(verified < 1_000, "nothing counts: {}", rig.serve().log());
    };
    assert!(unverified);
    let refilled = now().saturating_duration_since(start).as_secs() / REFILL.as_secs();
    assert!(
        (BUDGET..=BUDGET + 1 + refilled).contains(&verified),
        "{verified} were verified"
    );
    assert_eq!(
        rig.sshd.connections_from(""),
        before,
        "sshd hears of none of them: {}",
        rig.sshd.log()
    );
}

/// Says the same on one carrier until it is closed; the answers. None from a server half that has too many strangers.
fn ask_until_closed(server: SocketAddr, hello: &Hello) -> Vec<RefusalCode> {
    let Some(mut carrier) = RawClient::try_dial(server, &TlsKey::generate()) else {
        return Vec::new();
    };
    let mut answers = Vec::new();
    while let Some(answer) = carrier.ask(hello) {
        match answer {
            Answer::Refused(refusal) => answers.push(refusal.code),
            other => panic!("{other:?}"),
        }
    }
    answers
}

/// The dearest that fits: signatures by keys on P-521, all but one of them by the key that is shown, none over this open.
fn invalid_open() -> Hello {
    let scratch = Scratch::new();
    let path = scratch.join("stranger");
    let mut keygen = Command::new("ssh-keygen");
    keygen
        .args(["-q", "-t", "ecdsa", "-b", "521", "-N", "", "-f"])
        .arg(&path);
    assert!(keygen.status().expect("ssh-keygen").success());
    let key = PrivateKey::read_openssh_file(&path).expect("a key");
    let authorization = Authorization {
        key: key.public_key().to_bytes().expect("a public key").into(),
        signature: sshsig::sign(&key, OPEN_NAMESPACE, b"another open")
            .expect("a signature")
            .into(),
    };
    open_by(
        "anyone",
        SessionId::new([0x33; 16]),
        vec![authorization; MAX_AUTHORIZATIONS],
    )
}
