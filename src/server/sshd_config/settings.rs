//! sshd's effective settings, as `sshd -T` prints them, and those that harm sessions.

use crate::identity::authorized_keys::{ListMatch, address_in_list};
use crate::wire::{PeerText, SshdLimit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// The shortest LoginGraceTime without a warning: it limits an outage before login.
pub(super) const MIN_LOGIN_GRACE: Duration = Duration::from_secs(60);

/// The lowest MaxStartups without a warning: four questions at once, and as many sessions before login.
const MIN_STARTUPS: u32 = 8;

/// The drop-in that prevents sshd from ending detached sessions, see `packaging/sshd_config.d`.
const DROP_IN: &str = "/etc/ssh/sshd_config.d/bowline.conf";

/// The same for keywords of OpenSSH 9.2, with which earlier versions refuse to start.
const DROP_IN_9_2: &str = "/etc/ssh/sshd_config.d/bowline-9.2.conf";

/// The same for keywords of OpenSSH 9.8.
const DROP_IN_9_8: &str = "/etc/ssh/sshd_config.d/bowline-9.8.conf";

/// Keywords in lower case with their values, one for each printed line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(pub(super) BTreeMap<String, Vec<String>>);

/// A setting of sshd that ends or hinders bowline's sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SshdWarning {
    /// sshd ends a connection whose client does not answer for this long, as in an outage.
    #[error(
        "sshd ends a session whose client does not answer for {after:?} (ClientAliveInterval x ClientAliveCountMax)"
    )]
    ClientAlive {
        /// Interval times count.
        after: Duration,
    },
    /// sshd closes idle channels, also those of detached sessions.
    #[error("sshd closes idle channels (ChannelTimeout {value})")]
    ChannelTimeout {
        /// Channel types and their timeouts.
        value: String,
    },
    /// sshd ends a connection without channels, such as an idle ControlMaster.
    #[error("sshd ends connections without channels after {after:?} (UnusedConnectionTimeout)")]
    UnusedConnectionTimeout {
        /// The time.
        after: Duration,
    },
    /// Limits an outage during login.
    #[error("sshd ends a session without a login after {after:?} (LoginGraceTime)")]
    LoginGraceTime {
        /// The time.
        after: Duration,
    },
    /// From this number of pending logins sshd drops connections at random.
    #[error("sshd drops connections if {start} or more logins are pending (MaxStartups)")]
    MaxStartups {
        /// The first number of `start:rate:full`.
        start: u32,
    },
    /// sshd limits the pending logins of an address, and one client may have several.
    #[error("sshd allows {most} pending logins from one address (PerSourceMaxStartups)")]
    PerSourceMaxStartups {
        /// The limit.
        most: u32,
    },
    /// sshd refuses addresses after failed logins, and clients on this machine share one.
    #[error("sshd refuses 127.0.0.1, the address of clients on this machine, after failed logins (PerSourcePenalties)")]
    PerSourcePenalties,
    /// sshd accepts no public keys, so it admits no session with `--auth sshd`.
    #[error("sshd accepts no public keys (PubkeyAuthentication no)")]
    NoPublicKeys,
}

impl SshdWarning {
    /// The line for sshd_config that changes it.
    #[must_use]
    pub fn mending_line(&self) -> String {
        match self {
            Self::ClientAlive { .. } => "ClientAliveInterval 0".into(),
            Self::ChannelTimeout { .. } => "ChannelTimeout none".into(),
            Self::UnusedConnectionTimeout { .. } => "UnusedConnectionTimeout none".into(),
            Self::LoginGraceTime { .. } => "LoginGraceTime 120".into(),
            Self::MaxStartups { .. } => "MaxStartups 10:30:100".into(),
            Self::PerSourceMaxStartups { .. } => "PerSourceMaxStartups none".into(),
            Self::PerSourcePenalties => "PerSourcePenaltyExemptList 127.0.0.1".into(),
            Self::NoPublicKeys => "PubkeyAuthentication yes".into(),
        }
    }

    /// The packaged file that changes it; `None` if the administrator should decide.
    #[must_use]
    pub fn drop_in(&self) -> Option<&'static str> {
        match self {
            Self::ClientAlive { .. } => Some(DROP_IN),
            Self::ChannelTimeout { .. } | Self::UnusedConnectionTimeout { .. } => Some(DROP_IN_9_2),
            Self::PerSourcePenalties => Some(DROP_IN_9_8),
            Self::LoginGraceTime { .. }
            | Self::MaxStartups { .. }
            | Self::PerSourceMaxStartups { .. }
            | Self::NoPublicKeys => None,
        }
    }
}

impl Settings {
    pub(super) fn parse(text: &str) -> Self {
        let mut settings = BTreeMap::<_, Vec<_>>::new();
        for line in text.lines() {
            let (keyword, value) = line.split_once(' ').unwrap_or((line, ""));
            if !keyword.is_empty() {
                settings
                    .entry(keyword.to_ascii_lowercase())
                    .or_default()
                    .push(value.trim().to_owned());
            }
        }
        Self(settings)
    }

