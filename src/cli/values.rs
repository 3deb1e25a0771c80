//! How values are written: durations, sizes, ports, names, addresses.
//!
//! One syntax wherever a value comes from: a flag, an environment variable or the configuration file.
//! Syntax only: what a value means, and its default, is said by the settings that hold it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use russh::keys::ssh_key::{Fingerprint, HashAlg};
use serde::de::{Deserialize, Deserializer, SeqAccess, Visitor};

use super::places;

/// A value that can be written on the command line, in the environment and in the configuration file.
pub(super) trait Value: Sized {
    /// What a correct one looks like, with its article: `a duration such as 90s, 12h or 7d`.
    const EXPECTED: &'static str;

    /// Reads the written form.
    fn parse(text: &str) -> Result<Self, ValueError>;
}

/// [`Value::parse`] as a function, for clap.
pub(super) fn parse<T: Value>(text: &str) -> Result<T, ValueError> {
    T::parse(text)
}

/// A written value that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ValueError {
    /// The text has another form.
    #[error("expected {expected}")]
    Form {
        /// The right form, with an example.
        expected: &'static str,
    },
    /// A number without its unit.
    #[error("{number} of what? Expected {expected}")]
    NoUnit {
        /// The number as written.
        number: String,
        /// The right form, with an example.
        expected: &'static str,
    },
    /// A unit that does not exist here.
    #[error("unknown unit `{unit}`, expected one of {units}")]
    UnknownUnit {
        /// The unit as written.
        unit: String,
        /// All units.
        units: &'static str,
    },
    /// More than the type holds.
    #[error("that is too much")]
    TooLarge,
    /// A number outside of its range.
    #[error("expected a number from {least} to {most}")]
    OutOfRange {
        /// The least allowed.
        least: u64,
        /// The greatest allowed.
        most: u64,
    },
    /// A part of a name that ssh would not take either.
    #[error("a {part} may not {fault}")]
    BadName {
        /// `host name` or `user name`.
        part: &'static str,
        /// What it does wrongly.
        fault: &'static str,
    },
    /// Known, but not built.
    #[error("`{name}` is not in this version, expected {expected}")]
    NotInThisVersion {
        /// The word as written.
        name: &'static str,
        /// What there is.
        expected: &'static str,
    },
}

impl Value for Duration {
    const EXPECTED: &'static str = "a duration such as 250ms, 90s, 12h, 7d or 1h30m";

    fn parse(text: &str) -> Result<Self, ValueError> {
        let mut total = Duration::ZERO;
        let mut rest = text;
        while !rest.is_empty() {
            let (number, unit, after) = number_and_unit(rest, Self::EXPECTED)?;
            let milliseconds = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                "w" => 604_800_000,
                _ => {
                    return Err(ValueError::UnknownUnit {
                        unit: unit.to_owned(),
                        units: "ms, s, m, h, d, w",
                    });
                }
            };
            let part = number.checked_mul(milliseconds).ok_or(ValueError::TooLarge)?;
            total = total
                .checked_add(Duration::from_millis(part))
                .ok_or(ValueError::TooLarge)?;
            rest = after;
        }
        if text.is_empty() {
            return Err(ValueError::Form {
                expected: Self::EXPECTED,
            });
        }
        Ok(total)
    }
}

/// A number of bytes, written `16MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ByteSize(pub(crate) u64);

impl Value for ByteSize {
    const EXPECTED: &'static str = "a size such as 512B, 64KiB or 16MiB";

    fn parse(text: &str) -> Result<Self, ValueError> {
        let (number, unit, after) = number_and_unit(text, Self::EXPECTED)?;
        if !after.is_empty() {
            return Err(ValueError::Form {
                expected: Self::EXPECTED,
            });
        }
        let shift = match unit {
            "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            "TiB" => 40,
            _ => {
                return Err(ValueError::UnknownUnit {
                    unit: unit.to_owned(),
                    units: "B, KiB, MiB, GiB, TiB",
                });
            }
        };
        number.checked_mul(1 << shift).map(ByteSize).ok_or(ValueError::TooLarge)
    }
}

