//! Hosts as ssh_config's `Host` takes them.

use std::fmt;

use super::{Value, ValueError};

/// A host's name, or a pattern of `*`, `?` and names; with `!` before it the hosts that are not meant.
///
/// Nothing in it can end a line of ssh_config, open a quote, or be an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPattern(String);

impl HostPattern {
    /// A name that it matches; `None` where it says who is not meant.
    pub(crate) fn sample(&self) -> Option<String> {
        (!self.0.starts_with('!')).then(|| self.0.replace(['*', '?'], "x"))
    }

    /// Whether it is just a name.
    pub(crate) fn is_a_name(&self) -> bool {
        self.sample().as_ref() == Some(&self.0)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Value for HostPattern {
    const EXPECTED: &'static str = "a host such as build.example.org, or a pattern such as *.example.org";

    fn parse(text: &str) -> Result<Self, ValueError> {
        let name = text.strip_prefix('!').unwrap_or(text);
        let fault = if name.is_empty() {
            "be empty"
        } else if name.starts_with('-') {
            "start with `-`"
        } else if name.contains('@') {
            "hold a user: ssh's `Host` knows hosts only"
        } else if !name.chars().all(|c| c.is_alphanumeric() || "._-:%*?".contains(c)) {
            "hold anything but letters, digits and . _ - : % * ?"
        } else {
            return Ok(HostPattern(text.to_owned()));
        };
        Err(ValueError::BadName {
            part: "host or pattern",
            fault,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_a_name_that_it_matches() {
        let sample = |text| HostPattern::parse(text).unwrap().sample();
        assert_eq!(sample("*.example.org").as_deref(), Some("x.example.org"));
        assert_eq!(sample("web?").as_deref(), Some("webx"));
        assert_eq!(sample("!web1"), None);
        assert!(HostPattern::parse("web1").unwrap().is_a_name());
        assert!(!HostPattern::parse("web*").unwrap().is_a_name() && !HostPattern::parse("!web").unwrap().is_a_name());
        assert!(HostPattern::parse("fe80::1%eth0").unwrap().is_a_name());
    }

    #[test]
    fn what_would_be_more_than_a_host_is_refused() {
        for bad in [
            "",
            "!",
            "-oProxyCommand=x",
            "!-x",
            "a b",
            "a\nHost b",
            "a\rb",
            "a\"b",
            "a'b",
            "a\\b",
            "a#b",
            "a=b",
            "=a",
            "$(x)",
            "`x`",
            "a,b",
            "ann@box",
            "a;b",
            "a>b",
            "\u{2028}",
        ] {
            assert!(HostPattern::parse(bad).is_err(), "{bad:?}");
        }
    }
}
