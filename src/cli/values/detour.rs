//! Other ways to a TLS port: a proxy, a program.

use std::fmt;

use super::{Value, ValueError};
use crate::carrier::stream::ProxyRules;

/// Which proxy to use, or none: `--proxy`.
#[derive(Clone)]
pub(crate) struct ProxyChoice {
    pub(crate) rules: ProxyRules,
    /// As it was written, password and all.
    pub(crate) text: String,
}

/// A command line whose standard input and output lead to a TLS port: `--path-command`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PathCommand(pub(crate) String);

/// Without credentials.
impl fmt::Debug for ProxyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyChoice")
    }
}

impl Value for ProxyChoice {
    const EXPECTED: &'static str =
        "a proxy such as http://proxy.example.org:3128 or socks5h://localhost:1080, or direct";

    fn parse(text: &str) -> Result<Self, ValueError> {
        Ok(ProxyChoice {
            rules: text.parse()?,
            text: text.to_owned(),
        })
    }
}

impl Value for PathCommand {
    const EXPECTED: &'static str = "a command line such as \"nc %h %p\"";
    const TABLE_KEY: Option<&'static str> = Some("command");

    fn parse(text: &str) -> Result<Self, ValueError> {
        match text.trim().is_empty() {
            true => Err(Self::misspelt()),
            false => Ok(PathCommand(text.to_owned())),
        }
    }
}
