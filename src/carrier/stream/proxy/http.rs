//! The HTTP CONNECT request and its response.

use std::io;

use russh::keys::ssh_encoding::base64::{Base64, Encoding};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::ProxyFault;
use super::url::Credentials;
use crate::wire::PeerText;

/// Largest response header, as most servers allow.
const MAX_HEADER_LEN: usize = 16 * 1024;

/// Most header lines.
const MAX_LINES: usize = 128;

/// Most characters of a reason phrase in an error.
const MAX_REASON_CHARS: usize = 80;

/// Requests a tunnel, and reads exactly the response header from the stream.
pub(super) async fn connect(
    stream: &mut TcpStream,
    credentials: Option<&Credentials>,
    host: &str,
    port: u16,
) -> Result<(), ProxyFault> {
    let request = request(credentials, host, port);
    stream.write_all(&request).await.map_err(ProxyFault::Broken)?;
    let header = read_header(stream).await?;
    check_response(&header, credentials.is_some(), host, port)
}

/// Whether the response opens the tunnel; `given`: the request had credentials.
pub(super) fn check_response(header: &[u8], given: bool, host: &str, port: u16) -> Result<(), ProxyFault> {
    let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
    let mut answer = httparse::Response::new(&mut lines);
    let parsed = answer.parse(header);
    let status = answer.code.filter(|_| parsed.is_ok()).ok_or(INVALID_RESPONSE)?;
    match status {
        200..=299 => Ok(()),
        // tinyproxy sends 401.
        401 | 407 => Err(wanted(status, answer.headers, given)),
        403 | 405 => Err(ProxyFault::Forbidden {
            host: host.to_owned(),
            port,
            status,
            reason: shortened(answer.reason.unwrap_or_default()),
        }),
        _ => Err(ProxyFault::Status {
            status,
            reason: shortened(answer.reason.unwrap_or_default()),
        }),
    }
}

