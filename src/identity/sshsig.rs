//! SSHSIG signatures (PROTOCOL.sshsig) by SSH keys, as binary blobs without armour.
//!
//! What is signed, and by whom, is up to the caller. This module decides which signatures are
//! acceptable: only the canonical encoding, no SHA-1, no RSA key below 2048 bits, and only the
//! expected namespace.

use russh::keys::ssh_key;
use ssh_key::private::KeypairData;
use ssh_key::public::{KeyData, RsaPublicKey};
use ssh_key::{Algorithm, HashAlg, PrivateKey, PublicKey, Signature, SshSig, encoding};

use super::rsa_signer;
use crate::wire::{PeerText, Quoting};
use encoding::{Decode, Encode};

mod verifying;

use verifying::is_by;

/// Longest signature blob in bytes. RSA with 8192 bits, the largest key that is verified, needs about 2.2 KiB.
pub const MAX_BLOB_LEN: usize = 4096;

/// Shortest RSA modulus in bits: OpenSSH's `RequiredRSASize` on current systems.
pub const MIN_RSA_BITS: usize = 2048;

/// Longest RSA modulus in bits.
pub const MAX_RSA_BITS: usize = 8192;

/// Offset of the signer's key in an SSHSIG blob: after `SSHSIG` and four bytes of version.
const SIGNER_AT: usize = 10;

/// The hash used when signing. PROTOCOL.sshsig also allows SHA-256; both are verified.
const HASH: HashAlg = HashAlg::Sha512;

