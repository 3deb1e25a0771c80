//! Ends of connections as they are written: whom to reach, where to listen, what to join sessions to.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{Port, Value, ValueError};

/// `[USER@]HOST`, HOST being a name, an alias of ssh_config, or an address (an IPv6 one also in brackets).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Destination {
    /// The user to log in as; without one, as `ssh -G` says.
    pub(crate) user: Option<String>,
    /// What ssh was given, without brackets.
    pub(crate) host: String,
}

impl Value for Destination {
    const EXPECTED: &'static str = "[USER@]HOST";

    fn parse(text: &str) -> Result<Self, ValueError> {
        token(text)?;
        // A user may hold an @ (user@realm), a host cannot: ssh too cuts at the last one.
        let (user, host) = match text.rsplit_once('@') {
            Some((user, host)) => (Some(checked_name("user name", user)?), host),
            None => (None, text),
        };
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let address = inner.strip_suffix(']').ok_or(Self::misspelt())?;
                checked_ipv6(address)?;
                address
            }
            None => host,
        };
        Ok(Destination {
            user,
            host: checked_name("host name", host)?,
        })
    }
}

/// Where to listen: `ADDR:PORT`, `[V6]:PORT`, `ADDR`, `:PORT` or `PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenAddress {
    /// `None` is every address, IPv6 and IPv4.
    pub(crate) ip: Option<IpAddr>,
    /// `None` is the command's own default; 0 is any free port.
    pub(crate) port: Option<u16>,
}

impl Value for ListenAddress {
    const EXPECTED: &'static str = "an address such as 192.0.2.1:22, [::1]:22, :22 or 22";

    fn parse(text: &str) -> Result<Self, ValueError> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Ok(ListenAddress {
                ip: Some(address.ip()),
                port: Some(address.port()),
            });
        }
        if let Ok(ip) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(ListenAddress {
                ip: Some(ip),
                port: None,
            });
        }
        let port = text.strip_prefix('*').unwrap_or(text);
        let port = port.strip_prefix(':').unwrap_or(port);
        match port.parse::<u16>() {
            Ok(port) => Ok(ListenAddress {
                ip: None,
                port: Some(port),
            }),
            Err(_) => Err(Self::misspelt()),
        }
    }
}

/// Where the server half listens: as [`ListenAddress`], or `FIRST-LAST` in place of the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenRange {
    /// `None` is every address, IPv6 and IPv4.
    pub(crate) ip: Option<IpAddr>,
    /// `None` is the default; port 0 is any free port.
    pub(crate) ports: Option<PortRange>,
}

/// Ports of which one is used: the first and the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortRange {
    pub(crate) first: u16,
    pub(crate) last: u16,
}

impl PortRange {
    /// The port, if there is only one.
    pub(crate) fn single(self) -> Option<u16> {
        (self.first == self.last).then_some(self.first)
    }
}

impl Value for ListenRange {
    const EXPECTED: &'static str = "an address such as 192.0.2.1:22, [::1]:22, :22 or 22, or with a range of ports such as \
                                    60000-61000";

    fn parse(text: &str) -> Result<Self, ValueError> {
        let (one, last) = match text.rsplit_once('-') {
            Some((one, last)) => (one, Some(last.parse::<u16>().map_err(|_| Self::misspelt())?)),
            None => (text, None),
        };
        let ListenAddress { ip, port } = ListenAddress::parse(one).map_err(|_| Self::misspelt())?;
        let ports = match (port, last) {
            (Some(first), None) => Some(PortRange { first, last: first }),
            (Some(first), Some(last)) if (1..=last).contains(&first) => Some(PortRange { first, last }),
            (None, None) => None,
            _ => return Err(Self::misspelt()),
        };
        Ok(ListenRange { ip, ports })
    }
}

/// What the server half joins sessions to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// An SSH server at this host and port.
    Tcp {
        /// Name or address, without brackets.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// The SSH server inside bowline.
    Builtin,
}

