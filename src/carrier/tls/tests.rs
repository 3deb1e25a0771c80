use super::*;
use crate::carrier::CloseReason;
use crate::wire::{Answer, Frame, Hello, Offset, Reap, SessionId};
use std::future::poll_fn;
use std::net::Ipv4Addr;
use tokio::net::TcpListener;
use tokio::time::timeout;

const TIME: Duration = Duration::from_secs(5);

/// A dialed carrier, and the server half's end of it.
async fn pair(key: &TlsKey, accept: ServerKey) -> (Result<Dialed, DialError>, Result<Carrier, CarrierError>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = TlsServer::new(key).unwrap();
    let client_key = TlsKey::generate();
    let near = async {
        let stream = connect(address).await.unwrap();
        dial(Box::new(stream), Some(address), &client_key, accept).await
    };
    let far = async {
        let (stream, source) = listener.accept().await.unwrap();
        tune(&stream).unwrap();
        server.handshake(Box::new(stream), source, host().encode()).await
    };
    timeout(TIME, async { tokio::join!(near, far) }).await.expect("in time")
}

fn host() -> crate::wire::Host {
    crate::wire::Host { statements: Vec::new() }
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
    assert!(matches!(error, DialError::Tls(_)) && error.is_definite(), "{error}");
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
        tokio::time::sleep(Duration::from_millis(50)).await;
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
