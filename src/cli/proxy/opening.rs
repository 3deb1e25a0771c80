//! Where a session is opened: at the server half that was started over ssh, at the host's own, or at one that is started now.

use tracing::info;

use super::{AlternateRoutes, FALLBACK_DELAY, ProxySettings, client_config, is_no_path};
use crate::cli::bootstrap::{Bootstrap, Record, RecordFolder, Running, login_arguments};
use crate::cli::places::Folders;
use crate::cli::report::{self, Failure};
use crate::cli::values::Install;
use crate::client::stdio::Stdin;
use crate::client::{self, ClientConfig, EarlyData, OpenError, OpenSession, Port};
use crate::identity::ssh_config::{IdentityAgent, SshConfig};
use std::time::Duration;

/// No session.
pub(super) struct Unopened {
    pub(super) error: OpenError,
    /// Why there is none at a server half that was started there either, if the user must know.
    pub(super) reason: Option<String>,
}

/// How to open one.
pub(super) struct Opening<'a> {
    settings: &'a ProxySettings,
    ssh: &'a SshConfig,
    /// What is known about a server half that was started there.
    folder: RecordFolder,
}

impl<'a> Opening<'a> {
    pub(super) fn new(settings: &'a ProxySettings, ssh: &'a SshConfig) -> Opening<'a> {
        let folder = RecordFolder::of(&settings.folders.state, ssh, &settings.destination.host);
        Opening { settings, ssh, folder }
    }

    /// Opens a session. `config` is for the host's own server half.
    pub(super) async fn open(
        &self,
        config: ClientConfig,
        stdin: &mut EarlyData<Stdin>,
    ) -> Result<OpenSession, Unopened> {
        let settings = self.settings;
        // Who names a port or a key means another server half.
        let is_free = settings.port.is_none() && settings.tls_port.is_none() && settings.pins.is_empty();
        let record = self.folder.read().filter(|_| is_free);
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
            _ if !is_free || !is_no_path(&error) => None,
            Some(Record::Running(running)) if running.is_unreachable() => Some(self.not_reached(&running)),
            _ if settings.install == Install::No => None,
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
        self.open_started(&running, stdin).await.map_err(|failed| {
            if is_no_path(&failed) {
                // Another login would not change it. Without the record one is tried.
                let _ = self.folder.write(&Record::Running(running.clone().not_reached()));
                return Some(self.not_reached(&running));
            }
            Some(format!(
                "the server half that was started at {host} opens no session: {failed}"
            ))
        })
    }

    fn not_reached(&self, running: &Running) -> String {
        let (host, ports) = (&self.settings.destination.host, running.ports());
        format!("the server half at {host} was not reached; if there are firewalls, open {ports} in them")
    }

    /// Opens a session at a server half that was started over ssh, with the key that was made for it.
    async fn open_started(&self, running: &Running, stdin: &mut EarlyData<Stdin>) -> Result<OpenSession, OpenError> {
        let session = match self.config_of(running).await {
            Ok(config) => client::open_with(config, stdin).await,
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

    async fn config_of(&self, running: &Running) -> Result<ClientConfig, Failure> {
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
        config.connect_timeout = config.connect_timeout.min(FALLBACK_DELAY);
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
