//! What a malicious relay does to the ciphertext that it carries: `BOWLINE_FAULT=relay-FAULT=N` does it to every Nth piece.
//!
//! FAULT is `flips` (a bit of it), `replays` (the piece comes twice), `reorders` (it comes after the next piece),
//! `swaps` (it is replaced by the one taken before, of whichever stream and direction that was), or `injects` (a
//! TLS record of noise before it). `relay-records=FILE` changes nothing and writes all of it down, in a file that there is; `relay-misleads=N` leads
//! every Nth client to a server half that it did not ask for.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

/// What is asked for, and at each how manieth.
fn asked() -> Option<&'static (String, String)> {
    static ASKED: OnceLock<Option<(String, String)>> = OnceLock::new();
    let read = || {
        let fault = std::env::var("BOWLINE_FAULT").ok()?;
        let (kind, value) = fault.strip_prefix("relay-")?.split_once('=')?;
        Some((kind.to_owned(), value.to_owned()))
    };
    ASKED.get_or_init(read).as_ref()
}

fn is_due(count: &AtomicU64, every: &str) -> bool {
    let every = every.parse().unwrap_or(u64::MAX);
    let is_due = (count.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(every);
    if is_due {
        warn!("this relay is malicious, as it was told to be");
    }
    is_due
}

/// What goes on in place of a piece; `None`: the piece itself.
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
    if kind == "misleads" || !is_due(&COUNT, value) {
        return None;
    }
    match kind.as_str() {
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
        // Application data of TLS 1.3 (RFC 8446 section 5.2), 32 bytes of it.
        "injects" => Some([&[0x17, 3, 3, 0, 32], &[0x5a; 32][..], piece].concat()),
        _ => None,
    }
}

/// Whether this client is led astray.
pub(crate) fn misleads() -> bool {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    asked().is_some_and(|(kind, value)| kind == "misleads" && is_due(&COUNT, value))
}

fn record(path: &str, piece: &[u8]) {
    static FILE: OnceLock<Option<File>> = OnceLock::new();
    let open = || OpenOptions::new().append(true).open(path).ok();
    if let Some(mut file) = FILE.get_or_init(open).as_ref() {
        let _ = file.write_all(piece);
    }
}