/// A signature could not be made or is not acceptable.
#[derive(Debug, thiserror::Error)]
pub enum SshsigError {
    /// The blob is longer than any acceptable signature.
    #[error("the signature has {length} bytes, {MAX_BLOB_LEN} are allowed")]
    TooLong {
        /// Length of the blob in bytes.
        length: usize,
    },
    /// Not an SSHSIG blob.
    #[error("not an SSHSIG signature")]
    Malformed(#[source] Quoting<ssh_key::Error>),
    /// Probably an SSHSIG blob with an unknown hash or key algorithm.
    #[error("the SSHSIG signature has an unknown algorithm")]
    UnknownAlgorithm(#[source] Quoting<ssh_key::Error>),
    /// Not the canonical encoding, which is the one that OpenSSH writes.
    #[error("the SSHSIG signature is not in its canonical encoding")]
    NotCanonical,
    /// An unknown version of the format.
    #[error("SSHSIG version {found}, expected 1")]
    Version {
        /// The version in the blob.
        found: u32,
    },
    /// The signature was made for another purpose.
    #[error("the signature is for another namespace than {expected:?}")]
    OtherNamespace {
        /// The expected namespace.
        expected: String,
    },
    /// The signer is given as a certificate. Certificates are sent separately.
    #[error("the signer is a certificate, expected a plain key")]
    SignedByCertificate,
    /// Signatures by keys of this type cannot be verified, for example DSA.
    #[error("signatures by {algorithm} keys are not supported")]
    UnsupportedKey {
        /// The key's algorithm name.
        algorithm: PeerText,
    },
    /// SHA-1 RSA (`ssh-rsa`), or a signature algorithm that does not belong to the key.
    #[error("a {key} key signed with {signature}")]
    WrongAlgorithm {
        /// The key's algorithm.
        key: PeerText,
        /// The algorithm of the signature.
        signature: PeerText,
    },
    /// Not between 2048 and 8192 bits.
    #[error("the RSA key has {bits} bits, {MIN_RSA_BITS} to {MAX_RSA_BITS} are allowed")]
    RsaKeySize {
        /// The size of its modulus in bits.
        bits: usize,
    },
    /// The encoding is right, but the signature is not by this key over this message.
    #[error("the signature is not by this key over this message")]
    BadSignature,
    /// The private key cannot sign: it is encrypted, a security key, or of an unsupported type.
    #[error("the key cannot sign")]
    Sign(#[source] Quoting<ssh_key::Error>),
}

impl SshsigError {
    /// Whether it may be a good signature of an unsupported kind, which was not verified.
    pub fn is_unsupported(&self) -> bool {
        matches!(
            self,
            SshsigError::UnknownAlgorithm(_)
                | SshsigError::UnsupportedKey { .. }
                | SshsigError::WrongAlgorithm { .. }
                | SshsigError::RsaKeySize { .. }
        )
    }

    fn malformed(error: impl Into<ssh_key::Error>) -> SshsigError {
        match error.into() {
            error @ (ssh_key::Error::AlgorithmUnknown | ssh_key::Error::AlgorithmUnsupported { .. }) => {
                SshsigError::UnknownAlgorithm(Quoting(error))
            }
            error => SshsigError::Malformed(Quoting(error)),
        }
    }

    fn unfit(key: &Algorithm, signature: &Algorithm) -> SshsigError {
        SshsigError::WrongAlgorithm {
            key: PeerText::new(key),
            signature: PeerText::new(signature),
        }
    }
}

/// The bytes that an agent has to sign for `message` in `namespace`.
///
/// # Errors
/// `Malformed` if the namespace is empty.
pub fn signed_data(namespace: &str, message: &[u8]) -> Result<Vec<u8>, SshsigError> {
    SshSig::signed_data(namespace, HASH, message).map_err(SshsigError::malformed)
}

/// The blob for a signature that `public` (a plain key, not a certificate) made over
/// [`signed_data`].
///
/// The signature is not verified.
///
/// # Errors
/// `WrongAlgorithm` if an agent used SHA-1 RSA, and the errors of [`verify`] that concern the key.
pub fn assemble(public: &KeyData, namespace: &str, signature: Signature) -> Result<Vec<u8>, SshsigError> {
    check_signer(public, &signature)?;
    let sshsig = SshSig::new(public.clone(), namespace, HASH, signature).map_err(SshsigError::malformed)?;
    encode(&sshsig)
}

/// Signs with a private key in memory, RSA keys with `rsa-sha2-512`.
///
/// # Errors
/// `Sign` if the key is encrypted or a security key, and the errors of [`verify`] that concern the
/// key.
pub fn sign(key: &PrivateKey, namespace: &str, message: &[u8]) -> Result<Vec<u8>, SshsigError> {
    let failed = |error| SshsigError::Sign(Quoting(error));
    if let KeypairData::Rsa(pair) = key.key_data() {
        check_rsa_size(pair.public())?;
        let signature = rsa_signer::sign(pair, &signed_data(namespace, message)?).map_err(failed)?;
        return assemble(&pair.public().clone().into(), namespace, signature);
    }
    #[allow(clippy::disallowed_methods, reason = "it is no RSA key")]
    let sshsig = key.sign(namespace, HASH, message).map_err(failed)?;
    check_signer(sshsig.public_key(), sshsig.signature())?;
    encode(&sshsig)
}

/// Verifies a signature over `message` in `namespace`, and returns the key that made it. The caller
/// decides whether to trust that key.
///
/// The flags of security keys (`sk-`) are ignored: whether a touch is required is sshd's decision.
///
/// # Errors
/// `SshsigError` for everything but one valid signature: the first error found.
pub fn verify(blob: &[u8], namespace: &str, message: &[u8]) -> Result<PublicKey, SshsigError> {
    let sshsig = decode(blob)?;
    if sshsig.namespace() != namespace {
        return Err(SshsigError::OtherNamespace {
            expected: namespace.to_owned(),
        });
    }
    let signed = SshSig::signed_data(namespace, sshsig.hash_alg(), message).map_err(SshsigError::malformed)?;
    verify_raw(sshsig.public_key(), sshsig.signature(), &signed)?;
    Ok(PublicKey::from(sshsig.public_key().clone()))
}

/// The key that a blob claims as its signer, without verification. `None` if it is not an SSHSIG
/// blob.
pub fn claimed_signer(blob: &[u8]) -> Option<&[u8]> {
    blob.get(SIGNER_AT..).and_then(string)
}

/// Whether `key` made this signature over these bytes, without SSHSIG.
///
/// # Errors
/// As [`check_signer`], and `BadSignature`.
pub fn verify_raw(key: &KeyData, signature: &Signature, signed: &[u8]) -> Result<(), SshsigError> {
    check_signer(key, signature)?;
    match is_by(key, signature, signed) {
        true => Ok(()),
        false => Err(SshsigError::BadSignature),
    }
}

/// Checks type, size and algorithm of a key before the signature is verified.
///
/// # Errors
/// `SignedByCertificate`, `UnsupportedKey`, `WrongAlgorithm`, `RsaKeySize`.
pub fn check_signer(key: &KeyData, signature: &Signature) -> Result<(), SshsigError> {
    let algorithm = signature.algorithm();
    let fits = match key {
        KeyData::Certificate(_) => return Err(SshsigError::SignedByCertificate),
        KeyData::Rsa(rsa) => {
            check_rsa_size(rsa)?;
            matches!(algorithm, Algorithm::Rsa { hash: Some(_) })
        }
        KeyData::Ecdsa(_) | KeyData::Ed25519(_) | KeyData::SkEcdsaSha2NistP256(_) | KeyData::SkEd25519(_) => {
            algorithm == key.algorithm()
        }
        _ => {
            return Err(SshsigError::UnsupportedKey {
                algorithm: PeerText::new(key.algorithm()),
            });
        }
    };
    if fits {
        Ok(())
    } else {
        Err(SshsigError::unfit(&key.algorithm(), &algorithm))
    }
}

/// The size of the modulus in bits.
pub(crate) fn rsa_bits(key: &RsaPublicKey) -> usize {
    let modulus = key.n().as_positive_bytes().unwrap_or_default();
    modulus
        .first()
        .map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize)
}

fn check_rsa_size(key: &RsaPublicKey) -> Result<(), SshsigError> {
    let bits = rsa_bits(key);
    if (MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        Ok(())
    } else {
        Err(SshsigError::RsaKeySize { bits })
    }
}

fn decode(mut blob: &[u8]) -> Result<SshSig, SshsigError> {
    if blob.len() > MAX_BLOB_LEN {
        return Err(SshsigError::TooLong { length: blob.len() });
    }
    let whole = blob;
    // Before anything decodes the key: a certificate may be signed by another certificate, and so
    // on, and ssh-key recurses to any depth.
    if is_certificate(claimed_signer(blob).unwrap_or_default()) {
        return Err(SshsigError::SignedByCertificate);
    }
    let sshsig = SshSig::decode(&mut blob).map_err(SshsigError::malformed)?;
    if sshsig.version() != SshSig::VERSION {
        return Err(SshsigError::Version {
            found: sshsig.version(),
        });
    }
    // ssh-key ignores trailing bytes in inner strings, which would allow a second encoding.
    // `reserved` is always empty, and would not be part of what is hashed.
    if encode(&sshsig)? != whole || !sshsig.reserved().is_empty() {
        return Err(SshsigError::NotCanonical);
    }
    Ok(sshsig)
}

/// Certificates are recognised by their type name, as in ssh-key.
fn is_certificate(key: &[u8]) -> bool {
    let name = string(key).and_then(|name| std::str::from_utf8(name).ok());
    name.is_some_and(|name| Algorithm::new_certificate(name).is_ok())
}

/// The string at the start (RFC 4251 section 5).
fn string(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.get(..u32::from_be_bytes(*length) as usize)
}

fn encode(sshsig: &SshSig) -> Result<Vec<u8>, SshsigError> {
    sshsig.encode_vec().map_err(SshsigError::malformed)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    use aws_lc_rs::digest::{SHA256, digest};
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
    use proptest::prelude::*;
    use ssh_key::Mpint;
    use ssh_key::encoding::pem::LineEnding;
    use ssh_key::public::{Ed25519PublicKey, SkEcdsaSha2NistP256, SkEd25519};

    use super::*;
    use crate::identity::test_tools::{on_a_small_stack, read_key, tower_of_certificates};

    const KINDS: [(&str, &str); 6] = [
        ("ed25519", "256"),
        ("ecdsa", "256"),
        ("ecdsa", "384"),
        ("ecdsa", "521"),
        ("rsa", "2048"),
        ("rsa", "4096"),
    ];

    #[test]
    fn ssh_keygen_verifies_what_we_sign_with_every_kind_of_key() {
        let folder = tempfile::tempdir().unwrap();
        for (kind, bits) in KINDS {
            let key = read_key(&keygen(folder.path(), kind, bits));
            let blob = sign(&key, "bowline-test", b"message").unwrap();
            assert!(openssh_accepts(folder.path(), key.public_key(), &blob), "{kind} {bits}");
            let signer = verify(&blob, "bowline-test", b"message").unwrap();
            assert_eq!(signer.key_data(), key.public_key().key_data());
        }
    }

    #[test]
    fn we_verify_what_ssh_keygen_signs_with_every_kind_of_key_and_hash() {
        let folder = tempfile::tempdir().unwrap();
        for (kind, bits) in KINDS.into_iter().chain([("rsa", "4608")]) {
            let path = keygen(folder.path(), kind, bits);
            let public = PublicKey::read_openssh_file(path.with_extension("pub")).unwrap();
            for hash in ["sha256", "sha512"] {
                let blob = openssh_signs(&path, hash);
                let signer = verify(&blob, "bowline-test", b"message").unwrap();
                assert_eq!(signer.key_data(), public.key_data(), "{kind} {bits} {hash}");
                assert!(matches!(
                    verify(&blob, "bowline-test", b"other message"),
                    Err(SshsigError::BadSignature)
                ));
                assert!(matches!(
                    verify(&blob, "bowline-other", b"message"),
                    Err(SshsigError::OtherNamespace { .. })
                ));
            }
        }
    }

    #[test]
    fn signatures_by_security_keys_are_verified_as_openssh_does() {
        let folder = tempfile::tempdir().unwrap();
        for (public, signature) in [sk_ed25519_signature(), sk_ecdsa_signature()] {
            let blob = assemble(&public, "bowline-test", signature).unwrap();
            assert!(openssh_accepts(folder.path(), &public.clone().into(), &blob));
            assert_eq!(verify(&blob, "bowline-test", b"message").unwrap().key_data(), &public);
            assert!(matches!(
                verify(&blob, "bowline-test", b"other message"),
                Err(SshsigError::BadSignature)
            ));
        }
    }

    #[test]
    fn sha1_and_short_rsa_keys_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let key = read_key(&keygen(folder.path(), "rsa", "2048"));
        let sha1 = Signature::new(Algorithm::Rsa { hash: None }, vec![0; 256]).unwrap();
        let public = key.public_key().key_data();
        assert!(matches!(
            assemble(public, "bowline-test", sha1.clone()),
            Err(SshsigError::WrongAlgorithm { .. })
        ));
        let blob = encode(&SshSig::new(public.clone(), "bowline-test", HASH, sha1).unwrap()).unwrap();
        assert!(matches!(
            verify(&blob, "bowline-test", b"message"),
            Err(SshsigError::WrongAlgorithm { .. })
        ));

        let blob = openssh_signs(&keygen(folder.path(), "rsa", "1024"), "sha512");
        let verdict = verify(&blob, "bowline-test", b"message");
        assert!(matches!(verdict, Err(SshsigError::RsaKeySize { bits: 1024 })));
    }

    #[test]
    fn a_signature_of_another_algorithm_than_the_keys_does_not_count() {
        let (public, signature) = sk_ed25519_signature();
        let relabelled = Signature::new(Algorithm::Rsa { hash: Some(HASH) }, signature.as_bytes()).unwrap();
        assert!(matches!(
            assemble(&public, "bowline-test", relabelled),
            Err(SshsigError::WrongAlgorithm { .. })
        ));
    }

    #[test]
    fn only_the_canonical_encoding_of_a_signature_is_valid() {
        let folder = tempfile::tempdir().unwrap();
        let good = openssh_signs(&keygen(folder.path(), "ed25519", "256"), "sha512");
        let mut longer = good.clone();
        longer.push(0);
        assert!(matches!(
            verify(&longer, "bowline-test", b"message"),
            Err(SshsigError::NotCanonical)
        ));
        // One more byte inside the last string, which contains the signature: 4 + 11 + 4 + 64
        // bytes.
        let at = good.len() - 83 - 1;
        longer[at] += 1;
        assert!(matches!(
            verify(&longer, "bowline-test", b"message"),
            Err(SshsigError::NotCanonical)
        ));
        let mut older = good.clone();
        older[9] = 0;
        assert!(matches!(
            verify(&older, "bowline-test", b"message"),
            Err(SshsigError::Version { found: 0 })
        ));
        assert!(matches!(
            verify(&[b'S'; MAX_BLOB_LEN + 1], "bowline-test", b"message"),
            Err(SshsigError::TooLong { .. })
        ));
    }

    #[test]
    fn signer_with_deeply_nested_certificates_is_refused_without_recursion() {
        let tower = tower_of_certificates(MAX_BLOB_LEN - 400);
        let mut blob = b"SSHSIG\0\0\0\x01".to_vec();
        for field in [&tower, b"bowline-test".as_slice(), b"", b"sha512", b"signature"] {
            field.encode(&mut blob).unwrap();
        }
        assert!(blob.len() > MAX_BLOB_LEN / 2);
        let verdict = on_a_small_stack(move || verify(&blob, "bowline-test", b"message").map(|_| ()));
        assert!(matches!(verdict, Err(SshsigError::SignedByCertificate)), "{verdict:?}");
    }

    proptest! {
        #[test]
        fn no_changed_byte_and_no_cut_leaves_a_signature_valid(at: usize, bit in 0_u8..8, cut: usize) {
            let blob = assemble_example();
            let mut changed = blob.clone();
            changed[at % blob.len()] ^= 1 << bit;
            prop_assert!(verify(&changed, "bowline-test", b"message").is_err());
            prop_assert!(verify(&blob[..cut % blob.len()], "bowline-test", b"message").is_err());
        }
    }

    fn assemble_example() -> Vec<u8> {
        let (public, signature) = sk_ed25519_signature();
        assemble(&public, "bowline-test", signature).unwrap()
    }

    /// What a FIDO authenticator signs (PROTOCOL.u2f): application hash, flags, counter, message hash.
    fn authenticator_data(trailer: [u8; 5]) -> Vec<u8> {
        let signed = signed_data("bowline-test", b"message").unwrap();
        let application = digest(&SHA256, b"ssh:");
        let message = digest(&SHA256, &signed);
        [application.as_ref(), &trailer, message.as_ref()].concat()
    }

    const TOUCHED_NINE_TIMES: [u8; 5] = [1, 0, 0, 0, 9];

    fn sk_ed25519_signature() -> (KeyData, Signature) {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let public = Ed25519PublicKey(pair.public_key().as_ref().try_into().unwrap());
        let mut signature = pair.sign(&authenticator_data(TOUCHED_NINE_TIMES)).as_ref().to_vec();
        signature.extend(TOUCHED_NINE_TIMES);
        let signature = Signature::new(Algorithm::SkEd25519, signature).unwrap();
        (KeyData::SkEd25519(SkEd25519::new(public, "ssh:")), signature)
    }

    fn sk_ecdsa_signature() -> (KeyData, Signature) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let signature = pair
            .sign(&SystemRandom::new(), &authenticator_data(TOUCHED_NINE_TIMES))
            .unwrap();
        let mut encoded = Vec::new();
        for half in signature.as_ref().chunks(32) {
            Mpint::from_positive_bytes(half).encode(&mut encoded).unwrap();
        }
        encoded.extend(TOUCHED_NINE_TIMES);
        let signature = Signature::new(Algorithm::SkEcdsaSha2NistP256, encoded).unwrap();
        let mut public = Vec::new();
        for part in [
            b"sk-ecdsa-sha2-nistp256@openssh.com",
            b"nistp256".as_slice(),
            pair.public_key().as_ref(),
            b"ssh:",
        ] {
            part.encode(&mut public).unwrap();
        }
        let public = PublicKey::from_bytes(&public).unwrap().key_data().clone();
        let _: &SkEcdsaSha2NistP256 = public.sk_ecdsa_p256().unwrap();
        (public, signature)
    }

