//! Feeds the seeds of a target, and inputs that are near them, to the target: in an ordinary test, without a fuzzer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

/// Most places of a seed that are changed.
const MAX_PLACES: usize = 300;

/// Feeds each seed, its beginnings, and the seed with one byte changed.
pub(crate) fn replay(target: &str, feed: fn(&[u8])) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|folder| folder.join("fuzz/make-seeds"))
        .find(|script| script.exists())
        .expect("fuzz/make-seeds");
    let made = Command::new(script).arg(target).output().expect("bash");
    let errors = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{errors}");
    let seeds: Vec<Vec<u8>> = String::from_utf8_lossy(&made.stdout).lines().map(bytes).collect();
    assert!(!seeds.is_empty(), "no seeds: {errors}");
    for seed in seeds {
        try_input(&seed, feed);
        for at in (0..seed.len()).step_by(seed.len() / MAX_PLACES + 1) {
            try_input(&seed[..at], feed);
            let mut changed = seed.clone();
            for byte in [0, b'\n', b' ', b'"', 0x7f, 0xff, seed[at] ^ 1, seed[at] ^ 0x80] {
                changed[at] = byte;
                try_input(&changed, feed);
            }
        }
    }
}

fn try_input(input: &[u8], feed: fn(&[u8])) {
    if catch_unwind(AssertUnwindSafe(|| feed(input))).is_err() {
        panic!("the input is {}", input.escape_ascii());
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks_exact(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.map(|pair| byte(pair).expect("hexadecimal")).collect()
}
