//! How long `ssh host true` takes.

use crate::sides::{Peer, Sides};
use crate::support::lab::Lab;
use crate::table::{Row, Table};
use std::time::Duration;

/// At a round trip of 50 ms, from the start of ssh to its end.
pub(crate) fn login(table: &mut Table, rounds: usize) {
    let lab = Lab::up(&[("client", "delay=25"), ("server", "")]);
    let mut sides = Sides::start_in(&lab, &Peer::PROXIES);
    let mut figures = sides.figures();
    sides.take_turns(3 * rounds, |at, side| {
        let outcome = side.rig.ssh.remote("true", Duration::from_secs(30)).expect_code(0);
        figures[at].push(outcome.took.as_secs_f64());
    });
    table.add(Row::new("ssh host true, 50 ms", "s", sides.named(figures)));
}
