//! Carriers that stand by: on either half, over memory carriers, in virtual time.

use super::*;
use tokio::sync::watch;

/// The far end of one more carrier, which stands by.
fn standing(stand: &Stand) -> DuplexStream {
    let (peer, standing) = duplex(1 << 20);
    let carrier = in_process(standing, Bytes::new(), [0; 32]);
    let standby = PathEvent::Standby(Box::new(carrier));
    assert!(stand.path_events.try_send(standby).is_ok());
    peer
}

/// A stand on the half that dials, and what its dialer is asked for.
fn dialing() -> (Stand, watch::Receiver<ActivePaths>) {
    let mut stand = Stand::of_half(session(), false, Role::Client, MAX_TIMEOUT);
    let requested = stand.pump.stats.active_paths();
    stand.run_at(Duration::ZERO);
    stand.heard();
    (stand, requested)
}

fn data(offset: u64, bytes: &'static [u8]) -> Frame {
    Frame::Data {
        offset: at(offset),
        bytes: Bytes::from_static(bytes),
    }
}

fn resume(epoch: u32, received: u64) -> Frame {
    Frame::Resume {
        epoch: Epoch::new(epoch),
        received: at(received),
        window: SessionConfig::default().receive_window as u64,
    }
}

/// Without what only keeps carriers warm, and without acks.
fn words(peer: &mut DuplexStream) -> Vec<Frame> {
    let mut frames = heard(peer);
    frames.retain(|frame| !matches!(frame, Frame::Ping { .. } | Frame::Ack { .. }));
    frames
}

fn type_keys(stand: &mut Stand, keys: &'static [u8], after: Duration) {
    stand.pipe.state().gives.push(Bytes::from_static(keys));
    stand.run_at(after);
}

const MS: Duration = Duration::from_millis(1);

#[test]
fn a_resume_on_a_standing_carrier_makes_it_the_lead_and_it_sends_at_once() {
    let mut stand = Stand::new(session());
    stand.run_at(Duration::ZERO);
    let mut other = standing(&stand);
    type_keys(&mut stand, b"abc", Duration::ZERO);
    assert_eq!(words(&mut stand.peer), [data(0, b"abc")]);
    heard(&mut other);
    say(&mut other, &[resume(8, 1)]);
    stand.run_at(Duration::ZERO);
    assert_eq!(words(&mut other), [data(1, b"bc")]);
    type_keys(&mut stand, b"d", Duration::ZERO);
    assert_eq!(words(&mut other), [data(3, b"d")]);
}

#[test]
fn a_resume_with_an_epoch_that_was_seen_changes_nothing() {
    let mut stand = Stand::new(session());
    stand.run_at(Duration::ZERO);
    let mut other = standing(&stand);
    stand.run_at(Duration::ZERO);
    stand.heard();
    say(&mut other, &[resume(7, 0)]);
    stand.run_at(Duration::ZERO);
    type_keys(&mut stand, &[b'a'; 2000], Duration::ZERO);
    assert_eq!(words(&mut stand.peer).len(), 1);
    assert_eq!(words(&mut other), []);
    assert!(stand.epochs.take(Epoch::new(8)), "and takes no epoch");
}

#[test]
fn frames_on_a_standing_carrier_count_and_leave_the_lead_where_it_is() {
    let mut stand = Stand::new(session());
    stand.run_at(Duration::ZERO);
    let mut other = standing(&stand);
    stand.heard();
    say(&mut other, &[data(0, b"xyz"), Frame::Ping { token: 5 }]);
    stand.run_at(Duration::ZERO);
    // An ack waits 20 ms for bytes that can carry it.
    stand.run_at(Duration::from_millis(20));
    assert_eq!(heard(&mut other), [Frame::Pong { token: 5 }]);
    assert!(matches!(stand.heard()[..], [Frame::Ack { delivered, .. }] if delivered == at(3)));
}

