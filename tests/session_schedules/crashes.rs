//! The server half as its pump drives it, and its process, which may die between any two steps and within each.
//!
//! What survives is what really does: the pipe with its own counts, the replay memory as it was left, and the last
//! snapshot that was kept.

use crate::half::{CLIENT, SERVER};
use crate::world::{Stage, World};

/// Crashes in the calm after the storm, which has to come to an end.
const MOST_CRASHES_IN_CALM: usize = 4;
/// In thousandths, at each place of a round then: most of what happens there happens near the ends.
const CRASHES_IN_CALM: usize = 60;

impl World {
    /// One round of the server's pump, in the pump's order; in the calm with nothing in its way.
    pub(crate) fn round(&mut self) {
        if self.try_round().is_none() {
            self.crash();
        }
    }

    /// `None` once the process has died.
    fn try_round(&mut self) -> Option<()> {
        // As often as not a step of the storm finds nothing to move.
        let [to_take, to_read] = [(); 2].map(|()| match self.is_calm {
            true => usize::MAX,
            false => self.chance.amount(70_000) * self.chance.below(2),
        });
        self.record()?;
        let dies = self.strikes();
        self.halves[SERVER].take(to_take, self.now, dies);
        outlives(dies)?;
        let mut dies = self.strikes();
        while self.halves[SERVER].write(to_read, dies) && self.is_calm {
            dies = self.strikes();
        }
        outlives(dies)?;
        if self.is_calm || self.chance.percent(50) {
            self.halves[SERVER].notice_pipe();
        }
        self.record()?;
        if self.is_calm || self.chance.percent(80) {
            self.transmit(SERVER);
        }
        if self.chance.percent(10) {
            let session = self.halves[SERVER].connection.session_mut();
            self.tally.released += u64::from(session.is_memory_idle());
            session.release_idle_memory();
        }
        self.halves[SERVER].note_facts();
        let dies = self.strikes();
        if dies && self.chance.percent(50) {
            self.reach_client();
        }
        outlives(dies)
    }

    fn record(&mut self) -> Option<()> {
        let dies = self.strikes();
        outlives(dies)?;
        self.halves[SERVER].record();
        let dies = self.strikes();
        outlives(dies)
    }

    /// The last words of the process arrive, and are heard.
    fn reach_client(&mut self) {
        self.lines.iter_mut().for_each(|line| line.carrier.settle());
        for line in 0..self.lines.len() {
            if !self.halves[CLIENT].over {
                self.read_line(CLIENT, line, usize::MAX);
            }
        }
    }

    pub(crate) fn strikes(&mut self) -> bool {
        let odds = if self.is_calm { CRASHES_IN_CALM } else { self.crashes };
        let may = !self.is_calm || self.calm_crashes < MOST_CRASHES_IN_CALM;
        self.crashes > 0 && may && self.chance.below(1000) < odds
    }

    /// The server's process dies, and another goes on.
    pub(crate) fn crash(&mut self) {
        for line in &mut self.lines {
            line.carrier.close(SERVER, &mut self.chance);
            line.stages[SERVER] = Stage::Gone;
        }
        let snapshot = self.halves[SERVER].restart(self.now);
        self.calm_crashes += usize::from(self.is_calm);
        self.crashed_late |= self.halves[CLIENT].over;
        self.tally.crashes += 1;
        self.tally.restored_bytes += u64::from(self.halves[SERVER].session().replay_len() > 0);
        let ends = [snapshot.fin, snapshot.close.is_some(), snapshot.output_end.is_some()];
        self.tally.restored_ends += u64::from(ends.contains(&true));
    }
}

fn outlives(dies: bool) -> Option<()> {
    (!dies).then_some(())
}
