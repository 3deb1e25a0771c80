//! How values are written: durations, sizes, ports, names, addresses.
//!
//! One syntax wherever a value comes from: a flag, an environment variable or the configuration file.
//! Syntax only: what a value means, and its default, is said by the settings that hold it.

mod alternate_route;
mod choice;
mod endpoint;
mod metrics;
mod pattern;
mod relay;
mod session;
mod written;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use russh::keys::ssh_key::{Fingerprint, HashAlg};

pub(crate) use self::alternate_route::{PathCommand, ProxyText};
pub(crate) use self::choice::{AuthWord, ClientAddressWord, Fallback, LogFormat, Predict, Transport};
pub(crate) use self::endpoint::{Destination, ListenAddress, ListenRange, LoginName, PortRange, Target};
pub(crate) use self::metrics::MetricsAddress;
pub(crate) use self::pattern::HostPattern;
pub(crate) use self::session::SessionName;
pub(super) use self::written::{Written, WrittenList};
use super::places;
use crate::carrier::relays::RelayNameError;

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
}