    /// All values of a keyword (lower case), one for each line; none if this sshd does not know it.
    #[must_use]
    pub fn values(&self, keyword: &str) -> &[String] {
        self.0.get(keyword).map_or(&[], Vec::as_slice)
    }

    /// The first value of a keyword (lower case).
    #[must_use]
    pub fn value(&self, keyword: &str) -> Option<&str> {
        self.values(keyword).first().map(String::as_str)
    }

    /// Private host keys that sshd uses.
    #[must_use]
    pub fn host_key_files(&self) -> Vec<PathBuf> {
        self.values("hostkey").iter().map(PathBuf::from).collect()
    }

    /// Host certificates that sshd uses, besides those that are beside their keys.
    #[must_use]
    pub fn host_certificate_files(&self) -> Vec<PathBuf> {
        self.values("hostcertificate").iter().map(PathBuf::from).collect()
    }

    /// The addresses on which sshd listens.
    #[must_use]
    pub fn listen_addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.values("listenaddress").iter();
        // A routing domain may follow.
        let first = addresses.filter_map(|value| value.split_whitespace().next());
        first.filter_map(|address| address.parse().ok()).collect()
    }

    /// Whether sshd refuses this address after failed logins.
    #[must_use]
    pub fn penalises(&self, address: IpAddr) -> bool {
        let exempt = self.value("persourcepenaltyexemptlist").unwrap_or_default();
        // Unknown before 9.8.
        let is_on = self
            .value("persourcepenalties")
            .is_some_and(|value| !matches!(value, "no" | "none"));
        is_on && address_in_list(address, exempt) != ListMatch::Yes
    }

    /// Whether sshd penalizes single IPv4 addresses and not networks.
    #[must_use]
    pub(super) fn penalises_single_addresses(&self) -> bool {
        let bits = self.value("persourcenetblocksize").map(|bits| bits.split(':').next());
        matches!(bits, None | Some(Some("32" | "none")))
    }

    /// TCP ports that sshd listens on, the first one first.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        let listening = self.values("listenaddress").iter();
        let from_addresses = listening.filter_map(|address| address.rsplit_once(':')?.1.parse().ok());
        let plain = self.values("port").iter().filter_map(|port| port.parse().ok());
        let mut ports = Vec::new();
        for port in plain.chain(from_addresses) {
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        ports
    }

    /// Settings that end detached sessions or hinder new ones. Settings inside `Match` blocks are not seen.
    #[must_use]
    pub fn warnings(&self) -> Vec<SshdWarning> {
        let found = [
            self.client_alive(),
            self.value("channeltimeout")
                .filter(|value| !matches!(*value, "none" | ""))
                .map(|value| {
                    let value = value.to_owned();
                    SshdWarning::ChannelTimeout { value }
                }),
            self.seconds("unusedconnectiontimeout")
                .map(|after| SshdWarning::UnusedConnectionTimeout { after }),
            self.seconds("logingracetime")
                .filter(|&after| after < MIN_LOGIN_GRACE)
                .map(|after| SshdWarning::LoginGraceTime { after }),
            self.max_startups(),
            self.number("persourcemaxstartups")
                .map(|most| SshdWarning::PerSourceMaxStartups { most }),
            self.penalties(),
            (self.value("pubkeyauthentication") == Some("no")).then_some(SshdWarning::NoPublicKeys),
        ];
        found.into_iter().flatten().collect()
    }

    /// The same, and also the login grace time if it is long enough.
    #[must_use]
    pub fn limits(&self) -> Vec<SshdWarning> {
        let mut limits = self.warnings();
        let grace = self.seconds("logingracetime").filter(|&after| after >= MIN_LOGIN_GRACE);
        limits.extend(grace.map(|after| SshdWarning::LoginGraceTime { after }));
        limits
    }

    fn client_alive(&self) -> Option<SshdWarning> {
        let interval = self.seconds("clientaliveinterval")?;
        let count = self.number("clientalivecountmax").filter(|&count| count > 0)?;
        let after = interval.saturating_mul(count);
        Some(SshdWarning::ClientAlive { after })
    }

    fn max_startups(&self) -> Option<SshdWarning> {
        let start = self.value("maxstartups")?.split(':').next()?.parse().ok()?;
        (start < MIN_STARTUPS).then_some(SshdWarning::MaxStartups { start })
    }

    fn penalties(&self) -> Option<SshdWarning> {
        self.penalises(Ipv4Addr::LOCALHOST.into())
            .then_some(SshdWarning::PerSourcePenalties)
    }

    /// A duration in seconds; `None` for `none` and 0, which mean no limit.
    fn seconds(&self, keyword: &str) -> Option<Duration> {
        let seconds = self.number(keyword)?;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    fn number(&self, keyword: &str) -> Option<u32> {
        self.value(keyword)?.parse().ok()
    }
}