/// A port that something can be reached at: 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port(pub(crate) u16);

impl Value for Port {
    const EXPECTED: &'static str = "a port number from 1 to 65535";

    fn parse(text: &str) -> Result<Self, ValueError> {
        number_in(text, 1, u16::MAX.into(), Self::EXPECTED).map(|port| Port(port as u16))
    }
}

/// A number of things, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Count(pub(crate) u32);

impl Value for Count {
    const EXPECTED: &'static str = "a whole number, at least 1";

    fn parse(text: &str) -> Result<Self, ValueError> {
        number_in(text, 1, u32::MAX.into(), Self::EXPECTED).map(|count| Count(count as u32))
    }
}

/// The most bytes of UDP payload in one packet: 1200 (RFC 9000 section 14) to 65527.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MtuCap(pub(crate) u16);

impl Value for MtuCap {
    const EXPECTED: &'static str = "a number of bytes from 1200 to 65527";

    fn parse(text: &str) -> Result<Self, ValueError> {
        number_in(text, 1_200, 65_527, Self::EXPECTED).map(|bytes| MtuCap(bytes as u16))
    }
}

/// Yes or no, in the configuration file `true` or `false`.
impl Value for bool {
    const EXPECTED: &'static str = "true or false";

    fn parse(text: &str) -> Result<Self, ValueError> {
        text.parse().map_err(|_| ValueError::Form {
            expected: Self::EXPECTED,
        })
    }
}

/// A path; a leading `~/` is the home folder, as no shell expands it in a configuration file.
impl Value for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Err(ValueError::Form {
                expected: Self::EXPECTED,
            });
        }
        match (text.strip_prefix("~/"), places::home()) {
            (Some(below), Some(home)) => Ok(home.join(below)),
            _ => Ok(PathBuf::from(text)),
        }
    }
}

/// A name or an `ssh` option, taken as it is.
impl Value for String {
    const EXPECTED: &'static str = "a text";

    fn parse(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            Err(ValueError::Form {
                expected: Self::EXPECTED,
            })
        } else {
            Ok(text.to_owned())
        }
    }
}

/// The SHA-256 fingerprint of a host key, as `ssh-keygen -l` prints it.
impl Value for Fingerprint {
    const EXPECTED: &'static str = "a fingerprint such as SHA256: and 43 characters, as ssh-keygen -l prints it";

    fn parse(text: &str) -> Result<Self, ValueError> {
        match text.parse::<Fingerprint>() {
            Ok(fingerprint) if fingerprint.algorithm() == HashAlg::Sha256 => Ok(fingerprint),
            _ => Err(ValueError::Form {
                expected: Self::EXPECTED,
            }),
        }
    }
}

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
        // A user may hold an @ (user@realm), a host cannot: ssh too cuts at the last one.
        let (user, host) = match text.rsplit_once('@') {
            Some((user, host)) => (Some(checked_name("user name", user)?), host),
            None => (None, text),
        };
        let host = match host.strip_prefix('[') {
            Some(inner) => {
                let address = inner.strip_suffix(']').ok_or(ValueError::Form {
                    expected: Self::EXPECTED,
                })?;
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
            Err(_) => Err(ValueError::Form {
                expected: Self::EXPECTED,
            }),
        }
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
        let form = ValueError::Form {
            expected: Self::EXPECTED,
        };
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

/// Which transports the client half may dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    /// Whatever reaches the server half. In this version that is QUIC.
    Auto,
    /// QUIC only.
    Quic,
}

impl Value for Transport {
    const EXPECTED: &'static str = "auto or quic";

