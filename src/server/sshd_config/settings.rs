//! sshd's effective settings, as `sshd -T` prints them, and what of them would harm sessions.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::identity::authorized_keys::{ListMatch, address_in_list};

/// Shortest LoginGraceTime that is not warned about: an outage before login may last no longer.
pub(super) const SHORT_GRACE: Duration = Duration::from_secs(60);

/// Least MaxStartups that is not warned about: four asks at once, and as many sessions before login.
const FEW_STARTUPS: u32 = 8;

/// The file of ours that keeps any sshd from ending detached sessions; `packaging/sshd_config.d` has it.
const DROP_IN: &str = "/etc/ssh/sshd_config.d/bowline.conf";

/// The same for what OpenSSH 9.2 brought, which earlier ones refuse to start with.
const DROP_IN_9_2: &str = "/etc/ssh/sshd_config.d/bowline-9.2.conf";

/// And for what 9.8 brought.
const DROP_IN_9_8: &str = "/etc/ssh/sshd_config.d/bowline-9.8.conf";

/// Keywords in lower case with their values, one for each line that sshd printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings(pub(super) BTreeMap<String, Vec<String>>);

/// A setting of sshd's that ends or hinders bowline's sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SshdWarning {
    /// sshd ends a connection whose client does not answer for this long: every longer outage.
    #[error("sshd ends a session after {after:?} without an answer (ClientAliveInterval x ClientAliveCountMax)")]
    ClientAlive {
        /// Interval times count.
        after: Duration,
    },
    /// sshd closes channels that are idle, detached ones among them.
    #[error("sshd closes idle channels (ChannelTimeout {value})")]
    ChannelTimeout {
        /// Types of channels and their times.
        value: String,
    },
    /// sshd ends a connection without channels, such as an idle ControlMaster.
    #[error("sshd ends connections without channels after {after:?} (UnusedConnectionTimeout)")]
    UnusedConnectionTimeout {
        /// The time.
        after: Duration,
    },
    /// An outage during login may last no longer than this.
    #[error("sshd ends a session that is not logged in after {after:?} (LoginGraceTime)")]
    LoginGraceTime {
        /// The time.
        after: Duration,
    },
    /// sshd drops connections at random from this number of logins under way.
    #[error("sshd drops connections from {start} logins under way on (MaxStartups)")]
    MaxStartups {
        /// The first number of `start:rate:full`.
        start: u32,
    },
    /// sshd limits logins under way per address, and one client may begin several.
    #[error("sshd takes {most} logins under way from one address (PerSourceMaxStartups)")]
    PerSourceMaxStartups {
        /// The limit.
        most: u32,
    },
    /// sshd locks out addresses whose logins fail, and clients on this machine share one.
    #[error("sshd locks out 127.0.0.1, where clients on this machine come from, if logins fail (PerSourcePenalties)")]
    PerSourcePenalties,
    /// sshd accepts no public keys, so it will accept no session under `--auth sshd`.
    #[error("sshd accepts no public keys (PubkeyAuthentication no)")]
    NoPublicKeys,
}

impl SshdWarning {
    /// The line for sshd_config that mends it.
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

    /// The file that mends it, as packages install it; `None` where the administrator has to weigh it.
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

    /// Host certificates that sshd uses, beside those that lie at their keys.
    #[must_use]
    pub fn host_certificate_files(&self) -> Vec<PathBuf> {
        self.values("hostcertificate").iter().map(PathBuf::from).collect()
    }

    /// Where sshd listens.
    #[must_use]
    pub fn listen_addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.values("listenaddress").iter();
        // A routing domain may follow.
        let first = addresses.filter_map(|value| value.split_whitespace().next());
        first.filter_map(|address| address.parse().ok()).collect()
    }

    /// Whether sshd locks out this address when logins from it fail.
    #[must_use]
    pub fn penalises(&self, address: IpAddr) -> bool {
        let exempt = self.value("persourcepenaltyexemptlist").unwrap_or_default();
        // Versions before 9.8 do not know it.
        let is_on = self
            .value("persourcepenalties")
            .is_some_and(|value| !matches!(value, "no" | "none"));
        is_on && address_in_list(address, exempt) != ListMatch::Yes
    }

    /// Whether each IPv4 address counts for itself when sshd locks out addresses.
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

    /// What here ends detached sessions or hinders new ones. Settings inside `Match` blocks are not seen.
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
                .filter(|&after| after < SHORT_GRACE)
                .map(|after| SshdWarning::LoginGraceTime { after }),
            self.max_startups(),
            self.number("persourcemaxstartups")
                .map(|most| SshdWarning::PerSourceMaxStartups { most }),
            self.penalties(),
            (self.value("pubkeyauthentication") == Some("no")).then_some(SshdWarning::NoPublicKeys),
        ];
        found.into_iter().flatten().collect()
    }

    /// All that ends or hinders sessions, also what is as it should be: the time for a login.
    #[must_use]
    pub fn limits(&self) -> Vec<SshdWarning> {
        let mut limits = self.warnings();
        let grace = self.seconds("logingracetime").filter(|&after| after >= SHORT_GRACE);
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
        (start < FEW_STARTUPS).then_some(SshdWarning::MaxStartups { start })
    }

    fn penalties(&self) -> Option<SshdWarning> {
        self.penalises(Ipv4Addr::LOCALHOST.into())
            .then_some(SshdWarning::PerSourcePenalties)
    }

    /// A time in seconds; `None` for `none` and for 0, which mean that there is no limit.
    fn seconds(&self, keyword: &str) -> Option<Duration> {
        let seconds = self.number(keyword)?;
        (seconds > 0).then(|| Duration::from_secs(seconds.into()))
    }

    fn number(&self, keyword: &str) -> Option<u32> {
        self.value(keyword)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
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
}
