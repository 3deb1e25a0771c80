//! Successive workers: what one leaves, the next takes over, or says why not.

mod lock;
mod succession;

use super::recovery::{LossError, LostSession};
use super::testing::{MapStore, config, connected, identity, opened, session};
use super::*;
use crate::clock;
use crate::memory::memory_file;
use crate::pump::{Checkpoint, Outcome};
use crate::wire::{CloseCode, Epoch, Frame, Offset};
use bytes::BytesMut;
use rustix::io::ioctl_fionread;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn at(position: u64) -> Offset {
    Offset::new(position).unwrap()
}

impl StoredSession {
    /// Records its progress as the pump does before it reads or writes.
    fn record(&mut self) {
        self.checkpoints.save(&Checkpoint {
            session: self.session.snapshot(),
            confirmed: true,
            detached_since: None,
        });
    }

    /// Reads what is there into the ring.
    async fn read(&mut self) -> usize {
        self.record();
        let len = self.input.read(self.session.input()).await.unwrap();
        self.session.commit_input(len);
        len
    }

    fn frames(&mut self) -> Vec<Frame> {
        let (mut out, mut frames) = (BytesMut::new(), Vec::new());
        self.session.transmit(&mut out, 1 << 20, clock::now());
        while let Some(frame) = Frame::decode(&mut out).unwrap() {
            frames.push(frame);
        }
        frames
    }
}

async fn only_session(store: &Arc<MapStore>) -> (SessionStore, RecoveredSession) {
    let (session_store, mut recovery) = opened(store).await;
    assert_eq!((recovery.sessions.len(), recovery.lost.len()), (1, 0));
    (session_store, recovery.sessions.remove(0))
}

#[tokio::test]
async fn a_new_session_is_kept_before_it_is_given_out() {
    let store = Arc::new(MapStore::default());
    let (session_store, kept, _sshd) = session(&store).await;
    assert_eq!(store.names(), ["0", "closed", "lock"]);
    let (second, _sshd) = connected().await;
    let second = session_store.create(identity(2), second, &config()).await.unwrap();
    assert_eq!((kept.slot.name(), second.slot.name()), ("0".into(), "1".into()));
    session_store.forget(kept.slot);
    assert_eq!(store.names(), ["1", "closed", "lock"]);
}

#[tokio::test]
async fn a_session_that_cannot_be_kept_leaves_nothing_behind() {
    let store = Arc::new(MapStore::default());
    let (session_store, _) = opened(&store).await;
    store.is_full.store(true, Ordering::Relaxed);
    let (ours, mut sshd) = connected().await;
    let refused = session_store.create(identity(1), ours, &config()).await;
    assert!(matches!(
        refused.err(),
        Some(SessionStoreError::Store(FdStoreError::Full { .. }))
    ));
    assert_eq!(sshd.read(&mut [0]).await.unwrap(), 0, "sshd is told");
    store.is_full.store(false, Ordering::Relaxed);
    let (ours, _sshd) = connected().await;
    let kept = session_store.create(identity(1), ours, &config()).await.unwrap();
    assert_eq!(kept.slot.name(), "0");
}

#[tokio::test]
async fn an_open_that_is_given_up_leaves_nothing_behind() {
    let store = Arc::new(MapStore::default());
    let (session_store, _) = opened(&store).await;
    let (ours, _sshd) = connected().await;
    let config = config();
    let mut opening = Box::pin(session_store.create(identity(1), ours, &config));
    assert!(waits(&mut opening).await, "it waits for the store");
    drop(opening);
    assert_eq!(store.names(), ["closed", "lock"]);
    assert_eq!(session_store.numbers.lock().take(), Some(0));
}

/// Polls once, and returns whether it has to wait.
async fn waits(future: &mut (impl Future + Unpin)) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_pending())).await
}

