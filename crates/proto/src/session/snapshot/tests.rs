use super::*;
use crate::session::SessionError;
use crate::session::memory_store::{MemoryStore, memory};
use crate::test_tools as clock;
use crate::wire::Frame;
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

const CAPACITY: u64 = 1 << 16;

fn at(bytes: u64) -> Offset {
    Offset::new(bytes).unwrap()
}

fn on(replay: &MemoryStore) -> SessionMemory {
    SessionMemory {
        replay: replay.lend(),
        receive: memory(CAPACITY as usize),
    }
}

fn counts(read: u64, written: u64, output_shut: bool) -> PipeCounts {
    PipeCounts {
        read: at(read),
        written: at(written),
        output_shut,
    }
}

fn restored(snapshot: &Snapshot, counts: PipeCounts) -> Session {
    Session::restore(on(&MemoryStore::new(CAPACITY as usize)), snapshot, counts).unwrap()
}

fn attach(session: &mut Session, received: u64) -> Option<u64> {
    session.attach(Epoch::new(9), at(received), CAPACITY).unwrap()
}

fn write(session: &mut Session, bytes: &[u8]) {
    session.input()[..bytes.len()].copy_from_slice(bytes);
    session.commit_input(bytes.len());
}

fn frames(session: &mut Session) -> Vec<Frame> {
    let (mut out, mut frames) = (BytesMut::new(), Vec::new());
    session.transmit(&mut out, 1 << 20, clock::now());
    while let Some(frame) = Frame::decode(&mut out).unwrap() {
        frames.push(frame);
    }
    frames
}

fn data(offset: u64, bytes: &[u8]) -> Frame {
    Frame::Data {
        offset: at(offset),
        bytes: Bytes::copy_from_slice(bytes),
    }
}

fn ack(delivered: u64, window: u64) -> Frame {
    Frame::Ack {
        delivered: at(delivered),
        window,
    }
}

fn close() -> Frame {
    Frame::Close {
        code: CloseCode::PipeClosed,
        message: "".into(),
    }
}

#[test]
fn a_successor_sends_what_the_peer_lacks_and_what_was_read_last() {
    let replay = MemoryStore::new(CAPACITY as usize);
    let mut session = Session::new(on(&replay));
    attach(&mut session, 0);
    write(&mut session, b"abcdef");
    frames(&mut session);
    session.handle_frame(ack(2, CAPACITY)).unwrap();
    let snapshot = session.snapshot();
    // Read after the last snapshot, and never committed: the pipe's own count is enough.
    session.input()[..3].copy_from_slice(b"ghi");
    drop(session);
    let mut session = Session::restore(on(&replay), &snapshot, counts(9, 0, false)).unwrap();
    assert_eq!((session.snapshot(), session.buffered()), (snapshot, 7));
    assert_eq!(attach(&mut session, 4), Some(5));
    assert_eq!(frames(&mut session), [ack(0, CAPACITY), data(4, b"efghi")]);
}

#[test]
fn whatever_was_read_may_have_been_received() {
    for received in 2..=7 {
        let snapshot = Snapshot {
            acked: at(2),
            fin: true,
            ..Snapshot::default()
        };
        let mut session = restored(&snapshot, counts(6, 0, false));
        assert_eq!(attach(&mut session, received), Some(7 - received));
        session.handle_frame(ack(received, 9)).unwrap();
    }
}

#[test]
fn a_published_end_is_never_unsaid() {
    let snapshot = Snapshot {
        fin: true,
        ..Snapshot::default()
    };
    let mut session = restored(&snapshot, counts(0, 0, false));
    assert!(session.is_input_ended() && session.input().is_empty());
    session.close(CloseCode::UpstreamClosed, "gone");
    attach(&mut session, 0);
    let close = Frame::Close {
        code: CloseCode::UpstreamClosed,
        message: "gone".into(),
    };
    assert_eq!(
        frames(&mut session),
        [ack(0, CAPACITY), Frame::Fin { offset: at(0) }, close]
    );
    session.handle_frame(ack(2, 9)).unwrap();
    assert!(session.is_finished());
}

#[test]
fn a_published_close_is_said_until_it_is_acknowledged() {
    for fin in [false, true] {
        let mut snapshot = Snapshot {
            fin,
            close: Some(CloseCode::UpstreamClosed),
            ..Snapshot::default()
        };
        let mut session = restored(&snapshot, counts(0, 3, false));
        assert!(session.is_output_done() && !session.is_finished());
        attach(&mut session, 0);
        let said = frames(&mut session);
        assert!(matches!(said.last(), Some(Frame::Close { .. })), "{said:?}");
        assert_eq!(said.len(), 2 + usize::from(fin));
        snapshot.acked = at(1 + u64::from(fin));
        let session = restored(&snapshot, counts(0, 3, false));
        assert!(session.is_finished() && !session.owes_last_ack());
    }
}

