//! Strangers who speak the protocol: with somebody's session id and a key of their own, too much, or nonsense.

use crate::support::echo::TcpEcho;
use crate::support::measured;
use crate::support::peer::{RawClient, open};
use crate::support::serve::{Serve, ServeOptions};
use crate::support::sshd::TestSshd;
use crate::support::{now, wait_for};
use bowline::identity::raw_key::TlsKey;
use bowline::wire::{Answer, Epoch, Frame, Hello, MAX_HELLO, Offset, Reap, RefusalCode, Resume, SessionId};
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::Range;
use std::time::Duration;

const VICTIM: SessionId = SessionId::new([0x11; 16]);
/// QUIC keeps what is left of a closed connection for three probe timeouts (RFC 9000 section 10.2), at first 1 s each.
const DRAINING: Duration = Duration::from_secs(4);
const NOBODY: SessionId = SessionId::new([0x22; 16]);

/// A server half in front of an echo that lets anybody open, so that a session is a few frames away.
struct Scene {
    serve: Serve,
    echo: TcpEcho,
    _sshd: TestSshd,
}

impl Scene {
    fn new() -> Scene {
        let (sshd, echo) = (TestSshd::start(), TcpEcho::start());
        let mut options = ServeOptions::here().argument("--auth").argument("none");
        for key in sshd.host_keys() {
            options = options.argument("--host-key").argument(key);
        }
        Scene {
            serve: Serve::start_before(echo.address(), options),
            echo,
            _sshd: sshd,
        }
    }

    fn dial(&self, key: &TlsKey) -> RawClient {
        RawClient::dial(self.serve.udp(), key)
    }

    /// The victim's session with some history.
    fn owner(&self, key: &TlsKey, at: &mut Offset) -> RawClient {
        let mut owner = self.dial(key);
        let answer = owner.ask(&open(VICTIM, 1));
        assert!(matches!(answer, Some(Answer::Accepted(_))), "{answer:?}");
        owner.assert_echoes(at, b"before");
        owner
    }
}

#[test]
fn a_stolen_session_id_with_another_key_can_neither_kick_nor_read_nor_stall_a_session() {
    let scene = Scene::new();
    let (key, mut at) = (TlsKey::generate(), Offset::ZERO);
    let mut owner = scene.owner(&key, &mut at);
    // What the first of them cost is kept for the next; only what every further one adds would be a leak.
    steal(&scene, &mut owner, &mut at, 0..100);
    std::thread::sleep(DRAINING);
    let before = scene.serve.usage();
    steal(&scene, &mut owner, &mut at, 100..200);
    owner.assert_echoes(&mut at, b"after");
    assert_eq!(scene.echo.accepted(), 1, "no stranger reached the target");
    // The lead is the same carrier as before, and the session can be resumed by its owner, and only from there.
    let mut again = scene.dial(&key);
    let answer = again.ask(&Hello::Resume(Resume {
        session: VICTIM,
        epoch: Epoch::new(2),
        received: at,
        window: 1 << 20,
    }));
    assert!(
        matches!(&answer, Some(Answer::Accepted(accepted)) if accepted.received == at),
        "{answer:?}"
    );
    again.assert_echoes(&mut at, b"resumed");
    let after = scene.serve.usage();
    measured(
        "server half after 300 and after 600 thieves",
        format_args!("{before:?}\n        {after:?}"),
    );
    let grown = after.resident.saturating_sub(before.resident);
    assert!(grown < 16 * 1024, "strangers made it grow by {grown} KiB");
}

/// Three strangers a round, with a key of their own, who know the victim's id.
fn steal(scene: &Scene, owner: &mut RawClient, at: &mut Offset, rounds: Range<u32>) {
    for round in rounds {
        let thief = TlsKey::generate();
        for hello in [resume(VICTIM, 1_000 + round), open(VICTIM, 1_000 + round), reap(VICTIM)] {
            let mut carrier = scene.dial(&thief);
            let answer = carrier.ask(&hello);
            assert!(
                !matches!(answer, Some(Answer::Accepted(_))),
                "a stranger got in by {hello:?}"
            );
            // Frames after a refusal are nobody's.
            let _ = carrier.send(&Frame::Fin { offset: *at });
        }
        if round % 10 == 0 {
            owner.assert_echoes(at, b"still here");
        }
    }
}

