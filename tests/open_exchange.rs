//! The exchange that opens a session, over carriers in memory: cut after each of its bytes, repeated, and abused.
//! What counts is what upstream sees.

#[path = "open_exchange/bench.rs"]
mod bench;

use bench::{Bench, OWNER, STRANGER, gone, refused, session, settle};
use bowline::server::ServerLimits;
use bowline::wire::{Answer, Epoch, Hello, MAX_HELLO, Offset, Reap, Refusal, RefusalCode, Resume};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Minutes, for a user.
const ABANDONED_AFTER: Duration = Duration::from_secs(1);

#[tokio::test]
async fn an_open_cut_after_each_of_its_bytes_makes_at_most_one_connection() {
    let bench = Bench::start(ServerLimits::default()).await;
    let length = bench::open(session(0), 1).encode().len();
    for cut in 0..=length {
        let id = session(cut);
        let mut stream = bench.dial(OWNER);
        stream.write_all(&bench::open(id, 1).encode()[..cut]).await.unwrap();
        settle().await;
        drop(stream);
        let (carrier, accepted) = bench.opened(OWNER, id, 2).await;
        bench.echo(carrier, &accepted, 2).await;
        assert_eq!(bench.connections(), cut + 1, "cut after {cut} of {length} bytes");
    }
}

#[tokio::test]
async fn an_answer_cut_after_each_of_its_bytes_makes_one_connection() {
    let bench = Bench::start(ServerLimits::default()).await;
    let length = bench.answer_length(session(9999)).await;
    for cut in 0..=length {
        let id = session(cut);
        let mut stream = bench.dial(OWNER);
        stream.write_all(&bench::open(id, 1).encode()).await.unwrap();
        stream.read_exact(&mut vec![0; cut]).await.unwrap();
        drop(stream);
        let (carrier, accepted) = bench.opened(OWNER, id, 2).await;
        bench.echo(carrier, &accepted, 2).await;
        assert_eq!(bench.connections(), cut + 2, "cut after {cut} of {length} bytes");
    }
}

#[tokio::test]
async fn opens_on_two_carriers_at_once_make_one_connection() {
    let bench = Bench::start(ServerLimits::default()).await;
    let mut first = bench.carrier(OWNER);
    let mut second = bench.carrier(OWNER);
    first.send_message(bench::open(session(1), 1).encode()).await.unwrap();
    second.send_message(bench::open(session(1), 2).encode()).await.unwrap();
    let answer = Answer::decode(second.read_message().await.unwrap()).unwrap();
    let Answer::Accepted(accepted) = answer else {
        panic!("{answer:?}")
    };
    bench.echo(second, &accepted, 2).await;
    assert_eq!(bench.connections(), 1);
}

#[tokio::test]
async fn a_stolen_id_under_another_key_is_no_session_and_changes_nothing() {
    let bench = Bench::start(ServerLimits::default()).await;
    let id = session(1);
    let (carrier, accepted) = bench.opened(OWNER, id, 1).await;
    let unknown = bench.ask(STRANGER, &resume(session(2), 9)).await;
    for stolen in [resume(id, 9), bench::open(id, 9)] {
        assert_eq!(bench.ask(STRANGER, &stolen).await, unknown);
    }
    assert_eq!(unknown, gone("there is no such session"));
    bench.echo(carrier, &accepted, 1).await;
    assert_eq!(bench.connections(), 1);
}

#[tokio::test]
async fn a_lower_epoch_is_stale_and_changes_nothing() {
    let bench = Bench::start(ServerLimits::default()).await;
    let id = session(1);
    let (carrier, accepted) = bench.opened(OWNER, id, 5).await;
    for late in [resume(id, 4), resume(id, 5), bench::open(id, 3)] {
        assert_eq!(refused(bench.ask(OWNER, &late).await), Some(RefusalCode::Stale));
    }
    bench.echo(carrier, &accepted, 5).await;
}

