//! What is told, as a person reads it.

use std::time::Duration;

use crate::observe::{Half, SessionReport, State};

/// `connected 2 s`, `detached 3 m`, `gone: no client connected for 60 s`.
pub(super) fn state(session: &SessionReport) -> String {
    let word = session.state.as_str();
    match (session.state, &session.reason, session.age_ms) {
        (State::Gone, Some(reason), _) => format!("{word}: {reason}"),
        (State::Gone, None, _) | (_, _, None) => word.to_owned(),
        (_, _, Some(age)) => format!("{word} {}", age_of(age)),
    }
}

/// Whose session it is: `ann@build.example.org`, or from where.
pub(crate) fn who(session: &SessionReport) -> String {
    let place = match (session.half, &session.host, session.peer) {
        (Half::Client, Some(host), _) => host.clone(),
        (_, _, Some(peer)) => peer.to_string(),
        (_, _, None) => return session.user.clone().unwrap_or_else(|| "-".to_owned()),
    };
    match (&session.user, session.half) {
        (Some(user), Half::Client) => format!("{user}@{place}"),
        (Some(user), Half::Server) => format!("{user} from {place}"),
        (None, _) => place,
    }
}

/// The first digits, as in logs.
pub(crate) fn short_id(session: &SessionReport) -> &str {
    session.id.get(..8).unwrap_or(&session.id)
}

/// `SHA256:`, and enough to know one of a few hosts by.
pub(super) fn short_fingerprint(fingerprint: &str) -> String {
    const SHOWN: usize = "SHA256:".len() + 8;
    match fingerprint.get(..SHOWN) {
        Some(short) => format!("{short}.."),
        None => fingerprint.to_owned(),
    }
}

/// The largest unit that it has one of.
pub(super) fn age_of(milliseconds: u64) -> String {
    let seconds = Duration::from_millis(milliseconds).as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} m", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `12 B`, `3.4 MiB`.
pub(super) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return match unit {
                "B" => format!("{bytes} B"),
                _ => format!("{value:.1} {unit}"),
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// `0.4 ms`, `23 ms`.
pub(super) fn round_trip(milliseconds: f64) -> String {
    if milliseconds < 10.0 {
        format!("{milliseconds:.1} ms")
    } else {
        format!("{milliseconds:.0} ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::SessionId;

    #[test]
    fn ages_sizes_and_round_trips_are_short() {
        let ages = [0, 59_999, 60_000, 7_200_000, 200_000_000].map(age_of);
        assert_eq!(ages, ["0 s", "59 s", "1 m", "2 h", "2 d"]);
        let sizes = [0, 1023, 1536, 5 << 40].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "5.0 TiB"]);
        assert_eq!([0.04, 9.96, 150.2].map(round_trip), ["0.0 ms", "10.0 ms", "150 ms"]);
    }

    #[test]
    fn a_state_has_its_age_or_its_reason() {
        let gone = SessionReport {
            reason: Some("it had its day".to_owned()),
            age_ms: Some(5),
            ..SessionReport::gone(SessionId::new([1; 16]), Half::Server)
        };
        assert_eq!(state(&gone), "gone: it had its day");
        let detached = SessionReport {
            state: State::Detached,
            age_ms: Some(185_000),
            ..gone
        };
        assert_eq!(state(&detached), "detached 3 m");
        assert_eq!(who(&detached), "-");
    }
}