#[test]
fn an_end_whose_bytes_are_lost_is_heard_again() {
    for peer_close in [None, Some(CloseCode::PipeClosed)] {
        let snapshot = Snapshot {
            acked: at(u64::from(peer_close.is_some())),
            fin: peer_close.is_some(),
            output_end: Some(at(5)),
            peer_close,
            ..Snapshot::default()
        };
        let mut session = restored(&snapshot, counts(0, 3, false));
        assert_eq!((session.received(), session.peer_close()), (at(3), None));
        session.handle_frame(data(3, b"de")).unwrap();
        let end = if peer_close.is_some() {
            close()
        } else {
            Frame::Fin { offset: at(5) }
        };
        session.handle_frame(end).unwrap();
        session.output_written(2, clock::now());
        assert!(session.is_output_end_due());
        session.output_ended();
        assert_eq!(session.is_finished(), peer_close.is_some());
    }
}

#[test]
fn an_end_that_is_due_is_delivered_without_the_peer() {
    let snapshot = Snapshot {
        output_end: Some(at(3)),
        ..Snapshot::default()
    };
    let session = restored(&snapshot, counts(0, 3, false));
    assert!(session.is_output_end_due());
    assert_eq!(session.received(), at(4));
    let mut session = restored(&snapshot, counts(0, 3, true));
    assert!(session.is_output_done() && !session.is_output_end_due());
    attach(&mut session, 0);
    assert_eq!(frames(&mut session), [ack(4, CAPACITY - 1)]);
}

#[test]
fn a_close_of_the_peer_takes_a_position_of_its_own_only_after_its_fin() {
    for (peer_close_after_fin, end) in [(false, 4), (true, 5)] {
        let snapshot = Snapshot {
            acked: at(1),
            fin: true,
            output_end: Some(at(3)),
            peer_close: Some(CloseCode::PipeClosed),
            peer_close_after_fin,
            ..Snapshot::default()
        };
        let mut session = restored(&snapshot, counts(0, 3, true));
        assert!(session.is_finished(), "without a lead there is nobody left to tell");
        assert_eq!((session.snapshot(), session.received()), (snapshot, at(end)));
        attach(&mut session, 0);
        assert!(matches!(frames(&mut session)[..], [Frame::Ack { delivered, .. }] if delivered == at(end)));
    }
}

#[test]
fn where_both_closed_nothing_is_waited_for() {
    let snapshot = Snapshot {
        acked: at(3),
        close: Some(CloseCode::UpstreamClosed),
        output_end: Some(at(8)),
        peer_close: Some(CloseCode::PipeClosed),
        ..Snapshot::default()
    };
    let mut session = restored(&snapshot, counts(2, 3, true));
    assert!(session.is_finished() && session.owes_last_ack());
    attach(&mut session, 0);
    assert!(
        frames(&mut session)
            .iter()
            .any(|frame| matches!(frame, Frame::Close { .. }))
    );
}

#[test]
fn room_that_was_promised_is_there() {
    let mut session = Session::new(on(&MemoryStore::new(CAPACITY as usize)));
    session.handle_frame(data(0, &[7; 100])).unwrap();
    session.output_written(60, clock::now());
    let promised = session.received().get() + session.window();
    let mut session = restored(&session.snapshot(), counts(0, 60, false));
    assert!(session.received().get() + session.window() >= promised);
    session
        .handle_frame(data(60, &vec![7; (promised - 60) as usize]))
        .unwrap();
}

#[test]
fn what_a_closed_half_was_sent_may_come_again() {
    let mut session = Session::new(on(&MemoryStore::new(CAPACITY as usize)));
    session.close(CloseCode::UpstreamClosed, "gone");
    let snapshot = session.snapshot();
    for offset in [0, 40_000, 80_000] {
        session.handle_frame(data(offset, &[7; 40_000])).unwrap();
    }
    let promised = session.received().get() + session.window();
    let mut session = restored(&snapshot, counts(0, 0, false));
    let mut offset = 0;
    while offset < promised {
        let len = (promised - offset).min(40_000);
        session.handle_frame(data(offset, &vec![7; len as usize])).unwrap();
        offset += len;
    }
}

