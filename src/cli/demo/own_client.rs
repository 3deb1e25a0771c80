//! An SSH client of our own, for machines without OpenSSH's: russh over the library's resumable stream.

use std::error::Error;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, Handle, Msg};
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate};
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Disconnect};
use rustix::termios::Winsize;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;

use super::DemoError;
use super::fixture::Fixture;
use super::ssh_client::{Remote, RemoteProcess};
use crate::client::{self as half, Boxed, ClientConfig, Credentials, HostTrust, Port, Target};
use crate::identity::sshsig;
use crate::identity::statement::{OPEN_NAMESPACE, ProvenKey};
use crate::session::SessionConfig;
use crate::tasks::Tasks;
use crate::transport::quic::MtuCap;
use crate::wire::{Authorization, UserName};

/// Bytes of a program's output that wait for whoever reads them.
const BUFFER: usize = 64 * 1024;

/// How long the end may take once the remote program has ended.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection with one channel.
pub(super) struct OwnConnection {
    handle: Handle<Known>,
    channel: ChannelWriteHalf<Msg>,
    exited: oneshot::Receiver<u32>,
    _tasks: Tasks,
}

/// Logs in and runs a command.
pub(super) async fn run(fixture: &Fixture, command: &str) -> Result<Remote, DemoError> {
    let (handle, channel) = log_in(fixture).await?;
    channel.exec(true, command).await?;
    Ok(attend(handle, channel))
}

/// Logs in and starts a shell on a terminal of this size.
pub(super) async fn shell(fixture: &Fixture, size: Winsize) -> Result<Remote, DemoError> {
    let (handle, channel) = log_in(fixture).await?;
    let term = std::env::var("TERM").unwrap_or_else(|_| "vt100".to_owned());
    let (columns, rows) = (size.ws_col.into(), size.ws_row.into());
    channel.request_pty(true, &term, columns, rows, 0, 0, &[]).await?;
    channel.request_shell(true).await?;
    Ok(attend(handle, channel))
}

impl OwnConnection {
    /// Waits for the exit code.
    pub(super) async fn wait(self) -> Result<u32, DemoError> {
        let exited = tokio::time::timeout(EXIT_TIMEOUT, self.exited).await;
        let code = exited.map_err(|_| DemoError::DoesNotEnd)?;
        // When it is closed already there is nobody left to tell.
        let _ = self.handle.disconnect(Disconnect::ByApplication, "done", "").await;
        Ok(code.unwrap_or(255))
    }

    /// Tells the other side the size of the user's terminal.
    pub(super) async fn resize(&self, size: Winsize) {
        let (columns, rows) = (size.ws_col.into(), size.ws_row.into());
        // A channel that has just ended needs no size.
        let _ = self.channel.window_change(columns, rows, 0, 0).await;
    }
}

async fn log_in(fixture: &Fixture) -> Result<(Handle<Known>, Channel<Msg>), DemoError> {
    let keys = Arc::new(Keys {
        host: fixture.host_key.clone(),
        user: fixture.user_key.clone(),
    });
    let address = fixture.path.address();
    let session = half::open(ClientConfig {
        target: Target {
            host: address.ip().to_string(),
            ports: vec![Port::Quic(address.port())],
            family: None,
            relays: Vec::new(),
            alternate_routes: Vec::new(),
        },
        state_dir: None,
        user: UserName::new(&*fixture.user)?,
        trust: keys.clone(),
        credentials: keys,
        session: SessionConfig::default(),
        connect_timeout: Duration::from_secs(10),
        answer_timeout: Duration::from_secs(120),
        patience: None,
        mtu_cap: MtuCap::default(),
    })
    .await?;
    let known = Known(fixture.host_key.key_data().clone());
    let config = Arc::new(client::Config::default());
    let mut handle = client::connect_stream(config, session.into_stream(), known).await?;
    let key = PrivateKeyWithHashAlg::new(Arc::new(fixture.user_key.clone()), None);
    if !handle
        .authenticate_publickey(fixture.user.as_str(), key)
        .await?
        .success()
    {
        return Err(DemoError::NotLoggedIn);
    }
    let channel = handle.channel_open_session().await?;
    Ok((handle, channel))
}

fn attend(handle: Handle<Known>, channel: Channel<Msg>) -> Remote {
    let (from_remote, channel) = channel.split();
    let (output, ours) = tokio::io::duplex(BUFFER);
    let (told, exited) = oneshot::channel();
    let tasks = Tasks::new();
    tasks.spawn("output", listen(from_remote, ours, told));
    Remote {
        input: Box::new(Box::pin(channel.make_writer())),
        output: Box::new(output),
        process: RemoteProcess::Own(OwnConnection {
            handle,
            channel,
            exited,
            _tasks: tasks,
        }),
    }
}

/// Hands on what the remote program writes, and at last its exit code.
async fn listen(mut channel: ChannelReadHalf, mut output: DuplexStream, told: oneshot::Sender<u32>) {
    let mut code = 255;
    while let Some(message) = channel.wait().await {
        match message {
            ChannelMsg::Data { data } if output.write_all(&data).await.is_err() => break,
            ChannelMsg::ExitStatus { exit_status } => code = exit_status,
            _ => {}
        }
    }
    // Nobody may be left to hear it.
    let _ = told.send(code);
}

/// Takes one host key only.
struct Known(KeyData);

impl client::Handler for Known {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(matches!(shown, PublicKeyOrCertificate::PublicKey { key, .. } if *key.key_data() == self.0))
    }
}

/// The demo's two keys, as the client half wants them.
struct Keys {
    host: PublicKey,
    user: PrivateKey,
}

impl HostTrust for Keys {
    fn verify<'a>(
        &'a self,
        proven: &'a [ProvenKey],
        _tls_key: &'a [u8],
    ) -> Boxed<'a, Result<(), Box<dyn Error + Send + Sync>>> {
        let known = proven.iter().any(|proven| proven.key == *self.host.key_data());
        Box::pin(ready(if known {
            Ok(())
        } else {
            Err(DemoError::OtherHost.into())
        }))
    }
}

impl Credentials for Keys {
    fn sign<'a>(&'a self, round: usize, message: &'a [u8]) -> Boxed<'a, Option<Vec<Authorization>>> {
        let signed = (round == 0).then(|| {
            let signature = sshsig::sign(&self.user, OPEN_NAMESPACE, message).ok()?;
            let key = self.user.public_key().to_bytes().ok()?;
            Some(Authorization {
                key: key.into(),
                signature: signature.into(),
            })
        });
        Box::pin(ready(signed.map(|signed| signed.into_iter().collect())))
    }

    fn handle_accepted(&self, _key: &[u8]) {}

    fn describe(&self) -> Vec<String> {
        vec!["the demo's own key".to_owned()]
    }
}
