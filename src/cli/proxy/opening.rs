//! Where a session is opened: at the server half that was started over ssh, at the host's own, or at one that is started now.

use tracing::info;

use super::{AlternateRoutes, FALLBACK_DELAY, ProxySettings, client_config, is_no_path};
use crate::cli::bootstrap::{Bootstrap, BootstrapError, Record, RecordFolder, Running, login_arguments};
use crate::cli::places::Folders;
use crate::cli::report::{self, Failure};
use crate::cli::values::Install;
use crate::client::stdio::Stdin;
use crate::client::{self, ClientConfig, EarlyData, OpenError, OpenSession, Port};
use crate::identity::ssh_config::{IdentityAgent, SshConfig};
use crate::identity::user_keys::UserKeys;
use bytes::Bytes;
use std::time::Duration;
use tokio::io::AsyncRead;

/// No session.
pub(super) struct Unopened {
    pub(super) error: OpenError,
    /// Why there is none at a server half that was started there either, if the user must know.
    pub(super) reason: Option<String>,
}

/// How to open one.
pub(in crate::cli) struct Opening<'a> {
    settings: &'a ProxySettings,
    ssh: &'a SshConfig,
    /// What is known about a server half that was started there.
    folder: RecordFolder,
}

impl<'a> Opening<'a> {
    pub(in crate::cli) fn new(settings: &'a ProxySettings, ssh: &'a SshConfig) -> Opening<'a> {
        let folder = RecordFolder::of(&settings.folders.state, ssh, &settings.destination.host);
        Opening { settings, ssh, folder }
    }

    /// What is known about a server half there that this client has started, unless another one is meant.
    pub(in crate::cli) fn record(&self) -> Option<Record> {
        self.folder.read().filter(|_| self.may_be_any())
    }

    /// Who names a port or a key means another server half.
    fn may_be_any(&self) -> bool {
        let settings = self.settings;
        settings.port.is_none() && settings.tls_port.is_none() && settings.pins.is_empty()
    }

    /// Opens a session. `config` is for the host's own server half.
    pub(super) async fn open(
        &self,
        config: ClientConfig,
        stdin: &mut EarlyData<Stdin>,
    ) -> Result<OpenSession, Unopened> {
        let record = self.record();
        if let Some(Record::Running(running)) = &record
            && let Ok(session) = self.open_started(running, stdin).await
        {
            return Ok(session);
        }
        let error = match client::open_with(config, stdin).await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        let reason = match record {
            _ if !self.may_be_any() || !is_no_path(&error) => None,
            Some(Record::Running(running)) if running.is_unreachable() => Some(self.not_reached(&running)),
            _ if self.settings.install == Install::No => None,
            _ => match self.start(stdin).await {
                Ok(session) => return Ok(session),
                Err(reason) => reason,
            },
        };
        Err(Unopened { error, reason })
    }

    /// Starts a server half, and opens a session there.
    ///
    /// # Errors
    /// Why there is none, if the user must know.
    async fn start(&self, stdin: &mut EarlyData<Stdin>) -> Result<OpenSession, Option<String>> {
        let (settings, host) = (self.settings, &self.settings.destination.host);
        let bootstrap = Bootstrap {
            ssh: self.ssh,
            arguments: login_arguments(&settings.arguments_of_ssh(), host),
            install: settings.install,
            relays: settings.relays.iter().map(ToString::to_string).collect(),
            folder: &self.folder,
            notice: report::notice,
        };
        let running = bootstrap.run().await.map_err(|failed| {
            let is_told = failed.is_told_elsewhere();
            (!is_told).then(|| format!("no server half was started at {host}: {failed}"))
        })?;
        let unopened = |failed| Some(self.unopened(&running, &failed));
        let nobodys = &mut EarlyData::new(tokio::io::empty());
        let probe = self.open_started(&running, nobodys).await.map_err(unopened)?;
        if self.refuses_keys(probe).await {
            let failed = BootstrapError::AddressRules;
            // If it stays unwritten, the next session has the same answer.
            let _ = bootstrap.keep_failure(&failed);
            return Err(Some(format!("the server half at {host} cannot be used: {failed}")));
        }
        self.open_started(&running, stdin).await.map_err(unopened)
    }

    /// Whether sshd accepts this user's keys from here, and not in sessions.
    async fn refuses_keys(&self, probe: OpenSession) -> bool {
        let ssh = self.ssh;
        let keys = UserKeys::gather(ssh, &self.settings.identities, None).await.blobs();
        let keys: Vec<Bytes> = keys.into_iter().map(Bytes::from).collect();
        client::refuses_keys_of_sessions(probe, (&ssh.hostname, ssh.port), &ssh.user, &keys).await
    }

    /// What to say, after what led there was remembered.
    fn unopened(&self, running: &Running, failed: &OpenError) -> String {
        if is_no_path(failed) {
            // Another login would not change it. Without the record one is tried.
            let _ = self.folder.write(&Record::Running(running.clone().not_reached()));
            return self.not_reached(running);
        }
        let host = &self.settings.destination.host;
        format!("the server half that was started at {host} opens no session: {failed}")
    }

    fn not_reached(&self, running: &Running) -> String {
        let (host, ports) = (&self.settings.destination.host, running.ports());
        format!("the server half at {host} was not reached; if there are firewalls, open {ports} in them")
    }

    /// Opens a session at a server half that was started over ssh, with the key that was made for it.
    async fn open_started<R>(&self, running: &Running, stdin: &mut EarlyData<R>) -> Result<OpenSession, OpenError>
    where
        R: AsyncRead + Unpin,
    {
        let session = match self.config_of(running).await {
            Ok(mut config) => {
                config.connect_timeout = config.connect_timeout.min(FALLBACK_DELAY);
                client::open_with(config, stdin).await
            }
            Err(failure) => Err(no_path_because(&failure)),
        };
        match &session {
            Ok(_) if running.was_unreachable() => {
                // If it stays unwritten, it is written next time.
                let _ = self.folder.write(&Record::Running(running.clone().reached()));
            }
            Ok(_) => {}
            Err(error) => info!(%error, "no session at the server half that was started over ssh"),
        }
        session
    }

    /// How it is reached.
    ///
    /// # Errors
    /// As for the host's own.
    pub(in crate::cli) async fn config_of(&self, running: &Running) -> Result<ClientConfig, Failure> {
        let own = ProxySettings {
            port: Some(running.udp),
            tls_port: running.tls.or(self.settings.tls_port),
            pins: running.fingerprint().into_iter().collect(),
            identities: Vec::new(),
            folders: Folders {
                state: self.folder.path().to_owned(),
                runtime: self.settings.folders.runtime.clone(),
            },
            ..self.settings.clone()
        };
        let with_its_key = SshConfig {
            identity_files: vec![self.folder.key()],
            certificate_files: Vec::new(),
            identities_only: true,
            identity_agent: IdentityAgent::None,
            pkcs11_provider: None,
            ..self.ssh.clone()
        };
        let routes = AlternateRoutes::to(&self.ssh.hostname, &own)?;
        let mut config = client_config(&own, &with_its_key, &routes).await?;
        let known = [own.port.map(Port::Quic), own.tls_port.map(Port::Tls)];
        config.target.ports.retain(|port| known.contains(&Some(*port)));
        Ok(config)
    }
}

fn no_path_because(failure: &Failure) -> OpenError {
    info!(error = failure.one_line(), "the record of a server half cannot be used");
    OpenError::NoPath {
        attempts: Vec::new(),
        within: Duration::ZERO,
    }
}
