//! One line of an `authorized_keys` file (sshd(8), AUTHORIZED_KEYS FILE FORMAT).

use std::time::{Duration, SystemTime};

use russh::keys::ssh_key::public::KeyData;
use russh::keys::ssh_key::{Algorithm, PublicKey};

/// Options without a value. The sshd of the login enforces them.
const FLAGS: [&str; 13] = [
    "restrict",
    "agent-forwarding",
    "no-agent-forwarding",
    "port-forwarding",
    "no-port-forwarding",
    "x11-forwarding",
    "no-x11-forwarding",
    "pty",
    "no-pty",
    "user-rc",
    "no-user-rc",
    "no-touch-required",
    "verify-required",
];

/// Options with a value that the sshd of the login enforces.
const VALUES: [&str; 5] = ["command", "environment", "permitlisten", "permitopen", "tunnel"];

/// Options of both kinds that restrict what the built-in SSH server would allow. It has no X11, no
/// tunnels and no `~/.ssh/rc`, and accepts no environment from here.
const RESTRICTING: [&str; 8] = [
    "restrict",
    "no-agent-forwarding",
    "no-port-forwarding",
    "no-pty",
    "verify-required",
    "command",
    "permitlisten",
    "permitopen",
];

/// A key and the conditions under which it may log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyLine {
    pub(super) key: KeyData,
    pub(super) conditions: Conditions,
}

/// The options that decide whether a key is accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Conditions {
    /// The key is a CA's: certificates signed by it are accepted, but not the key itself.
    pub(super) cert_authority: bool,
    /// Principals of which a certificate must contain one, instead of the user name.
    pub(super) principals: Option<Vec<String>>,
    /// Pattern lists, all of which the client's address must match.
    pub(super) from: Vec<String>,
    /// The key is accepted before this time.
    pub(super) expiry: Option<SystemTime>,
    /// The line has an option of [`RESTRICTING`].
    pub(super) restricts: bool,
}

/// Why a line is skipped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// A quotation mark is not closed.
    #[error("unterminated quoted string")]
    Unterminated,
    /// An unknown option. It may restrict the key, so the key is not used.
    #[error("unknown option {name:?}")]
    UnknownOption {
        /// Its name.
        name: String,
    },
    /// The option has a value but must have none, or lacks one, or the value is not quoted.
    #[error("the option {name:?} has no well-formed value")]
    OptionValue {
        /// Its name.
        name: String,
    },
    /// The key is missing, invalid or of an unknown type.
    #[error("no public key")]
    Key,
}

/// Parses one line; `None` if it is empty or a comment.
pub(super) fn parse(line: &str) -> Result<Option<KeyLine>, LineError> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    if let Some(key) = parse_key(line) {
        let conditions = Conditions::default();
        return Ok(Some(KeyLine { key, conditions }));
    }
    let (options, rest) = split_options(line)?;
    if !matches!(Algorithm::new(options), Err(_) | Ok(Algorithm::Other(_))) {
        return Err(LineError::Key);
    }
    let conditions = parse_options(options)?;
    let key = parse_key(rest.trim_start()).ok_or(LineError::Key)?;
    Ok(Some(KeyLine { key, conditions }))
}

/// The type and the key in base64; the rest is a comment.
fn parse_key(text: &str) -> Option<KeyData> {
    let mut words = text.split_ascii_whitespace();
    let (kind, base64) = (words.next()?, words.next()?);
    let key = PublicKey::from_openssh(&format!("{kind} {base64}")).ok()?;
    match key.key_data() {
        // A certificate cannot be listed; its CA's key can.
        KeyData::Certificate(_) => None,
        key => Some(key.clone()),
    }
}

/// Splits at the first blank outside of quotation marks.
fn split_options(line: &str) -> Result<(&str, &str), LineError> {
    let mut quoted = false;
    let mut escaped = false;
    for (at, character) in line.char_indices() {
        match character {
            '"' if !escaped => quoted = !quoted,
            ' ' | '\t' if !quoted => return Ok((&line[..at], &line[at..])),
            _ => {}
        }
        escaped = character == '\\' && !escaped;
    }
    Err(if quoted {
        LineError::Unterminated
    } else {
        LineError::Key
    })
}

