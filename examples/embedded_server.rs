//! A server half inside another program, in front of sshd or any other TCP service.
//!
//! ```text
//! cargo run --example embedded_server -- LISTEN TARGET HOST_KEY AUTHORIZED_KEYS
//! cargo run --example embedded_server -- 0.0.0.0:4022 127.0.0.1:22 my_host_key ~/.ssh/authorized_keys
//! ```
//!
//! `bowline serve` does more: it moves what needs privileges into a process of its own, asks sshd who may open a session,
//! and keeps its TLS key across restarts. This example makes a new key each time.

use std::error::Error;
use std::future::Future;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use bowline::identity::authorized_keys::{AuthorizedKeys, KeyDecision};
use bowline::identity::raw_key::TlsKey;
use bowline::identity::statement::{ProvenKey, load_host_keys};
use bowline::server::connect_sshd::FromLoopback;
use bowline::server::{Authority, KeyList, RelaySettings, Server, ServerConfig, ServerLimits};
use bowline::session::SessionConfig;
use bowline::transport::quic::{EndpointSecrets, QuicLimits, bind};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let usage = "embedded_server LISTEN TARGET HOST_KEY AUTHORIZED_KEYS";
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [listen, target, host_key, authorized_keys] = words.as_slice() else {
        return Err(usage.into());
    };
    let keys = AuthorizedKeys::load(Path::new(authorized_keys))?;
    let server = Server::new(config(listen.parse()?, target.parse()?, host_key.into(), keys)?)?;
    writeln!(std::io::stdout(), "ready udp={}", server.local_addrs()[0])?;
    let stop = CancellationToken::new();
    let mut running = std::pin::pin!(server.run(stop.clone()));
    tokio::select! {
        () = &mut running => return Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    // Tells every client that its session ends.
    stop.cancel();
    running.await;
    Ok(())
}

fn config(
    listen: SocketAddr,
    target: SocketAddr,
    host_key: PathBuf,
    keys: AuthorizedKeys,
) -> Result<ServerConfig, Box<dyn Error>> {
    let tls_key = TlsKey::generate();
    // Clients know the SSH host key. Its signature says that this TLS key belongs to the host.
    let (host_keys, _) = load_host_keys(&[host_key], &[]);
    let host_key = host_keys.first().ok_or("the host key cannot be read")?;
    Ok(ServerConfig {
        sockets: vec![bind(listen)?],
        tls_listeners: Vec::new(),
        relays: RelaySettings::default(),
        statements: host_key.statements(tls_key.spki())?,
        tls_key,
        // If this secret were kept across restarts, clients would notice a restart within one packet.
        secrets: EndpointSecrets::new(rand_seed()?),
        sshd: Arc::new(FromLoopback::new(target)),
        open_check: None,
        sshd_view: None,
        authority: Authority::Keys(Box::new(Keys(keys))),
        session: SessionConfig::default(),
        limits: ServerLimits::default(),
        quic: QuicLimits::default(),
    })
}

fn rand_seed() -> Result<[u8; 32], Box<dyn Error>> {
    let mut seed = [0; 32];
    aws_lc_rs::rand::fill(&mut seed)?;
    Ok(seed)
}

/// Decides who may open a session. Any rule will do; this one reads a file, again whenever it has changed.
struct Keys(AuthorizedKeys);

impl KeyList for Keys {
    fn permitted<'a>(
        &'a self,
        user: &'a str,
        keys: &'a [ProvenKey],
        remote: IpAddr,
    ) -> Pin<Box<dyn Future<Output = Option<usize>> + Send + 'a>> {
        let is_permitted = move |key: &ProvenKey| {
            let decision = self.0.permits(key, user, remote, SystemTime::now());
            matches!(decision, Ok(KeyDecision::Accepted { .. }))
        };
        Box::pin(async move { keys.iter().position(is_permitted) })
    }
}
