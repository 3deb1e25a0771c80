//! One line of a known_hosts file: marker, names, key.
//!
//! Parsed lazily, as in ssh: the key of a line for another host is never decoded.

use super::super::opaque_key::OpaqueKey;
use crate::identity::glob_matches;
use aws_lc_rs::hmac;
use russh::keys::ssh_encoding::base64::{Base64, Encoding};
use russh::keys::ssh_key::public::KeyData;
use russh::keys::ssh_key::{Fingerprint, HashAlg, PublicKey};
use thiserror::Error;

/// The marker of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marker {
    /// The host has this key.
    None,
    /// The key signs host certificates.
    CertAuthority,
    /// The key must not be accepted.
    Revoked,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LineError {
    /// The line starts with `@`, but with neither of the two markers, or with several.
    #[error("unknown marker")]
    Marker,
    /// The line ends before the key.
    #[error("line is cut short")]
    Truncated,
    /// A hashed name that is not `|1|salt|hash`.
    #[error("bad hashed name")]
    HashedName,
    /// The key cannot be decoded.
    #[error("bad key")]
    Key,
}

/// The key of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LineKey {
    /// A key that can be compared with those of a server half.
    Supported(KeyData),
    /// DSA or an unknown type, which no server half proves.
    Opaque(OpaqueKey),
}

impl LineKey {
    /// Whether it is `key`.
    pub(super) fn is(&self, key: &KeyData) -> bool {
        matches!(self, LineKey::Supported(own) if own == key)
    }

    /// SHA-256 fingerprint.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        match self {
            LineKey::Supported(key) => key.fingerprint(HashAlg::Sha256),
            LineKey::Opaque(key) => key.fingerprint(),
        }
    }
}

/// A line that is neither empty nor a comment.
#[derive(Debug)]
pub(super) struct Line<'a> {
    pub(super) marker: Marker,
    names: &'a [u8],
    key: &'a [u8],
}

impl<'a> Line<'a> {
    /// Parses a line; `None` if it is empty or a comment.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Option<Self>, LineError> {
        let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        let mut rest = skip_blanks(bytes);
        if rest.is_empty() || rest[0] == b'#' {
            return Ok(None);
        }
        let mut marker = Marker::None;
        if rest[0] == b'@' {
            (marker, rest) = parse_marker(rest)?;
        }
        let (names, key) = split_blank(rest).ok_or(LineError::Truncated)?;
        Ok(Some(Self {
            marker,
            names,
            key: skip_blanks(key),
        }))
    }

    /// Whether the line is for `name`, which is in lower case.
    pub(super) fn is_for(&self, name: &str) -> Result<bool, LineError> {
        if self.names.first() == Some(&b'|') {
            return hash_matches(name, self.names);
        }
        Ok(list_matches(name, self.names))
    }

    /// The key.
    pub(super) fn key(&self) -> Result<LineKey, LineError> {
        decode_key(self.key)
    }
}

/// `TYPE BASE64 [COMMENT]`, as in known_hosts, lists of revoked keys and `.pub` files.
pub(super) fn decode_key(text: &[u8]) -> Result<LineKey, LineError> {
    let (algorithm, rest) = split_blank(text).ok_or(LineError::Truncated)?;
    let rest = skip_blanks(rest);
    let blob = split_blank(rest).map_or(rest, |(blob, _comment)| blob);
    if blob.is_empty() {
        return Err(LineError::Truncated);
    }
    let joined = [algorithm, b" ", blob].concat();
    let text = std::str::from_utf8(&joined).map_err(|_| LineError::Key)?;
    if let Some(opaque) = OpaqueKey::from_text(text) {
        return Ok(LineKey::Opaque(opaque));
    }
    let key = PublicKey::from_openssh(text).map_err(|_| LineError::Key)?;
    Ok(LineKey::Supported(key.key_data().clone()))
}

/// Skips blanks at the start.
pub(super) fn skip_blanks(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| !is_blank(*byte)).unwrap_or(bytes.len());
    &bytes[start..]
}

fn parse_marker(bytes: &[u8]) -> Result<(Marker, &[u8]), LineError> {
    let (word, rest) = split_blank(bytes).ok_or(LineError::Marker)?;
    // ssh looks for a space first and then for a tab, and therefore does not recognise
    // `@marker<TAB>names type key`. A revocation is honoured nevertheless: it can only refuse a
    // key.
    let ssh_reads_it = bytes[word.len()] == b' ' || !bytes.contains(&b' ');
    let marker = match word {
        b"@revoked" => Marker::Revoked,
        b"@cert-authority" if ssh_reads_it => Marker::CertAuthority,
        _ => return Err(LineError::Marker),
    };
    let rest = skip_blanks(rest);
    if rest.first() == Some(&b'@') {
        Err(LineError::Marker)
    } else {
        Ok((marker, rest))
    }
}

fn split_blank(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| is_blank(*byte))?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

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
