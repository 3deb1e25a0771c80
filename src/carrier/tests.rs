use super::*;
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::transport::quic::{EndpointSecrets, MtuCap, QuicDialer, QuicLimits, QuicListener, bind};
use crate::transport::tls::{connect, tune};
use crate::wire::{Answer, Hello, Host, Offset, Reap, SessionId};
use std::future::poll_fn;
use std::net::{Ipv4Addr, UdpSocket};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const TIME: Duration = Duration::from_secs(5);

/// A dialed carrier, and the server half's end of it.
async fn pair(key: &TlsKey, accept: ServerKey) -> (Result<Dialed, DialError>, Result<Carrier, CarrierError>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tls_server(key).unwrap();
    let client_key = TlsKey::generate();
    let near = async {
        let stream = connect(address).await.unwrap();
        dial_tls(Box::new(stream), Some(address), &client_key, accept).await
    };
    let far = async {
        let (stream, source) = listener.accept().await.unwrap();
        tune(&stream).unwrap();
        accept_tls(&server, Box::new(stream), source, host().encode()).await
    };
    timeout(TIME, async { tokio::join!(near, far) }).await.expect("in time")
}

fn host() -> Host {
    Host { statements: Vec::new() }
}

fn data(bytes: &'static [u8]) -> Frame {
    Frame::Data {
        offset: Offset::ZERO,
        bytes: Bytes::from_static(bytes),
    }
}

async fn next(carrier: &mut Carrier) -> Result<Frame, CarrierError> {
    timeout(TIME, poll_fn(|cx| carrier.poll_frame(cx)))
        .await
        .expect("in time")
        .map(|heard| heard.frame)
}

async fn send(carrier: &mut Carrier, frame: &Frame) {
    frame.encode(carrier.outbox());
    poll_fn(|cx| carrier.poll_flush(cx)).await.unwrap();
}

async fn both(key: &TlsKey) -> (Carrier, Carrier) {
    let (near, far) = pair(key, ServerKey::Any).await;
    let (near, _) = near.unwrap().host().await.unwrap();
    (near, far.unwrap())
}

#[tokio::test]
async fn soliciting_an_ack_pings_the_peer_if_the_transport_shows_no_acks() {
    let (mut near, mut far) = both(&TlsKey::generate()).await;
    near.solicit_ack(7);
    poll_fn(|cx| near.poll_flush(cx)).await.unwrap();
    assert_eq!(next(&mut far).await.unwrap(), Frame::Ping { token: 7 });
}

#[tokio::test]
async fn both_ends_are_authenticated_and_share_an_exporter() {
    let key = TlsKey::generate();
    let (near, far) = pair(&key, ServerKey::Exactly(key.spki().to_vec())).await;
    let (near, said) = near.unwrap().host().await.unwrap();
    let far = far.unwrap();
    assert_eq!(said, host());
    assert_eq!(near.info().peer_key, key.spki());
    assert_eq!(near.info().exporter, far.info().exporter);
    assert_ne!(near.info().exporter, [0; 32]);
    assert!(crate::identity::raw_key::is_tls_key(&far.info().peer_key));
    assert!(near.rtt().is_some(), "the kernel measures it");
}

#[tokio::test]
async fn another_server_key_than_the_one_of_the_session_is_refused() {
    let (near, _) = pair(
        &TlsKey::generate(),
        ServerKey::Exactly(TlsKey::generate().spki().to_vec()),
    )
    .await;
    let error = near.err().expect("refused");
    assert!(
        matches!(error, DialError::Connect(ConnectError::Tls(_))) && error.is_definite(),
        "{error}"
    );
}

#[tokio::test]
async fn a_hello_to_a_known_server_half_does_not_wait_for_its_host_message() {
    let key = TlsKey::generate();
    let (near, far) = pair(&key, ServerKey::Exactly(key.spki().to_vec())).await;
    let mut far = far.unwrap();
    let hello = Hello::Reap(Reap {
        session: SessionId::new([1; 16]),
        token: [2; 32],
    });
    let answer = async {
        let heard = Hello::decode(far.read_message().await.unwrap()).unwrap();
        far.send_message(Answer::Reaped.encode()).await.unwrap();
        heard
    };
    let (asked, heard) = tokio::join!(near.unwrap().ask(&hello), answer);
    assert_eq!((asked.unwrap().1, heard), (Answer::Reaped, hello));
}

#[tokio::test]
async fn finish_tells_the_peer_and_waits_until_it_has_read_everything() {
    let (mut near, mut far) = both(&TlsKey::generate()).await;
    data(b"last words").encode(near.outbox());
    let (told, heard) = tokio::join!(near.finish(CloseReason::Done), async {
        let frame = next(&mut far).await.unwrap();
        let end = next(&mut far).await.unwrap_err();
        drop(far);
        (frame, end)
    });
    assert!(told, "the peer has read it");
    assert_eq!(heard.0, data(b"last words"));
    assert!(heard.1.is_peer_done(), "{:?}", heard.1);
}

#[tokio::test]
async fn only_a_finished_carrier_closes_cleanly() {
    let (mut near, mut far) = both(&TlsKey::generate()).await;
    near.close(CloseReason::Replaced);
    drop(near);
    let end = next(&mut far).await.unwrap_err();
    assert!(!end.is_peer_done(), "{end:?}");
}

#[tokio::test]
async fn unread_final_bytes_do_not_count_as_delivered() {
    let (mut near, far) = both(&TlsKey::generate()).await;
    data(b"unread").encode(near.outbox());
    // The kernel has them, the program never will.
    let (told, ()) = tokio::join!(near.finish(CloseReason::Done), async {
        sleep(Duration::from_millis(50)).await;
        drop(far);
    });
    assert!(!told);
}

