//! The state of a session in one word, and its age.
//!
//! `connected` means that the peer was heard: the age is the time since its last message, never the age of an object
//! in memory.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Half;
use crate::pump::{LiveStats, OutageStats, SessionStats};

/// The client half sends something on every path at least every 30 s; longer silence means that the path is down.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(35);

/// Time within which redialing succeeds if there is any path.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(5);

/// Limit for a pump's answer. A running pump answers at once, and there are other sessions to report.
const STATS_TIMEOUT: Duration = Duration::from_millis(500);

/// The state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// The other half was heard recently.
    Connected,
    /// The other half was not heard in time; probes are under way.
    Probing,
    /// There is no path; the session waits.
    Detached,
    /// It has ended.
    Gone,
}

impl State {
    /// The state, and for how long.
    pub(super) fn of(
        half: Half,
        is_ended: bool,
        snapshot: &OutageStats,
        live_stats: Option<&LiveStats>,
    ) -> (State, Option<Duration>) {
        if is_ended {
            return (State::Gone, None);
        }
        if let Some(detached_for) = snapshot.detached_for {
            return (State::Detached, Some(detached_for));
        }
        let Some(live_stats) = live_stats else {
            return (State::Probing, None);
        };
        // The lead was lost after the snapshot was taken.
        let Some(lead) = &live_stats.lead else {
            return (State::Detached, Some(Duration::ZERO));
        };
        let is_overdue = half == Half::Server && lead.heard_for > SILENCE_TIMEOUT;
        let state = match live_stats.is_suspect || is_overdue {
            // Redialing has not succeeded for so long that there is no path, even if the lead's transport is still
            // trying.
            true if live_stats.is_suspect && lead.heard_for > RECOVERY_TIMEOUT => State::Detached,
            true => State::Probing,
            false => State::Connected,
        };
        (state, Some(lead.heard_for))
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            State::Connected => "connected",
            State::Probing => "probing",
            State::Detached => "detached",
            State::Gone => "gone",
        }
    }
}

/// Asks all pumps at the same time; `None` for those that do not answer in time or have ended.
pub(crate) async fn query_all(stats: &[Arc<SessionStats>]) -> Vec<Option<LiveStats>> {
    let asked: Vec<_> = stats.iter().map(|stats| stats.request_live_stats()).collect();
    let answers = async {
        let mut answers = Vec::with_capacity(asked.len());
        let end = tokio::time::Instant::from_std(crate::clock::now()) + STATS_TIMEOUT;
        for answer in asked {
            answers.push(match answer {
                Some(answer) => tokio::time::timeout_at(end, answer).await.ok().and_then(Result::ok),
                None => None,
            });
        }
        answers
    };
    answers.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pump::LeadStats;
    use crate::wire::Epoch;

    fn snapshot(detached_for: Option<Duration>) -> OutageStats {
        OutageStats {
            remote: None,
            detached_for,
            outages: 0,
            longest_outage: Duration::ZERO,
        }
    }

    fn heard(heard_for: Duration, is_suspect: bool) -> LiveStats {
        LiveStats {
            lead: Some(LeadStats {
                rtt: None,
                losses: None,
                heard_for,
            }),
            is_suspect,
            epoch: Epoch::new(1),
            buffered: 0,
        }
    }

    #[test]
    fn nothing_is_called_connected_that_was_not_heard() {
        let (short, long) = (Duration::from_secs(3), Duration::from_secs(40));
        let of = |half, live_stats: Option<LiveStats>| State::of(half, false, &snapshot(None), live_stats.as_ref());
        assert_eq!(
            of(Half::Client, Some(heard(short, false))),
            (State::Connected, Some(short))
        );
        assert_eq!(
            of(Half::Client, Some(heard(short, true))),
            (State::Probing, Some(short))
        );
        assert_eq!(of(Half::Server, Some(heard(long, false))), (State::Probing, Some(long)));
        assert_eq!(of(Half::Server, None), (State::Probing, None));
        let hopeless = of(Half::Client, Some(heard(long, true)));
        assert_eq!(hopeless, (State::Detached, Some(long)));
    }

    #[test]
    fn a_session_without_a_path_is_detached_for_as_long_as_that_lasts() {
        let (long, snapshot) = (Duration::from_secs(180), snapshot(Some(Duration::from_secs(180))));
        assert_eq!(
            State::of(Half::Server, false, &snapshot, None),
            (State::Detached, Some(long))
        );
        assert_eq!(State::of(Half::Server, true, &snapshot, None), (State::Gone, None));
    }
}
