//! Host patterns: `*`, `?`, `!`, comma lists (OpenSSH's `match.c`), and hashed names.

use aws_lc_rs::hmac;
use russh::keys::ssh_encoding::base64::{Base64, Encoding};

use super::line::LineError;
use crate::identity::glob_matches;

/// ssh ignores a single pattern that is this long or longer; the whole list then matches nothing.
const MAX_PATTERN_BYTES: usize = 1023;

/// Bytes of a salt: the output length of HMAC-SHA1.
const SALT_BYTES: usize = 20;

/// Whether the comma-separated list `patterns` matches `name`, which is in lower case. A negated
/// match takes precedence.
pub(super) fn list_matches(name: &str, patterns: &[u8]) -> bool {
    let mut matched = false;
    for pattern in patterns.split(|byte| *byte == b',') {
        let (negated, pattern) = match pattern.strip_prefix(b"!") {
            Some(rest) => (true, rest),
            None => (false, pattern),
        };
        if pattern.len() >= MAX_PATTERN_BYTES {
            return false;
        }
        if glob_matches(name.as_bytes(), &pattern.to_ascii_lowercase()) {
            if negated {
                return false;
            }
            matched = true;
        }
    }
    matched
}

/// Whether `|1|salt|hash` is the hash of `name`.
pub(super) fn hash_matches(name: &str, hashed: &[u8]) -> Result<bool, LineError> {
    let fields = hashed.strip_prefix(b"|1|").and_then(|rest| {
        let delimiter = rest.iter().position(|byte| *byte == b'|')?;
        Some((&rest[..delimiter], &rest[delimiter + 1..]))
    });
    let (salt, hash) = fields.ok_or(LineError::HashedName)?;
    let salt = std::str::from_utf8(salt)
        .ok()
        .and_then(|salt| Base64::decode_vec(salt).ok());
    let salt = salt
        .filter(|salt| salt.len() == SALT_BYTES)
        .ok_or(LineError::HashedName)?;
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &salt);
    let expected = Base64::encode_string(hmac::sign(&key, name.as_bytes()).as_ref());
    Ok(expected.as_bytes() == hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negated_match_takes_precedence() {
        assert!(list_matches("a.example", b"*.example,!b.example"));
        assert!(!list_matches("b.example", b"*.example,!b.example"));
        assert!(!list_matches("b.example", b"!c.example"));
        assert!(list_matches("a.example", b"A.EXAMPLE"));
        assert!(!list_matches(
            "a",
            [b"a,", "x".repeat(1023).as_bytes()].concat().as_slice()
        ));
    }
}