#[tokio::test]
async fn bytes_of_any_size_arrive_in_order() {
    let (mut near, mut far) = both(&TlsKey::generate()).await;
    let sizes = [1, 100, 16 * 1024, 65_536, 3];
    let sent = async {
        for size in sizes {
            let bytes = Bytes::from(vec![size as u8; size]);
            send(
                &mut near,
                &Frame::Data {
                    offset: Offset::ZERO,
                    bytes,
                },
            )
            .await;
        }
    };
    let received = async {
        let mut got = vec![];
        while got.len() < sizes.iter().sum::<usize>() {
            match next(&mut far).await.unwrap() {
                Frame::Data { bytes, .. } => got.extend_from_slice(&bytes),
                other => panic!("{other:?}"),
            }
        }
        got
    };
    let wanted: Vec<u8> = sizes.iter().flat_map(|&size| vec![size as u8; size]).collect();
    assert!(tokio::join!(sent, received).1 == wanted);
    assert!(far.packets_received() > 0);
}

fn listen(socket: UdpSocket, key: &TlsKey) -> QuicListener {
    let secrets = EndpointSecrets::new([1; 32]).of_listener(socket.local_addr().unwrap());
    listen_quic(socket, key, &secrets, &QuicLimits::default()).unwrap()
}

const APART: Duration = Duration::from_millis(100);

#[tokio::test]
async fn packets_after_stop_receiving_are_left_to_the_other_process() {
    let (key, client) = (TlsKey::generate(), TlsKey::generate());
    let socket = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let leaving = listen(socket.try_clone().unwrap(), &key);
    leaving.stop_receiving();
    let address = leaving.local_addr().unwrap();
    let dialer = QuicDialer::new(address, MtuCap::default()).unwrap();
    let mut dialing = Box::pin(dial_quic(
        &dialer,
        address,
        &client,
        ServerKey::Exactly(key.spki().to_vec()),
    ));
    let unheard = timeout(APART, async { tokio::join!(&mut dialing, leaving.accept()) });
    assert!(unheard.await.is_err());
    let next = listen(socket, &key);
    let answer = async {
        let incoming = next.accept().await.expect("it stayed in the kernel's buffer");
        accept_quic(incoming, Bytes::new()).await
    };
    // Nothing is retransmitted within this time (RFC 9002 section 6.2.2).
    let (dialed, greeted) = timeout(Duration::from_millis(900), async { tokio::join!(dialing, answer) })
        .await
        .expect("the next listener answers");
    assert!(dialed.is_ok() && greeted.is_ok());
}

#[tokio::test]
async fn host_message_arrives_although_the_first_flight_is_split() {
    let key = TlsKey::generate();
    let socket = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = listen(socket, &key);
    let path = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (near, far) = (path.local_addr().unwrap(), listener.local_addr().unwrap());
    let host = Host { statements: Vec::new() };
    let said = host.encode();
    // Separate tasks: if they were polled together, each would be woken by the events of the
    // others.
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let client = accept_quic(listener.accept().await.unwrap(), said).await.unwrap();
        // Ends with an error, because the client never opens its stream.
        let _ = client.carrier().await;
    });
    tasks.spawn(async move { hand_on_slowly(&path, far).await });
    let client = async {
        let dialer = QuicDialer::new(near, MtuCap::default()).unwrap();
        let dialed = dial_quic(&dialer, near, &key, ServerKey::Any).await.unwrap();
        dialed.host().await.unwrap().1
    };
    assert_eq!(timeout(Duration::from_secs(3), client).await.expect("in time"), host);
}

#[tokio::test]
async fn soliciting_an_ack_needs_no_answer_if_the_transport_shows_acks() {
    let key = TlsKey::generate();
    let socket = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener = listen(socket, &key);
    let address = listener.local_addr().unwrap();
    let dialer = QuicDialer::new(address, MtuCap::default()).unwrap();
    let near = async {
        let dialed = dial_quic(&dialer, address, &key, ServerKey::Any).await.unwrap();
        let mut near = dialed.host().await.unwrap().0;
        let session = SessionId::new([1; 16]);
        near.send_message(Hello::Standby { session }.encode()).await.unwrap();
        near
    };
    let far = async {
        let host = Host { statements: Vec::new() };
        let met = accept_quic(listener.accept().await.unwrap(), host.encode()).await;
        let mut far = met.unwrap().carrier().await.unwrap();
        far.read_message().await.unwrap();
        far
    };
    let (mut near, mut far) = tokio::join!(near, far);
    // By then everything sent before is acknowledged.
    sleep(APART).await;
    let mark = near.answer_mark();
    near.solicit_ack(7);
    let heard = poll_fn(|cx| far.poll_frame(cx)).await.unwrap();
    assert_eq!(heard.frame, Frame::Pong { token: 7 }, "a frame that needs no answer");
    let moved = async {
        while near.answer_mark() == mark {
            sleep(APART / 20).await;
        }
    };
    timeout(APART * 10, moved).await.expect("an acknowledgement");
}

/// A path that delays the first datagrams, so that each is processed before the next arrives.
async fn hand_on_slowly(path: &tokio::net::UdpSocket, server: SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let mut client = server;
    for count in 0.. {
        let (length, from) = path.recv_from(&mut buffer).await.unwrap();
        let to = if from == server { client } else { server };
        if from != server {
            client = from;
        }
        if count < 2 {
            sleep(APART).await;
        }
        path.send_to(&buffer[..length], to).await.unwrap();
    }
}