#[tokio::test]
async fn a_used_connection_is_refused() {
    let store = Arc::new(MapStore::default());
    let (session_store, _) = opened(&store).await;
    let (mut ours, _sshd) = connected().await;
    ours.write_all(b"SSH-2.0").await.unwrap();
    let refused = session_store.create(identity(1), ours, &config()).await;
    assert!(matches!(refused.err(), Some(SessionStoreError::NotFresh)));
}

#[tokio::test]
async fn the_next_worker_knows_whose_a_session_is_and_where_it_stood() {
    let store = Arc::new(MapStore::default());
    let (session_store, mut kept, mut sshd) = session(&store).await;
    sshd.write_all(b"0123456789").await.unwrap();
    kept.session.attach(Epoch::new(3), at(0), 1000).unwrap();
    assert_eq!(kept.read().await, 10);
    kept.frames();
    kept.session
        .handle_frame(Frame::Ack {
            delivered: at(4),
            window: 1000,
        })
        .unwrap();
    kept.record();
    kept.output.write_all(b"abc").await.unwrap();
    sshd.write_all(b"more").await.unwrap();
    drop((kept, session_store));

    let (_session_store, mut recovered) = only_session(&store).await;
    let expected = Identity {
        opened: recovered.identity.opened,
        ..identity(1)
    };
    assert_eq!(recovered.identity, expected);
    assert!(recovered.confirmed && clock::now() >= recovered.detached_since);
    let kept = &mut recovered.kept;
    assert_eq!((kept.session.epoch(), kept.session.received()), (Epoch::new(3), at(3)));
    kept.session.attach(Epoch::new(4), at(4), 1000).unwrap();
    let data = |offset, bytes: &'static [u8]| Frame::Data {
        offset: at(offset),
        bytes: bytes.into(),
    };
    assert!(kept.frames().contains(&data(4, b"456789")));
    while ioctl_fionread(&kept.slot.socket).unwrap() < 4 {}
    assert_eq!(kept.read().await, 4);
    assert!(kept.frames().contains(&data(10, b"more")));
}

#[tokio::test]
async fn what_was_announced_and_not_read_is_read_by_the_next_worker() {
    let store = Arc::new(MapStore::default());
    let (session_store, mut kept, mut sshd) = session(&store).await;
    sshd.write_all(b"0123456789").await.unwrap();
    kept.record();
    kept.slot.session_record.intend(10);
    drop((kept, session_store));
    let (_session_store, mut recovered) = only_session(&store).await;
    assert_eq!(
        (recovered.kept.session.replay_len(), recovered.kept.read().await),
        (0, 10)
    );
}

#[tokio::test]
async fn what_was_read_and_not_committed_is_in_the_ring() {
    let store = Arc::new(MapStore::default());
    let (session_store, mut kept, mut sshd) = session(&store).await;
    sshd.write_all(b"0123456789").await.unwrap();
    kept.record();
    kept.input.read_exact(&mut kept.session.input()[..7]).await.unwrap();
    drop((kept, session_store));
    let (_session_store, mut recovered) = only_session(&store).await;
    let kept = &mut recovered.kept;
    kept.session.attach(Epoch::new(1), at(0), 1000).unwrap();
    let expected = Frame::Data {
        offset: at(0),
        bytes: b"0123456"[..].into(),
    };
    assert!(kept.frames().contains(&expected));
}

