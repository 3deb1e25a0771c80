//! How values are written: durations, sizes, ports, names, addresses.
//!
//! One syntax wherever a value comes from: a flag, an environment variable or the configuration file.
//! Syntax only: what a value means, and its default, is said by the settings that hold it.

mod choice;
mod endpoint;
mod pattern;
mod written;

pub(crate) use self::choice::{AuthWord, ClientAddressWord, Fallback, Install, LogFormat, Predict, Transport};
pub(crate) use self::endpoint::{Destination, ListenAddress, ListenRange, LoginName, PortRange, Target};
pub(crate) use self::pattern::HostPattern;
pub(super) use self::written::{Written, WrittenList};

use super::places;
use crate::carrier::relays::{RelayName, RelayNameError};
use russh::keys::ssh_key::{Fingerprint, HashAlg};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// A value that can be written on the command line, in the environment and in the configuration file.
pub(in crate::cli) trait Value: Sized {
    /// What a correct one looks like, with its article: `a duration such as 90s, 12h or 7d`.
    const EXPECTED: &'static str;
    /// The name under which `bowline.toml` may also have it, in a table of its own; empty where it may not.
    const TABLE_KEYS: &'static [&'static str] = &[];

    /// Reads the written form.
    fn parse(text: &str) -> Result<Self, ValueError>;

    /// The text is nothing like [`Self::EXPECTED`].
    fn misspelt() -> ValueError {
        ValueError::Form {
            expected: Self::EXPECTED,
        }
    }
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
    #[error("{number} has no unit, expected {expected}")]
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
    #[error("the value is too large")]
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
    /// A token of ssh's configuration that nobody has replaced.
    #[error(
        "`{token}` was not expanded: the program that runs this ProxyCommand does not support it; all support \
         %r, %h and %p, but some do not support %n"
    )]
    Token {
        /// As written, with its `%`.
        token: String,
    },
    /// Where others would be told what is for this machine only.
    #[error("{address} is not a loopback address, and metrics are served without authentication")]
    NotLoopback {
        /// As written.
        address: IpAddr,
    },
    /// Not the name of a relay.
    #[error(transparent)]
    Relay(#[from] RelayNameError),
}

// By hand: humantime also takes `M`, a month of 30.44 days. With that, a capital letter makes two and a
// half years of 30 minutes.
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
            return Err(Self::misspelt());
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
            return Err(Self::misspelt());
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
        endpoint::token(text)?;
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
        text.parse().map_err(|_| Self::misspelt())
    }
}

/// A path; a leading `~/` is the home folder, as no shell expands it in a configuration file.
impl Value for PathBuf {
    const EXPECTED: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Err(Self::misspelt());
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
            Err(Self::misspelt())
        } else {
            Ok(text.to_owned())
        }
    }
}

/// The SHA-256 fingerprint of a host key, as `ssh-keygen -l` prints it.
impl Value for Fingerprint {
    const EXPECTED: &'static str = "a fingerprint as ssh-keygen -l prints it: SHA256: and 43 characters";

    fn parse(text: &str) -> Result<Self, ValueError> {
        match text.parse::<Fingerprint>() {
            Ok(fingerprint) if fingerprint.algorithm() == HashAlg::Sha256 => Ok(fingerprint),
            _ => Err(Self::misspelt()),
        }
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

/// What `--proxy` was given, password and all.
///
/// Any text is accepted here, because the error for a wrong value shows all of it. The settings check it, and their error
/// leaves the password out.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ProxyText(pub(crate) String);

/// A command line whose standard input and output lead to a TLS port: `--path-command`. It may hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PathCommand(pub(crate) String);

impl fmt::Debug for ProxyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyText")
    }
}

impl fmt::Debug for PathCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PathCommand")
    }
}

impl Value for ProxyText {
    const EXPECTED: &'static str =
        "a proxy such as http://proxy.example.org:3128 or socks5h://localhost:1080, or direct";

    fn parse(text: &str) -> Result<Self, ValueError> {
        Ok(ProxyText(text.to_owned()))
    }
}

impl Value for PathCommand {
    const EXPECTED: &'static str = "a command line such as \"nc %h %p\"";
    const TABLE_KEYS: &'static [&'static str] = &["command"];

    fn parse(text: &str) -> Result<Self, ValueError> {
        match text.trim().is_empty() {
            true => Err(Self::misspelt()),
            false => Ok(PathCommand(text.to_owned())),
        }
    }
}

/// An address of this machine that no other reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MetricsAddress(pub(crate) SocketAddr);

impl Value for MetricsAddress {
    const EXPECTED: &'static str = "a loopback address and a port, such as 127.0.0.1:9470";

    fn parse(text: &str) -> Result<Self, ValueError> {
        let port = text.strip_prefix(':').unwrap_or(text).parse();
        let address = match port {
            Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            Err(_) => text.parse().map_err(|_| Self::misspelt())?,
        };
        match address.ip().is_loopback() {
            true => Ok(MetricsAddress(address)),
            false => Err(ValueError::NotLoopback { address: address.ip() }),
        }
    }
}

