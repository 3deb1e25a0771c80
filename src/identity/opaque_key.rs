//! Public keys of unsupported types. They can be named, shown and compared, but not used.

use aws_lc_rs::digest::{SHA256, digest};
use russh::keys::key::parse_public_key;
use russh::keys::ssh_encoding::base64::{Base64, Encoding};
use russh::keys::ssh_key::public::KeyData;
use russh::keys::ssh_key::{Algorithm, Fingerprint};

/// Longest type name: RFC 4251 section 6, plus `-cert-v01`.
const MAX_NAME: usize = 64 + 9;

/// A public key or certificate of an unsupported type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpaqueKey {
    name: String,
    blob: Vec<u8>,
}

/// The result of parsing a public key or certificate in wire format.
#[derive(Debug)]
pub(crate) enum ReadKey {
    Supported(KeyData),
    Opaque(OpaqueKey),
    /// Not a key, or an invalid key of a supported type.
    Malformed(russh::keys::Error),
}

impl ReadKey {
    /// Does not recurse deeply into certificates that are signed by certificates.
    pub(crate) fn from_blob(blob: &[u8]) -> ReadKey {
        if let Some(opaque) = OpaqueKey::from_blob(blob) {
            return ReadKey::Opaque(opaque);
        }
        match parse_public_key(blob) {
            Ok(key) => ReadKey::Supported(key.key_data().clone()),
            Err(error) => ReadKey::Malformed(error),
        }
    }
}

impl OpaqueKey {
    /// The key in `blob` (RFC 4253 section 6.6); `None` if its type is supported, or it is not a
    /// key.
    pub fn from_blob(blob: &[u8]) -> Option<OpaqueKey> {
        let name = name_in(blob).filter(|name| !is_supported(name))?;
        Some(OpaqueKey {
            name: name.to_owned(),
            blob: blob.to_owned(),
        })
    }

    /// The key in `TYPE BASE64 [COMMENT]`, as in known_hosts and `.pub` files.
    pub fn from_text(text: &str) -> Option<OpaqueKey> {
        let mut words = text.split_ascii_whitespace();
        let (name, base64) = (words.next()?, words.next()?);
        let key = OpaqueKey::from_blob(&Base64::decode_vec(base64).ok()?)?;
        (key.name == name).then_some(key)
    }

    /// The name of its type, such as `ssh-mldsa44-ed25519`. Printable ASCII.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 fingerprint, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> Fingerprint {
        let hash = digest(&SHA256, &self.blob);
        Fingerprint::Sha256(hash.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

/// The type name at the start of a key in wire format.
fn name_in(blob: &[u8]) -> Option<&str> {
    let (length, rest) = blob.split_first_chunk::<4>()?;
    let name = rest.get(..u32::from_be_bytes(*length) as usize)?;
    let is_name =
        (1..=MAX_NAME).contains(&name.len()) && name.iter().all(|byte| byte.is_ascii_graphic() && *byte != b',');
    std::str::from_utf8(name).ok().filter(|_| is_name)
}

/// Whether bowline can sign and verify with keys of this type.
fn is_supported(name: &str) -> bool {
    let algorithm = match Algorithm::new(name) {
        Ok(Algorithm::Other(_)) | Err(_) => Algorithm::new_certificate(name),
        plain => plain,
    };
    !matches!(algorithm, Err(_) | Ok(Algorithm::Dsa | Algorithm::Other(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::test_tools::{keygen, opaque_blob, public_text, run};

    #[test]
    fn the_fingerprint_of_an_opaque_key_is_that_of_ssh_keygen() {
        let folder = tempfile::tempdir().unwrap();
        let path = keygen(folder.path(), "key", "ed25519", "");
        let text = public_text(&path);
        let blob = Base64::decode_vec(text.split(' ').nth(1).unwrap()).unwrap();
        assert!(OpaqueKey::from_blob(&blob).is_none(), "a supported type");
        let opaque = OpaqueKey {
            name: "ssh-ed25519".into(),
            blob,
        };
        let listed = run("ssh-keygen", ["-l", "-f", path.to_str().unwrap()]);
        assert_eq!(listed.split(' ').nth(1).unwrap(), opaque.fingerprint().to_string());
    }

    #[test]
    fn unknown_types_are_opaque_and_invalid_keys_are_not() {
        for name in ["ssh-mldsa44-ed25519", "ssh-future@example.org", "ssh-dss"] {
            let blob = opaque_blob(name);
            let key = OpaqueKey::from_blob(&blob).unwrap();
            assert_eq!(key.name(), name);
            let text = format!("{name} {} a comment", Base64::encode_string(&blob));
            assert_eq!(OpaqueKey::from_text(&text), Some(key));
            let other_name = text.replacen(name, "ssh-other", 1);
            assert_eq!(OpaqueKey::from_text(&other_name), None);
        }
        for name in [
            "",
            "a b",
            "a,b",
            "ssh-ed25519",
            "ssh-ed25519-cert-v01@openssh.com",
            "\u{e4}",
        ] {
            assert!(OpaqueKey::from_blob(&opaque_blob(name)).is_none(), "{name}");
        }
        assert!(OpaqueKey::from_blob(&opaque_blob(&"x".repeat(MAX_NAME + 1))).is_none());
        assert!(matches!(ReadKey::from_blob(b"\0\0\0\xffshort"), ReadKey::Malformed(_)));
    }
}
