//! The output of `ssh -G`, as keys and values.
//!
//! One option per line, `keyword value`, with keywords in lower case. Repeated keywords keep their
//! order.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::{AddressFamily, IdentityAgent, SshConfigError};

/// The printed options.
pub(super) struct Dump {
    options: Vec<(String, OsString)>,
}

impl Dump {
    /// Parses the lines; a line without a value is ignored.
    pub(super) fn parse(printed: &[u8]) -> Self {
        let options = printed
            .split(|byte| *byte == b'\n')
            .filter_map(|line| {
                let space = line.iter().position(|byte| *byte == b' ')?;
                let keyword = String::from_utf8_lossy(&line[..space]).to_ascii_lowercase();
                Some((keyword, OsString::from_vec(line[space + 1..].to_vec())))
            })
            .collect();
        Self { options }
    }

    /// A value that must be present.
    pub(super) fn required(&self, field: &'static str) -> Result<String, SshConfigError> {
        self.text(field).ok_or_else(|| SshConfigError::Unusable {
            field,
            value: OsString::new(),
        })
    }

    /// A value as text; bytes that are not UTF-8 are replaced.
    pub(super) fn text(&self, field: &str) -> Option<String> {
        self.value(field).map(|value| value.to_string_lossy().into_owned())
    }

    /// A number, or its default.
    pub(super) fn number<N: FromStr>(&self, field: &'static str, default: N) -> Result<N, SshConfigError> {
        let Some(value) = self.value(field) else {
            return Ok(default);
        };
        let parsed = value.to_str().and_then(|text| text.parse().ok());
        parsed.ok_or_else(|| SshConfigError::Unusable {
            field,
            value: value.to_owned(),
        })
    }

    /// A number of seconds; `None` for `none`, `0` and a missing value.
    pub(super) fn seconds(&self, field: &'static str) -> Result<Option<Duration>, SshConfigError> {
        if self.value(field).is_some_and(|value| value == "none") {
            return Ok(None);
        }
        let seconds = self.number(field, 0)?;
        Ok((seconds > 0).then(|| Duration::from_secs(seconds)))
    }

    /// Whether an option is on; ssh prints `yes` or `true`.
    pub(super) fn flag(&self, field: &str) -> bool {
        self.value(field).is_some_and(|value| value == "yes" || value == "true")
    }

    /// Whether an option is present and off; ssh prints `no` or `false`.
    pub(super) fn is_off(&self, field: &str) -> bool {
        self.value(field).is_some_and(|value| value == "no" || value == "false")
    }

    /// The first value as a path.
    pub(super) fn path(&self, field: &str) -> Option<PathBuf> {
        self.value(field).map(PathBuf::from)
    }

    /// The values of an option that is printed once per file; `none` means no file.
    pub(super) fn paths(&self, field: &str) -> Vec<PathBuf> {
        let values = self.options.iter().filter(|(keyword, _)| keyword == field);
        values
            .filter(|(_, value)| !value.eq_ignore_ascii_case("none"))
            .map(|(_, value)| value.into())
            .collect()
    }

    /// The files of an option that is printed on one line, separated by spaces, without quotes.
    ///
    /// A word that does not start like a path belongs to the name before it (`/home/Jane
    /// Doe/known_hosts`).
    pub(super) fn path_list(&self, field: &str) -> Vec<PathBuf> {
        let Some(line) = self.value(field) else {
            return Vec::new();
        };
        let mut names: Vec<Vec<u8>> = Vec::new();
        for word in line.as_bytes().split(|byte| *byte == b' ') {
            match names.last_mut() {
                Some(name) if !matches!(word.first(), Some(b'/' | b'~')) => {
                    name.push(b' ');
                    name.extend_from_slice(word);
                }
                _ => names.push(word.to_vec()),
            }
        }
        names.retain(|name| !name.is_empty() && !name.eq_ignore_ascii_case(b"none"));
        names
            .into_iter()
            .map(|name| PathBuf::from(OsString::from_vec(name)))
            .collect()
    }

    /// `IdentityAgent` in its four forms. It is not printed if it is not set.
    pub(super) fn identity_agent(&self) -> IdentityAgent {
        match self.value("identityagent").map(OsStr::as_bytes) {
            None | Some(b"SSH_AUTH_SOCK") => IdentityAgent::Environment("SSH_AUTH_SOCK".into()),
            Some(value) if value.eq_ignore_ascii_case(b"none") => IdentityAgent::None,
            Some([b'$', name @ ..]) if name.first() != Some(&b'{') => {
                IdentityAgent::Environment(OsStr::from_bytes(name).to_owned())
            }
            Some(path) => IdentityAgent::Socket(PathBuf::from(OsStr::from_bytes(path))),
        }
    }

    /// `AddressFamily`.
    pub(super) fn address_family(&self) -> Result<AddressFamily, SshConfigError> {
        match self.value("addressfamily") {
            None => Ok(AddressFamily::Any),
            Some(value) if value == "any" => Ok(AddressFamily::Any),
            Some(value) if value == "inet" => Ok(AddressFamily::Inet),
            Some(value) if value == "inet6" => Ok(AddressFamily::Inet6),
            Some(value) => Err(SshConfigError::Unusable {
                field: "addressfamily",
                value: value.to_owned(),
            }),
        }
    }

    fn value(&self, field: &str) -> Option<&OsStr> {
        self.options
            .iter()
            .find(|(keyword, _)| keyword == field)
            .map(|(_, value)| value.as_os_str())
    }
}