/// Why the proxy rejected the request; `given`: it had credentials (RFC 9110 section 11.7.1).
fn wanted(status: u16, headers: &[httparse::Header<'_>], given: bool) -> ProxyFault {
    let challenges = headers.iter().filter(|header| {
        let is_named = |name| header.name.eq_ignore_ascii_case(name);
        is_named("Proxy-Authenticate") || is_named("WWW-Authenticate")
    });
    // The authentication schemes among a list of challenges and parameters.
    let words = challenges.flat_map(|header| header.value.split(|byte| *byte == b','));
    let words = words.filter_map(|part| part.trim_ascii().split(|byte| *byte == b' ').next());
    let schemes: Vec<String> = words
        .filter(|word| !word.is_empty() && !word.contains(&b'='))
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let speaks_basic = schemes.iter().any(|scheme| scheme.eq_ignore_ascii_case("Basic"));
    match given {
        _ if !speaks_basic && !schemes.is_empty() => ProxyFault::OtherScheme {
            status,
            offered: shortened(&schemes.join(", ")),
        },
        true => ProxyFault::RefusedCredentials,
        false => ProxyFault::WantsCredentials,
    }
}

const INVALID_RESPONSE: ProxyFault = ProxyFault::InvalidResponse("HTTP");

fn request(credentials: Option<&Credentials>, host: &str, port: u16) -> Zeroizing<Vec<u8>> {
    let target = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let version = env!("CARGO_PKG_VERSION");
    let mut request =
        format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: bowline/{version}\r\n").into_bytes();
    if let Some(Credentials { user, password }) = credentials {
        // Basic (RFC 7617).
        let pair = Zeroizing::new([user.as_slice(), b":", password.as_slice()].concat());
        let encoded = Zeroizing::new(Base64::encode_string(&pair));
        request.extend_from_slice(b"Proxy-Authorization: Basic ");
        request.extend_from_slice(encoded.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    Zeroizing::new(request)
}

/// Reads up to the empty line and no further: what follows comes from the target.
async fn read_header(stream: &mut TcpStream) -> Result<Vec<u8>, ProxyFault> {
    let mut header = Vec::new();
    let mut chunk = [0; 1024];
    while header.len() < MAX_HEADER_LEN {
        let seen = stream.peek(&mut chunk).await.map_err(ProxyFault::Broken)?;
        if seen == 0 {
            return Err(ProxyFault::Broken(io::ErrorKind::UnexpectedEof.into()));
        }
        let before = header.len();
        header.extend_from_slice(&chunk[..seen]);
        let end = end_of_header(&header);
        let ours = end.unwrap_or(header.len()) - before;
        stream
            .read_exact(&mut chunk[..ours])
            .await
            .map_err(ProxyFault::Broken)?;
        if let Some(end) = end {
            header.truncate(end);
            return Ok(header);
        }
    }
    Err(INVALID_RESPONSE)
}

/// Just behind the first empty line. A line may end with a bare line feed (RFC 9112 section 2.2).
pub(super) fn end_of_header(bytes: &[u8]) -> Option<usize> {
    let mut line_start = 0;
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        if matches!(&bytes[line_start..at], b"" | b"\r") && line_start > 0 {
            return Some(at + 1);
        }
        line_start = at + 1;
    }
    None
}

fn shortened(reason: &str) -> PeerText {
    reason.chars().take(MAX_REASON_CHARS).collect::<String>().into()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// The result for this response, and the bytes left on the stream.
    async fn answered(pieces: &[&[u8]]) -> (Result<(), ProxyFault>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut proxy, _) = listener.accept().await.unwrap();
        let answer = async {
            for piece in pieces {
                // If the client closes early, the proxy sees a reset.
                let _ = proxy.write_all(piece).await;
                tokio::task::yield_now().await;
            }
            drop(proxy);
        };
        let (result, ()) = tokio::join!(connect(&mut ours, None, "host", 443), answer);
        let mut rest = Vec::new();
        let _ = ours.read_to_end(&mut rest).await;
        (result, rest)
    }

    #[tokio::test]
    async fn no_byte_after_the_response_is_read() {
        for pieces in [
            &[b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\nSSH-2.0-".as_slice()][..],
            &[b"HTTP/1.0 200 Connection established\r\n\r", b"\nSSH-2.0-"],
            &[b"HTTP/1.1 2", b"00 OK\r\nA: b\r", b"\n", b"\r\n", b"SSH-2.0-"],
            &[b"HTTP/1.1 200 OK\n\nSSH-2.0-"],
        ] {
            let (result, rest) = answered(pieces).await;
            result.unwrap();
            assert_eq!(rest, b"SSH-2.0-", "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn refusal_contains_the_reason_phrase_of_the_proxy() {
        let told = |result: Result<(), ProxyFault>| result.unwrap_err().to_string();
        let (result, _) = answered(&[b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\n<html>..."]).await;
        assert_eq!(told(result), "it answered 503 Busy");
        let (result, _) = answered(&[b"HTTP/1.1 403 Filtered\r\n\r\n"]).await;
        assert_eq!(told(result), "it does not allow a tunnel to host:443: 403 Filtered");
        let (result, _) = answered(&[b"HTTP/1.1 502\r\n\r\n"]).await;
        assert!(matches!(result, Err(ProxyFault::Status { status: 502, .. })));
    }

    #[test]
    fn required_authentication_schemes_are_reported() {
        let wanted = |lines: &[(&str, &str)], given| {
            let headers = lines.iter().map(|(name, value)| httparse::Header {
                name,
                value: value.as_bytes(),
            });
            super::wanted(407, &headers.collect::<Vec<_>>(), given).to_string()
        };
        let digest = ("Proxy-Authenticate", "Digest realm=\"a\", nonce=\"x\", qop=\"auth\"");
        let basic = ("proxy-authenticate", "Basic realm=\"a\"");
        let both = ("Proxy-Authenticate", "Negotiate, NTLM");
        assert!(wanted(&[digest], true).starts_with("it requires Digest"));
        assert!(wanted(&[both], false).starts_with("it requires Negotiate, NTLM authentication (407)"));
        for lines in [&[digest, basic][..], &[basic], &[]] {
            assert!(wanted(lines, true).starts_with("it refused the user name"));
            assert!(wanted(lines, false).starts_with("it requires credentials, and none"));
        }
    }

    #[tokio::test]
    async fn invalid_response_opens_no_tunnel() {
        let endless = [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"A: b\r\n".repeat(4000)].concat();
        let many = [b"HTTP/1.1 200 OK\r\n".as_slice(), &b"A: b\r\n".repeat(200), b"\r\n"].concat();
        for garbage in [
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n".as_slice(),
            b"\x05\x00\n\n\n\n",
            &endless,
            &many,
        ] {
            let (result, _) = answered(&[garbage]).await;
            assert!(matches!(result, Err(ProxyFault::InvalidResponse("HTTP"))), "{result:?}");
        }
        let (result, _) = answered(&[b"HTTP/1.1 200 OK\r\n"]).await;
        assert!(matches!(result, Err(ProxyFault::Broken(_))), "{result:?}");
    }

    #[test]
    fn the_request_names_host_port_and_user() {
        let credentials = Credentials {
            user: Zeroizing::new(b"Aladdin".to_vec()),
            password: Zeroizing::new(b"open sesame".to_vec()),
        };
        let text = String::from_utf8(request(Some(&credentials), "2001:db8::1", 443).to_vec()).unwrap();
        assert!(text.starts_with("CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n"));
        // The example of RFC 7617.
        assert!(text.ends_with("Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n"));
        assert_eq!(shortened("no\x1b[2Jno"), "no\\u{1b}[2Jno");
    }
}
