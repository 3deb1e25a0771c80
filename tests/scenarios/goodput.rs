//! How fast bulk really moves over a slow link.

use super::LIMIT;
use crate::support::data::random_bytes;
use crate::support::now;
use crate::support::process::{Running, run_with_input};
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use std::io::Read;
use std::time::Duration;

/// What arrives before the clock starts: ssh hands out whole packets of up to 32 KiB, and the pipes hold some.
const HEAD: usize = 65_536;

/// kbit/s as this end sees it, after the first 64 KiB: login not counted.
pub fn down(rig: &Rig, bytes: usize) -> f64 {
    let command = format!("head -c {bytes} /dev/urandom");
    let (running, _stdin, mut stdout) = Running::start_piped(&mut rig.ssh.ssh(&[HOST, &command]));
    let mut first = vec![0; HEAD];
    stdout
        .read_exact(&mut first)
        .unwrap_or_else(|e| panic!("no transfer: {e}: {}", running.err_so_far()));
    let start = now();
    let mut rest = vec![];
    stdout.read_to_end(&mut rest).expect("our own pipe");
    let took = start.elapsed();
    running.finish(LIMIT).expect_code(0);
    assert_eq!(rest.len() + HEAD, bytes, "all of it");
    kbits(rest.len(), took)
}

/// kbit/s from the start of ssh to its end, login included: what the far end sees on the way comes in bursts, since a
/// repaired loss lets go all that waited behind it.
pub fn up(rig: &Rig, bytes: usize) -> f64 {
    let outcome = run_with_input(&mut rig.ssh.ssh(&[HOST, "wc -c"]), random_bytes(51, bytes), LIMIT).expect_code(0);
    assert_eq!(outcome.out().trim(), bytes.to_string(), "all of it");
    kbits(bytes, outcome.took)
}

fn kbits(bytes: usize, took: Duration) -> f64 {
    bytes as f64 * 8.0 / 1e3 / took.as_secs_f64()
}
