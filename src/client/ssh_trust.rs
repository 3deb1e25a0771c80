//! Verifies hosts as ssh does: pins, known_hosts, revoked keys.

use super::{Boxed, HostTrust};
use crate::identity::known_hosts::{
    CommandError, HostKeyStatus, HostName, KnownHosts, KnownHostsCommand, LinePosition, Pin, RevocationError,
    ServerKey, check_revoked_files, pin_matches, remember,
};
use crate::identity::statement::ProvenKey;
use russh::keys::ssh_key::Fingerprint;
use std::error::Error;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tracing::{debug, info, warn};

/// Verifies a host by ssh's known_hosts files and by pins.
#[derive(Clone, Debug)]
pub struct SshTrust {
    /// The name to look up in known_hosts files.
    pub name: HostName,
    /// bowline's own file in known_hosts format, read first. It holds keys of server halves that are not
    /// authenticated by the host's SSH keys.
    pub own_known_hosts: PathBuf,
    /// ssh's files, or the file given instead.
    pub known_hosts: Vec<PathBuf>,
    /// The `KnownHostsCommand`, which prints more known_hosts lines, and its output before any host key was seen.
    pub command: Option<(KnownHostsCommand, Vec<u8>)>,
    /// Files of revoked keys.
    pub revoked: Vec<PathBuf>,
    /// Fingerprints that the user trusts. If there are any, nothing else is consulted. A host key that matches one is
    /// stored in bowline's own file, which ssh does not read.
    pub pins: Vec<Pin>,
}

/// Why a host is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Other keys are known for this host.
    #[error("the host key of {name} has changed")]
    Changed {
        /// The name looked up.
        name: String,
        /// The line with the known key.
        place: LinePosition,
        /// The known keys.
        expected: Vec<Fingerprint>,
        /// The keys that the server half proved.
        presented: Vec<Fingerprint>,
    },
    /// A key of the host is revoked by a line of known_hosts.
    #[error("a host key of {name} is revoked")]
    Revoked {
        /// The name looked up.
        name: String,
        /// The line.
        place: LinePosition,
        /// The key.
        fingerprint: Fingerprint,
    },
    /// A key of the host is in a file of revoked keys.
    #[error("a host key of {name} is revoked")]
    InRevokedFile {
        /// The name looked up.
        name: String,
        /// The file.
        file: PathBuf,
        /// The key.
        fingerprint: Fingerprint,
    },
    /// A file of revoked keys could not be checked.
    #[error(transparent)]
    Revocation(#[from] RevocationError),
    /// The `KnownHostsCommand` failed.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// No pin matches.
    #[error("the server half has none of the pinned keys")]
    NotPinned {
        /// The keys that the server half proved, its TLS key first.
        presented: Vec<Fingerprint>,
    },
}

impl HostTrust for SshTrust {
    fn verify<'a>(
        &'a self,
        proven: &'a [ProvenKey],
        tls_key: &'a [u8],
    ) -> Boxed<'a, Result<(), Box<dyn Error + Send + Sync>>> {
        Box::pin(async move { self.check(proven, tls_key).await.map_err(Into::into) })
    }

    fn known_keys(&self) -> Vec<Fingerprint> {
        if !self.pins.is_empty() {
            return self.pins.iter().map(Pin::fingerprint).collect();
        }
        let mut files = vec![self.own_known_hosts.clone()];
        files.extend(self.known_hosts.iter().cloned());
        self.with_said(KnownHosts::read(&files, &self.name), None)
            .fingerprints()
    }

    fn unsupported_types(&self) -> Vec<String> {
        self.with_said(KnownHosts::read(&self.known_hosts, &self.name), None)
            .unsupported_types()
    }
}

impl SshTrust {
    async fn check(&self, proven: &[ProvenKey], tls_key: &[u8]) -> Result<(), TrustError> {
        let offered: Vec<ServerKey> = proven
            .iter()
            .filter_map(|key| ServerKey::from_blob(&key.blob).ok())
            .collect();
        if !self.pins.is_empty() {
            return self.check_pins(&offered, tls_key);
        }
        let name = || self.name.as_str().to_owned();
        // The host keys and the TLS key that they sign: a stolen TLS key can be revoked like a host key.
        let mut shown = offered.clone();
        shown.extend(ServerKey::of_tls_key(tls_key));
        if let Some(revoked) = check_revoked_files(&self.revoked, &shown, Path::new("ssh-keygen")).await? {
            return Err(TrustError::InRevokedFile {
                name: name(),
                file: revoked.file,
                fingerprint: revoked.fingerprint,
            });
        }
        let said = self.ask_command(&offered).await?;
        let verdict = self.revoked_line(tls_key, said.as_deref());
        let verdict = verdict.unwrap_or_else(|| self.verdict_on(&offered, said.as_deref()));
        match verdict {
            HostKeyStatus::Known { place, .. } => {
                debug!(file = %place.file.display(), line = place.line, "host key is known");
                Ok(())
            }
            HostKeyStatus::Incomparable { place, types } => {
                // ssh itself checks the key over the session, if it supports the type; otherwise the host is unknown
                // to it.
                info!(file = %place.file.display(), line = place.line, ?types,
                    "known_hosts has only keys of types that bowline does not support; ssh checks the host key itself");
                Ok(())
            }
            HostKeyStatus::Unknown => {
                // ssh itself asks the user over the session. Two prompts for one host would train users to answer
                // yes.
                debug!(name = self.name.as_str(), "host is unknown; ssh will ask the user");
                Ok(())
            }
            HostKeyStatus::Revoked { place, fingerprint } => Err(TrustError::Revoked {
                name: name(),
                place,
                fingerprint,
            }),
            HostKeyStatus::Changed {
                place,
                expected,
                presented,
            } => Err(TrustError::Changed {
                name: name(),
                place,
                expected,
                presented,
            }),
        }
    }

