//! Reports about sessions and relays: the format of `bowline status --json`.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::State;
use crate::carrier::CarrierInfo;
use crate::pump::{LiveStats, SessionStats};
use crate::wire::SessionId;

/// The report of one process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) sessions: Vec<SessionReport>,
    pub(crate) relay: Option<RelayReport>,
}

/// Which half of a session reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Half {
    Client,
    Server,
}

/// A session as seen by one of its halves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct SessionReport {
    /// 32 hexadecimal digits.
    pub(crate) id: String,
    pub(crate) half: Half,
    /// The host as given to ssh; unknown to the server half.
    pub(crate) host: Option<String>,
    /// The user on the server.
    pub(crate) user: Option<String>,
    /// Fingerprint of the user key that opened it, if the server half knows it.
    pub(crate) key: Option<String>,
    /// Address of the other half, or of the relay that hides it. On the server half, while detached: its address when
    /// the session was opened.
    pub(crate) peer: Option<SocketAddr>,
    /// The client's address as sshd sees it: the local end of the server half's connection to sshd.
    pub(crate) alias: Option<SocketAddr>,
    /// The lead's path: `quic 192.0.2.7:4433`, `tls via relay r1.example.org`.
    pub(crate) path: Option<String>,
    /// The paths of standby carriers.
    pub(crate) standby: Vec<String>,
    /// Smoothed round-trip time of the lead.
    pub(crate) rtt_ms: Option<f64>,
    /// Fraction of the lead's packets that were lost, from 0 to 1; unknown for TCP.
    pub(crate) loss: Option<f64>,
    /// Bytes received from the other half.
    pub(crate) bytes_in: u64,
    /// Bytes sent to the other half, including unacknowledged ones.
    pub(crate) bytes_out: u64,
    pub(crate) epoch: Option<u32>,
    pub(crate) outages: Outages,
    /// Bytes held in memory, for replay and for a slow reader.
    pub(crate) buffered: Option<u64>,
    pub(crate) state: State,
    /// Milliseconds in this state. `connected` and `probing`: since the peer was heard last. `detached`: since there
    /// has been no path. `gone`: since the end.
    pub(crate) age_ms: Option<u64>,
    /// Why it ended.
    pub(crate) reason: Option<String>,
    /// The terminal of the `bowline ssh` in front of the client half: `pts/3`.
    pub(crate) terminal: Option<String>,
    /// Milliseconds since a key was typed there.
    pub(crate) last_key_ms: Option<u64>,
    /// Process id of the client half.
    pub(crate) pid: Option<u32>,
    pub(crate) keeper_pid: Option<u32>,
    pub(crate) worker_pid: Option<u32>,
}

/// Outages of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outages {
    pub(crate) survived: u64,
    /// The longest of them.
    pub(crate) longest_ms: u64,
}

/// The report of a relay: it knows no sessions, only their paths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RelayReport {
    pub(crate) pid: u32,
    /// Addresses on which it listens for QUIC.
    pub(crate) udp: Vec<SocketAddr>,
    /// Addresses on which it listens for TLS.
    pub(crate) tls: Vec<SocketAddr>,
    /// Server halves that are registered now, counted by connection.
    pub(crate) registered: u64,
    /// Paths of sessions through this relay now.
    pub(crate) splices: u64,
    /// Bytes from clients to server halves since the relay started.
    pub(crate) bytes_up: u64,
    /// Bytes from server halves to clients.
    pub(crate) bytes_down: u64,
    /// The newest of these paths, in detail.
    pub(crate) paths: Vec<PathReport>,
}

/// One path of a session through a relay. A session with a standby at the same relay has two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PathReport {
    /// The client's address as seen by the relay.
    pub(crate) peer: SocketAddr,
    /// The client's transport: `quic` or `tls`.
    pub(crate) transport: String,
    /// Fingerprint of the server half's host key, in the format of `ssh-keygen -l`.
    pub(crate) host_key: String,
    /// Bytes from the client to the server half.
    pub(crate) bytes_up: u64,
    /// Bytes from the server half to the client.
    pub(crate) bytes_down: u64,
    /// Milliseconds since the path was established.
    pub(crate) age_ms: u64,
}

impl SessionReport {
    /// From the session's statistics and, if its pump has answered, from the pump.
    pub(crate) fn new(
        id: SessionId,
        half: Half,
        stats: &SessionStats,
        live_stats: Option<&LiveStats>,
    ) -> SessionReport {
        let (snapshot, paths) = (stats.outages(), stats.active_paths().borrow().clone());
        let (state, age) = State::of(half, stats.is_ended(), &snapshot, live_stats);
        // A path that is down is not reported.
        let is_detached = state == State::Detached;
        let carrier = paths.lead.as_ref().filter(|_| !is_detached);
        let lead = live_stats
            .and_then(|live_stats| live_stats.lead.as_ref())
            .filter(|_| !is_detached);
        let (bytes_in, bytes_out) = stats.transferred();
        let survived = snapshot.outages - u64::from(snapshot.detached_for.is_some()).min(snapshot.outages);
        SessionReport {
            state,
            age_ms: age.map(milliseconds),
            peer: snapshot.remote.filter(|_| !is_detached),
            path: carrier.map(path),
            standby: paths.standing.iter().map(path).collect(),
            rtt_ms: lead.and_then(|lead| Some((lead.rtt?.as_secs_f64() * 1e6).round() / 1e3)),
            loss: lead.and_then(|lead| lead.losses).map(|(sent, lost)| part(lost, sent)),
            bytes_in,
            bytes_out,
            epoch: live_stats.map(|live_stats| live_stats.epoch.get()),
            outages: Outages {
                survived,
                longest_ms: milliseconds(snapshot.longest_outage),
            },
            buffered: live_stats.map(|live_stats| live_stats.buffered),
            ..SessionReport::gone(id, half)
        }
    }

    /// A session of which only the id is known.
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
            terminal: None,
            last_key_ms: None,
            pid: None,
            keeper_pid: None,
            worker_pid: None,
        }
    }
}

/// Describes the path of a carrier.
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