impl Value for Target {
    const EXPECTED: &'static str = "HOST:PORT such as 127.0.0.1:22, or builtin";

    fn parse(text: &str) -> Result<Self, ValueError> {
        if text == "builtin" {
            return Ok(Target::Builtin);
        }
        let form = Self::misspelt();
        let (host, port) = text.rsplit_once(':').ok_or(form.clone())?;
        let host = match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
            Some(address) => checked_ipv6(address).map(|()| address)?,
            None if host.contains(':') => return Err(form),
            None => host,
        };
        Ok(Target::Tcp {
            host: checked_name("host name", host)?,
            port: Port::parse(port)?.0,
        })
    }
}

/// Whether a part is a token as it stands in ssh's configuration: a `%` and one letter, alone.
pub(super) fn token(text: &str) -> Result<(), ValueError> {
    let is_token = |part: &&str| matches!(part.as_bytes(), [b'%', letter] if letter.is_ascii_alphabetic());
    match text.rsplit('@').find(is_token) {
        Some(token) => Err(ValueError::Token {
            token: token.to_owned(),
        }),
        None => Ok(()),
    }
}

/// The name of a user on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoginName(pub(crate) String);

impl Value for LoginName {
    const EXPECTED: &'static str = "the name of a user";

    fn parse(text: &str) -> Result<Self, ValueError> {
        checked_name("user name", text).map(LoginName)
    }
}

/// The name goes on to `ssh -G` as an argument and into log lines: nothing that looks like an option or
/// moves a cursor.
fn checked_name(part: &'static str, name: &str) -> Result<String, ValueError> {
    let fault = if name.is_empty() {
        "be empty"
    } else if name.starts_with('-') {
        "start with `-`"
    } else if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        "contain spaces or control characters"
    } else {
        return Ok(name.to_owned());
    };
    Err(ValueError::BadName { part, fault })
}

