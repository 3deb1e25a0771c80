//! The keys of a server half: the host keys that it proves, and those that it creates.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use russh::keys::ssh_key::{Algorithm, HashAlg, LineEnding, PrivateKey, PublicKey};
use tracing::{debug, info, warn};

use super::ServeSettings;
use super::look::InspectedServer;
use crate::cli::report::{self, Exit, Failure};
use crate::cli::values::Target;
use crate::identity::known_hosts::ServerKey;
use crate::identity::raw_key::TlsKey;
use crate::identity::statement::{HostKey, HostKeyWarning, load_host_keys};
use crate::server::sshd_config::{Settings, SshdConfig};
use crate::sshd::may_sign;
use crate::wire::{MAX_HELLO, MAX_KEY, MAX_STATEMENTS};
use crate::{atomic_file, random, safe_path};

/// Keys and signatures as in the host message.
type Statements = Vec<(Vec<u8>, Vec<u8>)>;

/// The named keys, otherwise one of bowline's own. For the built-in SSH server, whether it runs alone or as a target.
pub(in crate::cli) fn named_or_own(named: &[PathBuf], state: &Path) -> Result<Vec<HostKey>, Failure> {
    if named.is_empty() {
        return Ok(vec![own_host_key(state)?]);
    }
    let (keys, warnings) = load_host_keys(named, &[]);
    match warnings.first() {
        Some(warning) => Err(Failure::from_error(Exit::Usage, warning).hint("--host-key wants a private SSH host key")),
        None => Ok(keys),
    }
}

/// Those of them that the built-in SSH server supports.
///
/// # Errors
/// There are none.
pub(in crate::cli) fn for_builtin(keys: Vec<HostKey>) -> Result<Vec<HostKey>, Failure> {
    let (fit, unfit): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| may_sign(&key.key));
    for key in &unfit {
        warn!(key = %key.path.display(), "ignored: the built-in SSH server does not support RSA host keys");
    }
    if fit.is_empty() {
        return Err(Failure::new(
            Exit::Usage,
            "the built-in SSH server does not support RSA host keys, and no other key is named",
        )
        .hint("name an Ed25519 or ECDSA key with --host-key, or none for one of bowline's own"));
    }
    Ok(fit)
}

/// The named keys, otherwise those of the target, otherwise, if not root, one of bowline's own.
///
/// # Errors
/// Root can read none of sshd's keys: clients would take any other for an attack.
pub(super) fn host_keys(
    settings: &ServeSettings,
    sshd: &SshdConfig,
    told: Option<&Settings>,
    seen: Option<&InspectedServer>,
) -> Result<Vec<HostKey>, Failure> {
    if settings.target == Some(Target::Builtin) {
        return for_builtin(named_or_own(&settings.host_keys, &settings.folders.state)?);
    }
    if settings.host_keys == [own_path(&settings.folders.state)] {
        return Ok(vec![own_host_key(&settings.folders.state)?]);
    }
    if !settings.host_keys.is_empty() {
        return named_or_own(&settings.host_keys, &settings.folders.state);
    }
    // If sshd cannot be asked (its configuration may have an error), running sessions still need its keys.
    let (files, certificates) = match told {
        Some(told) => (told.host_key_files(), told.host_certificate_files()),
        None => sshd.host_key_lines(),
    };
    let (keys, warnings) = load_host_keys(&files, &certificates);
    for warning in &warnings {
        match warning {
            // The administrator cannot change this, and clients may know the host by this key only.
            HostKeyWarning::UnsupportedType { .. } | HostKeyWarning::PublicOnly { .. } => {
                warn!(%warning, "a host key of sshd cannot be used: clients that know the host by this key only cannot verify it");
            }
            _ => debug!(%warning, "ignored a host key"),
        }
    }
    if let Some(proved) = seen.and_then(InspectedServer::host_key)
        && is_another_server(&keys, &proved, seen)
    {
        let key = own_host_key(&settings.folders.state)?;
        warn_of_other_server(&key, &proved);
        return Ok(vec![key]);
    }
    if !keys.is_empty() {
        return Ok(keys);
    }
    if rustix::process::geteuid().is_root() {
        return Err(report::no_host_keys(&warnings));
    }
    let key = own_host_key(&settings.folders.state)?;
    warn_of_own_key(&key, &files);
    Ok(vec![key])
}

/// Whether the server at the target is not the sshd that has these keys: its clients know it by another key.
fn is_another_server(keys: &[HostKey], proved: &PublicKey, seen: Option<&InspectedServer>) -> bool {
    let is_same = |key: &HostKey| key.key.public_key().key_data() == proved.key_data();
    match keys.is_empty() {
        false => !keys.iter().any(is_same),
        // An sshd whose keys this process cannot read proves its own.
        true => seen.is_some_and(|seen| !seen.identification.contains("OpenSSH")),
    }
}