    fn keygen(folder: &Path, kind: &str, bits: &str) -> PathBuf {
        let path = folder.join(format!("{kind}-{bits}"));
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", kind, "-b", bits, "-N", "", "-f"]).arg(&path);
        assert!(command.status().unwrap().success());
        path
    }

    fn openssh_signs(key: &Path, hash: &str) -> Vec<u8> {
        let message = key.with_extension("message");
        std::fs::write(&message, b"message").unwrap();
        let armoured = message.with_extension("message.sig");
        let _ = std::fs::remove_file(&armoured);
        let mut command = Command::new("ssh-keygen");
        command.args([
            "-q",
            "-Y",
            "sign",
            "-n",
            "bowline-test",
            "-O",
            &format!("hashalg={hash}"),
            "-f",
        ]);
        let done = command.arg(key).arg(&message).stderr(Stdio::null()).status().unwrap();
        assert!(done.success());
        let sshsig = SshSig::from_pem(std::fs::read(armoured).unwrap()).unwrap();
        sshsig.encode_vec().unwrap()
    }

    fn openssh_accepts(folder: &Path, public: &PublicKey, blob: &[u8]) -> bool {
        let sshsig = SshSig::decode(&mut &*blob).unwrap();
        let (signers, signature) = (folder.join("signers"), folder.join("signature"));
        std::fs::write(&signers, format!("me {}\n", public.to_openssh().unwrap())).unwrap();
        std::fs::write(&signature, sshsig.to_pem(LineEnding::LF).unwrap()).unwrap();
        let message = folder.join("message");
        std::fs::write(&message, b"message").unwrap();
        let mut command = Command::new("ssh-keygen");
        command
            .args(["-Y", "verify", "-n", "bowline-test", "-I", "me", "-f"])
            .arg(signers);
        command
            .arg("-s")
            .arg(signature)
            .stdin(std::fs::File::open(message).unwrap());
        command.stdout(Stdio::null()).status().unwrap().success()
    }
}
