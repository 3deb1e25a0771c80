//! Checks by when a session is back, and that nothing else disturbs it.

use crate::network::CLIENT;
use crate::sim::SessionSim;
use crate::stats::Cause;
use bowline::connection::RESUME_TIMEOUT;
use std::time::Duration;

/// From `session/liveness.rs`: the longest probe interval, the answer timeout, and the timeout of a fresh lead.
const RAREST_PROBE: Duration = Duration::from_secs(30);
const MIN_ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
const MAX_ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// From `session/redial.rs`, with jitter: the first attempt if nobody waits, and the second for a machine that was
/// late for the first.
const FIRST_ATTEMPT: Duration = Duration::from_secs(1);
const AFTER_SLEEP: Duration = Duration::from_millis(1100);

/// When the outage ended.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) cause: Cause,
    since: Duration,
    pub(crate) by: Duration,
}

impl SessionSim<'_> {
    /// The documented redial schedule, plus the time of handshake and resume.
    pub(crate) fn expect_return(&mut self) {
        let cause = Cause::of_end(self.net.conditions, self.now);
        let just_woken = self.now - self.client.woken < AFTER_SLEEP;
        let find = match &self.client.race {
            Some(race) if just_woken => race.interval(self.now).max(AFTER_SLEEP),
            Some(race) => race.interval(self.now),
            // Wake-up triggers a probe at once.
            None if just_woken => self.silence() + FIRST_ATTEMPT,
            None => RAREST_PROBE + self.silence() + FIRST_ATTEMPT,
        };
        self.stats.outages += 1;
        self.stats.disturb(self.now);
        self.expect(cause, find);
    }

    /// The NAT has dropped the lead's mapping, which only an unanswered probe reveals.
    pub(crate) fn handle_forgotten(&mut self, id: usize) {
        // The client could send nothing while suspended.
        let was_awake = self
            .net
            .conditions
            .sleep
            .spare(self.now.saturating_sub(self.net.nat * 2), self.now);
        self.stats.handle_forgotten(id, was_awake && self.client.race.is_none());
        if self.client.race.is_none() {
            let find = self.silence() + FIRST_ATTEMPT;
            self.expect(Cause::Nat, find);
        }
    }

    fn expect(&mut self, cause: Cause, find: Duration) {
        let rtt = self.net.rtt();
        let exchange = self.net.dial_time() + RESUME_TIMEOUT.max(3 * rtt) + rtt;
        self.due = Some(Due {
            cause,
            since: self.now,
            by: self.now + find + exchange,
        });
    }

    /// Time from a probe to the suspicion.
    fn silence(&self) -> Duration {
        let allowance = (3 * self.net.rtt()).clamp(MIN_ANSWER_TIMEOUT, MAX_ANSWER_TIMEOUT);
        let proving = (self.client.attached + MAX_ANSWER_TIMEOUT).saturating_sub(self.now);
        allowance.max(proving)
    }

    pub(crate) fn check_due(&mut self) {
        // If the next outage came too soon, nothing can be concluded.
        let open = |due: &Due| self.net.is_open(due.since, due.by.min(self.now));
        self.due = self.due.take().filter(open);
        let Some(due) = &self.due else { return };
        if self.is_well() {
            self.stats.handle_return(due.cause, self.now - due.since);
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

    /// Whether both halves have the same lead and bytes flow on it.
    fn is_well(&self) -> bool {
        let Some(id) = self.client_lead() else { return false };
        let Some(line) = self.lines.get(&id) else { return false };
        let lives = self.now < line.doom && !line.is_forgotten && !line.is_stalled(self.now + self.net.rtt() * 2);
        let [client, server] = &self.ends;
        let follows = server.connection.paths().lead().is_some_and(|lead| lead.id == id);
        lives && follows && !client.connection.is_suspect()
    }

    /// A lead that delivers is not suspected.
    pub(crate) fn check_suspicion(&mut self, id: usize) {
        let line = &self.lines[&id];
        let lately = self.now.saturating_sub(MAX_ANSWER_TIMEOUT * 2);
        let flows = self.net.is_open(lately, self.now) && !line.is_stalled(self.now + self.net.rtt() * 2);
        assert!(
            !flows || self.now >= line.doom || line.is_forgotten,
            "suspected for nothing at {:?}, of {:?}, {} reads, outstanding: {}",
            self.now,
            self.client.attached,
            line.state.reads.get(),
            self.ends[CLIENT].session().is_outstanding()
        );
    }
}
