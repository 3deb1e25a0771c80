use super::joining::{Joining, PIECE};
use super::{Polled, bind};
use crate::carrier::quic::departure;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::time::timeout;

const PACKET: usize = 1000;

/// What left a socket in one call: to which port, and all bytes.
type Sent = (u16, Vec<u8>);

/// A socket that only notes what is sent.
#[derive(Debug, Default)]
struct Notebook {
    sent: Mutex<Vec<Sent>>,
    is_full: AtomicBool,
}

impl Notebook {
    fn sent(&self) -> Vec<Sent> {
        std::mem::take(&mut self.sent.lock().unwrap())
    }
}

impl AsyncUdpSocket for Notebook {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Always(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let sent = (transmit.destination.port(), transmit.contents.to_vec());
        self.sent.lock().unwrap().push(sent);
        Ok(())
    }

    fn poll_recv(&self, _: &mut Context<'_>, _: &mut [IoSliceMut<'_>], _: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok((Ipv4Addr::LOCALHOST, 1).into())
    }

    fn max_transmit_segments(&self) -> usize {
        64
    }
}

#[derive(Debug)]
struct Always(Arc<Notebook>);

impl UdpPoller for Always {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.is_full.load(Ordering::Relaxed) {
            true => Poll::Pending,
            false => Poll::Ready(Ok(())),
        }
    }
}

/// Counts how often the endpoint's task is woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Stand {
    notebook: Arc<Notebook>,
    joining: Arc<Joining>,
    woken: Arc<Count>,
}

impl Stand {
    fn new() -> Stand {
        let notebook = Arc::new(Notebook::default());
        let stand = Stand {
            joining: Joining::new(notebook.clone()),
            notebook,
            woken: Arc::default(),
        };
        stand.endpoint_turn();
        stand
    }

    fn endpoint_turn(&self) {
        let waker = Waker::from(self.woken.clone());
        let polled = self
            .joining
            .poll_recv(&mut Context::from_waker(&waker), &mut [], &mut []);
        assert!(polled.is_pending());
    }

    fn is_woken(&self) -> bool {
        self.woken.0.swap(0, Ordering::Relaxed) > 0
    }

    /// Packets of which the last may be shorter.
    fn try_send(&self, port: u16, contents: &[u8]) -> io::Result<()> {
        self.joining.try_send(&Transmit {
            destination: (Ipv4Addr::LOCALHOST, port).into(),
            ecn: None,
            contents,
            segment_size: (contents.len() > PACKET).then_some(PACKET),
            src_ip: None,
        })
    }

    fn send(&self, port: u16, fill: u8, len: usize) -> Vec<u8> {
        let contents = vec![fill; len];
        self.try_send(port, &contents).expect("it is taken");
        contents
    }

    fn takes(&self, port: u16, len: usize) -> bool {
        match self.try_send(port, &vec![9; len]) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                false
            }
        }
    }
}

#[test]
fn full_pieces_leave_together_and_in_order() {
    let stand = Stand::new();
    assert_eq!(stand.joining.max_transmit_segments(), PIECE, "quinn's pieces are ours");
    let pieces = [1, 2, 3].map(|fill| stand.send(9, fill, PIECE * PACKET));
    assert_eq!(stand.notebook.sent(), [], "more may follow");
    let last = stand.send(9, 4, 3 * PACKET + 7);
    let all = [&pieces.concat()[..], &last].concat();
    assert_eq!(stand.notebook.sent(), [(9, all)]);
}

#[test]
fn what_is_no_full_piece_leaves_at_once() {
    let stand = Stand::new();
    let key = stand.send(9, 1, 60);
    assert_eq!(stand.notebook.sent(), [(9, key)]);
    let piece = stand.send(9, 2, PIECE * PACKET);
    let key = stand.send(9, 3, 60);
    assert_eq!(stand.notebook.sent(), [(9, [piece, key].concat())]);
}

