//! Checks the conclusions of `counters` against the kernel, on real loopback sockets.

use super::*;
use crate::clock;
use proptest::prelude::*;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

/// Both ends of a connection. Ours connected; the test counts what we do as a session does.
struct Pair {
    ours: TcpStream,
    peer: Option<TcpStream>,
    consumed: u64,
    intent: u64,
    written: u64,
    output_end: Option<u64>,
}

impl Pair {
    fn new() -> Pair {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let peer = listener.accept().unwrap().0;
        peer.set_nonblocking(true).unwrap();
        Pair {
            ours,
            peer: Some(peer),
            consumed: 0,
            intent: 0,
            written: 0,
            output_end: None,
        }
    }

    fn peer(&self) -> &TcpStream {
        self.peer.as_ref().unwrap()
    }

    fn peer_says(&self, len: usize) {
        assert_eq!(send(self.peer(), &vec![7; len], SendFlags::NOSIGNAL), Ok(len));
    }

    fn peer_hears(&self, most: usize) -> usize {
        recv(self.peer(), &mut vec![0; most], RecvFlags::DONTWAIT).map_or(0, |(len, _)| len)
    }

    fn peer_ends(&self) {
        let _ = self.peer().shutdown(std::net::Shutdown::Write);
    }

    /// Closes it: with a FIN if everything was read, with a reset otherwise.
    fn peer_closes(&mut self) {
        self.peer = None;
    }

    fn peer_resets(&mut self) {
        let peer = self.peer.take().unwrap();
        socket2::SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    }

    fn intend(&mut self, most: u64) -> usize {
        let unread = rustix::io::ioctl_fionread(&self.ours).unwrap();
        let len = unread.min(most);
        self.intent = self.consumed + len;
        len as usize
    }

    fn take(&mut self, most: u64) {
        let len = self.intend(most);
        if len > 0 {
            let (taken, _) = recv(&self.ours, &mut vec![0; len], RecvFlags::DONTWAIT).unwrap();
            assert_eq!(taken, len);
            self.consumed += len as u64;
        }
    }

