//! sshd's warnings as those see them who probe: what a session survives, and which line mends it.

use super::SshdWarning;
use super::settings::SHORT_GRACE;
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
            SshdWarning::LoginGraceTime { after } if *after >= SHORT_GRACE => String::new(),
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
        // Two minutes for a login are as they should be; that an outage may last no longer is worth a word.
        assert_eq!((limits[1].survives, limits[1].mend.as_str()), (Some(120), ""));
        assert_eq!(Settings::parse("logingracetime 30\n").limits().len(), 1);
    }
}
