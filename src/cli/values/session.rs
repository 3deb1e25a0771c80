//! How a session is named.

use super::{Value, ValueError};

/// What sessions are named by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SessionName {
    /// The beginning of the id, or all of it: hexadecimal digits, in lower case.
    Id(String),
    /// The terminal, without `/dev/`.
    Terminal(String),
}

impl SessionName {
    /// Whether it is a name of the session with this id, on this terminal.
    pub(crate) fn names(&self, id: &str, terminal: Option<&str>) -> bool {
        match self {
            SessionName::Id(beginning) => id.starts_with(beginning),
            SessionName::Terminal(name) => terminal == Some(name),
        }
    }
}

impl Value for SessionName {
    const EXPECTED: &'static str = "the beginning of a session's id, such as 3f2a9c01, or a terminal, such as pts/3";

    fn parse(text: &str) -> Result<Self, ValueError> {
        let is_id = (1..=32).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let terminal = text.strip_prefix("/dev/").unwrap_or(text);
        let is_terminal = terminal.starts_with("tty") || terminal.starts_with("pts/");
        match (is_id, is_terminal) {
            (true, _) => Ok(SessionName::Id(text.to_ascii_lowercase())),
            (false, true) => Ok(SessionName::Terminal(terminal.to_owned())),
            (false, false) => Err(Self::misspelt()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_named_by_its_beginning() {
        let name = SessionName::parse("3F2a").unwrap();
        assert!(name.names("3f2a9c01", None) && !name.names("3f2b9c01", Some("3f2a")));
        let long = "0".repeat(33);
        for bad in ["", "xyz", "3f2a 9c01", long.as_str()] {
            assert!(SessionName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_session_is_named_by_its_terminal() {
        for text in ["pts/3", "/dev/pts/3"] {
            let name = SessionName::parse(text).unwrap();
            assert!(name.names("3f2a9c01", Some("pts/3")) && !name.names("3f2a9c01", Some("pts/33")));
            assert!(!name.names("3f2a9c01", None));
        }
        assert!(SessionName::parse("/dev/tty1").is_ok() && SessionName::parse("/dev/null").is_err());
    }
}
