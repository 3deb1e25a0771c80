//! Whether sshd may see all clients on loopback: if no rule depends on the client's address, nobody is admitted who
//! would not be admitted directly.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::super::connect_sshd::OWN_ALIAS;
use super::files::{ConfigFiles, FileState, Line, Unreadable, look};
use super::{Connection, NOBODY, Settings, SshdConfig, SshdConfigError, address_rules};

/// How often to try again if the configuration cannot be read.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// If a try takes long, the keeper waits this many times as long until the next one.
const RETRY_SHARE: u32 = 4;

/// A client's address as sshd sees it.
const ALIAS: IpAddr = IpAddr::V4(OWN_ALIAS);

/// Why no session may be opened while sshd sees all clients on loopback.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// Lines that may depend on the addresses of a connection.
    #[error("sshd has rules that depend on where a client connects from: {}", Lines(lines))]
    Rules {
        /// All of them, in sshd's order.
        lines: Vec<Line>,
    },
    /// Part of the configuration cannot be read.
    #[error("cannot read sshd's configuration")]
    Files(#[source] Unreadable),
    /// sshd does not print its settings: they are invalid, or something it needs is missing.
    #[error("cannot read sshd's configuration")]
    Sshd(#[source] SshdConfigError),
    /// The target is another machine, whose configuration cannot be read.
    #[error("cannot read sshd's configuration: {target} is another machine")]
    Elsewhere {
        /// The target.
        target: SocketAddr,
    },
    /// sshd penalizes addresses, and all clients have the same.
    #[error(
        "sshd refuses addresses after failed logins (PerSourcePenalties), and at {target} all clients have the same address"
    )]
    SharedPenalties {
        /// The target.
        target: SocketAddr,
        /// Another address of the same sshd, at which each client can have a loopback address of its own.
        instead: Option<SocketAddr>,
    },
}

impl Obstacle {
    /// Whether the local address of a connection may matter, and not only the client's. Decided by words in the lines;
    /// in doubt it may.
    #[must_use]
    pub fn is_about_local_address(&self) -> bool {
        let words = ["local", "rdomain", "ssh_connection", "%c", "%d"];
        match self {
            Obstacle::Rules { lines } => lines.iter().any(|line| {
                let text = line.text.to_ascii_lowercase();
                words.iter().any(|word| text.contains(word))
            }),
            Obstacle::SharedPenalties { .. } => false,
            Obstacle::Files(_) | Obstacle::Sshd(_) | Obstacle::Elsewhere { .. } => true,
        }
    }
}

/// Shows the first line, and how many more there are.
struct Lines<'a>(&'a [Line]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((first, more)) = self.0.split_first() else {
            return Ok(());
        };
        write!(f, "{first}")?;
        match more.len() {
            0 => Ok(()),
            count => write!(f, " (and {count} more)"),
        }
    }
}

/// Checks the configuration of one sshd, and again when a file has changed.
#[derive(Debug)]
pub struct LoopbackCheck {
    sshd: SshdConfig,
    target: SocketAddr,
    last: Option<Checked>,
}

#[derive(Debug)]
struct Checked {
    seen: Vec<FileState>,
    obstacle: Option<Obstacle>,
    /// When to check again although no file has changed.
    again: Option<Instant>,
}

impl LoopbackCheck {
    /// Checks the sshd at `target`. Nothing is read yet.
    #[must_use]
    pub fn new(sshd: SshdConfig, target: SocketAddr) -> Self {
        let last = None;
        Self { sshd, target, last }
    }

    /// Why no session may be opened. Costs a system call for each file if none has changed, otherwise as much as `sshd
    /// -T`.
    pub fn obstacle(&mut self, now: impl Fn() -> Instant) -> Option<&Obstacle> {
        let start = now();
        let is_current = self.last.as_ref().is_some_and(|last| last.is_current(start));
        if !is_current {
            let (obstacle, seen) = self.look();
            let is_unknown = matches!(obstacle, Some(Obstacle::Files(_) | Obstacle::Sshd(_)));
            let end = now();
            let pause = RETRY_INTERVAL.max(end.saturating_duration_since(start) * RETRY_SHARE);
            self.last = Some(Checked {
                seen,
                obstacle,
                again: is_unknown.then(|| end + pause),
            });
        }
        self.last.as_ref()?.obstacle.as_ref()
    }