#[tokio::test]
async fn an_end_that_came_meanwhile_is_found_with_the_last_bytes() {
    let store = Arc::new(MapStore::default());
    for is_reset in [false, true] {
        let (session_store, mut kept, mut sshd) = session(&store).await;
        sshd.write_all(b"01234").await.unwrap();
        assert_eq!(kept.read().await, 5);
        drop((kept, session_store));
        sshd.write_all(b"last").await.unwrap();
        if is_reset {
            socket2::SockRef::from(&sshd).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(sshd);
        let (session_store, mut recovered) = only_session(&store).await;
        assert_eq!(recovered.kept.read().await, 4);
        drop((recovered, session_store));
        let (session_store, mut recovered) = only_session(&store).await;
        assert_eq!(recovered.kept.session.replay_len(), 9);
        let end = recovered.kept.input.read(&mut [0; 9]).await;
        assert_eq!(end.is_err(), is_reset, "{end:?}");
        session_store.forget(recovered.kept.slot);
    }
}

#[tokio::test]
async fn a_shutdown_is_done_once_or_again_but_never_forgotten() {
    for is_done in [false, true] {
        let store = Arc::new(MapStore::default());
        let (session_store, mut kept, mut sshd) = session(&store).await;
        kept.session.attach(Epoch::new(1), at(0), 1000).unwrap();
        kept.session
            .handle_frame(Frame::Data {
                offset: at(0),
                bytes: b"bye"[..].into(),
            })
            .unwrap();
        kept.session.handle_frame(Frame::Fin { offset: at(3) }).unwrap();
        kept.record();
        kept.output.write_all(b"bye").await.unwrap();
        if is_done {
            kept.output.shutdown().await.unwrap();
        }
        drop((kept, session_store));
        let (_session_store, mut recovered) = only_session(&store).await;
        assert_eq!(recovered.kept.session.is_output_end_due(), !is_done);
        assert_eq!(recovered.kept.session.is_output_done(), is_done);
        recovered.kept.output.shutdown().await.unwrap();
        let mut heard = String::new();
        sshd.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "bye");
    }
}

#[tokio::test]
async fn a_session_that_ended_in_its_workers_last_moment_does_not_come_back() {
    let store = Arc::new(MapStore::default());
    let (session_store, mut kept, mut sshd) = session(&store).await;
    kept.checkpoints.handle_end(&Outcome::Finished);
    assert_eq!(sshd.read(&mut [0]).await.unwrap(), 0, "sshd is told at once");
    drop((kept, session_store));
    let (_session_store, recovery) = opened(&store).await;
    assert!(matches!(
        recovery.lost[..],
        [LostSession {
            error: LossError::Ended,
            ..
        }]
    ));
    assert_eq!(recovery.closed_sessions.all()[0].session, identity(1).session);
    assert_eq!(store.names(), ["closed", "lock"]);
}

#[tokio::test]
async fn closed_sessions_are_there_for_the_next_worker() {
    let store = Arc::new(MapStore::default());
    let (session_store, mut recovery) = opened(&store).await;
    let closed = ClosedSession {
        session: identity(1).session,
        owner: [1; 32],
        reason: "ended".into(),
        at: clock::now(),
    };
    recovery.closed_sessions.add(&closed);
    drop((session_store, recovery));
    let (_session_store, recovery) = opened(&store).await;
    let [found] = &recovery.closed_sessions.all()[..] else {
        panic!("one closed session")
    };
    assert_eq!((found.session, &found.reason), (closed.session, &closed.reason));
}

/// Damages one of three sessions, and returns what became of them.
async fn after(damage: impl FnOnce(&Arc<MapStore>, &StoredSession)) -> (Vec<u8>, LostSession, usize) {
    let store = Arc::new(MapStore::default());
    let (session_store, _) = opened(&store).await;
    let (mut kept, mut sshd) = (Vec::new(), Vec::new());
    for number in 0..3 {
        let (ours, theirs) = connected().await;
        kept.push(session_store.create(identity(number), ours, &config()).await.unwrap());
        sshd.push(theirs);
    }
    damage(&store, &kept[1]);
    drop((kept, session_store));
    let (session_store, mut recovery) = opened(&store).await;
    let continuing = recovery
        .sessions
        .iter()
        .map(|session| session.identity.session.as_bytes()[0]);
    let continuing: Vec<_> = continuing.collect();
    assert_eq!(store.names(), ["0", "2", "closed", "lock"]);
    assert_eq!(session_store.numbers.lock().take(), Some(1), "the slot is free again");
    let lost = recovery.lost.remove(0);
    (continuing, lost, recovery.closed_sessions.all().len())
}

