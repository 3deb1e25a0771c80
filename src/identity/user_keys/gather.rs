//! Finds the user's keys, combines those of the agent and of files, and orders them.

use std::path::{Path, PathBuf};

use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::ssh_key::{Algorithm, Certificate, PublicKey};

use super::agent::Agent;
use super::key_file::{self, KeyFile, Private};
use super::{KeySource, LENGTHS, MAX_AUTHORIZATIONS_LEN, Offer, SkipReason, Skipped, UserKey};
use crate::identity::opaque_key::ReadKey;
use crate::identity::ssh_config::SshConfig;
use crate::identity::sshsig::{MAX_RSA_BITS, MIN_RSA_BITS, rsa_bits};
use crate::wire::{MAX_KEY, PeerText};

/// Keys, best first, and what could not be used.
pub(super) struct Gathered {
    pub(super) keys: Vec<UserKey>,
    pub(super) unusable: Vec<Skipped>,
}

/// The public keys of the files named in the configuration.
struct Files {
    /// In ssh's order, with their files.
    keys: Vec<(PathBuf, KeyFile)>,
    certificates: Vec<(PathBuf, Certificate)>,
    unusable: Vec<Skipped>,
}

/// See [`super::UserKeys::gather`].
pub(super) async fn gather(config: &SshConfig, extra: &[PathBuf]) -> Gathered {
    let reading = {
        let (config, extra) = (config.clone(), extra.to_vec());
        tokio::task::spawn_blocking(move || read_files(&config, &extra))
    };
    let (agent_keys, agent_faults) = agent_keys(config).await;
    let files = reading.await.expect("reading key files does not panic");

    let mut unusable: Vec<Skipped> = agent_faults.into_iter().chain(files.unusable).collect();
    let is_named = |key: &UserKey| {
        files
            .keys
            .iter()
            .any(|(_, file)| file.public.key_data() == key.public.key_data())
    };
    let (named, others): (Vec<_>, Vec<_>) = agent_keys.into_iter().partition(is_named);
    let mut keys = named;
    if !config.identities_only {
        keys.extend(others);
    }
    for (path, file) in files.keys {
        if keys.iter().all(|key| key.public.key_data() != file.public.key_data()) {
            match key_in_file(&path, file) {
                Ok(key) => keys.push(key),
                Err(reason) => unusable.push(Skipped {
                    description: path.display().to_string(),
                    reason,
                }),
            }
        }
    }
    for (path, certificate) in files.certificates {
        if let Err(reason) = attach(&mut keys, certificate) {
            unusable.push(Skipped {
                description: path.display().to_string(),
                reason,
            });
        }
    }
    if let Some(provider) = &config.pkcs11_provider {
        unusable.push(Skipped {
            description: format!("PKCS11Provider {provider}"),
            reason: SkipReason::Pkcs11,
        });
    }
    leave_out(&mut keys, &mut unusable);
    Gathered { keys, unusable }
}

/// Removes what cannot be sent to a server half: it would close the connection, and the other keys
/// could not be tried.
fn leave_out(keys: &mut Vec<UserKey>, unusable: &mut Vec<Skipped>) {
    keys.retain_mut(|key| {
        if let KeyData::Rsa(rsa) = key.public.key_data()
            && let bits = rsa_bits(rsa)
            && !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits)
        {
            let (description, reason) = (key.to_string(), SkipReason::RsaSize { bits });
            unusable.push(Skipped { description, reason });
            return false;
        }
        let signature = key.signature_length();
        let mut room = MAX_AUTHORIZATIONS_LEN.saturating_sub(usize::from(key.offers_plain) * 2 * signature);
        for certificate in std::mem::take(&mut key.certificates) {
            let offer = Offer::Certificate(&certificate);
            let blob = offer.blob().len();
            let length = blob + signature + LENGTHS;
            if blob <= MAX_KEY && length <= room {
                room -= length;
                key.certificates.push(certificate);
                continue;
            }
            let limit = if blob > MAX_KEY { MAX_KEY } else { room };
            unusable.push(Skipped {
                description: key.describe(&offer),
                reason: SkipReason::TooLong { length, limit },
            });
        }
        key.offers_plain || !key.certificates.is_empty()
    });
}

