//! The worker crashes exactly before and after what it does to the session store and to sshd's socket, repeatedly.
//!
//! Each worker crashes when it passes a point for the N-th time, and so does the next one; between crashes there is
//! progress.

use crate::OpenHouse;
use crate::session::Session;
use crate::support::serve::ServeOptions;
use crate::support::{heavy, measured, now};
use crate::upstream::{SCRIPTS, Upstream, Volume};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Enough for about ten crashes: each session reads and writes about 2.5 pieces for each passing that a crash takes.
/// Workers that die early are restarted with growing delays, so there must not be hundreds.
fn volume(passings: u32) -> Volume {
    Volume {
        bytes: 10_000 * u64::from(passings),
        largest_piece: 8_000,
        longest_pause: Duration::from_millis(20),
    }
}

/// The same, if a point is passed once in a session.
const SELDOM: u32 = 20;

/// A write takes several pieces at once.
const PIECES_PER_WRITE: u32 = 4;
/// There are several of each kind on the way of a piece.
const POINTS_PER_PIECE: u32 = 2;
/// Server halves at once.
const AT_ONCE: usize = 4;
const SELDOM_POINTS: [&str; 4] = ["shutdown", "end", "store", "accepted"];

/// A point, and at which passings to crash. Points on the way of every byte are passed some hundred times. A point
/// *before* something that the next worker must do first would never be passed if the crash came at the first passing.
const POINTS: [(&str, &[u32]); 14] = [
    ("read-before", &[3, 50]),
    ("read-after", &[3, 50]),
    ("publish-before", &[12, 90]),
    ("publish-half", &[12, 90]),
    ("publish-after", &[12, 90]),
    ("write-before", &[3, 50]),
    ("write-after", &[3, 50]),
    ("shutdown-before", &[2, 3]),
    ("shutdown-after", &[1, 2]),
    ("end-after", &[1, 2]),
    ("store-before", &[2, 3]),
    ("store-after", &[1, 2]),
    ("accepted", &[4]),
    ("any", &[40, 301]),
];

#[test]
fn without_a_fault_every_script_ends_as_it_should() {
    let crashes = play(None, 50);
    assert_eq!(crashes, 0);
}

#[test]
fn crash_at_every_point_of_reading_and_publishing_loses_nothing() {
    crash_at(&POINTS[..5]);
}

#[test]
fn crash_at_every_point_of_writing_and_ending_loses_nothing() {
    crash_at(&POINTS[5..10]);
}

#[test]
fn crash_at_every_point_of_opening_loses_nothing() {
    crash_at(&POINTS[10..13]);
}

#[test]
fn crash_at_every_so_manieth_point_of_any_kind_loses_nothing() {
    crash_at(&POINTS[13..]);
}

fn crash_at(points: &[(&str, &[u32])]) {
    let _turn = heavy();
    let cases = points
        .iter()
        .flat_map(|(point, passings)| passings.iter().map(move |passing| (*point, *passing)));
    let cases = Mutex::new(cases);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((point, passing)) = next(&cases) {
                    crash(point, passing);
                }
            });
        }
    });
}

/// Taken one by one; the lock is not held meanwhile.
fn next<T>(cases: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    cases.lock().unwrap_or_else(PoisonError::into_inner).next()
}

fn crash(point: &str, passing: u32) {
    let fault = format!("crash-at={point}:{passing}");
    let start = now();
    let crashes = play(Some(&fault), passing);
    let took = start.elapsed().as_secs_f64();
    measured(&fault, format_args!("{crashes} crashes in {took:.1} s"));
    assert!(crashes > 0, "{fault}: it never happened");
}

/// One server half with four sessions; returns how many workers have died.
fn play(fault: Option<&str>, passing: u32) -> usize {
    let is_any_of = |points: &[&str]| fault.is_some_and(|fault| points.iter().any(|point| fault.contains(point)));
    let volume = volume(match () {
        () if is_any_of(&SELDOM_POINTS) => SELDOM,
        () if is_any_of(&["write"]) => passing * PIECES_PER_WRITE,
        () if is_any_of(&["any"]) => passing / POINTS_PER_PIECE,
        () => passing,
    });
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
        .map(|(n, script)| Session::start(&house, &upstream, u64::from(passing) * 10 + n as u64, *script, volume))
        .collect();
    for session in sessions {
        session.finish(fault.unwrap_or("no fault"), &house);
    }
    assert_eq!(house.serve.logged("panicked"), 0, "{}", house.logs());
    house.serve.logged("worker died")
}
