//! What a service says to its manager, in the words of sd_notify(3): here the worker to its keeper, and the keeper to
//! the manager above it.
//!
//! Only the text; descriptors travel beside it.

/// Most characters in a name: they all stand in one environment variable when a service manager gives them back.
pub(super) const MOST_NAME: usize = 8;

/// What the keeper has a manager keep only to notice when it goes: to the next keeper a trial, and so nothing.
pub(super) const SENTINEL_NAME: &str = "trialend";

/// What the keeper calls its listening sockets before a manager, as [`Protocol`](super::Protocol) is written; and its
/// sentinel.
const KEEPERS_NAMES: [&str; 3] = ["udp", "tcp", SENTINEL_NAME];

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    /// Keep the descriptors that come with this, and do not watch them: a hang-up says nothing here.
    Store { name: String },
    /// Close what is kept under this name.
    Remove { name: String },
    /// Close the descriptor that comes with this, once all that was said before is done.
    Barrier,
    /// Still alive.
    Watchdog,
    /// Serving.
    Ready,
    /// Nothing is touched any more.
    Stopping,
}

impl Notice {
    /// The message's text.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Store { name } => format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"),
            Self::Remove { name } => format!("FDSTOREREMOVE=1\nFDNAME={name}"),
            Self::Barrier => "BARRIER=1".to_owned(),
            Self::Watchdog => "WATCHDOG=1".to_owned(),
            Self::Ready => "READY=1".to_owned(),
            Self::Stopping => "STOPPING=1".to_owned(),
        }
    }

    /// The message that a text is; `None` for what is no such message, or has a name that is none.
    pub(super) fn of(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
                .map(str::to_owned)
        };
        let says = |key: &str| value(key).is_some_and(|value| value == "1");
        let name = || value("FDNAME").filter(|name| is_name(name));
        match () {
            () if says("FDSTORE") => name().map(|name| Self::Store { name }),
            () if says("FDSTOREREMOVE") => name().map(|name| Self::Remove { name }),
            () if says("BARRIER") => Some(Self::Barrier),
            () if says("WATCHDOG") => Some(Self::Watchdog),
            () if says("READY") => Some(Self::Ready),
            () if says("STOPPING") => Some(Self::Stopping),
            () => None,
        }
    }
}

/// Whether something can be kept under this name.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MOST_NAME).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z'))
}

/// Whether a worker may keep something under this name: some are the keeper's.
pub(super) fn is_workers_name(name: &str) -> bool {
    is_name(name) && !KEEPERS_NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_understood_as_it_was_meant() {
        let name = || "1zz".to_owned();
        for notice in [
            Notice::Store { name: name() },
            Notice::Remove { name: name() },
            Notice::Barrier,
            Notice::Watchdog,
            Notice::Ready,
            Notice::Stopping,
        ] {
            assert_eq!(Notice::of(notice.text().as_bytes()), Some(notice));
        }
    }

    #[test]
    fn names_that_would_not_fit_an_environment_variable_are_none() {
        assert!(!is_name("a\n"));
        for name in ["", "123456789", "A", "a:b", "é"] {
            assert!(!is_name(name), "{name}");
            assert_eq!(Notice::of(format!("FDSTORE=1\nFDNAME={name}").as_bytes()), None);
        }
        assert!(is_name("tombs") && is_name("zzzzzzzz"));
    }

    #[test]
    fn names_of_listening_sockets_and_the_sentinel_are_not_for_workers() {
        for protocol in [super::super::Protocol::Udp, super::super::Protocol::Tcp] {
            assert!(!is_workers_name(&protocol.to_string()), "{protocol}");
        }
        assert!(!is_workers_name(SENTINEL_NAME));
        for name in ["tombs", "lock", "0", "trial01a"] {
            assert!(is_workers_name(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_message_is_passed_over() {
        for text in [&b""[..], b"STATUS=fine", b"READY=0", b"\xff", b"FDSTORE=1"] {
            assert_eq!(Notice::of(text), None);
        }
    }
}