impl From<&SshdWarning> for SshdLimit {
    fn from(warning: &SshdWarning) -> SshdLimit {
        let survives = match warning {
            SshdWarning::ClientAlive { after }
            | SshdWarning::UnusedConnectionTimeout { after }
            | SshdWarning::LoginGraceTime { after } => Some(after.as_secs()),
            SshdWarning::ChannelTimeout { .. }
            | SshdWarning::MaxStartups { .. }
            | SshdWarning::PerSourceMaxStartups { .. }
            | SshdWarning::PerSourcePenalties
            | SshdWarning::NoPublicKeys => None,
        };
        let mend = match warning {
            SshdWarning::LoginGraceTime { after } if *after >= MIN_LOGIN_GRACE => String::new(),
            warning => warning.mending_line(),
        };
        SshdLimit {
            what: PeerText::new(warning),
            survives,
            mend: mend.into(),
            file: warning.drop_in().unwrap_or_default().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    #[test]
    fn ports_host_keys_and_repeated_keywords() {
        let settings = Settings::parse(
            "port 22\nlistenaddress [::]:22\nlistenaddress 127.0.0.1:2222\nhostkey /a b\nhostkey /c\n\
             hostcertificate /d\nsubsystem sftp internal-sftp\nbanner\n",
        );
        assert_eq!(settings.ports(), [22, 2222]);
        assert_eq!(settings.host_key_files(), [PathBuf::from("/a b"), PathBuf::from("/c")]);
        assert_eq!(settings.host_certificate_files(), [PathBuf::from("/d")]);
        assert_eq!(settings.value("subsystem"), Some("sftp internal-sftp"));
        assert_eq!(settings.value("banner"), Some(""));
        assert_eq!(settings.value("absent"), None);
    }

    #[test]
    fn defaults_are_not_warned_about() {
        let defaults = "clientaliveinterval 0\nclientalivecountmax 3\nchanneltimeout none\nunusedconnectiontimeout none\n\
                        logingracetime 120\nmaxstartups 10:30:100\npersourcemaxstartups none\npubkeyauthentication yes\n";
        assert_eq!(Settings::parse(defaults).warnings(), []);
        assert_eq!(
            Settings::parse("clientaliveinterval 15\nclientalivecountmax 0\n").warnings(),
            []
        );
        assert_eq!(Settings::parse("logingracetime 0\n").warnings(), []);
    }

    #[test]
    fn each_drop_in_of_the_packaging_mends_what_names_it() {
        let after = Duration::from_secs(1);
        let warnings = [
            SshdWarning::ClientAlive { after },
            SshdWarning::ChannelTimeout { value: "*=1m".into() },
            SshdWarning::UnusedConnectionTimeout { after },
            SshdWarning::PerSourcePenalties,
        ];
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/sshd_config.d");
        let mut lines = 0;
        for warning in &warnings {
            let installed = std::path::Path::new(warning.drop_in().expect("a drop-in"));
            assert_eq!(installed.parent(), Some("/etc/ssh/sshd_config.d".as_ref()));
            let file = folder.join(installed.file_name().expect("a name"));
            let text = std::fs::read_to_string(&file).expect("packaged");
            let mended = text.lines().filter(|line| **line == *warning.mending_line()).count();
            assert_eq!(mended, 1, "{warning} in {}", file.display());
            lines += 1;
        }
        let files = std::fs::read_dir(&folder).expect("packaged").flatten();
        let texts = files.map(|file| std::fs::read_to_string(file.path()).expect("packaged"));
        let settings = |text: String| {
            text.lines()
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .count()
        };
        assert_eq!(texts.map(settings).sum::<usize>(), lines, "nothing else is set");
    }

    #[test]
    fn penalties_are_warned_about_unless_loopback_is_exempt() {
        let penalties = "persourcepenalties crash:90 authfail:5 noauth:1 grace-exceeded:20 max:600 min:15\n";
        let warnings = |exempt: &str| Settings::parse(&format!("{penalties}{exempt}")).warnings();
        assert_eq!(warnings(""), [SshdWarning::PerSourcePenalties]);
        assert_eq!(
            warnings("persourcepenaltyexemptlist none"),
            [SshdWarning::PerSourcePenalties]
        );
        assert_eq!(warnings("persourcepenaltyexemptlist 10.0.0.0/8,127.0.0.1"), []);
        assert_eq!(Settings::parse("persourcepenalties no\n").warnings(), []);
    }

    #[test]
    fn limits_say_how_long_a_session_survives_and_the_line_that_mends_it() {
        let settings = Settings::parse("clientaliveinterval 15\nclientalivecountmax 3\nlogingracetime 120\n");
        let limits: Vec<SshdLimit> = settings.limits().iter().map(SshdLimit::from).collect();
        assert_eq!(limits.len(), 2, "{limits:?}");
        assert_eq!(
            (limits[0].survives, limits[0].mend.as_str()),
            (Some(45), "ClientAliveInterval 0")
        );
        assert_eq!(limits[0].file, "/etc/ssh/sshd_config.d/bowline.conf");
        // 120 s for a login is fine, but it limits outages before login, so it is reported.
        assert_eq!((limits[1].survives, limits[1].mend.as_str()), (Some(120), ""));
        assert_eq!(Settings::parse("logingracetime 30\n").limits().len(), 1);
    }
}