    fn parse(text: &str) -> Result<Self, ValueError> {
        match text {
            "auto" => Ok(Transport::Auto),
            "quic" => Ok(Transport::Quic),
            "tls" => Err(ValueError::NotInThisVersion {
                name: "tls",
                expected: Self::EXPECTED,
            }),
            _ => Err(ValueError::Form {
                expected: Self::EXPECTED,
            }),
        }
    }
}

/// What to do when no path leads to the server half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fallback {
    /// Fail.
    None,
    /// Connect to sshd's own TCP port: such a session does not survive its path.
    Tcp,
}

impl Value for Fallback {
    const EXPECTED: &'static str = "tcp or none";

    fn parse(text: &str) -> Result<Self, ValueError> {
        match text {
            "none" => Ok(Fallback::None),
            "tcp" => Ok(Fallback::Tcp),
            _ => Err(ValueError::Form {
                expected: Self::EXPECTED,
            }),
        }
    }
}

impl fmt::Display for Fallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fallback::None => "none",
            Fallback::Tcp => "tcp",
        })
    }
}

/// Who decides whether a user key may open a session, as written: `--auth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AuthWord {
    /// sshd is asked.
    Sshd,
    /// Nobody: the inner login decides alone.
    None,
}

impl Value for AuthWord {
    const EXPECTED: &'static str = "sshd or none";

    fn parse(text: &str) -> Result<Self, ValueError> {
        match text {
            "sshd" => Ok(AuthWord::Sshd),
            "none" => Ok(AuthWord::None),
            _ => Err(ValueError::Form {
                expected: Self::EXPECTED,
            }),
        }
    }
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For eyes.
    Human,
    /// One JSON object a line.
    Json,
}

impl Value for LogFormat {
    const EXPECTED: &'static str = "human or json";

    fn parse(text: &str) -> Result<Self, ValueError> {
        match text {
            "human" => Ok(LogFormat::Human),
            "json" => Ok(LogFormat::Json),
            _ => Err(ValueError::Form {
                expected: Self::EXPECTED,
            }),
        }
    }
}

/// A [`Value`] in the configuration file: a string, or a bare number or truth value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written<T>(pub(super) T);

impl<'de, T: Value> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(WrittenVisitor(std::marker::PhantomData))
            .map(Written)
    }
}

/// One [`Value`] or a list of them in the configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WrittenList<T>(pub(super) Vec<T>);

impl<'de, T: Value> Deserialize<'de> for WrittenList<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(WrittenListVisitor(std::marker::PhantomData))
            .map(WrittenList)
    }
}

struct WrittenVisitor<T>(std::marker::PhantomData<T>);

impl<T: Value> Visitor<'_> for WrittenVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        T::parse(text).map_err(|error| E::custom(format_args!("invalid value `{text}`: {error}")))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_bool<E: serde::de::Error>(self, truth: bool) -> Result<T, E> {
        self.visit_str(if truth { "true" } else { "false" })
    }
}

struct WrittenListVisitor<T>(std::marker::PhantomData<T>);

impl<'de, T: Value> Visitor<'de> for WrittenListVisitor<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, or a list of such", T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<T>, E> {
        WrittenVisitor::<T>(std::marker::PhantomData)
            .visit_str(text)
            .map(|one| vec![one])
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Vec<T>, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(Written(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(list)
    }
}

/// Cuts `90s...` into the number, its unit and what follows.
fn number_and_unit<'a>(text: &'a str, expected: &'static str) -> Result<(u64, &'a str, &'a str), ValueError> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    if number.is_empty() {
        return Err(ValueError::Form { expected });
    }
    let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, after) = rest.split_at(letters);
    match (unit.is_empty(), after.is_empty()) {
        (true, true) => Err(ValueError::NoUnit {
            number: number.to_owned(),
            expected,
        }),
        (true, false) => Err(ValueError::Form { expected }),
        // Digits only: it fails on size alone.
        (false, _) => Ok((number.parse().map_err(|_| ValueError::TooLarge)?, unit, after)),
    }
}