#[test]
fn a_session_that_exists_and_one_that_does_not_look_the_same_to_a_stranger() {
    let scene = Scene::new();
    let mut at = Offset::ZERO;
    let _owner = scene.owner(&TlsKey::generate(), &mut at);
    for ask in [|id| resume(id, 9), reap] {
        let answer = |id| {
            let start = now();
            let answer = scene.dial(&TlsKey::generate()).ask(&ask(id));
            (answer, start.elapsed())
        };
        let (mut theirs, mut nobodys) = (vec![], vec![]);
        for _ in 0..40 {
            let ((one, one_took), (other, other_took)) = (answer(VICTIM), answer(NOBODY));
            assert_eq!(one, other, "the same words");
            theirs.push(one_took);
            nobodys.push(other_took);
        }
        theirs.sort();
        nobodys.sort();
        measured(
            "answer to a stranger, median",
            format_args!("existing {:?}, not existing {:?}", theirs[20], nobodys[20]),
        );
    }
}

#[test]
fn an_oversized_hello_is_refused_at_its_length_and_costs_no_memory() {
    let scene = Scene::new();
    let mut at = Offset::ZERO;
    let mut owner = scene.owner(&TlsKey::generate(), &mut at);
    let before = scene.serve.usage();
    for length in [MAX_HELLO as u64 + 1, 1 << 30, (1 << 62) - 1] {
        for _ in 0..20 {
            let mut hello = BytesMut::new();
            hello.put_u64(length | 3 << 62); // a varint of eight bytes, RFC 9000 section 16
            hello.put_bytes(0x20, 1 << 14);
            let answer = scene.dial(&TlsKey::generate()).ask_raw(hello.freeze());
            assert!(!matches!(answer, Some(Answer::Accepted(_))), "{answer:?}");
        }
    }
    owner.assert_echoes(&mut at, b"undisturbed");
    let grown = scene.serve.usage().resident.saturating_sub(before.resident);
    assert!(grown < 16 * 1024, "60 oversized hellos made it grow by {grown} KiB");
    assert_eq!(scene.serve.logged("panicked"), 0, "{}", scene.serve.log());
}

#[test]
fn a_hello_of_another_version_is_told_both_versions() {
    let scene = Scene::new();
    let Hello::Open(mut hello) = open(NOBODY, 1) else {
        unreachable!("just made")
    };
    hello.version = 7;
    let answer = scene.dial(&TlsKey::generate()).ask(&Hello::Open(hello));
    let Some(Answer::Refused(refusal)) = answer else {
        panic!("a refusal, not {answer:?}")
    };
    assert_eq!(refusal.code, RefusalCode::Version);
    assert!(
        refusal.message.contains('7') && refusal.message.contains('1'),
        "both versions: {}",
        refusal.message
    );
}

#[test]
fn offsets_out_of_range_end_only_the_session_that_names_them() {
    let scene = Scene::new();
    let mut at = Offset::ZERO;
    let mut bystander = scene.owner(&TlsKey::generate(), &mut at);
    let far = Offset::new(1 << 40).expect("a varint");
    let wrong = [
        Frame::Ack {
            delivered: far,
            window: 1 << 20,
        },
        Frame::Data {
            offset: far,
            bytes: Bytes::from_static(b"gap"),
        },
        Frame::Fin { offset: far },
    ];
    for (n, frame) in wrong.iter().enumerate() {
        let mut culprit = scene.dial(&TlsKey::generate());
        let answer = culprit.ask(&open(SessionId::new([0x30 + n as u8; 16]), 1));
        assert!(matches!(answer, Some(Answer::Accepted(_))), "{answer:?}");
        let _ = culprit.send(frame);
        let closed = wait_for(Duration::from_secs(10), || match culprit.next_frame() {
            Err(_) | Ok(Frame::Close { .. }) => Some(()),
            Ok(_) => None,
        });
        assert!(closed.is_some(), "{frame:?} ends the session");
    }
    bystander.assert_echoes(&mut at, b"undisturbed");
    let log = scene.serve.log();
    assert!(log.contains(&far.get().to_string()), "the log has the numbers: {log}");
    assert!(!log.contains("panicked"), "{log}");
}

fn resume(session: SessionId, epoch: u32) -> Hello {
    Hello::Resume(Resume {
        session,
        epoch: Epoch::new(epoch),
        received: Offset::ZERO,
        window: 1 << 20,
    })
}

fn reap(session: SessionId) -> Hello {
    Hello::Reap(Reap {
        session,
        token: [0x5a; 32],
    })
}
