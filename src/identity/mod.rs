//! Authentication of both ends by the SSH keys that they already have.

pub mod authorized_keys;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod key_query;
pub mod known_hosts;
pub mod opaque_key;
mod private_key;
pub mod raw_key;
mod rsa_signer;
pub mod ssh_config;
pub mod sshsig;
pub mod statement;
pub mod user_keys;

#[cfg(test)]
mod test_tools;

use crate::wire::KeyDigest;
use russh::keys::ssh_key::Fingerprint;

/// The digest by which relays find a key; `None` unless the fingerprint is SHA-256.
pub(crate) fn key_digest(fingerprint: Fingerprint) -> Option<KeyDigest> {
    match fingerprint {
        Fingerprint::Sha256(digest) => Some(KeyDigest::new(digest)),
        _ => None,
    }
}

/// Whether `pattern` with `*` and `?` matches the whole of `text`, as OpenSSH's `match_pattern` says.
/// Takes at most `text.len() * pattern.len()` steps.
///
/// By hand, because crates for globs give brackets, braces, slashes or backslashes a meaning, which they
/// do not have in ssh's patterns.
pub(crate) fn glob_matches(text: &[u8], pattern: &[u8]) -> bool {
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
}
