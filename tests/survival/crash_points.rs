//! The worker crashes exactly before and after what it does to the vault and to sshd's socket, over and over.
//!
//! Each worker crashes at its N-th passing of a point, its successor again; between crashes progress is made.

use crate::OpenHouse;
use crate::session::Session;
use crate::support::serve::ServeOptions;
use crate::support::{heavy, measured, now};
use crate::upstream::{SCRIPTS, Upstream, Volume};
use std::time::Duration;

/// Some hundred reads and writes for each session, in two seconds.
const VOLUME: Volume = Volume {
    bytes: 600_000,
    largest_piece: 8_000,
    longest_pause: Duration::from_millis(20),
};

/// A point, and at which passings. Those on the way of every byte are passed some hundred times.
const OFTEN: [u32; 2] = [7, 90];
const POINTS: [(&str, &[u32]); 13] = [
    ("before-read", &OFTEN),
    ("after-read", &OFTEN),
    ("before-publish", &OFTEN),
    ("after-publish", &OFTEN),
    ("before-write", &OFTEN),
    ("after-write", &OFTEN),
    ("before-shutdown", &[2]),
    ("after-shutdown", &[1, 2]),
    ("before-store", &[2]),
    ("after-store", &[2]),
    ("before-accepted", &[2]),
    ("after-accepted", &[1, 3]),
    ("any", &[40, 301]),
];

#[test]
fn without_a_fault_every_script_ends_as_it_should() {
    let crashes = play(None, 1);
    assert_eq!(crashes, 0);
}

#[test]
fn crash_at_every_point_of_reading_and_publishing_loses_nothing() {
    crash_at(&POINTS[..4]);
}

#[test]
fn crash_at_every_point_of_writing_and_ending_loses_nothing() {
    crash_at(&POINTS[4..8]);
}

#[test]
fn crash_at_every_point_of_opening_loses_nothing() {
    crash_at(&POINTS[8..12]);
}

#[test]
fn crash_at_every_so_manieth_point_of_any_kind_loses_nothing() {
    crash_at(&POINTS[12..]);
}

fn crash_at(points: &[(&str, &[u32])]) {
    let _turn = heavy();
    for (point, passings) in points {
        std::thread::scope(|scope| {
            for passing in *passings {
                scope.spawn(move || {
                    let fault = format!("crash-at={point}:{passing}");
                    let start = now();
                    let crashes = play(Some(&fault), u64::from(*passing));
                    measured(
                        &fault,
                        format_args!("{crashes} crashes in {:.1} s", start.elapsed().as_secs_f64()),
                    );
                    assert!(crashes > 0, "{fault}: it never happened");
                });
            }
        });
    }
}

/// One server half, four sessions; how many workers have died.
fn play(fault: Option<&str>, seed: u64) -> usize {
    let upstream = Upstream::start();
    let options = ServeOptions::here();
    let options = match fault {
        Some(fault) => options.fault(fault),
        None => options,
    };
    let house = OpenHouse::with(upstream.address(), options);
    let sessions: Vec<_> = SCRIPTS
        .iter()
        .enumerate()
        .map(|(n, script)| Session::start(&house, &upstream, seed * 10 + n as u64, *script, VOLUME))
        .collect();
    for session in sessions {
        session.finish(fault.unwrap_or("no fault"), &house);
    }
    assert_eq!(house.serve.logged("panicked"), 0, "{}", house.logs());
    house.serve.logged("worker died")
}
