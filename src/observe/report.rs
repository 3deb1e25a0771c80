//! What is told of a session, and of a relay: the shape of `bowline status --json`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::State;
use crate::carrier::CarrierInfo;
use crate::pump::{Facts, Vitals};
use crate::wire::SessionId;

/// Everything that one process tells.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) sessions: Vec<SessionReport>,
    pub(crate) relay: Option<RelayReport>,
}

/// Which half of a session tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Half {
    Client,
    Server,
}

/// One session, as one of its halves sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SessionReport {
    /// 32 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) half: Half,
    /// As ssh was given it; the server half does not know it.
    pub(crate) host: Option<String>,
    /// Who logs in.
    pub(crate) user: Option<String>,
    /// The user key that opened it, as far as the server half knows.
    pub(crate) key: Option<String>,
    /// Where the other half is; a relay where that hides it. On the server half, while detached, where it was at first.
    pub(crate) peer: Option<SocketAddr>,
    /// What sshd sees in place of the client: the local end of the server half's connection to it.
    pub(crate) alias: Option<SocketAddr>,
    /// The lead's way: `quic 192.0.2.7:4433`, `tls via relay r1.example.org`.
    pub(crate) path: Option<String>,
    /// Those of carriers that stand by.
    pub(crate) standby: Vec<String>,
    /// Smoothed round trip of the lead.
    pub(crate) rtt_ms: Option<f64>,
    /// Part of the lead's packets that were lost, from 0 to 1; not known of TCP.
    pub(crate) loss: Option<f64>,
    /// From the other half.
    pub(crate) bytes_in: u64,
    /// For the other half, those that it has not acknowledged included.
    pub(crate) bytes_out: u64,
    pub(crate) epoch: Option<u32>,
    pub(crate) outages: Outages,
    /// Bytes held here: for replay, and for a reader that does not read.
    pub(crate) buffered: Option<u64>,
    pub(crate) state: State,
    /// `connected` and `probing`: since the peer was heard, at most. `detached`: since there has been no path. `gone`:
    /// since then.
    pub(crate) age_ms: Option<u64>,
    /// Why it is gone.
    pub(crate) reason: Option<String>,
    /// The client half's process.
    pub(crate) pid: Option<u32>,
    pub(crate) keeper_pid: Option<u32>,
    pub(crate) worker_pid: Option<u32>,
}

/// Breaks of a session's path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outages {
    pub(crate) survived: u64,
    /// Of these.
    pub(crate) longest_ms: u64,
}

/// What a relay tells: it knows no sessions, only their paths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RelayReport {
    pub(crate) pid: u32,
    /// Where it listens for QUIC.
    pub(crate) udp: Vec<SocketAddr>,
    /// Where it listens for TLS.
    pub(crate) tls: Vec<SocketAddr>,
    /// Server halves that are listed now, by connections.
    pub(crate) registered: u64,
    /// Sessions' paths that go through it now.
    pub(crate) splices: u64,
    /// From clients to server halves, since it began.
    pub(crate) bytes_up: u64,
    /// From server halves to clients.
    pub(crate) bytes_down: u64,
    /// Of the paths those that are told of one by one, the newest first.
    pub(crate) paths: Vec<PathReport>,
}

/// One path of a session through a relay. A session with a standby there has two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PathReport {
    /// Where the client is, as the relay sees it.
    pub(crate) peer: SocketAddr,
    /// How it came: `quic` or `tls`.
    pub(crate) transport: String,
    /// That of the server half which it leads to, as `ssh-keygen -l` shows it.
    pub(crate) host_key: String,
    /// From the client to the server half.
    pub(crate) bytes_up: u64,
    /// From the server half to the client.
    pub(crate) bytes_down: u64,
    /// Since they were joined.
    pub(crate) age_ms: u64,
}

impl SessionReport {
    /// What the session's own facts say, and its pump where that has answered; the rest is not known.
    pub(crate) fn new(id: SessionId, half: Half, facts: &Facts, vitals: Option<&Vitals>) -> SessionReport {
        let (snapshot, roster) = (facts.snapshot(), facts.roster().borrow().clone());
        let (state, age) = State::of(half, facts.is_ended(), &snapshot, vitals);
        // What leads nowhere is no path.
        let is_detached = state == State::Detached;
        let carrier = roster.lead.as_ref().filter(|_| !is_detached);
        let lead = vitals.and_then(|vitals| vitals.lead.as_ref()).filter(|_| !is_detached);
        let (bytes_in, bytes_out) = facts.carried();
        let survived = snapshot.outages - u64::from(snapshot.detached_for.is_some()).min(snapshot.outages);
        SessionReport {
            state,
            age_ms: age.map(milliseconds),
            peer: snapshot.remote.filter(|_| !is_detached),
            path: carrier.map(path),
            standby: roster.standing.iter().map(path).collect(),
            rtt_ms: lead.and_then(|lead| Some((lead.rtt?.as_secs_f64() * 1e6).round() / 1e3)),
            loss: lead.and_then(|lead| lead.losses).map(|(sent, lost)| part(lost, sent)),
            bytes_in,
            bytes_out,
            epoch: vitals.map(|vitals| vitals.epoch.get()),
            outages: Outages {
                survived,
                longest_ms: milliseconds(snapshot.longest_outage),
            },
            buffered: vitals.map(|vitals| vitals.buffered),
            ..SessionReport::gone(id, half)
        }
    }

    /// Nothing is known but that it was.
    pub(crate) fn gone(id: SessionId, half: Half) -> SessionReport {
        SessionReport {
            id: format!("{id:#}"),
            half,
            host: None,
            user: None,
            key: None,
            peer: None,
            alias: None,
            path: None,
            standby: Vec::new(),
            rtt_ms: None,
            loss: None,
            bytes_in: 0,
            bytes_out: 0,
            epoch: None,
            outages: Outages::default(),
            buffered: None,
            state: State::Gone,
            age_ms: None,
            reason: None,
            pid: None,
            keeper_pid: None,
            worker_pid: None,
        }
    }
}

/// A carrier's way, as a person would say it.
fn path(carrier: &CarrierInfo) -> String {
    match (&carrier.via, carrier.remote) {
        (Some(relay), _) => format!("{} via relay {relay}", carrier.kind),
        (None, Some(remote)) => format!("{} {remote}", carrier.kind),
        (None, None) => carrier.kind.to_string(),
    }
}

fn part(some: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { some as f64 / all as f64 }
}

pub(crate) fn milliseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