fn parse_options(mut text: &str) -> Result<Conditions, LineError> {
    let mut conditions = Conditions::default();
    while !text.is_empty() {
        let end = text.find(['=', ',']).unwrap_or(text.len());
        let name = text[..end].to_ascii_lowercase();
        let (value, rest) = match text[end..].strip_prefix('=') {
            Some(quoted) => {
                let (value, rest) = unquote(quoted).ok_or_else(|| LineError::OptionValue { name: name.clone() })?;
                (Some(value), rest)
            }
            None => (None, &text[end..]),
        };
        conditions.restricts |= RESTRICTING.contains(&name.as_str());
        apply(&mut conditions, name, value)?;
        text = match rest.strip_prefix(',') {
            Some("") => return Err(LineError::UnknownOption { name: String::new() }),
            Some(rest) => rest,
            None if rest.is_empty() => rest,
            None => return Err(LineError::UnknownOption { name: rest.to_owned() }),
        };
    }
    Ok(conditions)
}

/// A quoted value, in which `\"` stands for a quotation mark, and the rest.
fn unquote(text: &str) -> Option<(String, &str)> {
    let text = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' if matches!(characters.peek(), Some((_, '"'))) => {
                characters.next();
                value.push('"');
            }
            other => value.push(other),
        }
    }
    None
}

fn apply(conditions: &mut Conditions, name: String, value: Option<String>) -> Result<(), LineError> {
    match (name.as_str(), value) {
        ("cert-authority", None) => conditions.cert_authority = true,
        ("from", Some(list)) => conditions.from.push(list),
        ("principals", Some(names)) => {
            conditions.principals = Some(names.split(',').map(str::to_owned).collect());
        }
        ("expiry-time", Some(time)) => {
            let expiry = parse_time(&time).ok_or(LineError::OptionValue { name })?;
            // As in sshd, the earliest of several counts.
            conditions.expiry = Some(conditions.expiry.map_or(expiry, |known| known.min(expiry)));
        }
        (flag, None) if FLAGS.contains(&flag) => {}
        (option, Some(_)) if VALUES.contains(&option) => {}
        (known, _) if is_known(known) => return Err(LineError::OptionValue { name }),
        _ => return Err(LineError::UnknownOption { name }),
    }
    Ok(())
}

fn is_known(name: &str) -> bool {
    let conditions = ["cert-authority", "from", "principals", "expiry-time"];
    FLAGS.contains(&name) || VALUES.contains(&name) || conditions.contains(&name)
}

/// `YYYYMMDD[HHMM[SS]]`, in UTC if followed by `Z`, otherwise in the system's time zone.
fn parse_time(text: &str) -> Option<SystemTime> {
    let (digits, utc) = match text.strip_suffix(['Z', 'z']) {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    if !matches!(digits.len(), 8 | 12 | 14) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = |from: usize, to: usize| {
        digits
            .get(from..to)
            .map_or(Some(0), |digits| digits.parse::<i32>().ok())
    };
    let date = Date {
        year: number(0, 4)?,
        month: number(4, 6)?,
        day: number(6, 8)?,
        hour: number(8, 10)?,
        minute: number(10, 12)?,
        second: number(12, 14)?,
    };
    let seconds = date.seconds(utc)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(u64::try_from(seconds).ok()?))
}

#[derive(Clone, Copy)]
struct Date {
    year: i32,
    month: i32,
    day: i32,
    hour: i32,
    minute: i32,
    second: i32,
}

