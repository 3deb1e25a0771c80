//! Signs with one key, in the agent or in a file.

use std::path::Path;
use std::process::Stdio;

use russh::keys::ssh_encoding::Encode;
use russh::keys::ssh_key::{PrivateKey, SshSig};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use zeroize::Zeroizing;

use super::agent::Agent;
use super::{KeySource, NAMESPACE, SignedRound, SkipReason, Skipped, UserKey, UserKeys, key_file, signature};
use crate::identity::statement::verify_open;
use crate::wire::Authorization;

/// The SSHSIG blob of `key` over `message`. It is verified first, so that an invalid signature of
/// the agent is not sent.
pub(super) async fn sign(keys: &UserKeys, key: &UserKey, message: &[u8]) -> Result<Vec<u8>, SkipReason> {
    let blob = match &key.source {
        KeySource::Agent { socket, blob } => {
            let data = signature::signed_data(NAMESPACE, message).expect("the namespace is not empty");
            let signed = Agent::at(socket).sign(blob, &data).await?;
            signature::assemble(key.public.key_data(), NAMESPACE, signed).map_err(|_| SkipReason::BadSignature)?
        }
        KeySource::File(path) if key.needs_touch() => sign_with_keygen(&keys.ssh_keygen, path, message).await?,
        KeySource::File(path) => {
            let private = unlock(keys, key, path).await?;
            signature::sign(&private, NAMESPACE, message).map_err(|_| SkipReason::Unsupported)?
        }
    };
    match signature::verify(&blob, NAMESPACE, message) {
        Ok(signer) if signer.key_data() == key.public.key_data() => Ok(blob),
        Ok(_) => Err(SkipReason::OtherKey),
        Err(_) => Err(SkipReason::BadSignature),
    }
}

impl SignedRound {
    /// Adds the key and its certificates, or `only` one of them, and records those that are
    /// invalid.
    pub(super) fn add(&mut self, key: &UserKey, only: Option<&[u8]>, signature: &[u8], message: &[u8]) {
        for signed in key.authorizations(signature) {
            if only.is_some_and(|only| signed.key != only) {
                continue;
            }
            let authorization = Authorization {
                key: signed.key.clone().into(),
                signature: signed.signature.clone().into(),
            };
            match verify_open(&authorization, message) {
                // A server half would close the connection because of the invalid certificate. The
                // signature itself is valid.
                Err(error) if !error.is_unsupported() => self.skipped.push(Skipped {
                    description: signed.description,
                    reason: SkipReason::BadSignature,
                }),
                _ => self.authorizations.push(signed),
            }
        }
    }
}

/// Reads the private key from its file, after up to `NumberOfPasswordPrompts` prompts if it is
/// encrypted.
async fn unlock(keys: &UserKeys, key: &UserKey, path: &Path) -> Result<PrivateKey, SkipReason> {
    if !key.encrypted {
        return load(path, None).await;
    }
    if let Some(unlocked) = key.unlocked.get() {
        return Ok(unlocked.clone());
    }
    let prompt = format!("Enter passphrase for key '{}': ", path.display());
    for _ in 0..keys.passphrase_tries {
        let passphrase = keys.prompter.ask(&prompt).await?;
        // As in ssh, an empty answer skips the key.
        if passphrase.is_empty() {
            return Err(SkipReason::NoPassphrase);
        }
        match load(path, Some(passphrase)).await {
            Err(SkipReason::NoPassphrase) => {}
            Err(reason) => return Err(reason),
            Ok(private) => return Ok(key.unlocked.get_or_init(|| private).clone()),
        }
    }
    Err(SkipReason::WrongPassphrase {
        tries: keys.passphrase_tries,
    })
}

/// Deriving a key from a passphrase is deliberately slow, so it does not run on the network thread.
async fn load(path: &Path, passphrase: Option<Zeroizing<String>>) -> Result<PrivateKey, SkipReason> {
    let path = path.to_owned();
    let loading = tokio::task::spawn_blocking(move || {
        key_file::load(&path, passphrase.as_ref().map(|passphrase| passphrase.as_str()))
    });
    loading.await.expect("loading a key does not panic")
}

/// Signs with a security key whose handle is in a file. ssh-keygen talks to the token and prompts
/// for what it needs.
async fn sign_with_keygen(ssh_keygen: &Path, path: &Path, message: &[u8]) -> Result<Vec<u8>, SkipReason> {
    let mut command = Command::new(ssh_keygen);
    command.args(["-q", "-Y", "sign", "-n", NAMESPACE, "-f"]).arg(path);
    // ssh-keygen's stderr goes to the user: "Confirm user presence for key ..".
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(|_| SkipReason::KeygenFailed)?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // ssh-keygen reads all of its input before it writes, so that this cannot block on a full pipe.
    stdin.write_all(message).await.map_err(|_| SkipReason::KeygenFailed)?;
    drop(stdin);
    let output = child.wait_with_output().await.map_err(|_| SkipReason::KeygenFailed)?;
    if !output.status.success() {
        return Err(SkipReason::KeygenFailed);
    }
    let armoured = SshSig::from_pem(&output.stdout).map_err(|_| SkipReason::BadSignature)?;
    armoured.encode_vec().map_err(|_| SkipReason::BadSignature)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::test_tools::keygen;

    #[tokio::test]
    async fn ssh_keygen_signs_in_our_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = keygen(folder.path(), "key", "ed25519", "");
        let blob = sign_with_keygen(Path::new("ssh-keygen"), &path, b"message")
            .await
            .unwrap();
        let signer = signature::verify(&blob, NAMESPACE, b"message").unwrap();
        assert_eq!(signer.key_data(), key_file::read(&path).ok().unwrap().public.key_data());
    }

    #[tokio::test]
    async fn failing_ssh_keygen_is_a_reason() {
        for program in ["/nonexistent/ssh-keygen", "false"] {
            let failed = sign_with_keygen(Path::new(program), Path::new("/nonexistent/key"), b"message").await;
            assert!(matches!(failed, Err(SkipReason::KeygenFailed)), "{failed:?}");
        }
    }
}
