//! A malicious relay. `BOWLINE_FAULT=relay-tampers=N` tampers with every Nth piece of ciphertext, in turn in each of
//! the ways in [`KINDS`]. `relay-misleads=N` connects every Nth client to a server half that it did not ask for.
//! `relay-records=FILE` changes nothing, and appends all traffic to an existing file.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

/// Flips a bit; sends the piece twice; sends it after the next piece; sends the previous piece of any stream and
/// direction in its place; inserts a random TLS record before it.
const KINDS: [&str; 5] = ["flips", "replays", "reorders", "swaps", "injects"];

/// The requested fault and its value.
fn asked() -> Option<&'static (String, String)> {
    static ASKED: OnceLock<Option<(String, String)>> = OnceLock::new();
    let read = || {
        let fault = std::env::var("BOWLINE_FAULT").ok()?;
        let (kind, value) = fault.strip_prefix("relay-")?.split_once('=')?;
        Some((kind.to_owned(), value.to_owned()))
    };
    ASKED.get_or_init(read).as_ref()
}

/// If it is due now: how often it was due before.
fn due(count: &AtomicU64, every: &str) -> Option<u64> {
    let (every, count) = (every.parse().ok()?, count.fetch_add(1, Ordering::Relaxed) + 1);
    count.is_multiple_of(every).then(|| count / every - 1)
}

/// The bytes to forward instead of `piece`; `None` for the piece itself.
pub(crate) fn tamper(piece: &[u8]) -> Option<Vec<u8>> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    thread_local! {
        static LAST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        static HELD: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
    }
    let (kind, value) = asked()?;
    if kind == "records" {
        record(value, piece);
        return None;
    }
    if let Some(held) = HELD.take() {
        return Some([piece, &held].concat());
    }
    let before = LAST.replace(piece.to_vec());
    if kind != "tampers" {
        return None;
    }
    let kind = KINDS[due(&COUNT, value)? as usize % KINDS.len()];
    warn!("this relay is malicious: it {kind}");
    match kind {
        "flips" => {
            let mut flipped = piece.to_vec();
            flipped[piece.len() / 2] ^= 1;
            Some(flipped)
        }
        "replays" => Some(piece.repeat(2)),
        "reorders" => {
            HELD.set(Some(piece.to_vec()));
            Some(Vec::new())
        }
        "swaps" => Some(before),
        // A TLS 1.3 record of 32 bytes of application data (RFC 8446 section 5.2).
        _ => Some([&[0x17, 3, 3, 0, 32], &[0x5a; 32][..], piece].concat()),
    }
}

/// Whether this client is to be misdirected.
pub(crate) fn misleads() -> bool {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let misleads = asked().is_some_and(|(kind, value)| kind == "misleads" && due(&COUNT, value).is_some());
    if misleads {
        warn!("this relay is malicious: it misleads");
    }
    misleads
}

fn record(path: &str, piece: &[u8]) {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    let open = || OpenOptions::new().append(true).open(path).ok();
    if let Some(mut file) = FILE.get_or_init(open).as_ref() {
        let _ = file.write_all(piece);
    }
}