#[test]
fn a_server_half_does_not_lead_of_its_own_accord_on_a_carrier_that_only_stood_by() {
    let mut stand = Stand::new(session());
    stand.run_at(Duration::ZERO);
    let mut other = standing(&stand);
    stand.run_at(Duration::ZERO);
    drop(std::mem::replace(&mut stand.peer, duplex(1).0));
    stand.run_at(Duration::ZERO);
    assert!(stand.pump.connection.paths().lead().is_none());
    say(&mut other, &[resume(8, 0)]);
    stand.run_at(Duration::ZERO);
    assert!(stand.pump.connection.paths().lead().is_some());
}

#[test]
fn at_most_three_carriers_stand_by() {
    let mut stand = Stand::new(session());
    stand.run_at(Duration::ZERO);
    let mut peers = Vec::new();
    for _ in 0..9 {
        peers.push(standing(&stand));
        stand.run_at(Duration::ZERO);
    }
    let active = stand.pump.stats.active_paths().borrow().clone();
    assert_eq!(active.standing.len(), 3);
    assert!(active.lead.is_some());
}

#[test]
fn a_lost_lead_is_replaced_by_the_standing_carrier_at_once_and_without_a_dial() {
    let (mut stand, requested) = dialing();
    let mut other = standing(&stand);
    type_keys(&mut stand, b"abc", Duration::ZERO);
    stand.say(&[ack(1), data(0, b"xy")]);
    stand.run_at(Duration::ZERO);
    heard(&mut other);
    let outages = stand.pump.stats.outages().outages;
    drop(std::mem::replace(&mut stand.peer, duplex(1).0));
    stand.run_at(MS);
    // From the last ack on, behind the word that makes it the lead.
    assert_eq!(words(&mut other), [resume(8, 2), data(1, b"bc")]);
    assert_eq!(requested.borrow().dial_request, DialRequest::None);
    assert_eq!(
        stand.pump.stats.outages().outages,
        outages,
        "there was a lead all the time"
    );
}

#[test]
fn a_silent_lead_is_suspected_soon_and_stands_by_from_then_on() {
    let (mut stand, requested) = dialing();
    let mut other = standing(&stand);
    type_keys(&mut stand, b"k", Duration::ZERO);
    stand.heard();
    // The copy on the carrier that stands by is there at once.
    assert_eq!(words(&mut other), [data(0, b"k")]);
    // A memory carrier is taken to have a round trip of 100 ms.
    stand.run_at(MS * 159);
    assert_eq!(words(&mut other), []);
    stand.run_at(MS * 160);
    assert_eq!(words(&mut other), [resume(8, 0), data(0, b"k")]);
    let active = stand.pump.stats.active_paths().borrow().clone();
    assert_eq!(active.standing.len(), 1, "the former lead");
    assert!(
        stand.heard().iter().any(|frame| matches!(frame, Frame::Ping { .. })),
        "which is asked"
    );
    // The new lead owes an answer, and is not trusted for long either.
    stand.run_at(MS * 459);
    assert_eq!(requested.borrow().dial_request, DialRequest::None);
    stand.run_at(MS * 460);
    assert!(matches!(
        requested.borrow().dial_request,
        DialRequest::Dial { is_urgent: true, .. }
    ));
    say(&mut other, &[ack(1)]);
    stand.run_at(MS * 470);
    assert_eq!(requested.borrow().dial_request, DialRequest::None, "called off");
}

#[test]
fn a_false_alarm_makes_the_next_suspicion_slower_and_costs_no_carrier() {
    let (mut stand, _needed) = dialing();
    let mut other = standing(&stand);
    type_keys(&mut stand, b"k", Duration::ZERO);
    stand.run_at(MS * 160);
    assert_eq!(words(&mut other), [data(0, b"k"), resume(8, 0), data(0, b"k")]);
    stand.say(&[Frame::Pong { token: 1 }]);
    say(&mut other, &[ack(1)]);
    stand.run_at(MS * 200);
    let later = Duration::from_secs(10);
    stand.heard();
    type_keys(&mut stand, b"l", later);
    stand.run_at(later + MS * 219);
    assert!(!words(&mut stand.peer).contains(&resume(9, 0)));
    stand.run_at(later + MS * 220);
    assert_eq!(words(&mut stand.peer), [resume(9, 0), data(1, b"l")], "back again");
}