/// An IPv6 address, with or without a zone (`fe80::1%eth0`).
fn checked_ipv6(address: &str) -> Result<(), ValueError> {
    let bare = address.split_once('%').map_or(address, |(bare, _zone)| bare);
    match bare.parse::<Ipv6Addr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(ValueError::Form {
            expected: "an IPv6 address between the brackets",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: Value + std::fmt::Debug>(text: &str) -> String {
        T::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn a_destination_is_cut_at_the_last_at_sign() {
        let parsed = |user: Option<&str>, host: &str| {
            Ok(Destination {
                user: user.map(str::to_owned),
                host: host.to_owned(),
            })
        };
        assert_eq!(Destination::parse("build"), parsed(None, "build"));
        assert_eq!(
            Destination::parse("ann@build.example.org"),
            parsed(Some("ann"), "build.example.org")
        );
        assert_eq!(Destination::parse("ann@corp@build"), parsed(Some("ann@corp"), "build"));
        assert_eq!(
            Destination::parse("ann@[2001:db8::1]"),
            parsed(Some("ann"), "2001:db8::1")
        );
        assert_eq!(Destination::parse("[fe80::1%eth0]"), parsed(None, "fe80::1%eth0"));
        assert_eq!(Destination::parse("2001:db8::1"), parsed(None, "2001:db8::1"));
    }

    #[test]
    fn a_destination_never_looks_like_an_option_or_moves_the_cursor() {
        assert_eq!(
            message::<Destination>("-oProxyCommand=x"),
            "a host name may not start with `-`"
        );
        assert_eq!(message::<Destination>("-l@host"), "a user name may not start with `-`");
        assert_eq!(message::<Destination>("@host"), "a user name may not be empty");
        assert_eq!(message::<Destination>("ann@"), "a host name may not be empty");
        assert_eq!(
            message::<Destination>("a b"),
            "a host name may not contain spaces or control characters"
        );
        assert_eq!(
            message::<Destination>("a\u{1b}[2J"),
            "a host name may not contain spaces or control characters"
        );
        assert_eq!(
            message::<Destination>("[build]"),
            "expected an IPv6 address between the brackets"
        );
        assert_eq!(message::<Destination>("[::1"), "expected [USER@]HOST");
    }

    #[test]
    fn a_token_that_nobody_has_replaced_is_called_that() {
        for (text, token) in [("root@%n", "%n"), ("%n", "%n"), ("%r@build", "%r"), ("%r@%n", "%n")] {
            let said = message::<Destination>(text);
            assert!(
                said.starts_with(&format!("`{token}` was not expanded: ")),
                "{text}: {said}"
            );
        }
        for name in ["fe80::1%n", "ann@fe80::1%lo", "100%n", "ann%h@build"] {
            assert!(Destination::parse(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn listen_addresses_may_leave_out_either_part() {
        let address = |ip: Option<&str>, port| {
            Ok(ListenAddress {
                ip: ip.map(|ip| ip.parse().expect("an address")),
                port,
            })
        };
        assert_eq!(
            ListenAddress::parse("192.0.2.1:22"),
            address(Some("192.0.2.1"), Some(22))
        );
        assert_eq!(ListenAddress::parse("[::1]:0"), address(Some("::1"), Some(0)));
        assert_eq!(ListenAddress::parse("::1"), address(Some("::1"), None));
        assert_eq!(ListenAddress::parse("[::1]"), address(Some("::1"), None));
        assert_eq!(ListenAddress::parse(":4022"), address(None, Some(4022)));
        assert_eq!(ListenAddress::parse("*:4022"), address(None, Some(4022)));
        assert_eq!(ListenAddress::parse("4022"), address(None, Some(4022)));
        for text in ["", "localhost:22", "1.2.3:4", "70000", ":"] {
            assert_eq!(
                message::<ListenAddress>(text),
                format!("expected {}", ListenAddress::EXPECTED),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_range_of_ports_may_stand_for_the_port() {
        let range = |ip: Option<&str>, ports: Option<(u16, u16)>| {
            Ok(ListenRange {
                ip: ip.map(|ip| ip.parse().expect("an address")),
                ports: ports.map(|(first, last)| PortRange { first, last }),
            })
        };
        assert_eq!(ListenRange::parse("60000-61000"), range(None, Some((60000, 61000))));
        assert_eq!(ListenRange::parse(":60000-61000"), range(None, Some((60000, 61000))));
        assert_eq!(
            ListenRange::parse("[::1]:60000-60000"),
            range(Some("::1"), Some((60000, 60000)))
        );
        assert_eq!(
            ListenRange::parse("192.0.2.1:22"),
            range(Some("192.0.2.1"), Some((22, 22)))
        );
        assert_eq!(ListenRange::parse("192.0.2.1"), range(Some("192.0.2.1"), None));
        assert_eq!(ListenRange::parse("0"), range(None, Some((0, 0))));
        for text in [
            "61000-60000",
            "0-5",
            "1-",
            "-1",
            "192.0.2.1-5",
            "1-70000",
            "1-2-3",
            "a-b",
        ] {
            assert_eq!(
                message::<ListenRange>(text),
                format!("expected {}", ListenRange::EXPECTED),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_target_is_a_host_with_a_port_or_builtin() {
        let tcp = |host: &str, port| {
            Ok(Target::Tcp {
                host: host.to_owned(),
                port,
            })
        };
        assert_eq!(Target::parse("127.0.0.1:22"), tcp("127.0.0.1", 22));
        assert_eq!(Target::parse("[::1]:2222"), tcp("::1", 2222));
        assert_eq!(Target::parse("builtin"), Ok(Target::Builtin));
        for text in ["127.0.0.1", "::1:22", "host:0", "host:", ":22", "host:70000", "-x:22"] {
            assert!(Target::parse(text).is_err(), "{text:?}");
        }
    }
}
