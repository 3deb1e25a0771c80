//! Proxy URLs: `http://user:password@proxy:3128`.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use thiserror::Error;
use zeroize::Zeroizing;

/// curl's default port, for every scheme.
const DEFAULT_PORT: u16 = 1080;

/// A proxy: `[SCHEME://][USER[:PASSWORD]@]HOST[:PORT]`.
///
/// Schemes: `http` (CONNECT, the default), `socks5` (names are resolved locally) and `socks5h` (the
/// proxy resolves names). User name and password are percent-encoded. The default port is 1080, as
/// in curl.
#[derive(Clone)]
pub struct Proxy {
    pub(super) kind: Kind,
    /// Without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) credentials: Option<Credentials>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Http,
    Socks5,
    Socks5h,
}

/// User name and password, as any bytes.
#[derive(Clone)]
pub(super) struct Credentials {
    pub(super) user: Zeroizing<Vec<u8>>,
    pub(super) password: Zeroizing<Vec<u8>>,
}

/// Why a text is not a proxy. Never contains the text, which may contain a password.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProxyUrlError {
    /// The text does not have this form.
    #[error("a proxy is written [SCHEME://][USER[:PASSWORD]@]HOST[:PORT]")]
    Form,
    /// TLS to the proxy itself is not supported.
    #[error("a proxy over TLS (https://) is not supported, but http:// and socks5h:// are")]
    Https,
    /// The scheme is not supported.
    #[error("this kind of proxy is not supported, but http://, socks5:// and socks5h:// are")]
    Scheme,
    /// Not 1 to 65535.
    #[error("the port of a proxy is a number from 1 to 65535")]
    Port,
}

impl FromStr for Proxy {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let kind = match scheme.to_ascii_lowercase().as_str() {
            "http" => Kind::Http,
            "socks5" => Kind::Socks5,
            "socks5h" => Kind::Socks5h,
            "https" => return Err(ProxyUrlError::Https),
            _ => return Err(ProxyUrlError::Scheme),
        };
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((credentials, place)) => (Some(Credentials::decode(credentials)), place),
            None => (None, rest),
        };
        let (host, port) = split_port(place.strip_suffix('/').unwrap_or(place))?;
        Ok(Proxy {
            kind,
            host,
            port,
            credentials,
        })
    }
}

/// Makes an invalid proxy safe to print: removes everything that may be a user name or a password.
pub fn masked(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) => (scheme, rest),
        Some(_) => return MASK.to_owned(),
        None => ("", text),
    };
    let separator = if scheme.is_empty() { "" } else { "://" };
    let (user, place) = match rest.rsplit_once('@') {
        Some((_, place)) => (MASK, place),
        None => ("", rest),
    };
    let at = if user.is_empty() { "" } else { "@" };
    // A port is a number. Anything else may be the password of a URL without a host.
    let place = match place.split_once(':').filter(|_| !place.starts_with('[')) {
        Some((host, port)) if !port.trim_end_matches('/').bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{host}:{MASK}")
        }
        _ => place.to_owned(),
    };
    format!("{scheme}{separator}{user}{at}{place}")
}

const MASK: &str = "***";

fn split_port(place: &str) -> Result<(String, u16), ProxyUrlError> {
    let (host, port) = match place.strip_prefix('[') {
        Some(rest) => {
            let (address, after) = rest.split_once(']').ok_or(ProxyUrlError::Form)?;
            address.parse::<Ipv6Addr>().map_err(|_| ProxyUrlError::Form)?;
            let port = match after.strip_prefix(':') {
                None if after.is_empty() => None,
                None => return Err(ProxyUrlError::Form),
                port => port,
            };
            (address, port)
        }
        None => match place.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        },
    };
    let may_stand = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':');
    if host.is_empty() || !host.bytes().all(may_stand) {
        return Err(ProxyUrlError::Form);
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(port) if !port.bytes().all(|byte| byte.is_ascii_digit()) => return Err(ProxyUrlError::Port),
        Some(port) => port.parse().map_err(|_| ProxyUrlError::Port)?,
    };
    match port {
        0 => Err(ProxyUrlError::Port),
        port => Ok((host.to_owned(), port)),
    }
}

