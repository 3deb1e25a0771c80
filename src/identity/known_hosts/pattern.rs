//! Host patterns: `*`, `?`, `!`, comma lists (OpenSSH's `match.c`), and hashed names.

use aws_lc_rs::hmac;
use russh::keys::ssh_encoding::base64::{Base64, Encoding};

use super::line::LineError;

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

/// Whether `pattern` with `*` and `?` matches the whole of `text`. Takes at most `text.len() *
/// pattern.len()` steps.
pub(super) fn glob_matches(text: &[u8], pattern: &[u8]) -> bool {
    let (mut at, mut next) = (0, 0);
    // On a mismatch the last `*` matches one more byte; earlier ones need not be tried again.
    let mut last_star: Option<(usize, usize)> = None;
    while at < text.len() {
        match pattern.get(next) {
            Some(b'*') => {
                last_star = Some((next, at));
                next += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[at] => {
                at += 1;
                next += 1;
            }
            _ => {
                let Some((star, taken)) = last_star else { return false };
                last_star = Some((star, taken + 1));
                at = taken + 1;
                next = star + 1;
            }
        }
    }
    pattern[next..].iter().all(|byte| *byte == b'*')
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
    fn wildcards_take_what_ssh_takes() {
        for (text, pattern, expected) in [
            ("", "", true),
            ("a", "", false),
            ("", "*", true),
            ("abc", "a*c", true),
            ("abc", "a?c", true),
            ("abc", "a??c", false),
            ("aXbXc", "a*b*c", true),
            ("aaab", "*a?b", true),
            ("mississippi", "m*iss*p?", true),
            ("mississippi", "m*iss*q?", false),
            ("abc", "abc**", true),
        ] {
            assert_eq!(
                glob_matches(text.as_bytes(), pattern.as_bytes()),
                expected,
                "{text} {pattern}"
            );
        }
    }

    #[test]
    fn pathological_pattern_is_matched_quickly() {
        let text = "a".repeat(1000);
        assert!(!glob_matches(
            text.as_bytes(),
            format!("{}b", "*a".repeat(400)).as_bytes()
        ));
    }

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