/// Logs how clients learn a key that is not the one of the login inside.
fn warn_of_other_server(key: &HostKey, proved: &PublicKey) {
    let public = key.key.public_key();
    let fingerprint = public.fingerprint(HashAlg::Sha256);
    warn!(
        event = "other-host-key",
        key = public.to_openssh().unwrap_or_default(),
        target_proves = %proved.fingerprint(HashAlg::Sha256),
        "the SSH server at the target has a host key that is not one of this machine's sshd, so this server half \
         proves a key of its own. Run `bowline ssh --pin {fingerprint}` once on each client. If you have the target's \
         private key, name it with --host-key"
    );
}

/// Whether they are bowline's own, and not those of the target.
pub(super) fn is_own(keys: &[HostKey], state: &Path) -> bool {
    keys.iter().all(|key| key.path == own_path(state))
}

fn own_path(state: &Path) -> PathBuf {
    state.join("ssh_host_ed25519_key")
}

/// A host key of bowline's own, created at first use.
fn own_host_key(state: &Path) -> Result<HostKey, Failure> {
    let path = own_path(state);
    if !path.exists() {
        let made = PrivateKey::random(&mut russh::keys::key::safe_rng(), Algorithm::Ed25519);
        let text = made.and_then(|key| key.to_openssh(LineEnding::LF));
        let text = text.map_err(|error| Failure::from_error(Exit::Internal, &error))?;
        write_secret(&path, text.as_bytes())?;
    }
    let (keys, warnings) = load_host_keys(std::slice::from_ref(&path), &[]);
    match (keys.into_iter().next(), warnings.first()) {
        (Some(key), _) => Ok(key),
        (None, Some(warning)) => Err(Failure::from_error(Exit::Unavailable, warning)),
        (None, None) => Err(Failure::new(
            Exit::Unavailable,
            format_args!("no key in {}", path.display()),
        )),
    }
}

/// Logs how clients learn a key that they do not know this host by.
fn warn_of_own_key(key: &HostKey, files: &[PathBuf]) {
    let public = key.key.public_key();
    let fingerprint = public.fingerprint(HashAlg::Sha256);
    warn!(
        key = public.to_openssh().unwrap_or_default(),
        "none of sshd's host keys can be used, so this server half proves a key of its own. Run `bowline ssh --pin \
        {fingerprint}` once on each client"
    );
    debug!(unreadable = ?files, "host keys of sshd");
}

/// The statements of all host keys about the TLS key, and the fingerprint to show.
pub(super) fn statements(keys: &[HostKey], tls_key: &TlsKey) -> Result<(Statements, String), Failure> {
    let mut statements = Vec::new();
    let mut room = MAX_HELLO - 16;
    for key in keys {
        let made = key
            .statements(tls_key.spki())
            .map_err(|error| Failure::from_error(Exit::Unavailable, &error))?;
        for statement in made {
            let length = statement.key.len() + statement.signature.len() + 8;
            if length > room || statement.key.len() > MAX_KEY || statements.len() == MAX_STATEMENTS {
                warn!(key = %key.path.display(), length, room, "ignored a host key or certificate: it does not fit into the host message beside the others");
                continue;
            }
            room -= length;
            statements.push((statement.key.to_vec(), statement.signature.to_vec()));
        }
    }
    Ok((statements, fingerprint(keys)))
}

/// Logs a TLS key (PKCS#8) as an SSH key, in case it has to be revoked.
pub(super) fn log_tls_key(key: &[u8]) {
    let key = TlsKey::from_pkcs8(key).ok();
    let key = key.and_then(|key| ServerKey::of_tls_key(key.spki())?.to_openssh().ok());
    info!(tls_key = key, "the host keys have signed this TLS key");
}

/// The fingerprint that is shown for all keys.
pub(in crate::cli) fn fingerprint(keys: &[HostKey]) -> String {
    let is_usual = |key: &&HostKey| key.key.algorithm() == Algorithm::Ed25519;
    let shown = keys.iter().find(is_usual).or(keys.first());
    shown.map_or_else(String::new, |key| {
        key.key.public_key().fingerprint(HashAlg::Sha256).to_string()
    })
}

/// 32 random bytes that are kept over restarts; created at first use.
pub(in crate::cli) fn secret(path: &Path) -> Result<[u8; 32], Failure> {
    let mut secret = [0; 32];
    let read = safe_path::read(path).and_then(|file| match file {
        Some(mut file) => file.read_exact(&mut secret),
        None => Err(io::ErrorKind::NotFound.into()),
    });
    match read {
        Ok(()) => return Ok(secret),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => {}
        Err(error) => return Err(report::cannot_use_file(path, &error)),
    }
    let secret = random::bytes();
    // With a new secret, running clients notice the restart by a timeout instead of a packet. There is no other
    // effect.
    write_secret(path, &secret)?;
    Ok(secret)
}

/// Replaces a file by one that only its owner can read. A symbolic link is replaced, not followed.
fn write_secret(path: &Path, content: &[u8]) -> Result<(), Failure> {
    atomic_file::replace_synced(path, content).map_err(|error| report::cannot_use_file(path, &error))
}
