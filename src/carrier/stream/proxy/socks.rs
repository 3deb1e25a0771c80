//! The SOCKS5 protocol.
//!
//! By hand: it is a hundred lines, and each fault has an advice of its own. The errors of a crate
//! would have to be translated back.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::ProxyFault;
use super::url::Credentials;

const VERSION: u8 = 5;

// Methods (RFC 1928 section 3).
const NO_CREDENTIALS: u8 = 0;
const PASSWORD: u8 = 2;

// Commands and address types (sections 4 and 5).
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// The version of the subnegotiation of RFC 1929, and its success status.
const PASSWORD_VERSION: u8 = 1;
const ACCEPTED: u8 = 0;

const INVALID_RESPONSE: ProxyFault = ProxyFault::InvalidResponse("SOCKS5");

/// A connection to the proxy.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Where the proxy should connect to.
pub(super) enum Target<'a> {
    Address(SocketAddr),
    /// At most 255 bytes.
    Name(&'a str, u16),
}

impl Target<'_> {
    /// Names are passed to the proxy.
    pub(super) fn of(host: &str, port: u16) -> Result<Target<'_>, ProxyFault> {
        match host.parse::<IpAddr>() {
            Ok(address) => Ok(Target::Address((address, port).into())),
            Err(_) if host.len() > 255 => Err(ProxyFault::Host { host: host.to_owned() }),
            Err(_) => Ok(Target::Name(host, port)),
        }
    }
}

/// The reply code of a SOCKS proxy (RFC 1928 section 6), except 0 for success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocksReply(pub u8);

impl fmt::Display for SocksReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            1 => "general failure",
            2 => "not allowed by its rules",
            3 => "network unreachable",
            4 => "host unreachable",
            5 => "connection refused",
            6 => "TTL expired",
            7 => "command not supported",
            8 => "type of address not supported",
            other => return write!(f, "code {other}, which is not in RFC 1928"),
        })
    }
}

/// Requests a connection, and reads exactly the replies from the stream.
pub(super) async fn connect(
    stream: &mut impl Stream,
    credentials: Option<&Credentials>,
    target: &Target<'_>,
) -> Result<(), ProxyFault> {
    let offer: &[u8] = match credentials {
        Some(_) => &[VERSION, 2, NO_CREDENTIALS, PASSWORD],
        None => &[VERSION, 1, NO_CREDENTIALS],
    };
    send(stream, offer).await?;
    match (read(stream).await?, credentials) {
        ([VERSION, NO_CREDENTIALS], _) => {}
        ([VERSION, PASSWORD], Some(credentials)) => log_in(stream, credentials).await?,
        ([VERSION, _], _) => return Err(ProxyFault::WantsCredentials),
        _ => return Err(INVALID_RESPONSE),
    }
    send(stream, &request(target)).await?;
    let [version, reply, _reserved, kind] = read(stream).await?;
    match (version, reply) {
        (VERSION, 0) => read_bound_address(stream, kind).await,
        (VERSION, reply) => Err(ProxyFault::Socks(SocksReply(reply))),
        _ => Err(INVALID_RESPONSE),
    }
}

async fn log_in(stream: &mut impl Stream, Credentials { user, password }: &Credentials) -> Result<(), ProxyFault> {
    let mut message = Zeroizing::new(vec![PASSWORD_VERSION]);
    for part in [user, password] {
        let length = u8::try_from(part.len()).map_err(|_| ProxyFault::LongCredentials)?;
        message.push(length);
        message.extend_from_slice(part);
    }
    send(stream, &message).await?;
    match read(stream).await? {
        [_, ACCEPTED] => Ok(()),
        [_, _] => Err(ProxyFault::RefusedCredentials),
    }
}

fn request(target: &Target<'_>) -> Vec<u8> {
    let mut request = vec![VERSION, CONNECT, 0];
    let port = match target {
        Target::Address(address) => {
            match address.ip() {
                IpAddr::V4(ip) => {
                    request.push(IPV4);
                    request.extend_from_slice(&ip.octets());
                }
                IpAddr::V6(ip) => {
                    request.push(IPV6);
                    request.extend_from_slice(&ip.octets());
                }
            }
            address.port()
        }
        Target::Name(name, port) => {
            request.extend_from_slice(&[NAME, name.len() as u8]);
            request.extend_from_slice(name.as_bytes());
            *port
        }
    };
    request.extend_from_slice(&port.to_be_bytes());
    request
}

async fn read_byte(stream: &mut impl Stream) -> Result<u8, ProxyFault> {
    let [byte] = read(stream).await?;
    Ok(byte)
}

