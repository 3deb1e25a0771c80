//! Statements that bind a TLS key to SSH keys: those of the host and of the user.
//!
//! They prove *which* SSH keys belong to a TLS connection. Whether these are the right ones is
//! decided by known_hosts (host keys) and sshd (user keys).

mod host_keys;

use bytes::{BufMut, Bytes};
use russh::keys::key::parse_public_key;
use russh::keys::ssh_key;
use ssh_key::certificate::CertType;
use ssh_key::encoding::Encode as _;
use ssh_key::public::KeyData;
use ssh_key::{Certificate, HashAlg, PrivateKey, PublicKey};

use super::opaque_key::OpaqueKey;
use super::sshsig::{self, SshsigError};
use crate::wire::{Authorization, Quoting, SessionId, Statement};

pub use host_keys::{HostKey, HostKeyWarning, load_host_keys};

/// SSHSIG namespace of host statements.
pub const HOST_NAMESPACE: &str = "bowline-host";

/// SSHSIG namespace of users' authorizations.
pub const OPEN_NAMESPACE: &str = "bowline-open";

/// Label of the TLS exporter (RFC 8446 section 7.5) used in [`OpenFields`]. Its context is empty,
/// its length 32.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-bowline-open";

/// Longest key or certificate blob in bytes.
pub const MAX_KEY_LEN: usize = 8 * 1024;

/// An SSH key that has signed for this TLS connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenKey {
    /// The SSH wire format of the certificate if there is one, otherwise of the key, as received.
    pub blob: Bytes,
    /// The key that signed, never a certificate.
    pub key: KeyData,
    /// The certificate of the key: it has the right type and is signed by the CA key that it names.
    /// Whether the CA is trusted, and whether principals and validity match, is still to be
    /// checked.
    pub certificate: Option<Box<Certificate>>,
}

impl ProvenKey {
    /// A user key or certificate that has *not* signed: good only for asking sshd about it. A
    /// certificate has the right type.
    ///
    /// # Errors
    /// As [`parse_key`]; `CertificateType`.
    pub fn unsigned(blob: &Bytes) -> Result<ProvenKey, StatementError> {
        let (key, certificate) = parse_key(blob)?;
        if let Some(certificate) = &certificate {
            check_certificate_type(certificate, CertType::User)?;
        }
        Ok(ProvenKey {
            blob: blob.clone(),
            key,
            certificate,
        })
    }

    /// Fingerprint of the key that signed, as `ssh-keygen -l` shows it (`SHA256:..`).
    #[must_use]
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }
}

