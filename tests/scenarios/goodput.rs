//! How fast bulk really moves over a slow link, login not counted.

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

/// kbit/s as this end sees it, after the first 64 KiB.
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

/// kbit/s as the far end sees it, after the first 64 KiB: it reports when they had come, and when the rest had.
pub fn up(rig: &Rig, bytes: usize) -> f64 {
    let command = format!("head -c {HEAD} >/dev/null; date +%s.%N; wc -c; date +%s.%N");
    let mut command = rig.ssh.ssh(&[HOST, &command]);
    let out = run_with_input(&mut command, random_bytes(51, bytes), LIMIT)
        .expect_code(0)
        .out();
    let lines: Vec<f64> = out.lines().filter_map(|line| line.trim().parse().ok()).collect();
    let [start, rest, end] = lines[..] else {
        panic!("three lines, not {out:?}")
    };
    assert_eq!(rest as usize + HEAD, bytes, "all of it");
    kbits(rest as usize, Duration::from_secs_f64(end - start))
}

fn kbits(bytes: usize, took: Duration) -> f64 {
    bytes as f64 * 8.0 / 1e3 / took.as_secs_f64()
}