/// The proxy's own address is not needed, but must be read before the target's first byte.
async fn read_bound_address(stream: &mut impl Stream, kind: u8) -> Result<(), ProxyFault> {
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => read_byte(stream).await?.into(),
        _ => return Err(INVALID_RESPONSE),
    };
    let mut address = [0; 255 + 2];
    let with_port = &mut address[..length + 2];
    stream.read_exact(with_port).await.map_err(ProxyFault::Broken)?;
    Ok(())
}

async fn send(stream: &mut impl Stream, bytes: &[u8]) -> Result<(), ProxyFault> {
    stream.write_all(bytes).await.map_err(ProxyFault::Broken)
}

async fn read<const LENGTH: usize>(stream: &mut impl Stream) -> Result<[u8; LENGTH], ProxyFault> {
    let mut bytes = [0; LENGTH];
    let read: io::Result<usize> = stream.read_exact(&mut bytes).await;
    read.map_err(ProxyFault::Broken)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// The result for these replies, what the proxy received, and what is left on the stream.
    async fn answered(
        answer: &[u8],
        credentials: Option<&Credentials>,
        target: Target<'_>,
    ) -> (Result<(), ProxyFault>, Vec<u8>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut proxy, _) = listener.accept().await.unwrap();
        proxy.write_all(answer).await.unwrap();
        proxy.shutdown().await.unwrap();
        let result = connect(&mut ours, credentials, &target).await;
        ours.shutdown().await.unwrap();
        let (mut sent, mut rest) = (Vec::new(), Vec::new());
        proxy.read_to_end(&mut sent).await.unwrap();
        ours.read_to_end(&mut rest).await.unwrap();
        (result, sent, rest)
    }

    fn ann() -> Credentials {
        Credentials {
            user: Zeroizing::new(b"ann".to_vec()),
            password: Zeroizing::new(b"pw".to_vec()),
        }
    }

    #[tokio::test]
    async fn the_exchange_is_that_of_the_rfc_and_not_one_byte_more_is_taken() {
        let answer = b"\x05\x00\x05\x00\x00\x03\x02ab\x01\x02SSH";
        let (result, sent, rest) = answered(answer, None, Target::of("host", 443).unwrap()).await;
        result.unwrap();
        assert_eq!(sent, b"\x05\x01\x00\x05\x01\x00\x03\x04host\x01\xbb");
        assert_eq!(rest, b"SSH");

        let answer = b"\x05\x02\x01\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x01\x02SSH";
        let (result, sent, rest) = answered(answer, Some(&ann()), Target::of("::1", 1).unwrap()).await;
        result.unwrap();
        let address = [&[0; 15], [1].as_slice()].concat();
        let wanted = [
            b"\x05\x02\x00\x02\x01\x03ann\x02pw\x05\x01\x00\x04".as_slice(),
            &address,
            &[0, 1],
        ]
        .concat();
        assert_eq!((sent, rest), (wanted, b"SSH".to_vec()));
    }

    #[tokio::test]
    async fn every_refusal_has_the_right_cause() {
        let target = || Target::of("host", 443).unwrap();
        let (result, ..) = answered(b"\x05\xff", None, target()).await;
        assert!(matches!(result, Err(ProxyFault::WantsCredentials)));
        let (result, ..) = answered(b"\x05\x02", None, target()).await;
        assert!(matches!(result, Err(ProxyFault::WantsCredentials)));
        let (result, ..) = answered(b"\x05\x02\x01\x01", Some(&ann()), target()).await;
        assert!(matches!(result, Err(ProxyFault::RefusedCredentials)));
        let (result, ..) = answered(b"\x05\x00\x05\x05\x00\x01", None, target()).await;
        assert_eq!(result.unwrap_err().to_string(), "it answered: connection refused");
        for garbage in [
            b"HTTP/1.1 400 Bad Request\r\n".as_slice(),
            b"\x05\x00\x05\x00\x00\x09aaaa",
            b"\x05\x00HTTP",
        ] {
            let (result, ..) = answered(garbage, None, target()).await;
            assert!(
                matches!(result, Err(ProxyFault::InvalidResponse("SOCKS5"))),
                "{garbage:?}: {result:?}"
            );
        }
        let (result, ..) = answered(b"\x05\x00\x05\x00\x00\x03\xffab", None, target()).await;
        assert!(matches!(result, Err(ProxyFault::Broken(_))), "{result:?}");
    }

    #[test]
    fn name_that_does_not_fit_is_not_truncated() {
        assert!(matches!(Target::of(&"a".repeat(256), 1), Err(ProxyFault::Host { .. })));
        assert!(Target::of(&"a".repeat(255), 1).is_ok());
    }
}
