use super::batching::{BatchingSocket, SEGMENTS_PER_TRANSMIT};
use super::{PolledSocket, bind};
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::transport::quic::{EndpointSecrets, MtuCap, QuicLimits, SESSION_WINDOW, config, gso};
use crate::transport::{NO_NAME, Protocol};
use parking_lot::Mutex;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;

const PACKET: usize = 1000;

/// Bytes that a connection of the test with quinn transfers in each direction.
const BULK: usize = 1 << 20;

const CONNECTIONS: usize = 4;

/// One call of the socket: destination port, and all bytes.
type Sent = (u16, Vec<u8>);

/// A socket that records what is sent.
#[derive(Debug, Default)]
struct RecordingSocket {
    sent: Mutex<Vec<Sent>>,
    is_full: AtomicBool,
}

impl RecordingSocket {
    fn sent(&self) -> Vec<Sent> {
        std::mem::take(&mut self.sent.lock())
    }
}

impl AsyncUdpSocket for RecordingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Always(self))
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.is_full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let sent = (transmit.destination.port(), transmit.contents.to_vec());
        self.sent.lock().push(sent);
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
struct Always(Arc<RecordingSocket>);

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

struct Fixture {
    socket: Arc<RecordingSocket>,
    batching: Arc<BatchingSocket>,
    woken: Arc<Count>,
}

impl Fixture {
    fn new() -> Fixture {
        let socket = Arc::new(RecordingSocket::default());
        let fixture = Fixture {
            batching: BatchingSocket::new(socket.clone()),
            socket,
            woken: Arc::default(),
        };
        fixture.endpoint_turn();
        fixture
    }

    fn endpoint_turn(&self) {
        let waker = Waker::from(self.woken.clone());
        let polled = self
            .batching
            .poll_recv(&mut Context::from_waker(&waker), &mut [], &mut []);
        assert!(polled.is_pending());
    }

    fn is_woken(&self) -> bool {
        self.woken.0.swap(0, Ordering::Relaxed) > 0
    }

    /// Sends packets of equal size; the last may be shorter.
    fn try_send(&self, port: u16, contents: &[u8]) -> io::Result<()> {
        self.batching.try_send(&Transmit {
            destination: (Ipv4Addr::LOCALHOST, port).into(),
            ecn: None,
            contents,
            segment_size: (contents.len() > PACKET).then_some(PACKET),
            src_ip: None,
        })
    }

