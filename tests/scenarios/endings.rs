//! How sessions end, and what happens when everything is full.

use super::LIMIT;
use crate::support::data::{hash_bytes, random_bytes};
use crate::support::measured;
use crate::support::process::{Running, run_with_input};
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use std::io::{Read, Write};
use std::time::Duration;

/// 255 is what ssh also says when itself fails: it must arrive from the remote command, too.
pub const EXIT_CODES: [i32; 3] = [0, 7, 255];

/// The remote command's exit code is ssh's, and its last words arrive.
pub fn exit_codes_are_kept(rig: &Rig) {
    for code in EXIT_CODES {
        let outcome = rig
            .ssh
            .remote(&format!("echo out; echo err >&2; exit {code}"), LIMIT)
            .expect_code(code);
        assert_eq!(
            (outcome.out().as_str(), outcome.err().as_str()),
            ("out\n", "err\n"),
            "with exit code {code}"
        );
    }
}

/// stdin ends while the remote command still has everything to say.
pub fn half_close_reaches_the_remote_command(rig: &Rig) {
    let bytes = random_bytes(31, 1 << 20);
    // sha256sum answers only once its input has ended.
    let command = "sha256sum; head -c 1000000 /dev/zero; exit 5";
    let outcome = run_with_input(&mut rig.ssh.ssh(&[HOST, command]), bytes.clone(), LIMIT).expect_code(5);
    assert!(
        outcome.out().starts_with(&hash_bytes(&bytes).0),
        "the hash of everything that went up"
    );
    assert!(
        outcome.stdout.len() > 1_000_000,
        "and all that came down after it: {}",
        outcome.stdout.len()
    );
}

/// Both directions carry all they can at once, and more than every buffer on the way holds.
pub fn full_windows_both_ways_do_not_deadlock(rig: &Rig, size: u64) {
    let bytes = random_bytes(32, size as usize);
    let outcome = run_with_input(&mut rig.ssh.ssh(&[HOST, "cat"]), bytes.clone(), LIMIT).expect_code(0);
    assert_eq!(
        hash_bytes(&outcome.stdout),
        hash_bytes(&bytes),
        "{} of {size} bytes",
        outcome.stdout.len()
    );
    let rate = 2.0 * size as f64 / 1e6 / outcome.took.as_secs_f64();
    measured("cat, both directions at once", format_args!("{rate:.1} MB/s"));
}

/// A reader that first does not read at all, and then slowly: every buffer on the way back is full, and the writer
/// blocks until there is room.
pub fn a_slow_reader_gets_every_byte(rig: &Rig, size: u64) {
    let bytes = random_bytes(33, size as usize);
    let (running, mut stdin, mut stdout) = Running::start_piped(&mut rig.ssh.ssh(&[HOST, "cat"]));
    let input = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    std::thread::sleep(Duration::from_millis(700));
    let mut back = vec![];
    let mut buffer = vec![0; 1 << 16];
    for _ in 0..20 {
        let n = stdout.read(&mut buffer).expect("our own pipe");
        back.extend_from_slice(&buffer[..n]);
        std::thread::sleep(Duration::from_millis(20));
    }
    stdout.read_to_end(&mut back).expect("our own pipe");
    writer
        .join()
        .expect("the writer does not panic")
        .expect("ssh takes everything");
    running.finish(LIMIT).expect_code(0);
    assert_eq!(hash_bytes(&back), hash_bytes(&bytes), "{} of {size} bytes", back.len());
}

/// `ssh host yes | head`: who reads ssh's output goes away, and ssh and the remote command end.
pub fn a_closed_stdout_ends_the_remote_command(rig: &Rig) {
    let (mut running, _stdin, mut stdout) = Running::start_piped(&mut rig.ssh.ssh(&[HOST, "yes"]));
    let mut some = [0; 1000];
    stdout.read_exact(&mut some).expect("output");
    drop(stdout);
    assert!(
        running.ended(Duration::from_secs(20)),
        "ssh ends once nobody reads its output"
    );
}