fn number_in(text: &str, least: u64, most: u64, expected: &'static str) -> Result<u64, ValueError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ValueError::Form { expected });
    }
    match text.parse() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(ValueError::OutOfRange { least, most }),
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
        "hold spaces or control characters"
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

    fn message<T: Value + fmt::Debug>(text: &str) -> String {
        T::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn durations_are_numbers_with_units() {
        for (text, milliseconds) in [
            ("250ms", 250),
            ("90s", 90_000),
            ("12h", 43_200_000),
            ("7d", 604_800_000),
            ("1h30m", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(Duration::parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn a_bad_duration_says_what_is_wrong_with_it() {
        assert_eq!(
            message::<Duration>("90"),
            format!("90 of what? Expected {}", Duration::EXPECTED)
        );
        assert_eq!(
            message::<Duration>("5y"),
            "unknown unit `y`, expected one of ms, s, m, h, d, w"
        );
        assert_eq!(message::<Duration>("99999999999999999999s"), "that is too much");
        assert_eq!(message::<Duration>("999999999999999999w"), "that is too much");
        for text in ["", "h", "-5s", "1.5s", "5 s", "1h-", "5s "] {
            assert_eq!(
                message::<Duration>(text),
                format!("expected {}", Duration::EXPECTED),
                "{text:?}"
            );
        }
    }

    #[test]
    fn sizes_are_powers_of_1024_with_their_full_names() {
        for (text, bytes) in [
            ("512B", 512),
            ("64KiB", 65_536),
            ("16MiB", 16_777_216),
            ("2GiB", 2_147_483_648),
        ] {
            assert_eq!(ByteSize::parse(text), Ok(ByteSize(bytes)), "{text}");
        }
        assert_eq!(
            message::<ByteSize>("16MB"),
            "unknown unit `MB`, expected one of B, KiB, MiB, GiB, TiB"
        );
        assert_eq!(
            message::<ByteSize>("16"),
            format!("16 of what? Expected {}", ByteSize::EXPECTED)
        );
        assert_eq!(message::<ByteSize>("99999999TiB"), "that is too much");
        assert_eq!(
            message::<ByteSize>("1MiB1KiB"),
            format!("expected {}", ByteSize::EXPECTED)
        );
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
            "a host name may not hold spaces or control characters"
        );
        assert_eq!(
            message::<Destination>("a\u{1b}[2J"),
            "a host name may not hold spaces or control characters"
        );
        assert_eq!(
            message::<Destination>("[build]"),
            "expected an IPv6 address between the brackets"
        );
        assert_eq!(message::<Destination>("[::1"), "expected [USER@]HOST");
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

    #[test]
    fn numbers_say_their_range() {
        assert_eq!(Port::parse("22"), Ok(Port(22)));
        assert_eq!(message::<Port>("0"), "expected a number from 1 to 65535");
        assert_eq!(message::<Port>("65536"), "expected a number from 1 to 65535");
        assert_eq!(message::<Port>("+22"), "expected a port number from 1 to 65535");
        assert_eq!(message::<MtuCap>("1199"), "expected a number from 1200 to 65527");
        assert_eq!(message::<Count>("0"), "expected a number from 1 to 4294967295");
    }

    #[test]
    fn a_transport_that_is_not_built_yet_is_named_as_such() {
        assert_eq!(
            message::<Transport>("tls"),
            "`tls` is not in this version, expected auto or quic"
        );
        assert_eq!(message::<Transport>("udp"), "expected auto or quic");
    }

    #[test]
    fn only_sha256_fingerprints_are_taken() {
        let fingerprint = "SHA256:uNiVztksCsDhcc0u9e8BrrFRJFFt2UHZ1k9sp1yDxd0";
        assert_eq!(
            Fingerprint::parse(fingerprint).map(|f| f.to_string()),
            Ok(fingerprint.to_owned())
        );
        assert!(Fingerprint::parse("MD5:00:11").is_err());
        assert!(Fingerprint::parse("SHA256:short").is_err());
    }
}