#[test]
fn the_round_trip_of_a_carrier_that_stands_by_is_asked_for_at_once() {
    let (mut stand, _needed) = dialing();
    let mut other = standing(&stand);
    stand.run_at(MS);
    assert!(matches!(heard(&mut other)[..], [Frame::Ping { .. }]));
}

#[test]
fn two_doubtful_carriers_do_not_take_turns() {
    let (mut stand, requested) = dialing();
    let _other = standing(&stand);
    type_keys(&mut stand, b"k", Duration::ZERO);
    for step in 0..300 {
        stand.run_at(MS * 10 * step);
    }
    assert_eq!(stand.epochs.next(), Epoch::new(9), "one promotion");
    assert!(matches!(requested.borrow().dial_request, DialRequest::Dial { .. }));
    let active = stand.pump.stats.active_paths().borrow().clone();
    assert_eq!(active.standing.len(), 1);
    for step in 300..450 {
        stand.run_at(MS * 10 * step);
    }
    let active = stand.pump.stats.active_paths().borrow().clone();
    assert_eq!(active.standing.len(), 0, "it did not answer");
}

#[test]
fn a_carrier_that_comes_to_stand_by_leads_where_nothing_does() {
    let (mut stand, requested) = dialing();
    drop(std::mem::replace(&mut stand.peer, duplex(1).0));
    stand.run_at(MS);
    assert!(matches!(requested.borrow().dial_request, DialRequest::Dial { .. }));
    let mut other = standing(&stand);
    stand.run_at(MS * 2);
    assert_eq!(words(&mut other), [resume(8, 0)]);
    say(&mut other, &[ack(0)]);
    stand.run_at(MS * 3);
    assert_eq!(requested.borrow().dial_request, DialRequest::None);
}

#[test]
fn a_fresh_lead_leaves_standing_carriers_alone() {
    let mut stand = Stand::new(session());
    stand.run_at(Duration::ZERO);
    let _other = standing(&stand);
    let (mut peer, lead) = duplex(1 << 20);
    stand.run_at(Duration::ZERO);
    assert!(stand.path_events.try_send(new_lead(lead, 8, b"")).is_ok());
    stand.run_at(Duration::ZERO);
    say(&mut peer, &[ack(0)]);
    stand.run_at(Duration::ZERO);
    let active = stand.pump.stats.active_paths().borrow().clone();
    assert_eq!(active.standing.len(), 1);
}

#[test]
fn words_of_a_hello_are_taken_once_and_do_not_show_that_the_peer_heard_anything() {
    let mut stand = Stand::new(session());
    let (mut peer, lead) = duplex(1 << 20);
    let lead = new_lead(lead, 8, b"SSH-2.0-first");
    assert!(stand.path_events.try_send(lead).is_ok());
    stand.run_at(Duration::ZERO);
    let taken = |stand: &Stand| stand.pump.connection.session().received().get();
    assert_eq!((taken(&stand), stand.pump.connection.is_confirmed()), (13, false));
    let (offset, bytes) = (Offset::ZERO, Bytes::from_static(b"SSH-2.0-first, then"));
    say(&mut peer, &[Frame::Data { offset, bytes }]);
    stand.run_at(Duration::ZERO);
    assert_eq!((taken(&stand), stand.pump.connection.is_confirmed()), (19, true));
}

#[test]
fn what_flows_is_not_copied() {
    let mut stand = Stand::new(session());
    stand.run_at(Duration::ZERO);
    let mut other = standing(&stand);
    type_keys(&mut stand, &[1; 1101], Duration::ZERO);
    assert_eq!(words(&mut other), []);
    stand.say(&[ack(1100)]);
    type_keys(&mut stand, b"k", Duration::ZERO);
    assert_eq!(words(&mut other), [data(1100, b"\x01k")], "from the last ack on");
}
