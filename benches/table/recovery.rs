//! How soon output goes on after a fault; the user types nothing meanwhile. One fault meets all peers at once.

use crate::counter::Counter;
use crate::picture::{Axis, Line, Panel, Picture};
use crate::sides::{Peer, Sides};
use crate::support::lab::Lab;
use crate::support::{now, wait_for};
use crate::table::{Row, Seen, Table, keep};
use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

/// Kernel TCP comes back from two minutes within this.
const LONGEST: Duration = Duration::from_secs(150);
/// For a session to be at rest again, with its standby.
const REST: Duration = Duration::from_secs(5);
/// What says nothing for so long after a change is taken for lost: autossh notices after 15 s.
const LOST: Duration = Duration::from_secs(45);
/// The outage that is drawn, and the seconds around its beginning that are: up to the next.
const DRAWN: u64 = 10;
const AROUND: Range<f64> = -2.0..20.0;
/// Numbers a second.
const COUNTED: f64 = 50.0;

/// After a path that took in everything and brought nothing; once only where that was for minutes.
pub(crate) fn blackholes(table: &mut Table, rounds: usize) {
    for (seconds, rounds) in [(DRAWN, rounds), (120, 1)] {
        let lab = Lab::up(&[("client", "delay=25"), ("server", "")]);
        let sides = Sides::start_in(&lab, &Peer::ALL);
        let counters: Vec<Counter> = sides.all().map(Counter::start).collect();
        let mut cuts = vec![];
        let outage = || {
            cuts.push(now());
            lab.cut("client");
            thread::sleep(Duration::from_secs(seconds));
            lab.restore("client");
            now()
        };
        let seen = repeat(&counters, rounds, LONGEST, outage, |counter, restored| {
            counter.next_after(restored).expect("numbers come") - restored
        });
        let name = format!("output after a blackhole of {seconds} s");
        table.add(Row::new(&name, "s", sides.named(seen)));
        if seconds == DRAWN {
            draw(&counters, cuts[0]);
        }
        insist(&counters);
    }
}

/// Has a fault meet all so many times, with rest before it and after; what is measured of each after each, in s, for as long
/// as output comes again. The fault says from when on that counts.
fn repeat(
    counters: &[Counter],
    rounds: usize,
    limit: Duration,
    mut fault: impl FnMut() -> Instant,
    measure: impl Fn(&Counter, Instant) -> Duration,
) -> Vec<Seen> {
    let mut seen: Vec<Seen> = counters.iter().map(|_| Seen::Figures(vec![])).collect();
    for _ in 0..rounds {
        thread::sleep(REST);
        let moment = fault();
        thread::sleep(REST);
        let present = || {
            counters
                .iter()
                .zip(&seen)
                .filter(|(_, seen)| matches!(seen, Seen::Figures(_)))
        };
        wait_for(limit, || {
            present()
                .all(|(counter, _)| counter.flows() || counter.ended())
                .then_some(())
        });
        for (counter, seen) in counters.iter().zip(&mut seen) {
            let Seen::Figures(figures) = seen else { continue };
            if counter.flows() {
                figures.push(measure(counter, moment).as_secs_f64());
            } else {
                let end = if counter.ended() { "ends" } else { "stays silent" };
                *seen = Seen::Nothing(format!("{end} (time {})", figures.len() + 1));
            }
        }
    }
    seen
}

/// bowline promises every byte.
fn insist(counters: &[Counter]) {
    for counter in counters.iter().filter(|counter| counter.peer == Peer::Bowline) {
        counter.assert_whole();
    }
}

/// The newest number over time.
fn draw(counters: &[Counter], cut: Instant) {
    let panels = counters.iter().map(|counter| Panel {
        title: counter.peer.name().into(),
        lines: vec![newest(counter, cut)],
        shaded: Some((0.0, DRAWN as f64)),
    });
    let picture = Picture {
        title: format!("Output of a program that counts, through {DRAWN} s without a path"),
        x: Axis {
            name: "s since the path was cut",
            scale: |seconds| seconds,
            range: (AROUND.start, AROUND.end),
            ticks: [0, 5, 10, 15, 20]
                .map(|second: u32| (second.into(), second.to_string()))
                .into(),
        },
        y: Axis {
            name: "the newest number on the screen, in seconds of its counting",
            scale: |seconds| seconds,
            // From where a new login starts over.
            range: (-REST.as_secs_f64() - 1.0, AROUND.end),
            ticks: [0, 10, 20]
                .map(|second: u32| (second.into(), second.to_string()))
                .into(),
        },
        panels: panels.collect(),
        columns: 1,
        panel_height: 90.0,
    };
    keep("outage.svg", &picture.svg());
}

fn newest(counter: &Counter, cut: Instant) -> Line {
    let since = |at: Instant| (at - cut).as_secs_f64() - (cut - at).as_secs_f64();
    let numbers: Vec<(f64, f64)> = counter
        .numbers()
        .iter()
        .map(|(at, number)| (since(*at), f64::from(*number) / COUNTED))
        .collect();
    // What was shown when the path went is 0.
    let zero = numbers
        .iter()
        .rfind(|(at, _)| *at <= 0.0)
        .map_or(0.0, |(_, shown)| *shown);
    let shown = numbers.into_iter().map(|(at, shown)| (at, shown - zero));
    Line {
        peer: counter.peer.name(),
        points: shown.filter(|(at, _)| AROUND.contains(at)).collect(),
    }
}

/// The longest silence around a change of the path, or the end of the server half's worker.
pub(crate) fn changes(table: &mut Table, rounds: usize) {
    let lab = Lab::up(&[("client", "delay=25,nat"), ("server", "")]);
    let sides = Sides::start_in(&lab, &Peer::ALL);
    silence(table, "NAT rebinding", rounds, &sides, || lab.rebind("client"));
    let lab = Lab::up(&[("client", "delay=25"), ("server", "")]);
    let sides = Sides::start_in(&lab, &Peer::ALL);
    silence(table, "change of address", rounds, &sides, || lab.roam("client"));
    let sides = Sides::start_in(&lab, &[Peer::Bowline]);
    silence(table, "kill -9 of the worker", rounds, &sides, || {
        for side in sides.all() {
            side.rig.serve().half().kill_worker();
        }
    });
}

fn silence(table: &mut Table, what: &str, rounds: usize, sides: &Sides, change: impl Fn()) {
    let counters: Vec<Counter> = sides.all().map(Counter::start).collect();
    let changed = || {
        let start = now();
        change();
        start
    };
    let seen = repeat(&counters, rounds, LOST - REST, changed, Counter::longest_silence_since);
    table.add(Row::new(&format!("silence, {what}"), "s", sides.named(seen)));
    insist(&counters);
}
