use super::*;
use crate::test_tools as clock;
use bytes::Bytes;
use std::time::Duration;

fn at(bytes: u64) -> Offset {
    Offset::new(bytes).unwrap()
}

fn session() -> Session {
    Session::new(SessionMemory::heap(&SessionConfig {
        replay_buffer: 1 << 17,
        receive_window: 1 << 17,
    }))
}

fn attached(epoch: u32) -> Session {
    let mut session = session();
    session.attach(Epoch::new(epoch), Offset::ZERO, 1 << 17).unwrap();
    frames(&mut session, clock::now());
    session
}

fn write(session: &mut Session, bytes: &[u8]) {
    session.input()[..bytes.len()].copy_from_slice(bytes);
    session.commit_input(bytes.len());
}

fn frames(session: &mut Session, now: Instant) -> Vec<Frame> {
    let (mut out, mut frames) = (BytesMut::new(), Vec::new());
    session.transmit(&mut out, 1 << 20, now);
    while let Some(frame) = Frame::decode(&mut out).unwrap() {
        frames.push(frame);
    }
    frames
}

fn data(offset: u64, bytes: &'static [u8]) -> Frame {
    Frame::Data {
        offset: at(offset),
        bytes: Bytes::from_static(bytes),
    }
}

#[test]
fn an_ack_waits_for_the_write_to_the_destination() {
    let now = clock::now();
    let mut session = attached(1);
    session.handle_frame(data(0, b"abc")).unwrap();
    assert_eq!(frames(&mut session, now + Duration::from_secs(9)), []);
    session.output_written(2, now);
    assert_eq!(session.poll_timeout(), Some(now + Duration::from_millis(20)));
    let acks = frames(&mut session, now + Duration::from_millis(20));
    assert_eq!(
        acks,
        [Frame::Ack {
            delivered: at(2),
            window: 1 << 17
        }]
    );
}

#[test]
fn an_ack_rides_with_bytes_of_the_other_direction() {
    let now = clock::now();
    let mut session = attached(1);
    session.handle_frame(data(0, b"x")).unwrap();
    session.output_written(1, now);
    assert_eq!(frames(&mut session, now), []);
    write(&mut session, b"y");
    assert_eq!(
        frames(&mut session, now),
        [
            Frame::Ack {
                delivered: at(1),
                window: 1 << 17
            },
            data(0, b"y")
        ]
    );
}

#[test]
fn a_late_ack_below_the_last_is_no_error() {
    let mut session = attached(1);
    write(&mut session, b"abcdef");
    frames(&mut session, clock::now());
    session
        .handle_frame(Frame::Ack {
            delivered: at(5),
            window: 1 << 17,
        })
        .unwrap();
    session
        .handle_frame(Frame::Ack {
            delivered: at(2),
            window: 1,
        })
        .unwrap();
    session.detach();
    assert_eq!(session.attach(Epoch::new(2), at(1), 1 << 17), Ok(Some(1)));
    assert_eq!(frames(&mut session, clock::now())[1..], [data(5, b"f")]);
}

#[test]
fn late_frames_of_an_old_carrier_are_harmless() {
    let mut session = attached(1);
    session.handle_frame(data(0, b"abc")).unwrap();
    session.attach(Epoch::new(2), Offset::ZERO, 1 << 17).unwrap();
    for late in [
        data(0, b"abc"),
        data(1, b"bcd"),
        Frame::Ack {
            delivered: at(0),
            window: 0,
        },
        data(2, b"c"),
    ] {
        session.handle_frame(late).unwrap();
    }
    assert_eq!(session.output(), b"abcd");
}

#[test]
fn a_lower_epoch_does_not_take_the_lead() {
    let mut session = attached(5);
    write(&mut session, b"abc");
    frames(&mut session, clock::now());
    assert_eq!(session.attach(Epoch::new(4), Offset::ZERO, 1 << 17), Ok(None));
    assert_eq!(frames(&mut session, clock::now()), [], "nothing is sent again");
    assert_eq!(session.epoch(), Epoch::new(5));
}