#[test]
fn the_endpoint_is_woken_for_what_is_held_and_sends_it_at_its_second_turn() {
    let stand = Stand::new();
    let piece = stand.send(9, 1, PIECE * PACKET);
    assert!(stand.is_woken());
    stand.endpoint_turn();
    assert!(stand.is_woken() && stand.notebook.sent().is_empty());
    stand.endpoint_turn();
    assert_eq!(stand.notebook.sent(), [(9, piece)]);
    stand.endpoint_turn();
    assert!(!stand.is_woken(), "nothing is held");
}

#[test]
fn only_what_is_alike_leaves_together_and_no_more_than_fits_one_call() {
    let stand = Stand::new();
    let first = stand.send(9, 1, PIECE * PACKET);
    let other = stand.send(8, 2, PIECE * PACKET);
    assert_eq!(stand.notebook.sent(), [(9, first)]);
    let longer = stand.send(8, 3, PACKET + 1);
    // Two packets, of which the last is short: they may follow. A single longer one may not.
    assert_eq!(stand.notebook.sent(), [(8, [other, longer].concat())]);
    for fill in 0..17 {
        stand.send(9, fill, PIECE * PACKET);
    }
    let sent = stand.notebook.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1.len(), 64 * PACKET);
}

#[test]
fn what_may_not_be_joined_leaves_packet_by_packet_behind_what_is_held() {
    let stand = Stand::new();
    let first = stand.send(9, 1, PIECE * PACKET);
    let len = 3 * PACKET + 7;
    departure::announce(len as u64, false);
    let alone = stand.send(9, 2, len);
    let singles = alone.chunks(PACKET).map(|packet| (9, packet.to_vec()));
    let all: Vec<Sent> = [(9, first)].into_iter().chain(singles).collect();
    assert_eq!(stand.notebook.sent(), all);
    // The word is of one transmit alone.
    let other = stand.send(9, 3, 2 * PACKET);
    assert_eq!(stand.notebook.sent(), [(9, other)]);
}

#[test]
fn without_an_endpoint_nothing_is_held() {
    let notebook = Arc::new(Notebook::default());
    let stand = Stand {
        joining: Joining::new(notebook.clone()),
        notebook,
        woken: Arc::default(),
    };
    let piece = stand.send(9, 1, PIECE * PACKET);
    assert_eq!(stand.notebook.sent(), [(9, piece)]);
}

#[test]
fn what_the_kernel_has_no_room_for_leaves_later_and_whole() {
    let stand = Stand::new();
    let piece = stand.send(9, 1, PIECE * PACKET);
    stand.notebook.is_full.store(true, Ordering::Relaxed);
    let key = stand.send(9, 2, 60);
    stand.endpoint_turn();
    stand.endpoint_turn();
    assert_eq!(stand.notebook.sent(), []);
    assert!(!stand.takes(8, 60));
    // Nor may anything follow a short one: whoever cuts it up counts bytes.
    assert!(!stand.takes(9, 60) && !stand.takes(9, PIECE * PACKET));
    stand.notebook.is_full.store(false, Ordering::Relaxed);
    stand.endpoint_turn();
    assert_eq!(stand.notebook.sent(), [(9, [piece, key].concat())]);
}

#[tokio::test]
async fn a_polled_socket_hears_every_packet_and_finds_room_again() {
    let here = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let there = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let polled = Polled::new(here).unwrap();
    let address = polled.local_addr().unwrap();
    let mut buffer = vec![0; 2000];
    for round in 0..50u8 {
        there.send_to(&[round; 3], address).unwrap();
        let mut meta = [RecvMeta::default()];
        let heard = poll_fn(|cx| polled.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta));
        let count = timeout(Duration::from_secs(5), heard)
            .await
            .expect("it is heard")
            .unwrap();
        assert_eq!((count, meta[0].len, buffer[0]), (1, 3, round));
    }
    polled.pretend_full();
    let mut room = Arc::clone(&polled).create_io_poller();
    let found = timeout(Duration::from_secs(5), poll_fn(|cx| room.as_mut().poll_writable(cx))).await;
    assert!(found.expect("the kernel has room").is_ok());
}