impl Credentials {
    fn decode(text: &str) -> Credentials {
        let (user, password) = text.split_once(':').unwrap_or((text, ""));
        let decode = |text| Zeroizing::new(percent_decode_str(text).collect::<Vec<u8>>());
        Credentials {
            user: decode(user),
            password: decode(password),
        }
    }
}

/// Shows no credentials.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Http => "http",
            Kind::Socks5 => "socks5",
            Kind::Socks5h => "socks5h",
        };
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}

/// Shows whether there are credentials, but not which.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let credentials = if self.credentials.is_some() {
            " with credentials"
        } else {
            ""
        };
        write!(f, "Proxy({self}{credentials})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(text: &str) -> String {
        let proxy: Proxy = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        proxy.to_string()
    }

    fn fault(text: &str) -> ProxyUrlError {
        text.parse::<Proxy>().expect_err(text)
    }

    #[test]
    fn a_proxy_is_an_http_proxy_on_1080_unless_it_says_more() {
        assert_eq!(written("proxy"), "http://proxy:1080");
        assert_eq!(written("proxy.example.org:3128"), "http://proxy.example.org:3128");
        assert_eq!(written("http://proxy:80/"), "http://proxy:80");
        assert_eq!(written("SOCKS5://192.0.2.1"), "socks5://192.0.2.1:1080");
        assert_eq!(written("socks5h://[2001:db8::1]:9050"), "socks5h://[2001:db8::1]:9050");
        assert_eq!(written("http://[::1]"), "http://[::1]:1080");
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let proxy: Proxy = "http://ann%40corp:p%3A@ss/w%FF@proxy:3128".parse().unwrap();
        let credentials = proxy.credentials.as_ref().unwrap();
        assert_eq!(&**credentials.user, b"ann@corp");
        assert_eq!(&**credentials.password, b"p:@ss/w\xff");
        assert_eq!(proxy.to_string(), "http://proxy:3128");
        assert_eq!(format!("{proxy:?}"), "Proxy(http://proxy:3128 with credentials)");
        let bare: Proxy = "http://ann@proxy".parse().unwrap();
        assert!(bare.credentials.unwrap().password.is_empty());
    }

    #[test]
    fn invalid_proxy_is_refused_without_printing_it() {
        assert_eq!(fault("https://u:secret@proxy"), ProxyUrlError::Https);
        assert_eq!(fault("socks4://proxy"), ProxyUrlError::Scheme);
        for text in [
            "",
            "http://",
            "http://u:p@",
            "http://a/b",
            "http://[::1",
            "http://[a]:1",
            "http://[::1]1",
            "a b",
        ] {
            assert_eq!(fault(text), ProxyUrlError::Form, "{text:?}");
        }
        for text in ["proxy:0", "proxy:65536", "proxy:", "proxy:x", "::1", "proxy:+1"] {
            let fault = fault(text);
            assert!(
                matches!(fault, ProxyUrlError::Port | ProxyUrlError::Form),
                "{text:?}: {fault}"
            );
        }
        assert!(!format!("{:?}{0}", fault("x://u:secret@proxy")).contains("secret"));
    }

    #[test]
    fn what_may_be_a_password_is_masked() {
        for (text, shown) in [
            ("socks4://ada:secret@proxy:1080", "socks4://***@proxy:1080"),
            ("https://ada:se@cret@proxy/", "https://***@proxy/"),
            ("ada:secret@", "***@"),
            ("http://ada:secret", "http://ada:***"),
            ("ada:secret://x@proxy", "***"),
            ("socks4://proxy:1080/", "socks4://proxy:1080/"),
            ("https://ada:secret@[::1]:1", "https://***@[::1]:1"),
        ] {
            assert_eq!(masked(text), shown);
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(http|socks5|)(://)?[a-z:@/\\[\\]%0-9é]{0,30}") {
            if let Ok(proxy) = text.parse::<Proxy>() {
                prop_assert_eq!(proxy.to_string().parse::<Proxy>().unwrap().to_string(), proxy.to_string());
            }
        }
    }
}