#[tokio::test]
async fn a_reap_ends_the_session_by_its_token_only_and_its_owner_learns_why() {
    let bench = Bench::start(ServerLimits::default()).await;
    let id = session(1);
    let (carrier, accepted) = bench.opened(OWNER, id, 1).await;
    let reap = |token| Hello::Reap(Reap { session: id, token });
    assert_eq!(bench.ask(STRANGER, &reap([8; 32])).await, Answer::Reaped);
    settle().await;
    bench.echo(carrier, &accepted, 1).await;

    let id = session(2);
    let (carrier, _) = bench.opened(OWNER, id, 1).await;
    let reap = Hello::Reap(Reap {
        session: id,
        token: bench::TOKEN,
    });
    assert_eq!(bench.ask(STRANGER, &reap).await, Answer::Reaped);
    drop(carrier);
    bench.until_gone(id).await;
    assert_eq!(bench.ask(OWNER, &resume(id, 2)).await, gone("its owner is gone"));
    assert_eq!(
        bench.ask(STRANGER, &resume(id, 2)).await,
        gone("there is no such session")
    );
    assert_eq!(
        refused(bench.ask(OWNER, &bench::open(id, 3)).await),
        Some(RefusalCode::Gone)
    );
}

#[tokio::test]
async fn another_version_and_an_oversized_hello_are_refused_without_a_connection() {
    let bench = Bench::start(ServerLimits::default()).await;
    let mut newer = bench::open(session(1), 1).encode().to_vec();
    // Length, type, version.
    assert_eq!(newer[1..3], [0x20, 1]);
    newer[2] = 2;
    let mut carrier = bench.carrier(OWNER);
    carrier.send_message(newer.into()).await.unwrap();
    let answer = Answer::decode(carrier.read_message().await.unwrap()).unwrap();
    assert_eq!(refused(answer), Some(RefusalCode::Version));

    let mut stream = bench.dial(OWNER);
    let length = (MAX_HELLO as u32 + 1) | 0x8000_0000;
    stream.write_all(&length.to_be_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"", "closed at the length, before any of it was sent");
    assert_eq!(bench.connections(), 0);
}

#[tokio::test]
async fn at_either_limit_the_key_s_own_session_that_was_without_a_client_for_longest_ends() {
    for (sessions, sessions_per_key) in [(1000, 2), (2, 1000)] {
        let bench = Bench::start(ServerLimits {
            sessions,
            sessions_per_key,
            abandoned_after: ABANDONED_AFTER,
            ..ServerLimits::default()
        })
        .await;
        let [oldest, older, new] = [session(1), session(2), session(3)];
        let (kept_by_oldest, _) = bench.opened(OWNER, oldest, 1).await;
        let (kept_by_older, _) = bench.opened(OWNER, older, 1).await;
        let message = bench.busy(new).await;
        assert!(message.contains("2 with a client"), "nothing is detached: {message}");

        drop(kept_by_oldest);
        settle().await;
        let message = bench.busy(new).await;
        let told = [
            "1 with a client, 1 without one for less than 1 s",
            "can be replaced in 1 s",
        ];
        assert!(told.iter().all(|told| message.contains(told)), "{message}");
        drop(kept_by_older);
        tokio::time::sleep(ABANDONED_AFTER).await;
        let (carrier, accepted) = bench.opened(OWNER, new, 9).await;
        bench.until_gone(oldest).await;
        let Answer::Refused(Refusal { code, message }) = bench.ask(OWNER, &resume(oldest, 2)).await else {
            panic!("the oldest has ended")
        };
        assert_eq!(code, RefusalCode::Gone);
        assert!(message.contains("the session limit was reached"), "{message}");
        assert!(matches!(bench.ask(OWNER, &resume(older, 2)).await, Answer::Accepted(_)));
        bench.echo(carrier, &accepted, 9).await;
    }
}

#[tokio::test]
async fn at_the_limit_of_all_an_open_is_told_that_the_server_half_is_busy() {
    let bench = Bench::start(ServerLimits {
        sessions: 1,
        ..ServerLimits::default()
    })
    .await;
    let (carrier, accepted) = bench.opened(OWNER, session(1), 1).await;
    let full = bench.ask(OWNER, &bench::open(session(2), 1)).await;
    assert_eq!(refused(full), Some(RefusalCode::Busy));
    bench.echo(carrier, &accepted, 1).await;
    assert_eq!(bench.connections(), 1);
}

fn resume(session: bowline::wire::SessionId, epoch: u32) -> Hello {
    Hello::Resume(Resume {
        session,
        epoch: Epoch::new(epoch),
        received: Offset::ZERO,
        window: 1 << 20,
    })
}
