//! TLS with raw public keys (RFC 7250): bowline's own keys, their files, and TLS configurations.
//!
//! A [`TlsKey`] does not identify anybody. SSH keys do, by statements about it (see
//! [`statement`](super::statement)). This module only proves that the peer holds the key that it
//! presents.

mod config;
mod file;

use std::fmt;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

pub use config::{ServerKey, TlsConfigError, client_config, is_tls_key, server_config};
pub use file::KeyFileError;

/// Length in bytes of the SPKI DER of an Ed25519 key (RFC 8410), and thus of every bowline key.
pub const SPKI_LEN: usize = 44;

/// The DER before the 32 key bytes in the SPKI of every Ed25519 key (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// SHA-256 over an SPKI DER, by which relay keys are pinned: `SHA256:` and base64 without padding.
#[must_use]
pub fn spki_digest(spki: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, spki).as_ref());
    digest
}

/// An Ed25519 private key of bowline's own, for TLS.
///
/// A client process generates one and forgets it at its end. A server half keeps one in a file.
/// `Debug` shows only the public key.
#[derive(Clone)]
pub struct TlsKey {
    pkcs8: Zeroizing<Vec<u8>>,
    spki: [u8; SPKI_LEN],
}

/// These bytes are not an Ed25519 private key in PKCS#8 (RFC 5958, version 1 or 2).
#[derive(Debug, thiserror::Error)]
#[error("{length} bytes are not an Ed25519 private key in PKCS#8")]
pub struct NotATlsKey {
    /// Number of bytes.
    pub length: usize,
}

impl TlsKey {
    /// Generates a key.
    ///
    /// # Panics
    /// If the system has no randomness, which is fatal for aws-lc too.
    #[must_use]
    pub fn generate() -> Self {
        let pair = Ed25519KeyPair::generate().expect("the system gives randomness");
        let document = pair.to_pkcs8().expect("a fresh key can be encoded");
        Self::new(&pair, document.as_ref())
    }

    /// Parses a key in PKCS#8 DER (85 bytes or fewer), as [`to_pkcs8`](Self::to_pkcs8) writes it.
    ///
    /// # Errors
    /// `NotATlsKey` for anything else, including keys of other types.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, NotATlsKey> {
        let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| NotATlsKey { length: der.len() })?;
        Ok(Self::new(&pair, der))
    }

    /// The private key as PKCS#8 DER, which is secret: for the key file, and for the keeper to pass
    /// to its worker.
    #[must_use]
    pub fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key as SubjectPublicKeyInfo DER, which the peer sees and statements certify.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    fn new(pair: &Ed25519KeyPair, der: &[u8]) -> Self {
        let mut spki = [0; SPKI_LEN];
        spki[..SPKI_PREFIX.len()].copy_from_slice(&SPKI_PREFIX);
        spki[SPKI_PREFIX.len()..].copy_from_slice(pair.public_key().as_ref());
        Self {
            pkcs8: Zeroizing::new(der.to_vec()),
            spki,
        }
    }
}

impl fmt::Debug for TlsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = &self.spki[SPKI_PREFIX.len()..];
        f.debug_struct("TlsKey")
            .field("public", &public)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