#[test]
fn what_does_not_belong_together_is_refused_with_the_facts() {
    let refused = |snapshot: Snapshot, counts| {
        let replay = MemoryStore::new(CAPACITY as usize);
        Session::restore(on(&replay), &snapshot, counts).err().unwrap()
    };
    let base = Snapshot::default();
    let acked = Snapshot { acked: at(5), ..base };
    assert_eq!(
        refused(Snapshot { fin: true, ..acked }, counts(3, 0, false)),
        RestoreError::AckedBeyondRead {
            acked: at(5),
            end: at(4)
        }
    );
    let read = 5 + CAPACITY + 1;
    assert_eq!(
        refused(acked, counts(read, 0, false)),
        RestoreError::ReplayBeyondMemory {
            acked: at(5),
            read: at(read),
            capacity: CAPACITY
        }
    );
    let front = Snapshot {
        front: CAPACITY,
        ..base
    };
    assert_eq!(
        refused(front, counts(0, 0, false)),
        RestoreError::FrontBeyondMemory {
            front: CAPACITY,
            capacity: CAPACITY
        }
    );
    let end = Snapshot {
        output_end: Some(at(2)),
        ..base
    };
    assert_eq!(
        refused(end, counts(0, 3, false)),
        RestoreError::OutputEndBeforeWritten {
            end: at(2),
            written: at(3)
        }
    );
    let closed = Snapshot {
        peer_close: Some(CloseCode::Ended),
        ..base
    };
    assert_eq!(refused(closed, counts(0, 0, false)), RestoreError::PeerCloseWithoutEnd);
    let small = SessionMemory {
        replay: memory(9),
        receive: memory(CAPACITY as usize),
    };
    let small = Session::restore(small, &base, counts(0, 0, false)).err().unwrap();
    assert_eq!(small, RestoreError::MemoryTooSmall { capacity: 9 });
}

fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..12u64,
        CAPACITY - 4..CAPACITY + 12,
        0..=Offset::MAX.get(),
        Offset::MAX.get() - 9..=Offset::MAX.get()
    ]
}

fn any_close() -> impl Strategy<Value = Option<CloseCode>> {
    prop_oneof![Just(None), Just(Some(CloseCode::UpstreamClosed))]
}

prop_compose! {
    fn any_snapshot()(
        acked in any_number(), front in prop_oneof![any_number(), any::<u64>()], fin: bool, close in any_close(),
        output_end in proptest::option::of(any_number()), peer_close in any_close(), peer_close_after_fin: bool,
        epoch: u32,
    ) -> Snapshot {
        Snapshot { epoch: Epoch::new(epoch), acked: at(acked), front, fin, close, output_end: output_end.map(at), peer_close, peer_close_after_fin }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn no_damaged_snapshot_panics(
        snapshot in any_snapshot(), read in any_number(), written in any_number(), shut: bool,
        peer in (any_number(), any_number(), any_number(), any::<bool>()),
    ) {
        let replay = MemoryStore::new(CAPACITY as usize);
        let Ok(mut session) = Session::restore(on(&replay), &snapshot, counts(read, written, shut)) else { return Ok(()) };
        let (received, window, ended, closes) = peer;
        drive(&mut session, received, window, ended, closes);
        let (snapshot, read) = (session.snapshot(), read.saturating_add(3).min(Offset::MAX.get()));
        drop(session);
        let _ = Session::restore(on(&replay), &snapshot, counts(read, written, shut));
    }
}

/// Everything that a driver may do with a session, whatever it came from.
fn drive(session: &mut Session, received: u64, window: u64, ended: u64, closes: bool) {
    let now = clock::now();
    let _: Result<_, SessionError> = session.attach(Epoch::new(u32::MAX), at(received), window);
    frames(session);
    if session.input().len() >= 3 {
        write(session, b"abc");
    }
    let next = session.received();
    let _ = session.handle_frame(Frame::Data {
        offset: next,
        bytes: Bytes::from_static(b"xyz"),
    });
    let len = session.output().len();
    session.output_written(len, now);
    let _ = session.handle_frame(ack(received, window));
    let _ = session.handle_frame(Frame::Fin { offset: at(ended) });
    if session.is_output_end_due() {
        session.output_ended();
    }
    if closes {
        session.close(CloseCode::UpstreamClosed, "");
        let _ = session.handle_frame(close());
    } else {
        session.finish_input();
    }
    frames(session);
    session.release_idle_memory();
    let _ = session.handle_frame(ack(Offset::MAX.get(), 0));
    let _ = (session.is_finished(), session.window(), session.buffered());
}
