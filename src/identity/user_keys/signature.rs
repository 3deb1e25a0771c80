//! SSHSIG blobs: a stand-in with the interface of `identity::sshsig`, on `ssh_key::SshSig`.

use russh::keys::ssh_encoding::{Decode, Encode};
use russh::keys::ssh_key::public::KeyData;
use russh::keys::ssh_key::{Error, HashAlg, PrivateKey, PublicKey, Signature, SshSig};

/// The bytes that an agent is to sign.
pub(super) fn signed_data(namespace: &str, message: &[u8]) -> Result<Vec<u8>, Error> {
    SshSig::signed_data(namespace, HashAlg::Sha512, message)
}

/// The blob for a signature that `public` made over [`signed_data`].
pub(super) fn assemble(public: &KeyData, namespace: &str, signature: Signature) -> Result<Vec<u8>, Error> {
    Ok(SshSig::new(public.clone(), namespace, HashAlg::Sha512, signature)?.encode_vec()?)
}

/// Signs with a private key in memory; RSA keys with `rsa-sha2-512`.
pub(super) fn sign(key: &PrivateKey, namespace: &str, message: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(key.sign(namespace, HashAlg::Sha512, message)?.encode_vec()?)
}

/// The key that made this signature over `message`.
pub(super) fn verify(blob: &[u8], namespace: &str, message: &[u8]) -> Result<PublicKey, Error> {
    let signature = SshSig::decode(&mut &*blob)?;
    let signer = PublicKey::from(signature.public_key().clone());
    signer.verify(namespace, message, &signature)?;
    Ok(signer)
}
