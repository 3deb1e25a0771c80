//! TCP through a proxy: HTTP CONNECT (RFC 9110 section 9.3.6) and SOCKS5 (RFC 1928, RFC 1929).
//!
//! Errors, log lines and `Debug` never contain credentials.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
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

/// Longest exchange with a proxy, including its connection to the target.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// No connection through the proxy.
#[derive(Debug, thiserror::Error)]
#[error("no connection through the proxy {proxy}")]
pub struct ProxyError {
    /// The proxy, as a URL without its credentials.
    pub proxy: String,
    /// The cause.
    #[source]
    pub fault: ProxyFault,
}

/// Why a proxy did not connect.
#[derive(Debug, thiserror::Error)]
pub enum ProxyFault {
    /// The proxy cannot be connected to.
    #[error("it cannot be reached")]
    Unreachable(#[source] io::Error),
    /// The connection to the proxy was lost before the end of its response.
    #[error("it went away")]
    Broken(#[source] io::Error),
    /// The proxy did not answer in time.
    #[error("no answer within {} s", EXCHANGE_TIMEOUT.as_secs())]
    Timeout,
    /// An HTTP proxy refused.
    #[error("it answered {status} {reason}")]
    Status {
        /// The status code, 100 to 999, not 2xx.
        status: u16,
        /// The reason phrase, at most 80 characters.
        reason: PeerText,
    },
    /// An HTTP proxy does not allow this target; many allow port 443 only.
    #[error("it does not allow a tunnel to {host}:{port}: {status} {reason}")]
    Forbidden {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// The status code, 403 or 405.
        status: u16,
        /// The reason phrase, at most 80 characters.
        reason: PeerText,
    },
    /// An HTTP proxy requires an authentication scheme that is not supported.
    #[error("it requires {offered} authentication ({status}), but bowline supports only Basic")]
    OtherScheme {
        /// The status code, usually 407.
        status: u16,
        /// The schemes that it offers.
        offered: PeerText,
    },
    /// A SOCKS proxy refused.
    #[error("it answered: {0}")]
    Socks(SocksReply),
    /// The proxy requires credentials and none were given, or a SOCKS proxy accepts none of the
    /// methods offered.
    #[error("it requires credentials, and none that it accepts were given")]
    WantsCredentials,
    /// The proxy rejected the credentials.
    #[error("it refused the user name and password")]
    RefusedCredentials,
    /// The user name or the password is longer than 255 bytes (RFC 1929).
    #[error("SOCKS takes no user name or password of more than 255 bytes")]
    LongCredentials,
    /// The response does not belong to the protocol.
    #[error("what answered is not {0}")]
    InvalidResponse(&'static str),
    /// The host name is invalid.
    #[error("{host:?} is not a host name that can be sent to a proxy")]
    Host {
        /// The name.
        host: String,
    },
    /// `socks5://` resolves names locally, and that failed.
    #[error("cannot resolve {host} (with socks5h:// the proxy resolves it)")]
    Lookup {
        /// The name.
        host: String,
        /// The error of the resolver.
        source: io::Error,
    },
}

/// Connects to a host and port through a proxy. `host` is a name or an address without brackets.
///
/// No byte from the target is read. Dropping the future closes the connection.
///
/// # Errors
/// See [`ProxyFault`]. Takes at most 20 s.
pub async fn connect(proxy: &Proxy, host: &str, port: u16) -> Result<TcpStream, ProxyError> {
    let attempt = timeout(EXCHANGE_TIMEOUT, attempt(proxy, host, port));
    let stream = attempt.await.unwrap_or(Err(ProxyFault::Timeout));
    stream.map_err(|fault| ProxyError {
        proxy: proxy.to_string(),
        fault,
    })
}

async fn attempt(proxy: &Proxy, host: &str, port: u16) -> Result<TcpStream, ProxyFault> {
    // Control characters could add a header line, or move the cursor of a terminal.
    if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ProxyFault::Host { host: host.to_owned() });
    }
    match proxy.kind {
        Kind::Http => {
            let mut stream = connect_to(proxy).await?;
            http::connect(&mut stream, proxy.credentials.as_ref(), host, port).await?;
            Ok(stream)
        }
        Kind::Socks5h => {
            let target = socks::Target::of(host, port)?;
            let mut stream = connect_to(proxy).await?;
            socks::connect(&mut stream, proxy.credentials.as_ref(), &target).await?;
            Ok(stream)
        }
        Kind::Socks5 => by_address(proxy, host, port).await,
    }
}

/// Most addresses of a host that a SOCKS proxy is asked for, one after the other.
const MAX_ADDRESSES: usize = 4;

async fn by_address(proxy: &Proxy, host: &str, port: u16) -> Result<TcpStream, ProxyFault> {
    let failed = |source| ProxyFault::Lookup {
        host: host.to_owned(),
        source,
    };
    let found = tokio::net::lookup_host((host, port)).await.map_err(failed)?;
    let mut last = failed(io::ErrorKind::AddrNotAvailable.into());
    for address in found.take(MAX_ADDRESSES) {
        let mut stream = connect_to(proxy).await?;
        let target = socks::Target::Address(address);
        match socks::connect(&mut stream, proxy.credentials.as_ref(), &target).await {
            Ok(()) => return Ok(stream),
            Err(fault) => last = fault,
        }
    }
    Err(last)
}

async fn connect_to(proxy: &Proxy) -> Result<TcpStream, ProxyFault> {
    let stream = TcpStream::connect((proxy.host.as_str(), proxy.port)).await;
    let stream = stream.map_err(ProxyFault::Unreachable)?;
    stream.set_nodelay(true).map_err(ProxyFault::Unreachable)?;
    Ok(stream)
}
