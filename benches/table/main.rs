//! bowline beside plain ssh and its peers, row by row, in one run: taking turns, medians and spread.
//!
//! `cargo bench --bench table [-- ROW..]`, as root; an hour and more for all. `BOWLINE_BENCH_ROUNDS` changes how often each is
//! measured (5), `BOWLINE_BENCH_KEYS` how many keys are typed (500). Peers are taken from the folder `BOWLINE_BENCH_PEERS` and
//! `PATH`: mosh-client with mosh-server, autossh, quicssh-rs; who is missing is named in its rows. All figures go to
//! `target/bench/table.json` too, and curves to `echo.svg` and `outage.svg` beside it.

#![allow(clippy::print_stdout, reason = "a bench reports")]

mod bulk;
mod cgroup;
mod counter;
mod login;
mod picture;
mod programs;
mod recovery;
mod resting;
#[path = "../../tests/scenarios/mod.rs"]
mod scenarios;
mod sides;
#[path = "../../tests/support/mod.rs"]
mod support;
mod table;
mod terminal;
mod typing;

use support::lab::Lab;
use table::Table;

type Measure = fn(&mut Table, usize);

/// What can be measured, by name.
const ROWS: [(&str, Measure); 11] = [
    ("echo", typing::echo),
    ("login", login::login),
    ("blackholes", recovery::blackholes),
    ("changes", recovery::changes),
    ("cable", bulk::over_a_cable),
    ("loopback", bulk::over_loopback),
    ("lab", bulk::over_the_lab),
    ("links", bulk::over_links),
    ("shared", bulk::side_by_side),
    ("memory", resting::memory),
    ("packets", resting::packets),
];

fn main() {
    if !Lab::possible("the table") {
        return;
    }
    let rounds = std::env::var("BOWLINE_BENCH_ROUNDS").map_or(5, |rounds| rounds.parse().expect("a number"));
    // cargo adds a flag of its own.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let mut table = Table::default();
    for (name, measure) in ROWS {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            measure(&mut table, rounds);
        }
    }
    table::keep("table.json", &format!("{:#}\n", table.json()));
}
