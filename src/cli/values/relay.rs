//! Relays as they are written.

use super::{Value, ValueError};
use crate::carrier::relays::RelayName;

impl Value for RelayName {
    const EXPECTED: &'static str =
        "a relay such as r1.example.org, r2.example.org:4433#SHA256:.. or _bowline-relay._udp.example.org";

    fn parse(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Err(Self::misspelt());
        }
        Ok(text.parse()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_relay_is_told_which_part_of_it_is_wrong() {
        let message = |text: &str| RelayName::parse(text).expect_err(text).to_string();
        assert_eq!(message("::1"), "an IPv6 address must be in brackets: [2001:db8::1]:443");
        assert_eq!(message("r1.example.org:0"), "\"0\" is not a port from 1 to 65535");
        assert_eq!(message(""), format!("expected {}", RelayName::EXPECTED));
        assert_eq!(
            RelayName::parse("r1.example.org").map(|name| name.to_string()),
            Ok("r1.example.org:443".to_owned())
        );
    }
}