/// The agent's keys in its order, each with its certificates, and those that cannot be used.
async fn agent_keys(config: &SshConfig) -> (Vec<UserKey>, Vec<Skipped>) {
    let Some(socket) = config.identity_agent.socket_path() else {
        return (Vec::new(), Vec::new());
    };
    let listed = match Agent::at(&socket).keys().await {
        Ok(listed) => listed,
        Err(reason) => {
            let description = format!("agent at {}", socket.display());
            return (Vec::new(), vec![Skipped { description, reason }]);
        }
    };
    let (mut keys, mut unusable) = (Vec::new(), Vec::new());
    for listed in listed {
        match ReadKey::from_blob(&listed.blob) {
            ReadKey::Supported(key) if can_sign(&key) => add_agent_key(&mut keys, &socket, key, listed.blob),
            // A host certificate is not a user key.
            ReadKey::Supported(_) => {}
            ReadKey::Opaque(key) => unusable.push(Skipped {
                description: format!("{} {} (agent)", key.name(), key.fingerprint()),
                reason: SkipReason::UnsupportedType {
                    name: key.name().to_owned(),
                },
            }),
            ReadKey::Malformed(_) => unusable.push(Skipped {
                description: format!("{} (agent)", PeerText::new(listed.comment)),
                reason: SkipReason::UnreadableKey,
            }),
        }
    }
    (keys, unusable)
}

fn add_agent_key(keys: &mut Vec<UserKey>, socket: &Path, key: KeyData, blob: Vec<u8>) {
    let (plain, certificate) = match key {
        KeyData::Certificate(certificate) => (certificate.public_key().clone(), Some(certificate)),
        plain => (plain, None),
    };
    let position = keys.iter().position(|known| *known.public.key_data() == plain);
    let index = position.unwrap_or_else(|| {
        keys.push(agent_key(socket, plain.into(), blob.clone()));
        keys.len() - 1
    });
    match certificate {
        Some(certificate) => add_certificate(&mut keys[index], *certificate),
        None => {
            keys[index].offers_plain = true;
            let socket = socket.to_owned();
            keys[index].source = KeySource::Agent { socket, blob };
        }
    }
}

fn agent_key(socket: &Path, public: PublicKey, blob: Vec<u8>) -> UserKey {
    let socket = socket.to_owned();
    UserKey {
        public,
        certificates: Vec::new(),
        offers_plain: false,
        source: KeySource::Agent { socket, blob },
        encrypted: false,
        unlocked: Default::default(),
    }
}

/// Not a certificate, and of a supported type.
fn can_sign(key: &KeyData) -> bool {
    match key {
        KeyData::Certificate(certificate) => certificate.cert_type() == CertType::User,
        key => !matches!(key.algorithm(), Algorithm::Dsa | Algorithm::Other(_)),
    }
}

fn read_files(config: &SshConfig, extra: &[PathBuf]) -> Files {
    let mut files = Files {
        keys: Vec::new(),
        certificates: Vec::new(),
        unusable: Vec::new(),
    };
    for (index, path) in extra.iter().chain(&config.identity_files).enumerate() {
        match key_file::read(path) {
            Ok(file) if can_sign(file.public.key_data()) => files.keys.push((path.clone(), file)),
            // The default file names apply to every user, so only a missing file that was asked for
            // is reported.
            Err(SkipReason::Missing) if index >= extra.len() => {}
            outcome => {
                let reason = outcome.err().unwrap_or(SkipReason::Unsupported);
                files.unusable.push(Skipped {
                    description: path.display().to_string(),
                    reason,
                });
            }
        }
        // As in ssh, certificates beside the keys are used only if none are configured.
        if config.certificate_files.is_empty() {
            let beside = key_file::with_suffix(path, "-cert.pub");
            files.take_certificate(&beside, true);
        }
    }
    for path in &config.certificate_files {
        files.take_certificate(path, false);
    }
    files
}

impl Files {
    fn take_certificate(&mut self, path: &Path, may_be_missing: bool) {
        match key_file::read_certificate(path) {
            Ok(certificate) if certificate.cert_type() == CertType::User => {
                self.certificates.push((path.to_owned(), certificate));
            }
            Err(SkipReason::Missing) if may_be_missing => {}
            outcome => {
                let reason = outcome.err().unwrap_or(SkipReason::Unsupported);
                self.unusable.push(Skipped {
                    description: path.display().to_string(),
                    reason,
                });
            }
        }
    }
}

fn key_in_file(path: &Path, file: KeyFile) -> Result<UserKey, SkipReason> {
    let encrypted = match file.private {
        Private::Open => false,
        Private::Encrypted => true,
        Private::Absent(reason) => return Err(reason),
    };
    let source = KeySource::File(path.to_owned());
    Ok(UserKey {
        public: file.public,
        certificates: Vec::new(),
        offers_plain: true,
        source,
        encrypted,
        unlocked: Default::default(),
    })
}

fn attach(keys: &mut [UserKey], certificate: Certificate) -> Result<(), SkipReason> {
    let key = keys
        .iter_mut()
        .find(|key| key.public.key_data() == certificate.public_key());
    add_certificate(key.ok_or(SkipReason::NoPrivateKey)?, certificate);
    Ok(())
}

fn add_certificate(key: &mut UserKey, mut certificate: Certificate) {
    // The comment is not part of a certificate, but comparisons would include it.
    certificate.set_comment("");
    if !key.certificates.contains(&certificate) {
        key.certificates.push(certificate);
    }
}
