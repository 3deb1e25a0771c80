//! Messages of the sd_notify(3) protocol. Here the worker sends them to its keeper, and the keeper to its service
//! manager.
//!
//! Only the text; descriptors are sent as ancillary data.

/// The most characters in a name: a service manager returns all names in one environment variable.
pub(super) const MAX_NAME: usize = 8;

/// Name of the descriptor whose removal tells the keeper that the service manager drops stored descriptors. The next
/// keeper takes it for a test descriptor and ignores it.
pub(super) const SENTINEL_NAME: &str = "trialend";

/// Names that the keeper uses with the service manager: for its listening sockets, as [`Protocol`](super::Protocol) is
/// written, and for its sentinel.
const KEEPER_NAMES: [&str; 3] = ["udp", "tcp", SENTINEL_NAME];

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notification {
    /// Store the descriptors that come with this. Do not watch them (`FDPOLL=0`): a hang-up is no reason to drop them
    /// here.
    Store { name: String },
    /// Close what is stored under this name.
    Remove { name: String },
    /// Close the descriptor that comes with this once everything that was sent before is done.
    Barrier,
    /// The worker is alive.
    Watchdog,
    /// The worker serves.
    Ready,
    /// The worker stops and touches nothing any more.
    Stopping,
}

impl Notification {
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

    /// Parses a message; `None` if it is not one of these, or has an invalid name.
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

/// Whether a descriptor can be stored under this name.
pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z'))
}

/// Whether a worker may store a descriptor under this name: some names are reserved for the keeper.
pub(super) fn is_worker_name(name: &str) -> bool {
    is_name(name) && !KEEPER_NAMES.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_is_understood_as_it_was_meant() {
        let name = || "1zz".to_owned();
        for notification in [
            Notification::Store { name: name() },
            Notification::Remove { name: name() },
            Notification::Barrier,
            Notification::Watchdog,
            Notification::Ready,
            Notification::Stopping,
        ] {
            assert_eq!(Notification::of(notification.text().as_bytes()), Some(notification));
        }
    }

    #[test]
    fn names_that_would_not_fit_an_environment_variable_are_none() {
        assert!(!is_name("a\n"));
        for name in ["", "123456789", "A", "a:b", "é"] {
            assert!(!is_name(name), "{name}");
            assert_eq!(Notification::of(format!("FDSTORE=1\nFDNAME={name}").as_bytes()), None);
        }
        assert!(is_name("closed") && is_name("zzzzzzzz"));
    }

    #[test]
    fn names_of_listening_sockets_and_the_sentinel_are_not_for_workers() {
        for protocol in [super::super::Protocol::Udp, super::super::Protocol::Tcp] {
            assert!(!is_worker_name(&protocol.to_string()), "{protocol}");
        }
        assert!(!is_worker_name(SENTINEL_NAME));
        for name in ["closed", "lock", "0", "trial01a"] {
            assert!(is_worker_name(name), "{name}");
        }
    }

    #[test]
    fn what_is_no_message_is_passed_over() {
        for text in [&b""[..], b"STATUS=fine", b"READY=0", b"\xff", b"FDSTORE=1"] {
            assert_eq!(Notification::of(text), None);
        }
    }
}