#[test]
fn a_full_replay_buffer_stops_the_pipe_and_nothing_else() {
    let now = clock::now();
    let mut session = attached(1);
    while !session.input().is_empty() {
        let len = session.input().len();
        session.commit_input(len);
    }
    frames(&mut session, now);
    session.handle_frame(data(0, b"still heard")).unwrap();
    session.output_written(11, now);
    assert_eq!(
        frames(&mut session, now + Duration::from_secs(1)).len(),
        1,
        "the ack goes out"
    );
    session
        .handle_frame(Frame::Ack {
            delivered: at(100),
            window: 1 << 17,
        })
        .unwrap();
    assert_eq!(session.input_space(), 100);
}

#[test]
fn a_session_ends_when_both_ends_were_delivered_and_acknowledged() {
    let now = clock::now();
    let mut session = attached(1);
    write(&mut session, b"bye");
    session.finish_input();
    assert_eq!(
        frames(&mut session, now),
        [data(0, b"bye"), Frame::Fin { offset: at(3) }]
    );
    session.handle_frame(Frame::Fin { offset: at(0) }).unwrap();
    assert!(session.is_output_end_due());
    session.output_ended();
    session
        .handle_frame(Frame::Ack {
            delivered: at(4),
            window: 0,
        })
        .unwrap();
    assert!(
        !session.is_finished(),
        "the peer does not know yet that its end was delivered"
    );
    assert_eq!(frames(&mut session, now).len(), 1);
    assert!(session.is_finished());
}

#[test]
fn a_close_delivers_the_last_bytes_before_it_and_takes_nothing_more() {
    let now = clock::now();
    let (mut client, mut server) = (attached(1), attached(1));
    write(&mut client, b"never read");
    frames(&mut client, now);
    write(&mut server, b"last words");
    server.close(CloseCode::UpstreamClosed, "sshd ended");
    for frame in frames(&mut server, now) {
        client.handle_frame(frame).unwrap();
    }
    assert_eq!(client.output(), b"last words");
    assert_eq!(
        client.peer_close(),
        Some((CloseCode::UpstreamClosed, &"sshd ended".into()))
    );
    assert!(client.input().is_empty() && client.is_input_done());
    client.output_written(10, now);
    client.output_ended();
    for frame in frames(&mut client, now) {
        server.handle_frame(frame).unwrap();
    }
    assert!(client.is_finished() && server.is_finished());
}

#[test]
fn claims_of_bytes_that_do_not_exist_are_desync() {
    let mut session = attached(1);
    write(&mut session, b"abc");
    frames(&mut session, clock::now());
    assert!(matches!(
        session.handle_frame(Frame::Ack {
            delivered: at(5),
            window: 0
        }),
        Err(SessionError::AckBeyondSent { .. })
    ));
    assert!(matches!(
        session.handle_frame(data(1, b"x")),
        Err(SessionError::Gap { .. })
    ));
    assert!(matches!(
        session.attach(Epoch::new(2), at(5), 0),
        Err(SessionError::ResumeBeyondSent { .. })
    ));
}

/// Exchanges frames until neither has any.
fn settle(a: &mut Session, b: &mut Session) {
    let now = clock::now();
    loop {
        let (from_a, from_b) = (frames(a, now), frames(b, now));
        if from_a.is_empty() && from_b.is_empty() {
            return;
        }
        from_a.into_iter().for_each(|frame| b.handle_frame(frame).unwrap());
        from_b.into_iter().for_each(|frame| a.handle_frame(frame).unwrap());
    }
}

fn fill(session: &mut Session) {
    while !session.input().is_empty() {
        let len = session.input().len();
        session.commit_input(len);
    }
}