    fn send(&self, port: u16, fill: u8, len: usize) -> Vec<u8> {
        let contents = vec![fill; len];
        self.try_send(port, &contents).expect("it is accepted");
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
fn full_transmits_are_sent_together_and_in_order() {
    let fixture = Fixture::new();
    assert_eq!(
        fixture.batching.max_transmit_segments(),
        SEGMENTS_PER_TRANSMIT,
        "quinn's transmits are as large as ours"
    );
    let pieces = [1, 2, 3].map(|fill| fixture.send(9, fill, SEGMENTS_PER_TRANSMIT * PACKET));
    assert_eq!(fixture.socket.sent(), [], "more may follow");
    let last = fixture.send(9, 4, 3 * PACKET + 7);
    let all = [&pieces.concat()[..], &last].concat();
    assert_eq!(fixture.socket.sent(), [(9, all)]);
}

#[test]
fn partial_transmit_is_sent_immediately() {
    let fixture = Fixture::new();
    let key = fixture.send(9, 1, 60);
    assert_eq!(fixture.socket.sent(), [(9, key)]);
    let piece = fixture.send(9, 2, SEGMENTS_PER_TRANSMIT * PACKET);
    let key = fixture.send(9, 3, 60);
    assert_eq!(fixture.socket.sent(), [(9, [piece, key].concat())]);
}

#[test]
fn endpoint_is_woken_and_sends_the_batch_at_its_second_poll() {
    let fixture = Fixture::new();
    let piece = fixture.send(9, 1, SEGMENTS_PER_TRANSMIT * PACKET);
    assert!(fixture.is_woken());
    fixture.endpoint_turn();
    assert!(fixture.is_woken() && fixture.socket.sent().is_empty());
    fixture.endpoint_turn();
    assert_eq!(fixture.socket.sent(), [(9, piece)]);
    fixture.endpoint_turn();
    assert!(!fixture.is_woken(), "nothing is pending");
}

#[test]
fn only_equal_packets_are_batched_up_to_the_limit_of_a_call() {
    let fixture = Fixture::new();
    let first = fixture.send(9, 1, SEGMENTS_PER_TRANSMIT * PACKET);
    let other = fixture.send(8, 2, SEGMENTS_PER_TRANSMIT * PACKET);
    assert_eq!(fixture.socket.sent(), [(9, first)]);
    let longer = fixture.send(8, 3, PACKET + 1);
    // Two packets, of which the last is short, may follow. A single longer one may not.
    assert_eq!(fixture.socket.sent(), [(8, [other, longer].concat())]);
    for fill in 0..17 {
        fixture.send(9, fill, SEGMENTS_PER_TRANSMIT * PACKET);
    }
    let sent = fixture.socket.sent();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1.len(), 64 * PACKET);
}

#[test]
fn packets_that_may_not_be_batched_are_sent_singly_after_the_pending_batch() {
    let fixture = Fixture::new();
    let first = fixture.send(9, 1, SEGMENTS_PER_TRANSMIT * PACKET);
    let len = 3 * PACKET + 7;
    gso::set_allowed(len as u64, false);
    let alone = fixture.send(9, 2, len);
    let singles = alone.chunks(PACKET).map(|packet| (9, packet.to_vec()));
    let all: Vec<Sent> = [(9, first)].into_iter().chain(singles).collect();
    assert_eq!(fixture.socket.sent(), all);
    // The permission covers one transmit only.
    let other = fixture.send(9, 3, 2 * PACKET);
    assert_eq!(fixture.socket.sent(), [(9, other)]);
}

#[test]
fn permission_of_a_transmit_that_waits_stays_with_its_connection() {
    let fixture = Fixture::new();
    let poller = || Arc::clone(&fixture.batching).create_io_poller();
    let (mut slow, mut other) = (poller(), poller());
    let waker = Waker::from(fixture.woken.clone());
    let mut cx = Context::from_waker(&waker);
    let len = 3 * PACKET;
    fixture.socket.is_full.store(true, Ordering::Relaxed);
    gso::set_allowed(len as u64, false);
    assert!(slow.as_mut().poll_writable(&mut cx).is_pending());
    assert!(slow.as_mut().poll_writable(&mut cx).is_pending());
    fixture.socket.is_full.store(false, Ordering::Relaxed);
    // Another connection sends a transmit of the same length, which may be batched.
    gso::set_allowed(len as u64, true);
    assert!(other.as_mut().poll_writable(&mut cx).is_ready());
    let batch = fixture.send(9, 1, len);
    assert_eq!(fixture.socket.sent(), [(9, batch)]);
    assert!(slow.as_mut().poll_writable(&mut cx).is_ready());
    // If the socket is full nevertheless, quinn polls once more.
    fixture.socket.is_full.store(true, Ordering::Relaxed);
    assert!(!fixture.takes(9, len));
    fixture.socket.is_full.store(false, Ordering::Relaxed);
    assert!(slow.as_mut().poll_writable(&mut cx).is_ready());
    let alone = fixture.send(9, 2, len);
    let singles: Vec<Sent> = alone.chunks(PACKET).map(|packet| (9, packet.to_vec())).collect();
    assert_eq!(fixture.socket.sent(), singles);
}

/// A real socket that checks what [`gso`] relies on.
#[derive(Debug)]
struct CheckingSocket {
    batching: Arc<dyn AsyncUdpSocket>,
    batches: Arc<AtomicUsize>,
}

impl AsyncUdpSocket for CheckingSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.batching).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if transmit.segment_size.is_some() {
            assert_eq!(
                gso::next_length(),
                Some(transmit.contents.len() as u64),
                "the permission is for this transmit"
            );
            let count = self.batches.fetch_add(1, Ordering::Relaxed);
            if count.is_multiple_of(3) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        self.batching.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.batching.poll_recv(cx, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.batching.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.batching.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.batching.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.batching.may_fragment()
    }
}

const PROTOCOL: Protocol = Protocol {
    alpn: b"test",
    uni_streams: 0,
    bidi_streams: 1,
    stream_window: SESSION_WINDOW,
    receive_window: SESSION_WINDOW,
    send_window: SESSION_WINDOW.into_inner(),
    datagrams: false,
    keep_alive: None,
};

