//! How soon output goes on after a fault; the user types nothing meanwhile.

use crate::scenarios::ticker::Ticker;
use crate::sides::{Peer, Sides};
use crate::support::lab::Lab;
use crate::support::now;
use crate::support::rig::Rig;
use crate::table::{Row, Table};
use std::thread;
use std::time::Duration;

/// Kernel TCP comes back from two minutes within this.
const LONGEST: Duration = Duration::from_secs(150);
/// For a session to be at rest again, with its standby.
const REST: Duration = Duration::from_secs(5);

/// After a path that took in everything and brought nothing: once each, the second time for minutes.
pub(crate) fn blackholes(table: &mut Table, _rounds: usize) {
    for seconds in [10, 120] {
        let lab = usual_lab("delay=25");
        let sides = Sides::start(|peer| peer.between(lab.place("client"), lab.place("server")));
        let mut tickers: Vec<Ticker> = sides.all().map(|side| Ticker::start(&side.rig)).collect();
        lab.cut("client");
        thread::sleep(Duration::from_secs(seconds));
        lab.restore("client");
        let restored = now();
        let mut figures = sides.figures();
        for (ticker, figures) in tickers.iter_mut().zip(&mut figures) {
            figures.push(ticker.next_line_after(restored, LONGEST).as_secs_f64());
        }
        let name = format!("output after a blackhole of {seconds} s");
        table.add(Row::new(&name, "s", sides.named(figures)));
    }
}

/// The longest silence around a change of the path, or the end of the server half's worker. Plain ssh does not survive these.
pub(crate) fn changes(table: &mut Table, rounds: usize) {
    let lab = usual_lab("delay=25,nat");
    let rig = Rig::bowline_in(&lab);
    silence(table, "NAT rebinding", rounds, &rig, || lab.rebind("client"));
    let lab = usual_lab("delay=25");
    let rig = Rig::bowline_in(&lab);
    silence(table, "change of address", rounds, &rig, || lab.roam("client"));
    silence(table, "kill -9 of the worker", rounds, &rig, || {
        rig.serve().half().kill_worker();
    });
}

fn silence(table: &mut Table, what: &str, rounds: usize, rig: &Rig, change: impl Fn()) {
    let ticker = Ticker::start(rig);
    let mut silences = vec![];
    for _ in 0..rounds {
        thread::sleep(REST);
        let changed = now();
        change();
        thread::sleep(REST);
        silences.push(ticker.longest_silence_since(changed).as_secs_f64());
    }
    ticker.finish_in_order();
    table.add(Row::new(
        &format!("silence, {what}"),
        "s",
        vec![(Peer::Bowline, silences)],
    ));
}

fn usual_lab(client: &str) -> Lab {
    Lab::up(&[("client", client), ("server", "")])
}
