//! `bowline ssh` as a terminal, beside mosh and plain ssh: who shows keys at once, what they show wrongly, and what it costs.
//!
//! `cargo bench --bench terminal [-- --quick] [-- ROW..]`, as root. It needs mosh (`apt install mosh`), vim, less and
//! python3. The same script of keys is typed into all programs at the same time, over emulated paths; `--quick` types it
//! once instead of twice. Rows: `keys`, `cat`, `cost`.

#![allow(clippy::print_stdout, reason = "a bench reports")]

mod cost;
mod grid;
#[path = "../table/programs.rs"]
#[allow(dead_code, reason = "the other peers of the table")]
mod programs;
mod script;
mod sides;
#[path = "../../tests/support/mod.rs"]
mod support;
mod typist;

use std::thread;

use script::{Part, Script};
use sides::Peer;
use support::lab::Lab;
use support::rig::Rig;
use typist::{Reference, Score, Typist};

/// Round-trip times in milliseconds, and packets lost each way in percent.
const PATHS: [(u32, u32); 6] = [(100, 0), (200, 0), (400, 0), (100, 2), (200, 2), (400, 2)];

/// Programs that the script starts, and mosh.
const NEEDED: [&str; 6] = ["mosh-client", "mosh-server", "vim", "less", "bash", "python3"];

fn main() {
    if !Lab::possible("the bench of the terminal") {
        return;
    }
    let missing: Vec<&str> = NEEDED
        .into_iter()
        .filter(|name| programs::find(name).is_none())
        .collect();
    if !missing.is_empty() {
        println!(
            "not run: {} missing (apt install mosh vim less python3)",
            missing.join(", ")
        );
        std::process::exit(69);
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let is_quick = words.iter().any(|word| word == "--quick");
    let rows: Vec<&String> = words.iter().filter(|word| !word.starts_with("--")).collect();
    let is_wanted = |row: &str| rows.is_empty() || rows.iter().any(|wanted| *wanted == row);
    if is_wanted("keys") {
        keys(&Script::of_rounds(if is_quick { 1 } else { 2 }));
    }
    if is_wanted("cat") {
        cost::cat(if is_quick { 30_000_000 } else { 100_000_000 });
    }
    if is_wanted("cost") {
        cost::keys(if is_quick { 200 } else { 600 });
    }
}

/// Types the script over all paths.
fn keys(script: &Script) {
    println!("{} keys, one each 100 to 160 ms", script.counted());
    let rig = Rig::plain();
    let reference = Reference::record(script, &rig);
    let (script, reference) = (&script, &reference);
    let scores: Vec<Vec<Score>> = thread::scope(|scope| {
        let paths = PATHS.map(|path| scope.spawn(move || on_path(path, script, reference)));
        paths
            .map(|path| path.join().expect("a typist says why"))
            .into_iter()
            .collect()
    });
    for ((rtt, loss), scores) in PATHS.iter().zip(scores) {
        println!("RTT {rtt} ms, {loss} % loss:");
        for (peer, score) in Peer::ALL.iter().zip(scores) {
            report(*peer, &score);
        }
    }
}

fn on_path((rtt, loss): (u32, u32), script: &Script, reference: &Reference) -> Vec<Score> {
    let lab = Lab::up(&[("client", ""), ("server", "")]);
    let sides = Peer::ALL.map(|peer| sides::Side::start(peer, &lab));
    let typists = sides.each_ref().map(|side| Typist::log_in(side.shell(), reference));
    lab.set("client", &format!("delay={},loss={loss}", rtt / 2));
    thread::scope(|scope| {
        let typing = typists.map(|typist| scope.spawn(move || typist.types(script)));
        typing
            .map(|typing| typing.join().expect("a typist says why"))
            .into_iter()
            .collect()
    })
}

fn report(peer: Peer, score: &Score) {
    let parts = Part::ALL.map(|part| format!("{} {:.0} %", part.name(), score.share(Some(part))));
    println!(
        "  {:<8} shown within 10 ms {:>3.0} % ({}); wrong cells per 1,000 keys {:.0}; not caught up {}",
        peer.name(),
        score.share(None),
        parts.join(", "),
        score.wrong_per_thousand(),
        score.late_screens
    );
}