    fn say(&mut self, len: usize) {
        if self.output_end.is_none()
            && let Ok(sent) = send(&self.ours, &vec![1; len], SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
        {
            self.written += sent as u64;
        }
    }

    fn end(&mut self) -> bool {
        self.output_end = Some(self.written);
        rustix::net::shutdown(&self.ours, Shutdown::Write).is_ok()
    }

    fn recovered(&self) -> Recovered {
        recover(self.ours.as_fd(), self.intent, self.output_end).unwrap()
    }

    fn counters(&self) -> Counters {
        Counters::of(self.ours.as_fd()).unwrap()
    }

    /// Waits until the kernel has finished what was done last.
    fn settled(&self, is: impl Fn(&Counters) -> bool) -> Recovered {
        let deadline = clock::now() + Duration::from_secs(5);
        while !is(&self.counters()) {
            assert!(clock::now() < deadline, "never came: {:?}", self.counters());
            std::thread::yield_now();
        }
        self.recovered()
    }

    #[track_caller]
    fn expect(&self, state: State, fin_received: bool) {
        let recovered = self.settled(|counters| counters.state == state);
        let expected = Recovered {
            consumed: self.consumed,
            fin_received,
            closed: state == State::Closed,
            written: self.written,
            output_shut: self.output_end.is_some(),
        };
        // Read twice: reading changes nothing.
        assert_eq!([recovered, self.recovered()], [expected, expected]);
    }
}

/// Every way to have read: nothing was there, nothing read, announced but not read, some, all but one, all.
fn every_reading(check: impl Fn(&mut Pair, &dyn Fn(&mut Pair))) {
    let readings: [fn(&mut Pair); 6] = [
        |_| {},
        |pair| pair.peer_says(100),
        |pair| {
            pair.peer_says(100);
            pair.take(30);
            pair.intend(20);
        },
        |pair| {
            pair.peer_says(100);
            pair.take(99);
        },
        |pair| {
            pair.peer_says(100);
            pair.take(99);
            pair.intend(1);
        },
        |pair| {
            pair.peer_says(100);
            pair.take(100);
        },
    ];
    for reading in readings {
        // Bytes before the FIN, and the FIN, at once or one after the other: the kernel may merge them.
        for late in [false, true] {
            let mut pair = Pair::new();
            if late {
                check(&mut pair, &reading);
            } else {
                reading(&mut pair);
                check(&mut pair, &|_| {});
            }
        }
    }
}

#[test]
fn an_open_connection_counts_what_was_read_and_written() {
    every_reading(|pair, read| {
        pair.say(1000);
        read(pair);
        pair.expect(State::Open, false);
        pair.peer_hears(500);
        pair.expect(State::Open, false);
    });
}

#[test]
fn a_fin_from_sshd_is_not_a_byte() {
    every_reading(|pair, read| {
        read(pair);
        pair.peer_ends();
        pair.say(10);
        pair.expect(State::PeerEnded, true);
        pair.take(50);
        pair.expect(State::PeerEnded, true);
        pair.take(50);
        pair.expect(State::PeerEnded, true);
    });
}

#[test]
fn our_own_shutdown_is_not_a_byte() {
    every_reading(|pair, read| {
        pair.say(100);
        pair.end();
        pair.expect(State::WeEnded, false);
        read(pair);
        pair.expect(State::WeEnded, false);
        pair.take(50);
        pair.expect(State::WeEnded, false);
    });
}

#[test]
fn ended_by_us_and_then_by_sshd_it_is_all_known_afterwards() {
    every_reading(|pair, read| {
        pair.say(100);
        pair.end();
        read(pair);
        pair.peer_ends();
        // TIME_WAIT, which is reported as CLOSE.
        pair.expect(State::Closed, true);
        pair.take(u64::MAX);
        pair.expect(State::Closed, true);
    });
}

#[test]
fn ended_by_sshd_and_then_by_us_it_is_all_known_afterwards() {
    every_reading(|pair, read| {
        read(pair);
        pair.peer_ends();
        pair.say(100);
        pair.end();
        pair.expect(State::Closed, true);
        pair.take(u64::MAX);
        pair.expect(State::Closed, true);
    });
}

#[test]
fn our_end_that_sshd_cannot_take_yet_is_counted() {
    let mut pair = Pair::new();
    while {
        let before = pair.written;
        pair.say(1 << 20);
        pair.written > before
    } {}
    pair.end();
    pair.expect(State::WeEnded, false);
    pair.peer_says(10);
    pair.peer_ends();
    // CLOSING or LAST_ACK: our FIN waits behind bytes that the peer has no room for.
    pair.expect(State::BothEnded, true);
    while pair.peer_hears(1 << 20) > 0 || pair.counters().state != State::Closed {}
    pair.expect(State::Closed, true);
}

#[test]
fn a_reset_is_not_an_end() {
    every_reading(|pair, read| {
        pair.say(100);
        read(pair);
        pair.peer_resets();
        pair.expect(State::Closed, false);
        pair.take(u64::MAX);
        pair.expect(State::Closed, false);
        assert_eq!(pair.counters().input_end(pair.consumed), Some(InputEnd::Reset));
    });
}

#[test]
fn a_close_with_unread_bytes_is_a_reset() {
    every_reading(|pair, read| {
        pair.say(100);
        read(pair);
        pair.peer_closes();
        pair.expect(State::Closed, false);
    });
}

#[test]
fn a_reset_after_an_end_leaves_the_end() {
    every_reading(|pair, read| {
        read(pair);
        pair.peer_ends();
        pair.expect(State::PeerEnded, true);
        pair.say(100);
        pair.peer_resets();
        pair.expect(State::Closed, true);
        pair.take(u64::MAX);
        pair.expect(State::Closed, true);
        assert_eq!(pair.counters().input_end(pair.consumed), Some(InputEnd::Fin));
    });
}

#[test]
fn a_reset_after_our_own_end_is_known() {
    every_reading(|pair, read| {
        pair.say(100);
        pair.end();
        read(pair);
        pair.peer_resets();
        pair.expect(State::Closed, false);
        pair.take(u64::MAX);
        pair.expect(State::Closed, false);
    });
}

#[test]
fn writing_to_a_closed_sshd_changes_no_count() {
    every_reading(|pair, read| {
        read(pair);
        pair.peer_closes();
        pair.settled(|counters| counters.state != State::Open);
        // The first write is answered by a reset, further ones fail.
        for _ in 0..3 {
            pair.say(100);
        }
        pair.expect(State::Closed, true);
        let shut = pair.end();
        assert!(!shut);
        pair.output_end = None;
        pair.expect(State::Closed, true);
    });
}

#[test]
fn bytes_and_a_fin_in_one_segment_are_told_apart() {
    for taken in [0, 40, 99, 100] {
        let mut pair = Pair::new();
        socket2::SockRef::from(pair.peer()).set_tcp_cork(true).unwrap();
        pair.peer_says(100);
        pair.peer_ends();
        pair.settled(|counters| counters.state == State::PeerEnded);
        pair.take(taken);
        pair.expect(State::PeerEnded, true);
        pair.end();
        pair.expect(State::Closed, true);
        pair.take(u64::MAX);
        pair.expect(State::Closed, true);
    }
}

#[test]
fn urgent_bytes_upset_no_count_once_they_are_inline() {
    let mut pair = Pair::new();
    socket2::SockRef::from(&pair.ours).set_out_of_band_inline(true).unwrap();
    pair.peer_says(10);
    socket2::SockRef::from(pair.peer()).send_out_of_band(b"!").unwrap();
    pair.peer_says(10);
    pair.settled(|counters| counters.received == 21);
    while pair.consumed < 21 {
        pair.intend(u64::MAX);
        let (taken, _) = recv(&pair.ours, &mut [0; 64], RecvFlags::DONTWAIT).unwrap();
        pair.consumed += taken as u64;
        pair.expect(State::Open, false);
    }
    pair.peer_resets();
    pair.expect(State::Closed, false);
}

#[test]
fn an_end_that_was_announced_and_not_done_is_not_done() {
    let mut pair = Pair::new();
    pair.say(100);
    let recovered = recover(pair.ours.as_fd(), 0, Some(100)).unwrap();
    assert_eq!((recovered.written, recovered.output_shut), (100, false));
    let recovered = recover(pair.ours.as_fd(), 0, Some(150)).unwrap();
    assert_eq!((recovered.written, recovered.output_shut), (100, false));
    pair.peer_resets();
    let recovered = recover(pair.ours.as_fd(), 0, Some(100)).unwrap();
    assert_eq!((recovered.written, recovered.output_shut), (100, false));
}

#[test]
fn counts_that_nobody_announced_are_refused() {
    let mut pair = Pair::new();
    pair.peer_says(10);
    pair.take(10);
    assert!(matches!(
        recover(pair.ours.as_fd(), 9, None),
        Err(CountersError::ReadBeyondIntent {
            consumed: 10,
            intent: 9
        })
    ));
    pair.say(10);
    assert!(matches!(
        recover(pair.ours.as_fd(), 10, Some(5)),
        Err(CountersError::WrittenBeyondEnd { .. })
    ));
    assert!(matches!(
        recover(pair.ours.as_fd(), 10, Some(9)),
        Err(CountersError::WrittenBeyondEnd { .. })
    ));
    pair.end();
    assert!(matches!(
        recover(pair.ours.as_fd(), 10, None),
        Err(CountersError::ShutUnannounced)
    ));
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    assert!(matches!(
        recover(listener.as_fd(), 0, None),
        Err(CountersError::NotConnected { state: 10 } | CountersError::Read(_))
    ));
}

#[test]
fn counts_are_right_while_sshd_talks_and_listens() {
    let mut pair = Pair::new();
    let peer = pair.peer.take().unwrap();
    peer.set_nonblocking(false).unwrap();
    let (mut talker, mut listener) = (peer.try_clone().unwrap(), peer);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let bytes = vec![3; 70_000];
            for _ in 0..2_000 {
                if std::io::Write::write_all(&mut talker, &bytes).is_err() {
                    break;
                }
            }
            talker.shutdown(std::net::Shutdown::Write).unwrap();
        });
        scope.spawn(move || std::io::copy(&mut listener, &mut std::io::sink()).unwrap());
        let mut views = 0;
        while pair.consumed < 140_000_000 {
            pair.take(100_000);
            pair.say(50_000);
            let recovered = pair.recovered();
            assert_eq!((recovered.consumed, recovered.written), (pair.consumed, pair.written));
            views += 1;
        }
        assert!(views > 1000);
        pair.end();
        pair.expect(State::Closed, true);
    });
}