impl Date {
    /// Unix time, by the system's calendar and time zones.
    #[allow(unsafe_code)]
    fn seconds(self, utc: bool) -> Option<i64> {
        let ranges = [
            (self.year, 1970..=9999),
            (self.month, 1..=12),
            (self.day, 1..=31),
            (self.hour, 0..=23),
            (self.minute, 0..=59),
            (self.second, 0..=60),
        ];
        if ranges.iter().any(|(value, range)| !range.contains(value)) {
            return None;
        }
        // SAFETY: `tm` holds integers and, on some systems, a pointer that may be null; zeroes are
        // a valid value.
        let mut broken_down: libc::tm = unsafe { std::mem::zeroed() };
        broken_down.tm_year = self.year - 1900;
        broken_down.tm_mon = self.month - 1;
        broken_down.tm_mday = self.day;
        broken_down.tm_hour = self.hour;
        broken_down.tm_min = self.minute;
        broken_down.tm_sec = self.second;
        // mktime finds out whether daylight saving time applies.
        broken_down.tm_isdst = -1;
        // SAFETY: both take a valid `tm` and write to nothing else.
        let seconds = unsafe {
            if utc {
                libc::timegm(&raw mut broken_down)
            } else {
                libc::mktime(&raw mut broken_down)
            }
        };
        // These functions turn April 31 into May 1; sshd rejects such a date.
        (broken_down.tm_mday == self.day && seconds >= 0).then_some(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";

    fn conditions(options: &str) -> Conditions {
        parse(&format!("{options} {KEY} me@home")).unwrap().unwrap().conditions
    }

    fn error(options: &str) -> LineError {
        parse(&format!("{options} {KEY}")).unwrap_err()
    }

    #[test]
    fn plain_keys_comments_and_empty_lines() {
        assert_eq!(parse(KEY).unwrap().unwrap().conditions, Conditions::default());
        assert!(
            parse(&format!("  \t{KEY}\ta comment, with=\"quotes\r"))
                .unwrap()
                .is_some()
        );
        for line in ["", "   ", "# a comment", "  # another"] {
            assert_eq!(parse(line), Ok(None));
        }
        for line in ["ssh-ed25519", "ssh-ed25519 AAAA", "ssh-rsa", "garbage"] {
            assert_eq!(parse(line), Err(LineError::Key), "{line}");
        }
    }

    #[test]
    fn common_option_lines_are_read() {
        let plain = Conditions::default();
        let restricts = Conditions {
            restricts: true,
            ..plain.clone()
        };
        assert_eq!(conditions(r#"command="a b, \"c\"",no-pty"#), restricts);
        assert_eq!(
            conditions(r#"restrict,pty,permitopen="host:22",environment="A=b c""#),
            restricts
        );
        assert_eq!(conditions("No-Pty"), restricts);
        assert_eq!(conditions(r#"No-Touch-Required,environment="A=b""#), plain);
        let from = conditions(r#"from="10.0.0.0/8,*.example.org",from="!10.1.1.1,*",command="x""#).from;
        assert_eq!(from, ["10.0.0.0/8,*.example.org", "!10.1.1.1,*"]);
        let ca = conditions(r#"cert-authority,principals="me,you""#);
        assert!(ca.cert_authority);
        assert_eq!(ca.principals.unwrap(), ["me", "you"]);
    }

    #[test]
    fn line_with_an_unknown_option_is_not_used() {
        let unknown = |name: &str| LineError::UnknownOption { name: name.to_owned() };
        let value = |name: &str| LineError::OptionValue { name: name.to_owned() };
        assert_eq!(error("no-such-option"), unknown("no-such-option"));
        assert_eq!(error("no-pty,"), unknown(""));
        assert_eq!(error(r#"from="10.0.0.1"x"#), unknown("x"));
        assert_eq!(error("from"), value("from"));
        assert_eq!(error("from=10.0.0.1"), value("from"));
        assert_eq!(error(r#"no-pty="yes""#), value("no-pty"));
        assert_eq!(error(r#"expiry-time="soon""#), value("expiry-time"));
        assert_eq!(error(r#"from="10.0.0.1"#), LineError::Unterminated);
    }

    #[test]
    fn expiry_times_are_read_in_all_their_forms() {
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(parse_time("20300102Z"), at(1_893_542_400));
        assert_eq!(parse_time("203001021234Z"), at(1_893_587_640));
        assert_eq!(parse_time("20300102123456Z"), at(1_893_587_696));
        assert!(parse_time("20300102").is_some());
        for wrong in [
            "",
            "2030",
            "20301302Z",
            "20300431Z",
            "2030010212Z",
            "2030010X",
            "20300102 Z",
            "00000102",
        ] {
            assert_eq!(parse_time(wrong), None, "{wrong}");
        }
        let both = conditions(r#"expiry-time="20300102Z",expiry-time="20200102Z""#);
        assert_eq!(both.expiry, parse_time("20200102Z"));
    }
}