#[test]
fn bytes_that_were_under_way_when_the_pipe_closed_are_no_gap() {
    let mut session = attached(1);
    session.close(CloseCode::UpstreamClosed, "broken pipe");
    session.handle_frame(data(0, b"abc")).unwrap();
    session.handle_frame(data(3, b"def")).unwrap();
    assert!(session.output().is_empty());
}

#[test]
fn two_that_close_at_once_both_end() {
    let (mut client, mut server) = (attached(1), attached(1));
    client.close(CloseCode::PipeClosed, "broken pipe");
    server.close(CloseCode::UpstreamClosed, "sshd ended");
    settle(&mut client, &mut server);
    assert!(client.is_finished() && server.is_finished());
    assert!(client.peer_close().is_some() && server.peer_close().is_some());
}

#[test]
fn two_that_close_before_full_windows_both_end() {
    let (mut client, mut server) = (attached(1), attached(1));
    for session in [&mut client, &mut server] {
        fill(session);
        frames(session, clock::now());
        session.detach();
        session.attach(Epoch::new(2), Offset::ZERO, 1 << 16).unwrap();
    }
    client.close(CloseCode::PipeClosed, "broken pipe");
    server.close(CloseCode::UpstreamClosed, "sshd ended");
    settle(&mut client, &mut server);
    assert!(client.is_finished() && server.is_finished());
}

#[test]
fn a_close_is_said_though_the_fin_before_it_is_acknowledged() {
    let mut session = attached(1);
    write(&mut session, b"ab");
    session.finish_input();
    frames(&mut session, clock::now());
    session.detach();
    session.close(CloseCode::PipeClosed, "broken pipe");
    session.attach(Epoch::new(2), at(3), 1 << 17).unwrap();
    let acked = Frame::Ack {
        delivered: at(3),
        window: 0,
    };
    session.handle_frame(acked).unwrap();
    assert!(!session.is_finished());
    let last = frames(&mut session, clock::now()).pop();
    assert!(matches!(last, Some(Frame::Close { .. })), "{last:?}");
    assert!(
        !session.is_finished(),
        "the acknowledgement of the FIN does not stand for the CLOSE"
    );
    session
        .handle_frame(Frame::Ack {
            delivered: at(4),
            window: 0,
        })
        .unwrap();
    assert!(session.is_finished());
}

#[test]
fn an_older_carrier_that_leads_again_goes_on_where_it_was() {
    let mut session = attached(1);
    write(&mut session, b"abc");
    frames(&mut session, clock::now());
    let reached = session.lead_position();
    session.attach(Epoch::new(2), Offset::ZERO, 1 << 17).unwrap();
    write(&mut session, b"def");
    assert!(frames(&mut session, clock::now()).contains(&data(0, b"abcdef")));
    session.detach();
    session.fall_back(reached).unwrap();
    assert!(frames(&mut session, clock::now()).contains(&data(3, b"def")));
}

#[test]
fn a_pipe_that_breaks_after_the_peer_closed_ends_both() {
    let (mut client, mut server) = (attached(1), attached(1));
    write(&mut client, b"last words");
    client.close(CloseCode::PipeClosed, "ssh ended");
    for frame in frames(&mut client, clock::now()) {
        server.handle_frame(frame).unwrap();
    }
    server.close(CloseCode::UpstreamClosed, "broken pipe");
    settle(&mut client, &mut server);
    assert!(client.is_finished() && server.is_finished());
}

#[test]
fn a_close_that_may_not_have_been_heard_is_said_again_on_the_next_lead() {
    let mut session = attached(1);
    session.close(CloseCode::PipeClosed, "ssh ended");
    frames(&mut session, clock::now());
    let theirs = Frame::Close {
        code: CloseCode::UpstreamClosed,
        message: "sshd ended".into(),
    };
    session.handle_frame(theirs).unwrap();
    assert!(session.owes_last_ack());
    session.attach(Epoch::new(2), Offset::ZERO, 1 << 17).unwrap();
    let last = frames(&mut session, clock::now()).pop();
    assert!(matches!(last, Some(Frame::Close { .. })), "{last:?}");
}