#[derive(Clone, Debug)]
enum Step {
    PeerSays(usize),
    PeerHears(usize),
    PeerEnds,
    PeerCloses,
    PeerResets,
    Take(u64),
    Intend(u64),
    Say(usize),
    End,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1usize..30_000).prop_map(Step::PeerSays),
        2 => (1usize..3_000).prop_map(Step::PeerHears),
        1 => Just(Step::PeerEnds),
        1 => Just(Step::PeerCloses),
        1 => Just(Step::PeerResets),
        6 => (1u64..40_000).prop_map(Step::Take),
        2 => (1u64..40_000).prop_map(Step::Intend),
        4 => (1usize..30_000).prop_map(Step::Say),
        1 => Just(Step::End),
    ]
}

impl Pair {
    fn apply(&mut self, step: &Step) {
        match *step {
            Step::Take(most) => self.take(most),
            Step::Intend(most) => {
                self.intend(most);
            }
            Step::Say(len) => self.say(len),
            Step::End if self.output_end.is_none() => {
                if !self.end() {
                    self.output_end = None;
                }
            }
            _ if self.peer.is_none() => {}
            Step::PeerSays(len) => {
                let _ = send(self.peer(), &vec![7; len], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            }
            Step::PeerHears(most) => {
                self.peer_hears(most);
            }
            Step::PeerEnds => self.peer_ends(),
            Step::PeerCloses => self.peer_closes(),
            Step::PeerResets => self.peer_resets(),
            Step::End => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn whatever_happens_the_counts_are_those_of_the_model(steps in proptest::collection::vec(step(), 1..40)) {
        let mut pair = Pair::new();
        let mut fin_seen = false;
        for step in &steps {
            pair.apply(step);
            let recovered = pair.recovered();
            prop_assert_eq!(recovered.consumed, pair.consumed);
            prop_assert_eq!(recovered.written, pair.written);
            prop_assert_eq!(recovered.output_shut, pair.output_end.is_some());
            prop_assert!(recovered.fin_received >= fin_seen, "an end cannot be taken back");
            fin_seen = recovered.fin_received;
            // Without the model: the recovered state must be right whenever recovery succeeds.
            let counters = pair.counters();
            if counters.is_closed() && counters.unread == 0 {
                prop_assert_eq!(pair.consumed, pair.intent);
                prop_assert_eq!(counters.received > pair.intent, fin_seen);
            }
        }
    }
}