fn memory_of(store: &MapStore, name: &str) -> Arc<OwnedFd> {
    let mut all = store.stored().into_iter().filter(|(found, _)| found == name);
    all.nth(1).unwrap().1
}

#[tokio::test]
async fn a_damaged_session_ends_alone() {
    for (place, expected, is_known) in [
        (0, "the memory does not belong to a session", false),
        (
            8,
            "the session has layout version 254, but this program reads version 1",
            false,
        ),
        (100, "the session's identity is damaged", false),
        (2050, "the mark of the latest record is damaged", true),
        (2240 + 3, "the latest record is damaged", true),
    ] {
        let (continuing, lost, closed_sessions) = after(|store, _| {
            let memory = memory_of(store, "1");
            Mapping::of_file(&memory, 0, 4096).unwrap()[place] ^= 0xff;
        })
        .await;
        assert_eq!((continuing, lost.name.as_str()), (vec![0, 2], "1"));
        assert_eq!(lost.error.to_string(), expected);
        assert_eq!(
            (lost.identity.is_some(), closed_sessions),
            (is_known, usize::from(is_known))
        );
    }
}

#[tokio::test]
async fn a_session_of_which_something_is_missing_ends_alone() {
    let (continuing, lost, _) = after(|store, kept| {
        store.remove("1");
        store.insert("1", vec![Arc::clone(&kept.slot.socket)]);
    })
    .await;
    assert_eq!(continuing, [0, 2]);
    assert!(matches!(
        lost.error,
        LossError::Incomplete {
            sockets: 1,
            memories: 0
        }
    ));

    let (_, lost, closed_sessions) = after(|store, _| {
        let memory = memory_of(store, "1");
        store.remove("1");
        store.insert("1", vec![memory]);
    })
    .await;
    assert!(matches!(
        lost.error,
        LossError::Incomplete {
            sockets: 0,
            memories: 1
        }
    ));
    assert_eq!(closed_sessions, 1);
}

#[tokio::test]
async fn a_session_whose_connection_someone_else_used_ends_alone() {
    let (_, lost, _) = after(|_, kept| {
        rustix::net::shutdown(&kept.slot.socket, rustix::net::Shutdown::Write).unwrap();
    })
    .await;
    assert!(matches!(
        lost.error,
        LossError::Counters(CountersError::ShutUnannounced)
    ));
    let (_, lost, _) = after(|_, kept| {
        let record = Checkpoint {
            session: crate::session::Snapshot {
                acked: at(5),
                close: Some(CloseCode::Ended),
                ..Default::default()
            },
            confirmed: true,
            detached_since: None,
        };
        kept.slot.session_record.record(&record);
    })
    .await;
    assert!(matches!(lost.error, LossError::Restore(_)), "{:?}", lost.error);
}

#[tokio::test]
async fn unknown_things_are_dropped_and_twins_are_not_two() {
    let store = Arc::new(MapStore::default());
    let (session_store, kept, _sshd) = session(&store).await;
    let again = store
        .stored()
        .into_iter()
        .filter(|(name, _)| name == "0")
        .map(|(_, fd)| fd);
    let again = again.map(|fd| Arc::new(fd.try_clone().unwrap())).collect();
    store.put("0", again).await.unwrap();
    let odd = Arc::new(memory_file("odd", 1).unwrap());
    store.put("zzzzz", vec![Arc::clone(&odd)]).await.unwrap();
    store
        .put("0", vec![Arc::new(std::fs::File::open("/dev/null").unwrap().into())])
        .await
        .unwrap();
    drop((kept, session_store));
    let (_session_store, _) = only_session(&store).await;
    assert_eq!(store.names(), ["0", "closed", "lock"]);
}