/// A statement or authorization is invalid or cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum StatementError {
    /// The key is longer than allowed.
    #[error("the key has {length} bytes, {MAX_KEY_LEN} are allowed")]
    KeyTooLong {
        /// Length of the blob in bytes.
        length: usize,
    },
    /// Not an SSH public key or certificate in canonical encoding.
    #[error("not an SSH public key or certificate")]
    Key(#[source] Quoting<ssh_key::Error>),
    /// A key or certificate of an unsupported type.
    #[error("an SSH key of an unknown kind")]
    UnknownKey(#[source] Quoting<ssh_key::Error>),
    /// A user certificate instead of a host certificate, or the other way round.
    #[error("a {found:?} certificate, expected {expected:?}")]
    CertificateType {
        /// What it is.
        found: CertType,
        /// What it should be.
        expected: CertType,
    },
    /// The certificate's signature by its CA key is invalid or not acceptable.
    #[error("the certificate is not validly signed by its own CA")]
    CertificateSignature(#[source] SshsigError),
    /// The certificate is for another key than the signer's.
    #[error("the certificate is for another key")]
    CertificateOfAnotherKey,
    /// The certificate is signed by a certificate, which OpenSSH does not support.
    #[error("the certificate is signed by another certificate")]
    NestedCertificate,
    /// The signature is invalid.
    #[error(transparent)]
    Signature(#[from] SshsigError),
    /// Signed by another key than the one presented.
    #[error("signed by {signer}, expected {shown}")]
    OtherSigner {
        /// Fingerprint of the signer.
        signer: String,
        /// Fingerprint of the presented key.
        shown: String,
    },
}

impl StatementError {
    /// Whether it may be valid, but of an unsupported kind, which was not verified. All other
    /// errors are the sender's fault.
    #[must_use]
    pub fn is_unsupported(&self) -> bool {
        match self {
            StatementError::UnknownKey(_) => true,
            StatementError::Signature(error) | StatementError::CertificateSignature(error) => error.is_unsupported(),
            _ => false,
        }
    }

    fn key(error: impl Into<ssh_key::Error>) -> StatementError {
        match error.into() {
            error @ (ssh_key::Error::AlgorithmUnknown | ssh_key::Error::AlgorithmUnsupported { .. }) => {
                StatementError::UnknownKey(Quoting(error))
            }
            error => StatementError::Key(Quoting(error)),
        }
    }
}

/// What a user's key signs at an open. It identifies this open and no other.
#[derive(Clone, Copy, Debug)]
pub struct OpenFields<'a> {
    /// The connection's TLS exporter value for [`EXPORTER_LABEL`], so that the signature is valid
    /// on one connection only.
    pub exporter: &'a [u8; 32],
    /// The server half's TLS key, SPKI DER.
    pub server_spki: &'a [u8],
    /// The client process's own TLS key, SPKI DER. Later resumes need only this key.
    pub client_spki: &'a [u8],
    /// The session to open.
    pub session: SessionId,
    /// The requested login name.
    pub user: &'a str,
    /// The protocol version.
    pub version: u32,
}

/// Signs with an SSH host key that the server half holds the TLS key `tls_spki` (SPKI DER).
///
/// The statement contains `certificate`, if given, instead of the plain key.
///
/// # Errors
/// `CertificateOfAnotherKey`, `Key` if it cannot be encoded, `Signature` if the key cannot sign.
pub fn sign_host(
    host_key: &PrivateKey,
    certificate: Option<&Certificate>,
    tls_spki: &[u8],
) -> Result<Statement, StatementError> {
    let key = match certificate {
        Some(certificate) if certificate.public_key() != host_key.public_key().key_data() => {
            return Err(StatementError::CertificateOfAnotherKey);
        }
        Some(certificate) => certificate.to_bytes(),
        None => host_key.public_key().to_bytes(),
    };
    let signature = sshsig::sign(host_key, HOST_NAMESPACE, &host_message(tls_spki))?;
    Ok(Statement {
        key: key.map_err(StatementError::key)?.into(),
        signature: signature.into(),
    })
}

/// Verifies a host statement about the TLS key `tls_spki` (SPKI DER), and returns the SSH key that
/// signed it.
///
/// # Errors
/// `StatementError`: this statement is invalid; others may be valid.
pub fn verify_host(statement: &Statement, tls_spki: &[u8]) -> Result<ProvenKey, StatementError> {
    let message = host_message(tls_spki);
    verify(
        &statement.key,
        &statement.signature,
        HOST_NAMESPACE,
        &message,
        CertType::Host,
    )
}

/// The bytes that a user's key signs (with [`OPEN_NAMESPACE`]) to open a session: each field with
/// its length.
#[must_use]
pub fn open_message(fields: OpenFields<'_>) -> Vec<u8> {
    let mut message = Vec::with_capacity(256);
    put_string(&mut message, b"bowline open 1");
    message.put_u32(fields.version);
    put_string(&mut message, fields.exporter);
    put_string(&mut message, fields.server_spki);
    put_string(&mut message, fields.client_spki);
    put_string(&mut message, fields.session.as_bytes());
    put_string(&mut message, fields.user.as_bytes());
    message
}

/// Verifies an authorization over `message` (from [`open_message`]), and returns the user key.
///
/// # Errors
/// `StatementError`: this authorization is invalid; others may be valid.
pub fn verify_open(authorization: &Authorization, message: &[u8]) -> Result<ProvenKey, StatementError> {
    let Authorization { key, signature } = authorization;
    verify(key, signature, OPEN_NAMESPACE, message, CertType::User)
}

/// Parses an SSH public key or certificate in wire format.
///
/// # Errors
/// `KeyTooLong`, or `Key` if the encoding is not canonical.
pub fn parse_key(blob: &[u8]) -> Result<(KeyData, Option<Box<Certificate>>), StatementError> {
    if blob.len() > MAX_KEY_LEN {
        return Err(StatementError::KeyTooLong { length: blob.len() });
    }
    // ssh-key rejects a type name without a domain that it does not know.
    if OpaqueKey::from_blob(blob).is_some() {
        return Err(StatementError::key(ssh_key::Error::AlgorithmUnknown));
    }
    // Not ssh-key's own decoder: a certificate may be signed by another certificate, and so on, and
    // ssh-key recurses to any depth. This one limits the depth.
    let parsed = parse_public_key(blob).map_err(|error| match error {
        russh::keys::Error::SshKey(error) => StatementError::key(error),
        _ => StatementError::key(ssh_key::Error::FormatEncoding),
    })?;
    if parsed.to_bytes().map_err(StatementError::key)? != blob {
        return Err(StatementError::key(ssh_key::Error::FormatEncoding));
    }
    Ok(match parsed.key_data() {
        KeyData::Certificate(certificate) if matches!(certificate.signature_key(), KeyData::Certificate(_)) => {
            return Err(StatementError::NestedCertificate);
        }
        KeyData::Certificate(certificate) => (certificate.public_key().clone(), Some(certificate.clone())),
        key => (key.clone(), None),
    })
}

fn verify(
    key: &Bytes,
    signature: &[u8],
    namespace: &str,
    message: &[u8],
    certificate_type: CertType,
) -> Result<ProvenKey, StatementError> {
    let (shown, certificate) = parse_key(key)?;
    check_claimed_signer(signature, &shown)?;
    if let Some(certificate) = &certificate {
        check_certificate_type(certificate, certificate_type)?;
    }
    let signer = sshsig::verify(signature, namespace, message)?;
    if signer.key_data() != &shown {
        return Err(other_signer(signer.key_data(), &shown));
    }
    if let Some(certificate) = &certificate {
        check_certificate_signature(certificate)?;
    }
    Ok(ProvenKey {
        blob: key.clone(),
        key: shown,
        certificate,
    })
}

/// Compares the keys before anything is verified. Signatures and keys have one canonical encoding.
fn check_claimed_signer(signature: &[u8], shown: &KeyData) -> Result<(), StatementError> {
    let Some(signer) = sshsig::claimed_signer(signature) else {
        return Ok(());
    };
    let expected = PublicKey::from(shown.clone());
    if expected.to_bytes().map_err(StatementError::key)? == signer {
        return Ok(());
    }
    match parse_key(signer) {
        Ok((signer, None)) => Err(other_signer(&signer, shown)),
        // If it is not a key, the verification reports that.
        _ => Ok(()),
    }
}

fn other_signer(signer: &KeyData, shown: &KeyData) -> StatementError {
    StatementError::OtherSigner {
        signer: signer.fingerprint(HashAlg::Sha256).to_string(),
        shown: shown.fingerprint(HashAlg::Sha256).to_string(),
    }
}

fn check_certificate(certificate: &Certificate, expected: CertType) -> Result<(), StatementError> {
    check_certificate_type(certificate, expected)?;
    check_certificate_signature(certificate)
}

fn check_certificate_type(certificate: &Certificate, expected: CertType) -> Result<(), StatementError> {
    if certificate.cert_type() != expected {
        return Err(StatementError::CertificateType {
            found: certificate.cert_type(),
            expected,
        });
    }
    Ok(())
}

fn check_certificate_signature(certificate: &Certificate) -> Result<(), StatementError> {
    let mut signed = certificate.to_bytes().map_err(StatementError::key)?;
    // The last field, after its length, is the signature over everything before it
    // (PROTOCOL.certkeys).
    let signature = certificate
        .signature()
        .encoded_len_prefixed()
        .map_err(StatementError::key)?;
    signed.truncate(signed.len().saturating_sub(signature));
    sshsig::verify_raw(certificate.signature_key(), certificate.signature(), &signed)
        .map_err(StatementError::CertificateSignature)
}

fn host_message(tls_spki: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(96);
    put_string(&mut message, b"bowline host 1");
    put_string(&mut message, tls_spki);
    message
}

/// RFC 4251 section 5: length in four bytes, then the bytes. No two lists of fields have the same
/// encoding.
fn put_string(message: &mut Vec<u8>, bytes: &[u8]) {
    message.put_u32(u32::try_from(bytes.len()).expect("fields are short"));
    message.put_slice(bytes);
}

#[cfg(test)]
mod tests;
