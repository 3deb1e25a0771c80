//! Both halves, connected to an sshd of the test.

use super::super::testing::{MapStore, session};
use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn bytes_come_and_go_and_the_end_is_found_again_and_again() {
    let (_vault, mut kept, mut sshd) = session(&Arc::default()).await;
    sshd.write_all(b"SSH-2.0-test").await.unwrap();
    let mut heard = [0; 7];
    kept.input.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"SSH-2.0");
    kept.output.write_all(b"hello").await.unwrap();
    let mut told = [0; 5];
    sshd.read_exact(&mut told).await.unwrap();
    assert_eq!(&told, b"hello");
    sshd.shutdown().await.unwrap();
    let mut rest = Vec::new();
    kept.input.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"-test");
    for _ in 0..3 {
        assert_eq!(kept.input.read(&mut heard).await.unwrap(), 0);
    }
    kept.output.write_all(b" again").await.unwrap();
    kept.output.shutdown().await.unwrap();
    rest.clear();
    sshd.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b" again");
}

#[tokio::test]
async fn a_reset_is_an_error_and_stays_one() {
    let (_vault, mut kept, mut sshd) = session(&Arc::default()).await;
    sshd.write_all(b"last").await.unwrap();
    kept.output.write_all(b"never read").await.unwrap();
    sshd.readable().await.unwrap();
    drop(sshd);
    let mut heard = [0; 4];
    kept.input.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"last", "what came before the reset is read");
    for _ in 0..3 {
        let error = kept.input.read(&mut heard).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    for _ in 0..3 {
        kept.output.write_all(b"x").await.unwrap_err();
    }
}

#[tokio::test]
async fn dropping_the_halves_tells_sshd_nothing() {
    let store = Arc::new(MapStore::default());
    let (session_store, kept, mut sshd) = session(&store).await;
    drop((kept, session_store));
    let mut byte = [0];
    let heard = tokio::time::timeout(std::time::Duration::from_millis(50), sshd.read(&mut byte)).await;
    assert!(heard.is_err(), "no end, no reset");
}

/// Bytes that depend on their position, so that lost, repeated or moved ones are noticed.
fn pattern(from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64)
        .map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_in_both_directions_at_once_stays_whole() {
    const TOTAL: u64 = 20 << 20;
    let (_vault, mut kept, sshd) = session(&Arc::default()).await;
    let (mut from_us, mut to_us) = sshd.into_split();
    let talk = async {
        for at in (0..TOTAL).step_by(10_000) {
            to_us
                .write_all(&pattern(at, 10_000.min(TOTAL - at) as usize))
                .await
                .unwrap();
        }
        to_us.shutdown().await.unwrap();
    };
    let echo = async {
        let (mut at, mut buffer) = (0, vec![0; 77_777]);
        loop {
            let len = kept.input.read(&mut buffer).await.unwrap();
            if len == 0 {
                break kept.output.shutdown().await.unwrap();
            }
            assert_eq!(buffer[..len], pattern(at, len));
            kept.output.write_all(&buffer[..len]).await.unwrap();
            at += len as u64;
        }
        assert_eq!(at, TOTAL);
    };
    let listen = async {
        let (mut at, mut buffer) = (0, vec![0; 50_000]);
        while let len @ 1.. = from_us.read(&mut buffer).await.unwrap() {
            assert_eq!(buffer[..len], pattern(at, len));
            at += len as u64;
        }
        assert_eq!(at, TOTAL);
    };
    tokio::join!(talk, echo, listen);
}