#[tokio::test]
async fn quinn_informs_the_controller_of_every_batch_just_before_it_sends_it() {
    let (key, batches) = (TlsKey::generate(), Arc::<AtomicUsize>::default());
    let local = (Ipv4Addr::LOCALHOST, 0).into();
    let checking = |server| {
        let socket = CheckingSocket {
            batching: BatchingSocket::new(PolledSocket::new(bind(local).unwrap()).unwrap()),
            batches: Arc::clone(&batches),
        };
        let runtime = Arc::new(quinn::TokioRuntime);
        quinn::Endpoint::new_with_abstract_socket(config::client_endpoint(), server, Arc::new(socket), runtime).unwrap()
    };
    let secrets = EndpointSecrets::new([1; 32]).of_listener(local);
    let server = checking(Some(
        config::server(&key, &secrets, &PROTOCOL, &QuicLimits::default()).unwrap(),
    ));
    let client = checking(None);
    let to = server.local_addr().unwrap();
    // They send on the same threads.
    let server_side = async {
        let mut all = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let connection = server.accept().await.unwrap().await.unwrap();
            all.spawn(async move {
                let (up, down) = connection.accept_bi().await.unwrap();
                exchange(up, down).await;
                connection.closed().await;
            });
        }
        all.join_all().await;
    };
    let client_side = async {
        let mut all = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let config = config::client(&key, ServerKey::Any, &PROTOCOL, MtuCap::default()).unwrap();
            let connection = client.connect_with(config, to, NO_NAME).unwrap().await.unwrap();
            all.spawn(async move {
                let (up, down) = connection.open_bi().await.unwrap();
                exchange(up, down).await;
                connection.close(0u32.into(), b"");
            });
        }
        all.join_all().await;
    };
    timeout(Duration::from_secs(60), async {
        tokio::join!(client_side, server_side)
    })
    .await
    .expect("the transfers end");
    assert!(batches.load(Ordering::Relaxed) > 100, "too few batches for a result");
}

/// Transfers [`BULK`] bytes in each direction.
async fn exchange(mut up: quinn::SendStream, mut down: quinn::RecvStream) {
    let sent = async {
        up.write_all(&vec![7; BULK]).await.unwrap();
        up.finish().unwrap();
        up.stopped().await.unwrap();
    };
    let ((), received) = tokio::join!(sent, down.read_to_end(BULK));
    assert_eq!(received.unwrap().len(), BULK);
}

#[test]
fn without_an_endpoint_nothing_is_batched() {
    let socket = Arc::new(RecordingSocket::default());
    let fixture = Fixture {
        batching: BatchingSocket::new(socket.clone()),
        socket,
        woken: Arc::default(),
    };
    let piece = fixture.send(9, 1, SEGMENTS_PER_TRANSMIT * PACKET);
    assert_eq!(fixture.socket.sent(), [(9, piece)]);
}

#[test]
fn packets_that_do_not_fit_the_socket_buffer_are_sent_later() {
    let fixture = Fixture::new();
    let piece = fixture.send(9, 1, SEGMENTS_PER_TRANSMIT * PACKET);
    fixture.socket.is_full.store(true, Ordering::Relaxed);
    let key = fixture.send(9, 2, 60);
    fixture.endpoint_turn();
    fixture.endpoint_turn();
    assert_eq!(fixture.socket.sent(), []);
    assert!(!fixture.takes(8, 60));
    // Nothing may follow a short packet: the kernel splits the batch at multiples of the packet
    // size.
    assert!(!fixture.takes(9, 60) && !fixture.takes(9, SEGMENTS_PER_TRANSMIT * PACKET));
    fixture.socket.is_full.store(false, Ordering::Relaxed);
    fixture.endpoint_turn();
    assert_eq!(fixture.socket.sent(), [(9, [piece, key].concat())]);
}

#[tokio::test]
async fn polled_socket_receives_every_packet_and_becomes_writable_again() {
    let here = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let there = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let polled = PolledSocket::new(here).unwrap();
    let address = polled.local_addr().unwrap();
    let mut buffer = vec![0; 2000];
    for round in 0..50u8 {
        there.send_to(&[round; 3], address).unwrap();
        let mut meta = [RecvMeta::default()];
        let heard = poll_fn(|cx| polled.poll_recv(cx, &mut [IoSliceMut::new(&mut buffer)], &mut meta));
        let count = timeout(Duration::from_secs(5), heard)
            .await
            .expect("the packet is received")
            .unwrap();
        assert_eq!((count, meta[0].len, buffer[0]), (1, 3, round));
    }
    polled.pretend_full();
    let mut room = Arc::clone(&polled).create_io_poller();
    let found = timeout(Duration::from_secs(5), poll_fn(|cx| room.as_mut().poll_writable(cx))).await;
    assert!(found.expect("the kernel has room").is_ok());
}
