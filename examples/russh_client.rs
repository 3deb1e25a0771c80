//! An SSH client whose connection survives its network path.
//!
//! Runs a command on a host with `bowline serve`, and prints its output:
//!
//! ```text
//! cargo run --example russh_client -- [-F SSH_CONFIG] [USER@]HOST COMMAND..
//! ```
//!
//! It asks ssh about the host, opens a session there, and uses SSH over the session as over any stream. If the path
//! fails, reads and writes wait until there is another one.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bowline::client::{self, ClientConfig, Port, ResumableStream, SshCredentials, SshTrust, Target};
use bowline::identity::known_hosts::{HostKeyStatus, KnownHosts, ServerKey};
use bowline::identity::ssh_config::{SshConfig, SshQuery};
use bowline::session::SessionConfig;
use bowline::transport::quic::MtuCap;
use bowline::wire::UserName;
use russh::client::Handle;
use russh::keys::{PrivateKeyWithHashAlg, PublicKeyOrCertificate, load_secret_key};
use russh::{ChannelMsg, Disconnect};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let (query, command) = arguments(std::env::args().skip(1))?;
    let ssh = SshConfig::resolve(&query).await?;
    let stream = open_session(&ssh, &query.host).await?;
    let outcome = stream.outcome();
    let code = run_command(&ssh, stream, &command).await?;
    // Wait until both ends know that the session is over. An outage may delay that.
    outcome.await;
    Ok(ExitCode::from(code))
}

/// `[-F SSH_CONFIG] [USER@]HOST COMMAND..`
fn arguments(mut words: impl Iterator<Item = String>) -> Result<(SshQuery, String)> {
    let usage = "russh_client [-F SSH_CONFIG] [USER@]HOST COMMAND..";
    let mut first = words.next().ok_or(usage)?;
    let mut config_file = None;
    if first == "-F" {
        config_file = Some(PathBuf::from(words.next().ok_or(usage)?));
        first = words.next().ok_or(usage)?;
    }
    let (user, host) = match first.rsplit_once('@') {
        Some((user, host)) => (Some(user.to_owned()), host),
        None => (None, first.as_str()),
    };
    let mut query = SshQuery::new(host);
    query.user = user;
    query.config_file = config_file;
    Ok((query, words.collect::<Vec<_>>().join(" ")))
}

/// Dials the server half, checks its host keys against known_hosts, and proves the user's keys to it.
async fn open_session(ssh: &SshConfig, host: &str) -> Result<ResumableStream> {
    // bowline remembers here which key was accepted last.
    let state = Path::new(&std::env::var("HOME")?).join(".local/state/bowline");
    let notice = Box::new(|line: &str| drop(writeln!(std::io::stderr(), "{line}")));
    let credentials = SshCredentials::gather(ssh, &[], host, &state, notice).await;
    let trust = SshTrust {
        command: None,
        name: ssh.known_hosts_name(),
        own_known_hosts: state.join("known_hosts"),
        known_hosts: ssh.known_hosts_files(),
        revoked: ssh.revoked_host_keys.clone(),
        pins: Vec::new(),
    };
    let session = client::open(ClientConfig {
        target: Target {
            host: ssh.hostname.clone(),
            // The server half listens on UDP, at the number of sshd's port, and perhaps on TCP for networks that block UDP.
            ports: vec![Port::Quic(ssh.port), Port::Tls(443)],
            family: None,
            relays: Vec::new(),
            alternate_routes: Vec::new(),
        },
        state_dir: None,
        user: UserName::new(&*ssh.user)?,
        trust: Arc::new(trust),
        credentials: Arc::new(credentials),
        session: SessionConfig::default(),
        connect_timeout: Duration::from_secs(10),
        answer_timeout: Duration::from_secs(120),
        patience: None,
        mtu_cap: MtuCap::default(),
    });
    Ok(session.await?.into_stream())
}

/// Runs the command as any russh client does over any stream. Returns the command's exit code.
async fn run_command(ssh: &SshConfig, stream: ResumableStream, command: &str) -> Result<u8> {
    let known = KnownHosts::read(&ssh.known_hosts_files(), &ssh.known_hosts_name());
    let mut connection = russh::client::connect_stream(Arc::default(), stream, KnownHost(known)).await?;
    log_in(&mut connection, ssh).await?;
    let mut channel = connection.channel_open_session().await?;
    channel.exec(true, command).await?;
    let mut code = 255;
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } => std::io::stdout().write_all(&data)?,
            ChannelMsg::ExtendedData { data, .. } => std::io::stderr().write_all(&data)?,
            ChannelMsg::ExitStatus { exit_status } => code = u8::try_from(exit_status).unwrap_or(255),
            _ => {}
        }
    }
    connection.disconnect(Disconnect::ByApplication, "", "").await?;
    Ok(code)
}

/// Logs in with the first key file that is accepted. (The agent's keys opened the session; they could log in here too.)
async fn log_in(connection: &mut Handle<KnownHost>, ssh: &SshConfig) -> Result<()> {
    let rsa_hash = connection.best_supported_rsa_hash().await?.flatten();
    for file in &ssh.identity_files {
        let Ok(key) = load_secret_key(file, None) else { continue };
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), rsa_hash);
        let answer = connection.authenticate_publickey(&ssh.user, key).await?;
        if answer.success() {
            return Ok(());
        }
    }
    Err("no key file was accepted".into())
}

/// The SSH connection inside the session is end to end, so this checks sshd's own host key as well.
struct KnownHost(KnownHosts);

impl russh::client::Handler for KnownHost {
    type Error = russh::Error;

    async fn check_server_key(&mut self, key: &PublicKeyOrCertificate) -> std::result::Result<bool, russh::Error> {
        let blob = match key {
            PublicKeyOrCertificate::PublicKey { key, .. } => key.to_bytes(),
            PublicKeyOrCertificate::Certificate(certificate) => certificate.to_bytes(),
        };
        let Ok(offered) = ServerKey::from_blob(&blob.map_err(russh::keys::Error::from)?) else {
            return Ok(false);
        };
        Ok(matches!(
            self.0.check(&[offered], SystemTime::now()),
            HostKeyStatus::Known { .. }
        ))
    }
}