    fn check_pins(&self, offered: &[ServerKey], tls_key: &[u8]) -> Result<(), TrustError> {
        let Some(pin) = self.pins.iter().find(|pin| pin_matches(pin, offered, tls_key)) else {
            return Err(TrustError::NotPinned {
                presented: offered.iter().map(ServerKey::fingerprint).collect(),
            });
        };
        if let Some(key) = offered
            .iter()
            .find(|key| pin_matches(pin, std::slice::from_ref(key), &[]))
        {
            self.keep(key);
        }
        Ok(())
    }

    /// Stores a pinned key, unless ssh knows it, so that the next connection needs no pin.
    fn keep(&self, key: &ServerKey) {
        let known = self.verdict(&self.known_hosts, std::slice::from_ref(key), None);
        if matches!(known, HostKeyStatus::Known { .. }) {
            return;
        }
        let folder = self.own_known_hosts.parent().unwrap_or(Path::new("."));
        if let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(folder) {
            debug!(%error, "cannot create the folder of bowline's known_hosts");
        }
        match remember(&self.own_known_hosts, &self.name, key) {
            Ok(()) => debug!(file = %self.own_known_hosts.display(), "stored the pinned key"),
            Err(error) => warn!(%error, "cannot store the pinned key"),
        }
    }

    /// Runs the `KnownHostsCommand` for the proved keys: with the name and, if that prints no lines, with the name
    /// without the port.
    async fn ask_command(&self, offered: &[ServerKey]) -> Result<Option<Vec<u8>>, CommandError> {
        let Some((command, _)) = &self.command else {
            return Ok(None);
        };
        let mut said = command.ask_about(self.name.as_str(), offered).await?;
        if let Some(name) = self.name.without_port()
            && said.trim_ascii().is_empty()
        {
            said = command.ask_about(name, offered).await?;
        }
        Ok(Some(said))
    }

    /// Adds the command's output: from now, or from before any key was seen.
    fn with_said(&self, known: KnownHosts, said: Option<&[u8]>) -> KnownHosts {
        match &self.command {
            Some((command, before)) => known.and_said(command.program(), said.unwrap_or(before), &self.name),
            None => known,
        }
    }

    fn verdict_on(&self, offered: &[ServerKey], said: Option<&[u8]>) -> HostKeyStatus {
        let own = KnownHosts::read(std::slice::from_ref(&self.own_known_hosts), &self.name);
        let own = own.check(offered, SystemTime::now());
        match own {
            HostKeyStatus::Known { .. } | HostKeyStatus::Revoked { .. } => own,
            HostKeyStatus::Unknown | HostKeyStatus::Incomparable { .. } => {
                self.verdict(&self.known_hosts, offered, said)
            }
            // A key in bowline's own file stays valid if ssh knows no key.
            HostKeyStatus::Changed { .. } => match self.verdict(&self.known_hosts, offered, said) {
                HostKeyStatus::Unknown | HostKeyStatus::Incomparable { .. } => own,
                verdict => verdict,
            },
        }
    }

    /// The known_hosts line that revokes the TLS key.
    fn revoked_line(&self, tls_key: &[u8], said: Option<&[u8]>) -> Option<HostKeyStatus> {
        let key = ServerKey::of_tls_key(tls_key)?;
        let files = std::iter::once(&self.own_known_hosts).chain(&self.known_hosts);
        let files: Vec<_> = files.cloned().collect();
        self.with_said(KnownHosts::read(&files, &self.name), said)
            .revoked(&[key])
    }

    fn verdict(&self, files: &[PathBuf], offered: &[ServerKey], said: Option<&[u8]>) -> HostKeyStatus {
        let known = self.with_said(KnownHosts::read(files, &self.name), said);
        for warning in known.warnings() {
            warn!(?warning, "part of a known_hosts file is not used");
        }
        known.check(offered, SystemTime::now())
    }
}
