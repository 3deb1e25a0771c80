//! Names that were replaced by standard terms, and where they must not come back.

use super::source::tokens;
use super::{Source, report, sources};

/// A folder or file, the retired name, and the name that replaced it. A name is retired as a whole identifier and as the name
/// of a file or folder.
const RETIRED: &[(&str, &str, &str)] = &[
    ("src/cli", "Detours", "AlternateRoutes"),
    ("src/cli", "detours", "alternate_routes"),
    ("src/cli", "Wish", "Action"),
    ("src/cli/check", "hung", "hanging_indent"),
    ("src/cli/config", "Heard", "CommandMatches"),
    ("src/cli/config", "heard", "command_matches"),
    ("src/cli/demo", "Abilities", "TerminalFeatures"),
    ("src/cli/demo", "amnesiac", "reset_endpoint"),
    ("src/cli/demo", "Beat", "Reading"),
    ("src/cli/demo", "FAREWELL", "EXIT_CODE"),
    ("src/cli/demo", "Ink", "Style"),
    ("src/cli/demo", "Stage", "Fixture"),
    ("src/cli/demo", "stage", "fixture"),
    ("src/cli/demo", "Strip", "Timeline"),
    ("src/cli/demo", "Visitor", "SshClient"),
    ("src/cli/demo", "visitor", "ssh_client"),
    ("src/cli/demo", "Weather", "Condition"),
    ("src/cli/setup", "ssh_says", "ssh_query"),
    ("src/cli/setup", "Way", "Route"),
    ("src/sshd", "CutStream", "CancellableStream"),
    ("src/sshd", "Inbox", "ChannelQueue"),
    ("src/sshd", "inbox", "channel_queue"),
    ("src/client", "AtHand", "DialProgress"),
    ("src/client", "Claims", "PendingResumes"),
    ("src/client", "Course", "DialRace"),
    ("src/client", "course", "dial_race"),
    ("src/client", "FirstWords", "EarlyData"),
    ("src/client", "astray", "misdirected"),
    ("src/client", "judge", "verify"),
    ("src/client", "first_words", "early_data"),
    ("src/client", "Guide", "RelayTarget"),
    ("src/client", "Improvement", "PathUpgrade"),
    ("src/client", "improvement", "path_upgrade"),
    ("src/client", "Knowledge", "LookupContext"),
    ("src/client", "penance", "backoff"),
    ("src/client", "reaping", "orphan_cleanup"),
    ("src/client/check", "Asker", "Authorizer"),
    ("src/client/check", "Finding", "ProbeResult"),
    ("src/client/check", "Verdict", "Diagnosis"),
    ("src/client/check", "verdict", "diagnosis"),
    ("src/client/check", "witness", "tcp_probe"),
    ("src/client/network_watch", "Picture", "NetworkState"),
    ("src/client/network_watch", "picture", "network_state"),
    ("src/observe", "Answer", "Response"),
    ("src/observe", "Desk", "ControlSocket"),
    ("src/observe", "desk", "control_socket"),
    ("src/observe", "Ending", "KillRequest"),
    ("src/observe", "Found", "FoundSocket"),
    ("src/observe", "Source", "ControlHandler"),
    ("src/observe", "words", "messages"),
    ("src/server", "Afterwards", "Disposition"),
    ("src/server", "Beginning", "SessionStart"),
    ("src/server", "Book", "SessionRecord"),
    ("src/server", "book", "session_record"),
    ("src/server", "bury", "close"),
    ("src/server", "Companion", "Sidecar"),
    ("src/server", "companion", "sidecar"),
    ("src/server", "converse", "dispatch"),
    ("src/server", "Door", "TakeoverListener"),
    ("src/server", "door", "listener"),
    ("src/server", "Estate", "Handover"),
    ("src/server", "estate", "handover"),
    ("src/server", "Guest", "Peer"),
    ("src/server", "guest", "peer"),
    ("src/server", "heed", "worker_messages"),
    ("src/server", "Heirloom", "RunningParts"),
    ("src/server", "Holdings", "StoredFds"),
    ("src/server", "holdings", "stored_fds"),
    ("src/server", "Kept", "StoredSession"),
    ("src/server", "Leaving", "ShutdownMode"),
    ("src/server", "Lobby", "TakeoverServer"),
    ("src/server", "lobby", "takeover"),
    ("src/server", "Neighbour", "RunningKeeper"),
    ("src/server", "Notice", "Notification"),
    ("src/server", "notice", "sd_notify"),
    ("src/server", "Pace", "RestartDelay"),
    ("src/server", "pace", "restart_delay"),
    ("src/server", "packet", "seqpacket"),
    ("src/server", "parcel", "fd_bundle"),
    ("src/server", "ParcelError", "FdBundleError"),
    ("src/server", "Reception", "CarrierAcceptor"),
    ("src/server", "RelayPlaces", "RelaySettings"),
    ("src/server", "Settled", "PreparedPlan"),
    ("src/server", "Tombs", "ClosedSessions"),
    ("src/server", "tombs", "closed_sessions"),
    ("src/server", "Tombstone", "ClosedSession"),
    ("src/server", "Turnstile", "SourceQueue"),
    ("src/server", "Vault", "SessionStore"),
    ("src/server", "vault", "session_store"),
    ("src/server", "visitor", "status_client"),
    ("src/server", "Welcome", "Acceptor"),
    ("src/server", "welcome", "handshake"),
    ("src/server/worker", "Wire", "Connection"),
    ("src/safe_path.rs", "Way", "ResolvedPath"),
    ("tests/session_schedules", "Shelf", "MemoryStore"),
    ("tests/session_schedules", "shelf", "memory_store"),
    ("tests/session_week", "Life", "SessionSim"),
    ("tests/session_week", "Seen", "Stats"),
    ("tests/session_week", "Spell", "Interval"),
    ("tests/session_week", "Weather", "Conditions"),
    ("tests/session_week", "weather", "conditions"),
    ("tests/patience.rs", "patience", "endurance"),
    ("src/transport/handshake_limiter.rs", "Gate", "HandshakeLimiter"),
    ("src/transport/handshake_limiter.rs", "Place", "Permit"),
    ("src/transport/quic", "Acquaintance", "AuthenticatedClient"),
    ("src/transport/quic", "arrivals", "black_hole"),
    ("src/transport/quic", "Arrivals", "BlackHoleDetector"),
    ("src/transport/quic", "departure", "gso"),
    ("src/transport/quic", "Departure", "SendRecord"),
    ("src/transport/quic", "joining", "batching"),
    ("src/transport/quic", "Joining", "BatchingSocket"),
    ("src/transport/quic", "Look", "ProbeRtt"),
    ("src/transport/quic", "shake_hands", "handshake"),
    ("src/carrier", "Heard", "ReceivedFrame"),
    ("src/carrier", "Introduction", "HostMessage"),
    ("src/carrier", "is_hole", "is_black_hole"),
    ("src/carrier", "LastWords", "StderrTail"),
    ("src/carrier", "let_go", "flush_transport"),
    ("src/carrier", "Opaque", "WithoutStats"),
    ("src/carrier", "Reading", "TransportStats"),
    ("src/carrier", "touch", "solicit_ack"),
    ("src/carrier/relays", "patience", "lookup_timeout"),
    ("src/carrier/via", "Beat", "KeepaliveAction"),
    ("src/carrier/via", "Caller", "DialSettings"),
    ("src/carrier/via", "door", "listener"),
    ("src/carrier/via", "Guest", "AcceptedConnection"),
    ("src/carrier/via", "knock", "accept"),
    ("src/carrier/via", "listing", "control"),
    ("src/carrier/via", "Listing", "ControlConnection"),
    ("src/carrier/via", "OffTopic", "UnexpectedMessage"),
    ("src/carrier/via", "pulse", "keepalive"),
    ("src/carrier/via", "Pulse", "Keepalive"),
    ("src/carrier/via", "reach", "connect"),
    ("src/carrier/via", "Reaching", "RelayConnectRequest"),
    ("src/carrier/via", "ReachError", "RelayConnectError"),
    ("src/carrier/via", "registrar", "register"),
    ("src/carrier/via", "Registrar", "RegistrationDialer"),
    ("src/carrier/via", "talk", "codec"),
    ("src/carrier/via", "TalkError", "RelayStreamError"),
    ("src/carrier/via", "way", "address_source"),
    ("src/carrier/via", "Way", "AddressSource"),
    ("src/identity", "Asked", "OuterQueries"),
    ("src/identity", "LATER", "DEFERRED"),
    ("src/identity", "Place", "LinePosition"),
    ("src/identity", "Verdict", "KeyDecision, HostKeyStatus"),
    ("src/identity", "Winner", "LastUsed"),
    ("src/relay", "Guest", "AcceptedConnection"),
    ("src/relay", "House", "RelayState"),
    ("src/relay", "Listing", "RegisteredServer"),
    ("src/relay", "listings", "registrations"),
    ("src/relay", "Order", "ControlMessage"),
    ("src/relay", "Part", "Reservation"),
    ("src/relay", "reach", "connect"),
    ("src/relay", "reception", "accept"),
    ("src/relay", "tokens", "dial_backs"),
    ("crates", "Attached", "PathState"),
    ("crates", "LossGauge", "LossEstimator"),
    ("crates", "Mirror", "CopySchedule"),
    ("crates", "MOST_COPIED", "MAX_COPY"),
    ("crates", "RelayWord", "RelayMessage"),
    ("crates", "Shelf", "MemoryStore"),
    ("crates", "StandingWatch", "StandbyMonitor"),
    ("crates", "Vigil", "PathMonitor"),
    ("src", "Facts", "SessionStats"),
    ("src", "HoleWatch", "BlackHoleDetector"),
    ("src", "LateWatch", "LateAckDetector"),
    ("src", "Ledger", "CheckpointStore"),
    ("src", "LeadVitals", "LeadStats"),
    ("src", "NotAUserName", "InvalidUserName"),
    ("src", "RelayWord", "RelayMessage"),
    ("src", "Roster", "ActivePaths"),
    ("src", "Vigil", "PathMonitor"),
    ("src", "Vitals", "LiveStats"),
    ("src", "vitals", "live_stats"),
    ("src/client", "Need", "DialRequest"),
    ("src/client", "Order", "SessionCommand"),
    ("src/pump", "Advice", "Action"),
    ("src/pump", "Copies", "Redundancy"),
    ("src/pump", "Hearing", "LastHeard"),
    ("src/pump", "leads", "connection"),
    ("src/pump", "Look", "StatsRequest"),
    ("src/pump", "Need", "DialRequest"),
    ("src/pump", "Order", "SessionCommand"),
];