impl Value for RelayName {
    const EXPECTED: &'static str =
        "a relay such as r1.example.org, r2.example.org:4433#SHA256:.. or _bowline-relay._udp.example.org";

    fn parse(text: &str) -> Result<Self, ValueError> {
        if text.is_empty() {
            return Err(Self::misspelt());
        }
        Ok(text.parse()?)
    }
}

/// What sessions are named by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SessionName {
    /// The beginning of the id, or all of it: hexadecimal digits, in lower case.
    Id(String),
    /// The terminal, without `/dev/`.
    Terminal(String),
}

impl SessionName {
    /// Whether it is a name of the session with this id, on this terminal.
    pub(crate) fn names(&self, id: &str, terminal: Option<&str>) -> bool {
        match self {
            SessionName::Id(beginning) => id.starts_with(beginning),
            SessionName::Terminal(name) => terminal == Some(name),
        }
    }
}

impl Value for SessionName {
    const EXPECTED: &'static str = "the beginning of a session's id, such as 3f2a9c01, or a terminal, such as pts/3";

    fn parse(text: &str) -> Result<Self, ValueError> {
        let is_id = (1..=32).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let terminal = text.strip_prefix("/dev/").unwrap_or(text);
        let is_terminal = terminal.starts_with("tty") || terminal.starts_with("pts/");
        match (is_id, is_terminal) {
            (true, _) => Ok(SessionName::Id(text.to_ascii_lowercase())),
            (false, true) => Ok(SessionName::Terminal(terminal.to_owned())),
            (false, false) => Err(Self::misspelt()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<T: Value + std::fmt::Debug>(text: &str) -> String {
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
            format!("90 has no unit, expected {}", Duration::EXPECTED)
        );
        assert_eq!(
            message::<Duration>("5y"),
            "unknown unit `y`, expected one of ms, s, m, h, d, w"
        );
        assert_eq!(message::<Duration>("99999999999999999999s"), "the value is too large");
        assert_eq!(message::<Duration>("999999999999999999w"), "the value is too large");
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
            format!("16 has no unit, expected {}", ByteSize::EXPECTED)
        );
        assert_eq!(message::<ByteSize>("99999999TiB"), "the value is too large");
        assert_eq!(
            message::<ByteSize>("1MiB1KiB"),
            format!("expected {}", ByteSize::EXPECTED)
        );
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
    fn only_sha256_fingerprints_are_taken() {
        let fingerprint = "SHA256:uNiVztksCsDhcc0u9e8BrrFRJFFt2UHZ1k9sp1yDxd0";
        assert_eq!(
            Fingerprint::parse(fingerprint).map(|f| f.to_string()),
            Ok(fingerprint.to_owned())
        );
        assert!(Fingerprint::parse("MD5:00:11").is_err());
        assert!(Fingerprint::parse("SHA256:short").is_err());
    }

    #[test]
    fn only_this_machine_is_told() {
        let parse = |text: &str| MetricsAddress::parse(text).map(|address| address.0.to_string());
        for (text, address) in [
            ("127.0.0.1:9470", "127.0.0.1:9470"),
            ("[::1]:9470", "[::1]:9470"),
            (":9470", "127.0.0.1:9470"),
            ("9470", "127.0.0.1:9470"),
        ] {
            assert_eq!(parse(text).unwrap(), address);
        }
        let refused = parse("0.0.0.0:9470").unwrap_err().to_string();
        assert!(refused.contains("0.0.0.0 is not a loopback address"), "{refused}");
        assert!(parse("192.0.2.1:9470").is_err() && parse("localhost").is_err());
    }

    #[test]
    fn a_misspelt_relay_is_told_which_part_of_it_is_wrong() {
        let message = |text: &str| RelayName::parse(text).expect_err(text).to_string();
        assert_eq!(message("::1"), "an IPv6 address must be in brackets: [2001:db8::1]:443");
        assert_eq!(message("r1.example.org:0"), "\"0\" is not a port from 1 to 65535");
        assert_eq!(message(""), format!("expected {}", RelayName::EXPECTED));
        assert_eq!(
            RelayName::parse("r1.example.org").map(|name| name.to_string()),
            Ok("r1.example.org:443".to_owned())
        );
    }

    #[test]
    fn an_id_is_named_by_its_beginning() {
        let name = SessionName::parse("3F2a").unwrap();
        assert!(name.names("3f2a9c01", None) && !name.names("3f2b9c01", Some("3f2a")));
        let long = "0".repeat(33);
        for bad in ["", "xyz", "3f2a 9c01", long.as_str()] {
            assert!(SessionName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_session_is_named_by_its_terminal() {
        for text in ["pts/3", "/dev/pts/3"] {
            let name = SessionName::parse(text).unwrap();
            assert!(name.names("3f2a9c01", Some("pts/3")) && !name.names("3f2a9c01", Some("pts/33")));
            assert!(!name.names("3f2a9c01", None));
        }
        assert!(SessionName::parse("/dev/tty1").is_ok() && SessionName::parse("/dev/null").is_err());
    }
}