    fn look(&self) -> (Option<Obstacle>, Vec<FileState>) {
        let target = self.target;
        if !is_here(target.ip()) {
            return (Some(Obstacle::Elsewhere { target }), Vec::new());
        }
        let mut files = ConfigFiles::read(self.sshd.file());
        // Another sshd program may support other rules.
        files.seen.push(look(&self.sshd.binary));
        let settings = self.sshd.settings_for(Connection {
            user: NOBODY,
            address: ALIAS,
            local: target,
        });
        let session: Option<PathBuf> = settings
            .as_ref()
            .ok()
            .and_then(|settings| settings.value("sshdsessionpath"))
            .map(PathBuf::from);
        let programs: Vec<&Path> = std::iter::once(self.sshd.binary.as_path())
            .chain(session.as_deref())
            .collect();
        let mut lines = address_rules::among(&files);
        lines.extend(address_rules::of_hosts_files(&mut files, &programs));
        let obstacle = match (files.unreadable, settings) {
            _ if !lines.is_empty() => Some(Obstacle::Rules { lines }),
            (Some(unreadable), _) => Some(Obstacle::Files(unreadable)),
            (None, Err(error)) => Some(Obstacle::Sshd(error)),
            (None, Ok(settings)) => shared_penalties(&settings, target),
        };
        (obstacle, files.seen)
    }
}

impl Checked {
    fn is_current(&self, now: Instant) -> bool {
        self.again.is_none_or(|again| now < again) && self.seen.iter().all(|seen| look(&seen.0) == *seen)
    }
}

/// Another address of the target at which each client can have an address of its own, if the same sshd listens there.
#[must_use]
pub fn with_client_addresses(settings: &Settings, target: SocketAddr) -> Option<SocketAddr> {
    let listening = settings.listen_addresses();
    let same_port = listening.iter().filter(|address| address.port() == target.port());
    let ipv4 = same_port.filter_map(|address| match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Some(Ipv4Addr::LOCALHOST),
        IpAddr::V4(ip) => Some(ip),
        IpAddr::V6(_) => None,
    });
    let best = ipv4.max_by_key(Ipv4Addr::is_loopback)?;
    Some(SocketAddr::from((best, target.port())))
}

/// sshd's penalties must affect single clients only: otherwise strangers could lock out others.
fn shared_penalties(settings: &Settings, target: SocketAddr) -> Option<Obstacle> {
    let has_aliases = target.is_ipv4() && is_here(ALIAS);
    // Without an alias, a client's connection comes from the address that it goes to.
    let source = if has_aliases { ALIAS } else { target.ip() };
    let is_shared = !has_aliases || !settings.penalises_single_addresses();
    if !is_shared || !settings.penalises(source) {
        return None;
    }
    let instead = with_client_addresses(settings, target).filter(|_| target.is_ipv6());
    Some(Obstacle::SharedPenalties { target, instead })
}

/// Whether an address belongs to this machine.
pub(crate) fn is_here(address: IpAddr) -> bool {
    is_here_in_zone(SocketAddr::new(address, 0))
}

/// The same for an address that may have a zone; its port is ignored.
pub(crate) fn is_here_in_zone(mut address: SocketAddr) -> bool {
    address.set_port(0);
    UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PENALTIES: &str = "PerSourcePenalties crash:90 authfail:5\nPerSourceNetBlockSize 32:128\n";

    fn settings(more: &str) -> Settings {
        Settings::parse(&format!("{PENALTIES}{more}"))
    }

    fn is_shared(settings: &Settings, target: &str) -> bool {
        shared_penalties(settings, target.parse().unwrap()).is_some()
    }

    #[test]
    fn penalties_that_would_meet_everybody_are_an_obstacle() {
        let defaults = settings("");
        assert!(!is_shared(&defaults, "127.0.0.1:22") && !is_shared(&defaults, "192.0.2.1:22"));
        assert!(is_shared(&defaults, "[::1]:22") && is_shared(&defaults, "[2001:db8::1]:22"));
        let exempt = settings("PerSourcePenaltyExemptList ::1,127.0.0.0/8\n");
        assert!(!is_shared(&exempt, "[::1]:22") && is_shared(&exempt, "[2001:db8::1]:22"));
        let networks = Settings::parse("persourcepenalties crash:90\npersourcenetblocksize 24:64\n");
        assert!(is_shared(&networks, "127.0.0.1:22"));
        assert!(!is_shared(&Settings::parse("PerSourcePenalties no\n"), "[::1]:22"));
        assert!(
            !is_shared(&Settings::parse("port 22\n"), "[::1]:22"),
            "before OpenSSH 9.8"
        );
    }

    #[test]
    fn the_same_sshd_is_found_over_ipv4() {
        let instead = |lines: &str| {
            let target = "[::1]:22".parse().unwrap();
            with_client_addresses(&Settings::parse(lines), target).map(|address| address.to_string())
        };
        let at = |text: &str| Some(text.to_owned());
        assert_eq!(
            instead("ListenAddress [::]:22\nListenAddress 0.0.0.0:22\n"),
            at("127.0.0.1:22")
        );
        assert_eq!(
            instead("listenaddress 192.0.2.1:22\nlistenaddress 127.0.0.2:22 rdomain x\n"),
            at("127.0.0.2:22")
        );
        assert_eq!(instead("listenaddress 192.0.2.1:22\n"), at("192.0.2.1:22"));
        assert_eq!(instead("listenaddress [::]:22\nlistenaddress 0.0.0.0:2222\n"), None);
    }
}