#[test]
fn retired_names_do_not_come_back() {
    let all = ["src", "crates", "tests", "benches", "examples"].map(sources);
    report(all.iter().flatten().flat_map(retired));
}

#[test]
fn a_retired_name_is_found_as_an_identifier_and_as_a_file() {
    let source = |place: &str, text: &str| Source {
        place: place.to_owned(),
        text: text.to_owned(),
    };
    let found = |place: &str, text: &str| retired(&source(place, text)).len();
    assert_eq!(found("src/client/redial.rs", "// Course\nstruct Course; \"Course\""), 1);
    assert_eq!(found("src/client/redial/course.rs", ""), 1);
    assert_eq!(found("src/server/course.rs", "struct Course;"), 0);
}

fn retired(source: &Source) -> Vec<String> {
    let here = RETIRED.iter().filter(|(place, ..)| {
        let rest = source.place.strip_prefix(place);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    });
    let here: Vec<_> = here.collect();
    if here.is_empty() {
        return Vec::new();
    }
    let names = source.place.trim_end_matches(".rs").split('/').map(|name| (name, 1));
    let all = tokens(&source.text);
    let words = all.iter().map(|token| (token.text.as_str(), token.line));
    let mut faults = Vec::new();
    for (word, line) in names.chain(words) {
        for (_, name, instead) in here.iter().filter(|(_, name, _)| *name == word) {
            faults.push(format!("{}:{line}: `{name}` is called `{instead}` now", source.place));
        }
    }
    faults
}
