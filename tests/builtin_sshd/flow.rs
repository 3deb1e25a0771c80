//! Many bytes, and readers that do not keep up.

use std::io::{Read, Write};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::{Server, assert_success, noise, text};

const MIB: usize = 1024 * 1024;

#[test]
fn sixty_four_mebibytes_go_through_cat_and_come_back_the_same() {
    let server = Server::start();
    let sent = noise(64 * MIB);
    let output = server.run(&[], "cat", &sent);
    assert_success(&output);
    assert!(
        output.stdout == sent,
        "{} of {} bytes, or others",
        output.stdout.len(),
        sent.len()
    );
}

#[test]
fn changing_keys_on_the_way_loses_nothing() {
    let server = Server::start();
    let sent = noise(16 * MIB);
    let output = server.run(&["-o", "RekeyLimit=1M"], "cat", &sent);
    assert_success(&output);
    assert!(
        output.stdout == sent,
        "{} of {} bytes, or others",
        output.stdout.len(),
        sent.len()
    );
}

/// Writes without end; the count stands still once the far end holds the writer back.
fn pour(mut into: impl Write + Send + 'static, bytes: Vec<u8>) -> (Arc<AtomicUsize>, thread::JoinHandle<()>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let writer = thread::spawn(move || {
        for chunk in bytes.chunks(64 * 1024) {
            if into.write_all(chunk).is_err() {
                return;
            }
            counter.fetch_add(chunk.len(), Ordering::Relaxed);
        }
    });
    (count, writer)
}

/// The count once it has stood still for half a second.
fn settled(count: &AtomicUsize) -> usize {
    let mut last = usize::MAX;
    loop {
        thread::sleep(Duration::from_millis(500));
        let now = count.load(Ordering::Relaxed);
        if now == last && now > 0 {
            return now;
        }
        last = now;
    }
}

#[test]
fn a_client_that_stops_reading_stops_the_program_and_goes_on_later() {
    let server = Server::start();
    let mut child = server
        .ssh(&[], "cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let sent = noise(64 * MIB);
    let (count, writer) = pour(child.stdin.take().unwrap(), sent.clone());
    // Both directions are full now: whoever waits for the other would wait for ever.
    let held_back_at = settled(&count);
    assert!(
        held_back_at < 40 * MIB,
        "{held_back_at} bytes taken for a client that reads nothing"
    );
    let mut received = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut received).unwrap();
    writer.join().unwrap();
    assert!(child.wait().unwrap().success());
    assert!(
        received == sent,
        "{} of {} bytes, or others",
        received.len(),
        sent.len()
    );
}

#[test]
fn a_program_that_does_not_read_disturbs_no_other_session() {
    let server = Server::start();
    let control = format!("ControlPath={}", server.path("control").display());
    let mut stuck = server.start_ssh(&["-M", "-o", &control], "echo ready; sleep 1000");
    let (count, _writer) = pour(stuck.child.stdin.take().unwrap(), noise(64 * MIB));
    let held_back_at = settled(&count);
    assert!(
        held_back_at < 40 * MIB,
        "{held_back_at} bytes taken for a program that reads nothing"
    );
    let output = server.run(&["-o", &control], "head -c 20000000 /dev/zero | wc -c; cat", b"typed");
    assert_eq!(text(&output.stdout), "20000000\ntyped");
}
