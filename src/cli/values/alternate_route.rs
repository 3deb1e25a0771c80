//! Other ways to a TLS port: a proxy, a program.

use std::fmt;

use super::{Value, ValueError};

/// What `--proxy` was given, password and all.
///
/// Any text: whoever reads a value tells a wrong one whole, so this one is judged by the settings, which do not.
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
