//! Parses private keys in all formats that OpenSSH writes.
//!
//! Finding key files and checking their permissions is done elsewhere.

use russh::keys::ssh_key::encoding::pem::PemLabel;
use russh::keys::ssh_key::encoding::{Decode, DecodePem, Reader};
use russh::keys::ssh_key::private::{EcdsaKeypair, EcdsaPrivateKey, KeypairData};
use russh::keys::ssh_key::public::{EcdsaPublicKey, KeyData};
use russh::keys::ssh_key::{Cipher, Error, Kdf, PrivateKey};
use zeroize::Zeroizing;

use super::opaque_key::OpaqueKey;

/// Parses a private key in OpenSSH's own format or as PKCS#1, PKCS#8 or SEC1 PEM. `passphrase` is
/// ignored if the key is not encrypted.
///
/// # Errors
/// The format is unknown or invalid, or the passphrase is missing or wrong.
pub(crate) fn decode(text: &str, passphrase: Option<&str>) -> Result<PrivateKey, russh::keys::Error> {
    russh::keys::decode_secret_key(text, passphrase).or_else(|error| {
        let short = Container::decode_pem(text).ok();
        short.and_then(|container| container.open(passphrase)).ok_or(error)
    })
}

/// The public key of a private key of an unsupported type, encrypted or not. Only OpenSSH's own
/// format can contain such keys.
pub(crate) fn opaque(text: &str) -> Option<OpaqueKey> {
    OpaqueKey::from_blob(&PublicPart::decode_pem(text).ok()?.0)
}

/// The public key at the start of OpenSSH's format. The rest is ignored.
struct PublicPart(Vec<u8>);

impl PemLabel for PublicPart {
    const PEM_LABEL: &'static str = Container::PEM_LABEL;
}

impl Decode for PublicPart {
    type Error = Error;

    fn decode(reader: &mut impl Reader) -> Result<PublicPart, Error> {
        read_head(reader)?;
        let public = Vec::decode(reader)?;
        reader.drain(reader.remaining_len())?;
        Ok(PublicPart(public))
    }
}

/// OpenSSH's `openssh-key-v1` (PROTOCOL.key) with one P-256 key.
///
/// The private value is an `mpint`, which has no leading zeros. One key in 256 therefore has 31
/// bytes or fewer, and ssh-key 0.7 rejects those.
struct Container {
    cipher: Cipher,
    kdf: Kdf,
    public: KeyData,
    secret: Zeroizing<Vec<u8>>,
}

const P256: usize = 32;

impl PemLabel for Container {
    const PEM_LABEL: &'static str = "OPENSSH PRIVATE KEY";
}

impl Decode for Container {
    type Error = Error;

    fn decode(reader: &mut impl Reader) -> Result<Container, Error> {
        let (cipher, kdf) = read_head(reader)?;
        let public = reader.read_prefixed(KeyData::decode)?;
        let secret = Zeroizing::new(Vec::decode(reader)?);
        Ok(Container {
            cipher,
            kdf,
            public,
            secret,
        })
    }
}

/// What precedes the public key: the encryption, and the number of keys, which must be one.
fn read_head(reader: &mut impl Reader) -> Result<(Cipher, Kdf), Error> {
    let mut magic = [0; 15];
    reader.read(&mut magic)?;
    let (cipher, kdf) = (Cipher::decode(reader)?, Kdf::decode(reader)?);
    if &magic != b"openssh-key-v1\0" || u32::decode(reader)? != 1 {
        return Err(Error::FormatEncoding);
    }
    Ok((cipher, kdf))
}

impl Container {
    fn open(mut self, passphrase: Option<&str>) -> Option<PrivateKey> {
        if self.cipher.is_some() {
            let (key, iv) = self.kdf.derive_key_and_iv(self.cipher, passphrase?).ok()?;
            self.cipher.decrypt(&key, &iv, &mut self.secret, None).ok()?;
        }
        let KeyData::Ecdsa(EcdsaPublicKey::NistP256(public)) = self.public else {
            return None;
        };
        let (private, comment) = read_secret(&mut &self.secret[..], public.as_bytes()).ok()?;
        let pair = EcdsaKeypair::NistP256 { public, private };
        PrivateKey::new(KeypairData::Ecdsa(pair), comment).ok()
    }
}

fn read_secret(reader: &mut impl Reader, public: &[u8]) -> Result<(EcdsaPrivateKey<P256>, String), Error> {
    // The two numbers are equal if the passphrase is right.
    if u32::decode(reader)? != u32::decode(reader)? {
        return Err(Error::Crypto);
    }
    let (_algorithm, _curve) = (String::decode(reader)?, String::decode(reader)?);
    if Vec::<u8>::decode(reader)? != public {
        return Err(Error::PublicKey);
    }
    let scalar = Zeroizing::new(Vec::<u8>::decode(reader)?);
    let mut padded = Zeroizing::new([0; P256]);
    let zeros = P256.checked_sub(scalar.len()).ok_or(Error::FormatEncoding)?;
    padded[zeros..].copy_from_slice(&scalar);
    Ok((EcdsaPrivateKey::from(*padded), String::decode(reader)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::test_tools::{keygen, run};
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// Made by ssh-keygen for these tests. Its private value has 31 bytes.
    const SHORT: &str = "\
-----BEGIN OPENSSH PRIVATE KEY-----
b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAaAAAABNlY2RzYS
1zaGEyLW5pc3RwMjU2AAAACG5pc3RwMjU2AAAAQQSq5icHytsPQWn49h9bstw2XsjCr+Yk
SQZcGf7KF9uIl6v7Gq0VGU2h/8HK3QS6DElK23pg/BJt7sf3sFYuAK0hAAAAoDLuLecy7i
3nAAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBKrmJwfK2w9Bafj2
H1uy3DZeyMKv5iRJBlwZ/soX24iXq/sarRUZTaH/wcrdBLoMSUrbemD8Em3ux/ewVi4ArS
EAAAAfK9gm8h6GlSscdtvWJB1Bh5bsmXX2soop/4TIqUzKfgAAAAVzaG9ydAECAwQ=
-----END OPENSSH PRIVATE KEY-----
";

    #[test]
    fn a_p256_key_whose_secret_begins_with_a_zero_byte_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("short");
        fs::write(&path, SHORT).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let open = decode(SHORT, None).unwrap();
        assert_eq!(open.comment().to_string(), "short");

        run(
            "ssh-keygen",
            ["-q", "-p", "-P", "", "-N", "secret", "-f", path.to_str().unwrap()],
        );
        let locked = fs::read_to_string(&path).unwrap();
        assert!(decode(&locked, None).is_err());
        assert!(decode(&locked, Some("wrong")).is_err());
        assert_eq!(decode(&locked, Some("secret")).unwrap().key_data(), open.key_data());
    }

    #[test]
    fn other_keys_are_read_as_before() {
        let folder = tempfile::tempdir().unwrap();
        for kind in ["ed25519", "ecdsa"] {
            let path = keygen(folder.path(), kind, kind, "");
            assert!(decode(&fs::read_to_string(path).unwrap(), None).is_ok());
        }
        assert!(decode("nonsense", None).is_err());
    }
}
