//! TCP through a proxy: HTTP CONNECT (RFC 9110 section 9.3.6) and SOCKS5 (RFC 1928, RFC 1929).
//!
//! Credentials appear in no error, log line or `Debug`.

mod http;
mod rules;
mod socks;
mod url;

pub use rules::{EnvironmentError, ProxyRules};
pub use socks::SocksReply;
pub use url::{Proxy, ProxyUrlError, masked};

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Kind;

use crate::wire::PeerText;

/// A proxy that takes longer, its own connection to the target included, leads nowhere.
const LONGEST_EXCHANGE: Duration = Duration::from_secs(20);

/// A proxy gave no connection.
#[derive(Debug, thiserror::Error)]
#[error("no connection through the proxy {proxy}")]
pub struct ProxyError {
    /// The proxy, as a URL without its credentials.
    pub proxy: String,
    /// Why.
    #[source]
    pub fault: ProxyFault,
}

/// What went wrong with a proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyFault {
    /// The proxy itself is not there.
    #[error("it cannot be reached")]
    Unreachable(#[source] io::Error),
    /// The connection to it ended in mid-answer.
    #[error("it went away")]
    Broken(#[source] io::Error),
    /// It took too long.
    #[error("no answer within {} s", LONGEST_EXCHANGE.as_secs())]
    Silence,
    /// An HTTP proxy said no.
    #[error("it answered {status} {reason}")]
    Status {
        /// The status code, 100 to 999, not 2xx.
        status: u16,
        /// The words after it, at most 80 characters.
        reason: PeerText,
    },
    /// An HTTP proxy lets no tunnel go there; many let them go to port 443 only.
    #[error("it lets no tunnel go to {host}:{port}: {status} {reason}")]
    Forbidden {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// The status code, 403 or 405.
        status: u16,
        /// The words after it, at most 80 characters.
        reason: PeerText,
    },
    /// An HTTP proxy wants credentials in ways that we do not know.
    #[error("it wants credentials by {offered} ({status}), and bowline speaks Basic alone")]
    OtherScheme {
        /// The status code, 407 as a rule.
        status: u16,
        /// The ways that it names.
        offered: PeerText,
    },
    /// A SOCKS proxy said no.
    #[error("it answered: {0}")]
    Socks(SocksReply),
    /// A proxy wants to know who we are, and no credentials were given, or a SOCKS proxy knows no way that we do.
    #[error("it wants credentials, and none were given that it takes")]
    WantsCredentials,
    /// A proxy did not like the credentials.
    #[error("it refused the user name and password")]
    RefusedCredentials,
    /// The user name or the password has more than 255 bytes (RFC 1929).
    #[error("SOCKS takes no user name or password of more than 255 bytes")]
    LongCredentials,
    /// What came back is not the protocol.
    #[error("what answered does not speak {0}")]
    Garbage(&'static str),
    /// The host's name cannot be sent to a proxy.
    #[error("{host:?} is no name that a proxy can be asked for")]
    Host {
        /// The name.
        host: String,
    },
    /// `socks5://` leaves looking up to us, and it failed.
    #[error("cannot look up {host} (socks5h:// leaves that to the proxy)")]
    Lookup {
        /// The name.
        host: String,
        /// Why.
        source: io::Error,
    },
}

/// Connects to a host and port through a proxy. `host` is a name or an address without brackets.
///
/// Nothing of what the far end says is taken off the stream. Dropped half-way, it leaves nothing behind.
///
/// # Errors
/// See [`ProxyFault`]; after 20 s at the latest.
pub async fn connect(proxy: &Proxy, host: &str, port: u16) -> Result<TcpStream, ProxyError> {
    let attempt = timeout(LONGEST_EXCHANGE, attempt(proxy, host, port));
    let stream = attempt.await.unwrap_or(Err(ProxyFault::Silence));
    stream.map_err(|fault| ProxyError {
        proxy: proxy.to_string(),
        fault,
    })
}

async fn attempt(proxy: &Proxy, host: &str, port: u16) -> Result<TcpStream, ProxyFault> {
    // Whatever moves a cursor or begins a header line of its own is no name.
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ProxyFault::Host { host: host.to_owned() });
    }
    match proxy.kind {
        Kind::Http => {
            let mut stream = reach(proxy).await?;
            http::connect(&mut stream, proxy.credentials.as_ref(), host, port).await?;
            Ok(stream)
        }
        Kind::Socks5h => {
            let target = socks::Target::of(host, port)?;
            let mut stream = reach(proxy).await?;
            socks::connect(&mut stream, proxy.credentials.as_ref(), &target).await?;
            Ok(stream)
        }
        Kind::Socks5 => by_address(proxy, host, port).await,
    }
}

/// Most addresses of a host that a SOCKS proxy is asked for in turn.
const MOST_ADDRESSES: usize = 4;

async fn by_address(proxy: &Proxy, host: &str, port: u16) -> Result<TcpStream, ProxyFault> {
    let failed = |source| ProxyFault::Lookup {
        host: host.to_owned(),
        source,
    };
    let found = tokio::net::lookup_host((host, port)).await.map_err(failed)?;
    let mut last = failed(io::ErrorKind::AddrNotAvailable.into());
    for address in found.take(MOST_ADDRESSES) {
        let mut stream = reach(proxy).await?;
        let target = socks::Target::Address(address);
        match socks::connect(&mut stream, proxy.credentials.as_ref(), &target).await {
            Ok(()) => return Ok(stream),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

async fn reach(proxy: &Proxy) -> Result<TcpStream, ProxyFault> {
    let stream = TcpStream::connect((proxy.host.as_str(), proxy.port)).await;
    let stream = stream.map_err(ProxyFault::Unreachable)?;
    stream.set_nodelay(true).map_err(ProxyFault::Unreachable)?;
    Ok(stream)
}
