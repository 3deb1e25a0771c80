//! By when a session has to be back, and that nothing else disturbs it.

use crate::life::Life;
use crate::network::CLIENT;
use crate::race::RESUME_ALLOWANCE;
use crate::seen::Cause;
use std::time::Duration;

/// Of `session/liveness.rs`: the rarest probe, how long an answer may take, and what a fresh lead gets.
const RAREST_PROBE: Duration = Duration::from_secs(30);
const LEAST_ALLOWANCE: Duration = Duration::from_millis(300);
const MOST_ALLOWANCE: Duration = Duration::from_secs(3);
/// Of `session/redial.rs`: the first attempt where nobody waits, and the second of a machine that came late to the first,
/// with jitter.
const FIRST_ATTEMPT: Duration = Duration::from_secs(1);
const AFTER_SLEEP: Duration = Duration::from_millis(1100);

/// All is well again since then.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) cause: Cause,
    since: Duration,
    pub(crate) by: Duration,
}

impl Life<'_> {
    /// By the cadence that is documented, and what handshake and resume take.
    pub(crate) fn expect_return(&mut self) {
        let cause = Cause::of_end(self.net.weather, self.now);
        let just_woken = self.now - self.client.woken < AFTER_SLEEP;
        let find = match &self.client.race {
            Some(race) if just_woken => race.interval(self.now).max(AFTER_SLEEP),
            Some(race) => race.interval(self.now),
            // The sign of having slept has it probed at once.
            None if just_woken => self.silence() + FIRST_ATTEMPT,
            None => RAREST_PROBE + self.silence() + FIRST_ATTEMPT,
        };
        self.seen.outages += 1;
        self.seen.disturb(self.now);
        self.expect(cause, find);
    }

    /// The NAT has forgotten the lead, which only a probe without an answer tells.
    pub(crate) fn handle_forgotten(&mut self, id: usize) {
        // While it slept the client could say nothing.
        let was_awake = self
            .net
            .weather
            .sleep
            .spare(self.now.saturating_sub(self.net.nat * 2), self.now);
        self.seen.handle_forgotten(id, was_awake && self.client.race.is_none());
        if self.client.race.is_none() {
            let find = self.silence() + FIRST_ATTEMPT;
            self.expect(Cause::Nat, find);
        }
    }

    fn expect(&mut self, cause: Cause, find: Duration) {
        let rtt = self.net.rtt();
        let exchange = self.net.dial_time() + RESUME_ALLOWANCE.max(3 * rtt) + rtt;
        self.due = Some(Due {
            cause,
            since: self.now,
            by: self.now + find + exchange,
        });
    }

    /// From a probe to the suspicion.
    fn silence(&self) -> Duration {
        let allowance = (3 * self.net.rtt()).clamp(LEAST_ALLOWANCE, MOST_ALLOWANCE);
        let proving = (self.client.attached + MOST_ALLOWANCE).saturating_sub(self.now);
        allowance.max(proving)
    }

    pub(crate) fn check_due(&mut self) {
        // Where the next outage came too soon nothing can be told.
        let open = |due: &Due| self.net.is_open(due.since, due.by.min(self.now));
        self.due = self.due.take().filter(open);
        let Some(due) = &self.due else { return };
        if self.is_well() {
            self.seen.handle_return(due.cause, self.now - due.since);
            self.due = None;
        } else {
            assert!(
                self.now < due.by,
                "{:?} after {:?}: not back, at {:?}",
                self.now - due.since,
                due.cause,
                self.now
            );
        }
    }

    /// Both halves have the same lead, on which bytes flow.
    fn is_well(&self) -> bool {
        let Some(id) = self.client.lead else { return false };
        let Some(line) = self.lines.get(&id) else { return false };
        let lives = self.now < line.doom && !line.is_forgotten && !line.is_stalled(self.now + self.net.rtt() * 2);
        lives && self.server.lead() == Some(id) && !self.client.liveness.is_suspect()
    }

    /// A lead on which bytes flow is not suspected.
    pub(crate) fn check_suspicion(&mut self, id: usize) {
        let line = &self.lines[&id];
        let lately = self.now.saturating_sub(MOST_ALLOWANCE * 2);
        let flows = self.net.is_open(lately, self.now) && !line.is_stalled(self.now + self.net.rtt() * 2);
        assert!(
            !flows || self.now >= line.doom || line.is_forgotten,
            "suspected for nothing at {:?}, of {:?}, {} reads, outstanding: {}",
            self.now,
            self.client.attached,
            line.reads,
            self.ends[CLIENT].session.is_outstanding()
        );
        self.seen.handle_suspicion(self.client.rested);
    }
}
