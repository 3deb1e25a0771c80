//! What a malicious relay does: `BOWLINE_FAULT=relay-tampers=N` does something else, in turn, to every Nth piece of the
//! ciphertext that it carries: see [`KINDS`]. `relay-misleads=N` leads every Nth client to a server half that it did not ask
//! for; `relay-records=FILE` changes nothing and writes all that passes down, in a file that there is.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::warn;

/// A bit is flipped; the piece comes twice; after the next piece; the one taken before comes in its place, of whichever
/// stream and direction that was; a TLS record of noise comes before it.
const KINDS: [&str; 5] = ["flips", "replays", "reorders", "swaps", "injects"];

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

/// How many times it was due before, if it is due now.
fn due(count: &AtomicU64, every: &str) -> Option<u64> {
    let (every, count) = (every.parse().ok()?, count.fetch_add(1, Ordering::Relaxed) + 1);
    count.is_multiple_of(every).then(|| count / every - 1)
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
        // Application data of TLS 1.3 (RFC 8446 section 5.2), 32 bytes of it.
        _ => Some([&[0x17, 3, 3, 0, 32], &[0x5a; 32][..], piece].concat()),
    }
}

/// Whether this client is led astray.
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
