//! Words to choose from.

use std::fmt;

use bowline_terminal::PredictMode;

use super::{Value, ValueError};

/// Which transports the client half may dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Whatever reaches the server half, QUIC where it does.
    Auto,
    /// QUIC only.
    Quic,
    /// TLS only.
    Tls,
}

/// What to do when no path leads to the server half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// Fail.
    None,
    /// Connect to sshd's own TCP port: such a session does not survive its path.
    Tcp,
}

/// When typed keys are shown before the server has echoed them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Predict {
    /// If the server answers slowly.
    Adaptive,
    Always,
    Never,
}

/// Whether a server half may be started over ssh at a host that has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Install {
    Yes,
    No,
    /// If the user, at the terminal, says so.
    Ask,
}

/// Who decides whether a user key may open a session, as written: `--auth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuthWord {
    /// sshd is asked.
    Sshd,
    /// Nobody: the inner login decides alone.
    None,
}

/// Which address of a client sshd sees, as written: `--client-address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientAddressWord {
    /// The client's own if it can be shown, else one of loopback.
    Auto,
    /// The client's own, or none at all.
    Real,
    /// One of loopback.
    Loopback,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For eyes.
    Human,
    /// One JSON object a line.
    Json,
}

impl Value for Transport {
    const EXPECTED: &'static str = "auto, quic or tls";

    fn parse(text: &str) -> Result<Self, ValueError> {
        chosen(&[Transport::Auto, Transport::Quic, Transport::Tls], text)
    }
}

impl Value for Fallback {
    const EXPECTED: &'static str = "tcp or none";

    fn parse(text: &str) -> Result<Self, ValueError> {
        chosen(&[Fallback::None, Fallback::Tcp], text)
    }
}

impl Value for Predict {
    const EXPECTED: &'static str = "adaptive, always or never";

    fn parse(text: &str) -> Result<Self, ValueError> {
        chosen(&[Predict::Adaptive, Predict::Always, Predict::Never], text)
    }
}

impl Value for Install {
    const EXPECTED: &'static str = "yes, no or ask";

    fn parse(text: &str) -> Result<Self, ValueError> {
        chosen(&[Install::Yes, Install::No, Install::Ask], text)
    }
}

impl From<Predict> for PredictMode {
    fn from(predict: Predict) -> PredictMode {
        match predict {
            Predict::Adaptive => PredictMode::Adaptive,
            Predict::Always => PredictMode::Always,
            Predict::Never => PredictMode::Never,
        }
    }
}

impl Value for AuthWord {
    const EXPECTED: &'static str = "sshd or none";

    fn parse(text: &str) -> Result<Self, ValueError> {
        chosen(&[AuthWord::Sshd, AuthWord::None], text)
    }
}

impl Value for ClientAddressWord {
    const EXPECTED: &'static str = "auto, real or loopback";

    fn parse(text: &str) -> Result<Self, ValueError> {
        let all = [
            ClientAddressWord::Auto,
            ClientAddressWord::Real,
            ClientAddressWord::Loopback,
        ];
        chosen(&all, text)
    }
}

impl Value for LogFormat {
    const EXPECTED: &'static str = "human or json";

    fn parse(text: &str) -> Result<Self, ValueError> {
        chosen(&[LogFormat::Human, LogFormat::Json], text)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Auto => "auto",
            Transport::Quic => "quic",
            Transport::Tls => "tls",
        })
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fallback::None => "none",
            Fallback::Tcp => "tcp",
        })
    }
}

impl fmt::Display for Install {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Install::Yes => "yes",
            Install::No => "no",
            Install::Ask => "ask",
        })
    }
}

impl fmt::Display for Predict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Predict::Adaptive => "adaptive",
            Predict::Always => "always",
            Predict::Never => "never",
        })
    }
}

impl fmt::Display for AuthWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AuthWord::Sshd => "sshd",
            AuthWord::None => "none",
        })
    }
}

impl fmt::Display for ClientAddressWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ClientAddressWord::Auto => "auto",
            ClientAddressWord::Real => "real",
            ClientAddressWord::Loopback => "loopback",
        })
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        })
    }
}

/// The one among `all` that is written like `text`.
fn chosen<T: Value + Copy + fmt::Display>(all: &[T], text: &str) -> Result<T, ValueError> {
    all.iter()
        .copied()
        .find(|one| one.to_string() == text)
        .ok_or(T::misspelt())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: Value + std::fmt::Debug>(text: &str) -> String {
        T::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn a_misspelt_word_gets_the_words_to_choose_from() {
        assert_eq!(message::<Transport>("udp"), "expected auto, quic or tls");
        assert_eq!(message::<Fallback>("udp"), "expected tcp or none");
    }
}
