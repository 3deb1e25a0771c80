//! How a session is named.

use super::{Value, ValueError};

/// The beginning of a session's id, or all of it: hexadecimal digits, in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionName(String);

impl SessionName {
    /// Whether an id begins so.
    pub(crate) fn names(&self, id: &str) -> bool {
        id.starts_with(&self.0)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for SessionName {
    const EXPECTED: &'static str = "the beginning of a session's id, such as 3f2a9c01";

    fn parse(text: &str) -> Result<Self, ValueError> {
        let is_id = (1..=32).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        match is_id {
            true => Ok(SessionName(text.to_ascii_lowercase())),
            false => Err(Self::misspelt()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_named_by_its_beginning() {
        let name = SessionName::parse("3F2a").unwrap();
        assert!(name.names("3f2a9c01") && !name.names("3f2b9c01"));
        let long = "0".repeat(33);
        for bad in ["", "xyz", "3f2a 9c01", long.as_str()] {
            assert!(SessionName::parse(bad).is_err(), "{bad}");
        }
    }
}
