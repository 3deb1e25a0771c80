//! Verifies signatures with aws-lc. ssh-key's own verification takes up to ten times as long for
//! ECDSA, which strangers could make us do, and does not verify RSA keys above 4096 bits, which
//! OpenSSH can make.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, EcdsaVerificationAlgorithm,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
};
use russh::keys::ssh_key::encoding::Decode;
use russh::keys::ssh_key::public::{KeyData, RsaPublicKey};
use russh::keys::ssh_key::{Algorithm, EcdsaCurve, HashAlg, Mpint, Signature};

/// What a FIDO authenticator signs in addition to the message: flags and a four-byte counter
/// (PROTOCOL.u2f).
const TRAILER: usize = 5;

/// Whether `key` made `signature` over `signed`. The algorithm belongs to the key.
pub(super) fn is_by(key: &KeyData, signature: &Signature, signed: &[u8]) -> bool {
    let bytes = signature.as_bytes();
    match key {
        KeyData::Rsa(key) => is_by_rsa(key, &signature.algorithm(), bytes, signed),
        KeyData::Ecdsa(key) => is_by_ecdsa(key.curve(), key.as_sec1_bytes(), bytes, signed),
        KeyData::Ed25519(key) => is_by_ed25519(&key.0, bytes, signed),
        KeyData::SkEcdsaSha2NistP256(key) => {
            authenticated(key.application(), bytes, signed).is_some_and(|(bytes, signed)| {
                is_by_ecdsa(EcdsaCurve::NistP256, key.ec_point().as_bytes(), bytes, &signed)
            })
        }
        KeyData::SkEd25519(key) => authenticated(key.application(), bytes, signed)
            .is_some_and(|(bytes, signed)| is_by_ed25519(&key.public_key().0, bytes, &signed)),
        _ => false,
    }
}

fn is_by_rsa(key: &RsaPublicKey, algorithm: &Algorithm, bytes: &[u8], signed: &[u8]) -> bool {
    let parameters = match algorithm {
        Algorithm::Rsa {
            hash: Some(HashAlg::Sha256),
        } => &RSA_PKCS1_2048_8192_SHA256,
        Algorithm::Rsa {
            hash: Some(HashAlg::Sha512),
        } => &RSA_PKCS1_2048_8192_SHA512,
        _ => return false,
    };
    let components = RsaPublicKeyComponents {
        n: key.n().as_positive_bytes().unwrap_or_default(),
        e: key.e().as_positive_bytes().unwrap_or_default(),
    };
    components.verify(parameters, signed, bytes).is_ok()
}

fn is_by_ed25519(key: &[u8; 32], bytes: &[u8], signed: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, key).verify(signed, bytes).is_ok()
}

fn is_by_ecdsa(curve: EcdsaCurve, point: &[u8], bytes: &[u8], signed: &[u8]) -> bool {
    let (algorithm, width): (&EcdsaVerificationAlgorithm, _) = match curve {
        EcdsaCurve::NistP256 => (&ECDSA_P256_SHA256_FIXED, 32),
        EcdsaCurve::NistP384 => (&ECDSA_P384_SHA384_FIXED, 48),
        EcdsaCurve::NistP521 => (&ECDSA_P521_SHA512_FIXED, 66),
    };
    fixed(bytes, width).is_some_and(|fixed| UnparsedPublicKey::new(algorithm, point).verify(signed, &fixed).is_ok())
}

/// The two numbers of an ECDSA signature (RFC 5656 section 3.1.2), each `width` bytes long.
fn fixed(mut bytes: &[u8], width: usize) -> Option<Vec<u8>> {
    let mut fixed = Vec::with_capacity(2 * width);
    for _ in 0..2 {
        let number = Mpint::decode(&mut bytes).ok()?;
        let number = number.as_positive_bytes()?;
        fixed.resize(fixed.len() + width.checked_sub(number.len())?, 0);
        fixed.extend_from_slice(number);
    }
    bytes.is_empty().then_some(fixed)
}

/// The signature itself, and what a FIDO authenticator has signed instead of `signed`: application
/// hash, trailer, message hash.
fn authenticated<'a>(application: &str, bytes: &'a [u8], signed: &[u8]) -> Option<(&'a [u8], Vec<u8>)> {
    let (bytes, trailer) = bytes.split_at_checked(bytes.len().checked_sub(TRAILER)?)?;
    let (application, signed) = (digest(&SHA256, application.as_bytes()), digest(&SHA256, signed));
    Some((bytes, [application.as_ref(), trailer, signed.as_ref()].concat()))
}
