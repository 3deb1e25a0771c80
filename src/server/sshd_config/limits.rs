//! Converts sshd's warnings for clients that probe: how long a session survives, and the line that changes it.

use super::SshdWarning;
use super::settings::MIN_LOGIN_GRACE;
use crate::wire::{PeerText, SshdLimit};

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
