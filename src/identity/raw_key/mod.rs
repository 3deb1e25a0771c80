//! TLS with raw public keys (RFC 7250): bowline's own keys, their files, and the TLS configurations.
//!
//! A [`TlsKey`] says nothing about who somebody is: SSH keys do, by statements over it
//! (see [`statement`](super::statement)). Here are no SSH keys and no decisions about trust, only the
//! proof that the peer holds the key that it shows.

mod config;
mod file;

use std::fmt;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use zeroize::Zeroizing;

pub use config::{ServerKey, TlsConfigError, client_config, is_tls_key, server_config};
pub use file::KeyFileError;

/// Length in bytes of the SPKI DER of an Ed25519 key (RFC 8410): always this, for every bowline key.
pub const SPKI_LEN: usize = 44;

/// The DER in front of the 32 key bytes in the SPKI of every Ed25519 key (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// SHA-256 over an SPKI DER: what a relay's key is pinned by, written `SHA256:` and base64 without padding.
#[must_use]
pub fn spki_digest(spki: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, spki).as_ref());
    digest
}

/// An Ed25519 private key of bowline's own, for TLS.
///
/// A client process makes one for itself and forgets it at its end; a server half keeps one in a file.
/// `Debug` shows the public half only.
#[derive(Clone)]
pub struct TlsKey {
    pkcs8: Zeroizing<Vec<u8>>,
    spki: [u8; SPKI_LEN],
}

/// These bytes are no Ed25519 private key in PKCS#8 (RFC 5958, version 1 or 2).
#[derive(Debug, thiserror::Error)]
#[error("{length} bytes are not an Ed25519 private key in PKCS#8")]
pub struct NotATlsKey {
    /// How many bytes there were.
    pub length: usize,
}

impl TlsKey {
    /// A fresh key from the system's randomness.
    ///
    /// # Panics
    /// If the system has no randomness to give, which aws-lc treats as fatal too.
    #[must_use]
    pub fn generate() -> Self {
        let pair = Ed25519KeyPair::generate().expect("the system gives randomness");
        let document = pair.to_pkcs8().expect("a fresh key can be encoded");
        Self::new(&pair, document.as_ref())
    }

    /// The key in PKCS#8 DER (85 bytes or fewer), as [`to_pkcs8`](Self::to_pkcs8) gives it.
    ///
    /// # Errors
    /// `NotATlsKey` for anything else, another kind of key among them.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, NotATlsKey> {
        let pair = Ed25519KeyPair::from_pkcs8(der).map_err(|_| NotATlsKey { length: der.len() })?;
        Ok(Self::new(&pair, der))
    }

    /// The private key as PKCS#8 DER: secret. For the keeper to hand to its worker, and for the key file.
    #[must_use]
    pub fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public half as SubjectPublicKeyInfo DER: what the peer sees and what statements are about.
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
