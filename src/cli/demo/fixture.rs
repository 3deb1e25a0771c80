//! What the demo plays on: sshd, the server half, the path, and the keys, all in this process and on loopback.

use super::DemoError;
use super::path::Path;
use crate::carrier::listen_quic;
use crate::cli::logging::LogSettings;
use crate::identity::raw_key::TlsKey;
use crate::identity::statement::sign_host;
use crate::random;
use crate::server::ask_sshd::{AskLimits, AskSshd};
use crate::server::connect_sshd::{ConnectSshd, FromLoopback};
use crate::server::{Authority, RelaySettings, Server, ServerConfig, ServerLimits};
use crate::session::SessionConfig;
use crate::sshd::{Sshd, SshdConfig};
use crate::tasks::Tasks;
use crate::transport::quic::{EndpointSecrets, QuicLimits, QuicListener, bind};
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{PrivateKey, PublicKey};
use std::ffi::OsString;
use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{self, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// The host's name in ssh's configuration.
pub(super) const HOST: &str = "bowline-demo";

/// How long the server half and sshd have to take leave of everybody.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(4);

/// Everything but the client.
pub(super) struct Fixture {
    /// Keys, ssh's configuration, the file that is sent.
    pub(super) folder: Folder,
    /// Between the halves.
    pub(super) path: Path,
    /// The only user that the built-in sshd knows: the calling one.
    pub(super) user: String,
    /// What logs in.
    pub(super) user_key: PrivateKey,
    /// What the host proves itself by.
    pub(super) host_key: PublicKey,
    /// What makes a proxy log where the demo does.
    pub(super) proxy_log: Vec<OsString>,
    tasks: Tasks,
    /// Resets connections it has never heard of; see [`Path::reset_connections`].
    _reset_endpoint: QuicListener,
}

impl Fixture {
    /// Makes keys, starts sshd and the server half, and lays the path between that and whoever comes.
    ///
    /// # Errors
    /// The machine gives no folder, no socket, or no user name.
    pub(super) async fn start(log: &LogSettings) -> Result<Fixture, DemoError> {
        let folder = Folder::make()?;
        let (host_key, user_key) = (new_key(), new_key());
        let tasks = Tasks::new();
        let (sshd, user) = start_sshd(&tasks, &host_key, user_key.public_key().clone()).await?;
        let tls_key = TlsKey::generate();
        let secrets = EndpointSecrets::new(random::bytes());
        let server = start_server_half(&tasks, sshd, &host_key, tls_key.clone(), secrets.clone())?;
        let secrets = secrets.of_listener(server);
        let reset_endpoint = listen_quic(loopback_socket()?, &tls_key, &secrets, &QuicLimits::default())?;
        let resets_from = reset_endpoint.local_addr().map_err(DemoError::Socket)?;
        let fixture = Fixture {
            folder,
            path: Path::to(server, resets_from).map_err(DemoError::Socket)?,
            user,
            user_key,
            host_key: host_key.public_key().clone(),
            proxy_log: proxy_log(log),
            tasks,
            _reset_endpoint: reset_endpoint,
        };
        fixture.write_ssh_files()?;
        Ok(fixture)
    }

    /// ssh's configuration: it knows the host, and reads nothing of the user's own.
    pub(super) fn ssh_config(&self) -> PathBuf {
        self.folder.path("ssh_config")
    }

    /// Takes leave of everybody, and clears up.
    pub(super) async fn shut_down(self) {
        self.tasks.shutdown(SHUTDOWN_TIMEOUT).await;
    }

    fn write_ssh_files(&self) -> Result<(), DemoError> {
        let address = self.path.address();
        let host_key = self.host_key.to_openssh().map_err(DemoError::Key)?;
        let user_key = self.user_key.to_openssh(LineEnding::LF).map_err(DemoError::Key)?;
        let known_hosts = format!("[{}]:{} {host_key}\n", address.ip(), address.port());
        let known_hosts = self.folder.write("known_hosts", known_hosts.as_bytes())?;
        let user_key = self.folder.write("user_key", user_key.as_bytes())?;
        let quoted = |path: PathBuf| path.display().to_string().replace('%', "%%");
        let config = format!(
            "Host {HOST}\n HostName {}\n Port {}\n User {}\n IdentityFile \"{}\"\n IdentitiesOnly yes\n IdentityAgent none\n \
             UserKnownHostsFile \"{}\"\n GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking yes\n \
             UpdateHostKeys no\n BatchMode yes\n ControlPath none\n ServerAliveInterval 0\n EscapeChar none\n",
            address.ip(),
            address.port(),
            self.user,
            quoted(user_key),
            quoted(known_hosts),
        );
        self.folder.write("ssh_config", config.as_bytes())?;
        // The proxy is not to read the user's.
        self.folder.write("bowline.toml", b"")?;
        Ok(())
    }
}

async fn start_sshd(
    tasks: &Tasks,
    host_key: &PrivateKey,
    user_key: PublicKey,
) -> Result<(SocketAddr, String), DemoError> {
    let sshd = Sshd::bind(SshdConfig {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        host_keys: vec![host_key.clone()],
        authorize: Arc::new(move |_, key, _| key.key_data() == user_key.key_data()),
        accept_env: Vec::new(),
    })
    .await?;
    let (address, user) = (sshd.local_addrs()[0], sshd.user().to_owned());
    let stop = tasks.token();
    tasks.spawn("sshd", async move {
        if let Err(error) = sshd.run(stop).await {
            tracing::error!(%error, "the built-in SSH server failed");
        }
    });
    Ok((address, user))
}

fn start_server_half(
    tasks: &Tasks,
    sshd: SocketAddr,
    host_key: &PrivateKey,
    tls_key: TlsKey,
    secrets: EndpointSecrets,
) -> Result<SocketAddr, DemoError> {
    let sshd: Arc<dyn ConnectSshd> = Arc::new(FromLoopback::new(sshd));
    let statement = sign_host(host_key, None, tls_key.spki())?;
    let server = Server::new(ServerConfig {
        sockets: vec![loopback_socket()?],
        tls_listeners: Vec::new(),
        relays: RelaySettings::default(),
        tls_key,
        statements: vec![statement],
        secrets,
        sshd: Arc::clone(&sshd),
        open_check: None,
        sshd_view: None,
        authority: Authority::Sshd {
            ask: AskSshd::new(sshd, AskLimits::default()),
        },
        session: SessionConfig::default(),
        limits: ServerLimits::default(),
        quic: QuicLimits::default(),
    })?;
    let address = server.local_addrs()[0];
    let stop: CancellationToken = tasks.token();
    tasks.spawn("server half", server.run(stop));
    Ok(address)
}

fn proxy_log(log: &LogSettings) -> Vec<OsString> {
    let Some(file) = &log.file else { return Vec::new() };
    let place = [
        "--log-file".into(),
        std::path::absolute(file).unwrap_or_else(|_| file.clone()).into(),
    ];
    place.into_iter().chain(log.as_arguments()).collect()
}

fn loopback_socket() -> Result<std::net::UdpSocket, DemoError> {
    bind((Ipv4Addr::LOCALHOST, 0).into()).map_err(DemoError::Socket)
}

fn new_key() -> PrivateKey {
    Ed25519Keypair::from_seed(&random::bytes()).into()
}

/// A temporary folder that nobody else can look into. Removed with all that is in it when it is dropped.
pub(super) struct Folder(TempDir);

impl Folder {
    /// Makes it where the system keeps such things (`$TMPDIR`, else `/tmp`).
    ///
    /// # Errors
    /// `DemoError::Folder`.
    pub(super) fn make() -> Result<Folder, DemoError> {
        let mut options = tempfile::Builder::new();
        options
            .prefix("bowline-demo-")
            .permissions(Permissions::from_mode(0o700));
        let made = options.tempdir();
        made.map(Folder).map_err(|source| DemoError::Folder {
            parent: std::env::temp_dir(),
            source,
        })
    }

    /// Where `name` is in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file that only the user can read.
    ///
    /// # Errors
    /// `DemoError::File`.
    pub(super) fn write(&self, name: &str, content: &[u8]) -> Result<PathBuf, DemoError> {
        let path = self.path(name);
        match write_private(&path, content) {
            Ok(()) => Ok(path),
            Err(source) => Err(DemoError::File { path, source }),
        }
    }
}

fn write_private(path: &path::Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_can_look_in_and_nothing_stays() {
        let folder = Folder::make().unwrap();
        let file = folder.write("key", b"secret").unwrap();
        let mode = |path: &path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(folder.0.path()), mode(&file)), (0o700, 0o600));
        let path = folder.0.path().to_owned();
        drop(folder);
        assert!(!path.exists());
    }
}
