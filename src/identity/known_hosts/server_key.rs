//! The keys that a server offers, plain or with a host certificate, and pins.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::public::{Ed25519PublicKey, KeyData};
use russh::keys::ssh_key::{Algorithm, Certificate, Fingerprint, HashAlg, PublicKey};
use thiserror::Error;

use super::super::opaque_key::ReadKey;
use crate::identity::glob_matches;
use crate::wire::{PeerText, Quoting};

/// The DER before the 32 key bytes in the SPKI of an Ed25519 key (RFC 8410 section 4).
const ED25519_SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A key that a server offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerKey {
    key: KeyData,
    certificate: Option<Box<Certificate>>,
}

/// The blob is not a supported key.
#[derive(Debug, Error)]
pub enum ServerKeyError {
    /// The blob cannot be decoded.
    #[error("not an SSH public key or certificate")]
    Malformed(#[source] Quoting<russh::keys::Error>),
    /// The type of the key is not supported.
    #[error("keys of type {algorithm} are not supported")]
    Unsupported {
        /// The name of the algorithm.
        algorithm: PeerText,
    },
    /// The CA key of the certificate is itself a certificate.
    #[error("the certificate is signed by a certificate")]
    Nested,
}

impl ServerKey {
    /// Decodes a public key (RFC 4253 section 6.6) or a certificate (PROTOCOL.certkeys) in wire
    /// format.
    ///
    /// # Errors
    /// The blob cannot be decoded, or its type is DSA or unknown. No input causes a panic or a
    /// stack overflow.
    pub fn from_blob(blob: &[u8]) -> Result<Self, ServerKeyError> {
        // Not ssh-key's own decoder, which recurses into nested certificates to any depth.
        let key = match ReadKey::from_blob(blob) {
            ReadKey::Supported(key) => key,
            ReadKey::Opaque(key) => {
                return Err(ServerKeyError::Unsupported {
                    algorithm: key.name().into(),
                });
            }
            ReadKey::Malformed(error) => return Err(ServerKeyError::Malformed(error.into())),
        };
        let (key, certificate) = match key {
            KeyData::Certificate(certificate) => (certificate.public_key().clone(), Some(certificate)),
            plain => (plain, None),
        };
        match key.algorithm() {
            algorithm @ (Algorithm::Dsa | Algorithm::Other(_)) => Err(ServerKeyError::Unsupported {
                algorithm: PeerText::new(algorithm),
            }),
            _ if matches!(
                certificate.as_ref().map(|cert| cert.signature_key()),
                Some(KeyData::Certificate(_))
            ) =>
            {
                Err(ServerKeyError::Nested)
            }
            _ => Ok(Self { key, certificate }),
        }
    }

    /// A TLS key (SPKI DER) as an SSH key; `None` unless it is Ed25519.
    pub fn of_tls_key(spki: &[u8]) -> Option<Self> {
        let key = spki.strip_prefix(&ED25519_SPKI_PREFIX)?;
        Some(Self {
            key: KeyData::Ed25519(Ed25519PublicKey(key.try_into().ok()?)),
            certificate: None,
        })
    }

    /// SHA-256 fingerprint of the key; for a certificate that of the key in it, as in ssh.
    pub fn fingerprint(&self) -> Fingerprint {
        self.key.fingerprint(HashAlg::Sha256)
    }

    /// The key, without its certificate.
    pub fn key_data(&self) -> &KeyData {
        &self.key
    }

    /// The key alone, in wire format.
    pub(super) fn blob(&self) -> Vec<u8> {
        let key = PublicKey::new(self.key.clone(), "");
        key.to_bytes().expect("what was decoded can be encoded")
    }

    /// The key that signed the certificate.
    pub fn authority(&self) -> Option<&KeyData> {
        self.certificate.as_ref().map(|certificate| certificate.signature_key())
    }

    /// `TYPE BASE64`, of the certificate if there is one.
    pub(crate) fn to_openssh(&self) -> russh::keys::ssh_key::Result<String> {
        match &self.certificate {
            Some(certificate) => certificate.to_openssh(),
            None => PublicKey::new(self.key.clone(), "").to_openssh(),
        }
    }

    /// Whether the certificate is valid for `name` at `now`, as `sshkey_cert_check_host()` decides.
    ///
    /// The caller checks that the CA is trusted. A certificate without principals is valid for no
    /// host, as in current OpenSSH (older versions accepted it for any).
    pub(super) fn certifies(&self, name: &str, now: SystemTime) -> bool {
        let Some(certificate) = &self.certificate else {
            return false;
        };
        let authority = [certificate.signature_key().fingerprint(HashAlg::Sha256)];
        let Ok(now) = now.duration_since(UNIX_EPOCH) else {
            return false;
        };
        let mut principals = certificate.valid_principals().iter();
        certificate.cert_type() == CertType::Host
            && certificate.critical_options().is_empty()
            && certificate.signature().algorithm() != (Algorithm::Rsa { hash: None })
            && principals.any(|principal| glob_matches(name.as_bytes(), principal.as_bytes()))
            && certificate.validate_at(now.as_secs(), &authority).is_ok()
    }
}

/// A fingerprint given by the user (`--pin`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin(Fingerprint);

impl Pin {
    /// The fingerprint, always SHA-256 if it was parsed.
    pub fn fingerprint(&self) -> Fingerprint {
        self.0
    }
}

/// Not a fingerprint in ssh's form.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{given:?} is not a fingerprint (SHA256: and 43 characters)")]
pub struct PinError {
    /// The text.
    pub given: String,
}

impl From<Fingerprint> for Pin {
    fn from(fingerprint: Fingerprint) -> Self {
        Self(fingerprint)
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let error = || PinError { given: text.to_owned() };
        let fingerprint: Fingerprint = text.trim_end_matches('=').parse().map_err(|_| error())?;
        if fingerprint.is_sha256() {
            Ok(Self(fingerprint))
        } else {
            Err(error())
        }
    }
}

/// Whether the pin matches one of the offered keys, or the TLS key (SPKI DER), if that is Ed25519.
pub fn pin_matches(pin: &Pin, offered: &[ServerKey], tls_spki: &[u8]) -> bool {
    tls_key_fingerprint(tls_spki) == Some(pin.0) || offered.iter().any(|key| key.fingerprint() == pin.0)
}

/// The fingerprint of a TLS key (SPKI DER) as an SSH key, as `ssh-keygen -l` would print it; `None`
/// unless it is Ed25519.
pub fn tls_key_fingerprint(spki: &[u8]) -> Option<Fingerprint> {
    ServerKey::of_tls_key(spki).map(|key| key.fingerprint())
}
