//! `bowline.toml`: what it may hold, and errors that name file and line.
//!
//! ```toml
//! log-file = "~/.local/state/bowline/log"
//!
//! [client]                      # proxy and ssh, every host
//! patience = "12h"
//!
//! [host."*.example.org"]        # proxy and ssh, hosts that match; patterns as in ssh_config
//! port = 4022
//!
//! [serve]
//! session-ttl = "3d"
//!
//! [sshd]
//! listen = "127.0.0.1:2222"
//! ```
//!
//! Keys are the names of the long options and values are written as on the command line. As in ssh_config the
//! first value found counts: host tables in the order of the file, then `[client]`.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::Spanned;

use super::args::{ClientTable, RelayOptions, ServeOptions, SshdOptions};
use super::values::{LogFormat, Written};
use crate::identity::glob_matches;

/// The file's content. Without a file: empty.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct ConfigFile {
    pub(super) state_dir: Option<Written<PathBuf>>,
    pub(super) runtime_dir: Option<Written<PathBuf>>,
    pub(super) log_file: Option<Written<PathBuf>>,
    pub(super) log_format: Option<Written<LogFormat>>,
    client: ClientTable,
    host: BTreeMap<Spanned<String>, ClientTable>,
    pub(super) serve: ServeOptions,
    pub(super) relay: RelayOptions,
    pub(super) sshd: SshdOptions,
}

/// The configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file exists or was named, but cannot be read.
    #[error("cannot read the configuration file {}: {source}", path.display())]
    CannotRead {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key or table that does not exist.
    #[error("{}, line {line}: unknown key `{key}`", path.display())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// The key as written.
        key: String,
        /// All that may stand there.
        known: Vec<String>,
    },
    /// Not TOML, or a value of the wrong form.
    #[error("{}, line {line}: {fault}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What the TOML reader found, and what it expected.
        fault: String,
    },
}

impl ConfigError {
    /// The known key that an unknown one was probably meant to be.
    pub(super) fn nearest_key(&self) -> Option<&str> {
        let ConfigError::UnknownKey { key, known, .. } = self else {
            return None;
        };
        let distances = known.iter().map(|name| (strsim::damerau_levenshtein(key, name), name));
        let (distance, name) = distances.min_by_key(|(distance, _)| *distance)?;
        // More than every third letter wrong is another word.
        (distance <= key.len().div_ceil(3)).then_some(name)
    }
}

impl ConfigFile {
    /// Reads the file `asked`, which must exist. Without it, reads `usual` if that exists.
    ///
    /// # Errors
    /// The file cannot be read, is not TOML, or holds an unknown key or a bad value.
    pub(super) fn load(asked: Option<&Path>, usual: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = asked.or(usual) else {
            return Ok(ConfigFile::default());
        };
        match std::fs::read_to_string(path) {
            Ok(text) => ConfigFile::parse(&text, path),
            Err(error) if error.kind() == io::ErrorKind::NotFound && asked.is_none() => Ok(ConfigFile::default()),
            Err(source) => Err(ConfigError::CannotRead {
                path: path.to_owned(),
                source,
            }),
        }
    }

    /// The settings for a host, as the user gave it to ssh.
    pub(super) fn client(&self, host: &str) -> ClientTable {
        let mut tables: Vec<_> = self.host.iter().collect();
        tables.sort_by_key(|(pattern, _)| pattern.span().start);
        tables
            .into_iter()
            .filter(|(patterns, _)| matches_host(patterns.as_ref(), host))
            .fold(ClientTable::default(), |found, (_, table)| found.or(table))
            .or(&self.client)
    }

    /// All keys that may stand in a table; above all tables where `table` is empty.
    pub(super) fn keys_of(table: &str) -> Vec<String> {
        let header = if table.is_empty() {
            String::new()
        } else {
            format!("[{table}]\n")
        };
        match ConfigFile::parse(&format!("{header}'' = 0"), Path::new("")) {
            Err(ConfigError::UnknownKey { known, .. }) => known,
            // No key is empty.
            _ => vec![],
        }
    }

    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let line = 1 + text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
            let path = path.to_owned();
            match unknown_field(error.message()) {
                Some((key, known)) => ConfigError::UnknownKey { path, line, key, known },
                None => ConfigError::Invalid {
                    path,
                    line,
                    fault: error.message().to_owned(),
                },
            }
        })
    }
}

/// ssh_config's PATTERNS: separated by spaces or commas, `*` and `?` as wildcards, `!` excludes.
pub(super) fn matches_host(patterns: &str, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    let mut found = false;
    for pattern in patterns.split([' ', ',']).filter(|pattern| !pattern.is_empty()) {
        let pattern = pattern.to_ascii_lowercase();
        match pattern.strip_prefix('!') {
            Some(excluded) if glob_matches(host.as_bytes(), excluded.as_bytes()) => return false,
            Some(_) => {}
            None => found |= glob_matches(host.as_bytes(), pattern.as_bytes()),
        }
    }
    found
}

/// The key and the known ones from serde's own message, which has no other form to give them in:
/// ``unknown field `a`, expected one of `b`, `c` ``.
fn unknown_field(message: &str) -> Option<(String, Vec<String>)> {
    let rest = message.strip_prefix("unknown field `")?;
    let (key, rest) = rest.split_once("`, expected ")?;
    let known = rest.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    Some((key.to_owned(), known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::values::{Fallback, Port};
    use std::time::Duration;

    fn parsed(text: &str) -> ConfigFile {
        ConfigFile::parse(text, Path::new("bowline.toml")).expect("a good file")
    }

    fn refusal(text: &str) -> ConfigError {
        ConfigFile::parse(text, Path::new("bowline.toml")).expect_err("a bad file")
    }

    #[test]
    fn the_first_matching_host_table_counts_then_client() {
        let file = parsed(
            "[client]\nport = 1\npatience = '1h'\nfallback = 'tcp'\n\
             [host.'z*']\nport = 2\n\
             [host.'*']\nport = 3\npatience = '2h'\n",
        );
        let zoo = file.client("zoo");
        assert_eq!(zoo.port, Some(Port(2)));
        assert_eq!(zoo.patience, Some(Duration::from_secs(7200)));
        assert_eq!(zoo.fallback, Some(Fallback::Tcp));
        let none = parsed("[client]\nrelay = 'r1'\n[host.zoo]\nrelay = []\n");
        assert_eq!(none.client("zoo").relay, Some(Vec::new()));
        assert_eq!(file.client("ape").port, Some(Port(3)));
    }

    #[test]
    fn host_patterns_are_those_of_ssh_config() {
        assert!(matches_host("*.example.org", "build.example.org"));
        assert!(!matches_host("*.example.org", "example.org"));
        assert!(matches_host("web?", "WEB1"));
        assert!(!matches_host("web?", "web"));
        assert!(matches_host("* !secret", "open"));
        assert!(!matches_host("*,!secret", "secret"));
        assert!(!matches_host("!secret", "open"));
        assert!(matches_host("a*b*c", "aXbYbZc"));
        assert!(!matches_host("a*b*c", "aXbYbZ"));
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_right_key() {
        let error = refusal("[client]\n\npatince = '5s'\n");
        assert_eq!(error.to_string(), "bowline.toml, line 3: unknown key `patince`");
        assert_eq!(error.nearest_key(), Some("patience"));
        let error = refusal("[serv]\n");
        assert_eq!(error.to_string(), "bowline.toml, line 1: unknown key `serv`");
        assert_eq!(error.nearest_key(), Some("serve"));
        let error = refusal("[host.'*.example.org']\nprot = 5\n");
        assert_eq!(error.to_string(), "bowline.toml, line 2: unknown key `prot`");
        assert_eq!(error.nearest_key(), Some("port"));
    }

    #[test]
    fn an_unknown_key_that_resembles_nothing_gets_no_advice() {
        assert_eq!(refusal("zzzzzz = 1\n").nearest_key(), None);
    }

    #[test]
    fn a_bad_value_names_its_line_and_the_expected_form() {
        let error = refusal("[serve]\nlisten = ':22'\nsession-ttl = 7\n");
        assert_eq!(
            error.to_string(),
            "bowline.toml, line 3: invalid value `7`: 7 has no unit, expected a duration such as 250ms, 90s, 12h, 7d or \
             1h30m"
        );
        let error = refusal("[client]\nport = [1]\n");
        assert_eq!(
            error.to_string(),
            "bowline.toml, line 2: invalid type: sequence, expected a port number from 1 to 65535"
        );
        let error = refusal("[client]\nport = 1.5\n");
        assert!(
            error.to_string().contains("line 2: invalid type: floating point"),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_toml_names_its_line() {
        let error = refusal("[client]\nport =\n");
        assert!(error.to_string().starts_with("bowline.toml, line 2: "), "{error}");
    }

    #[test]
    fn a_list_may_be_written_as_one_value() {
        let one = parsed("[serve]\nlisten = ':22'\n").serve.listen;
        let many = parsed("[serve]\nlisten = [':22']\n").serve.listen;
        assert_eq!(one, many);
        assert_eq!(one.len(), 1);
    }

    #[test]
    fn a_command_is_a_text_or_a_table_with_one_key_and_many_are_a_list() {
        let commands = |value: &str| {
            let list = parsed(&format!("[client]\npath = {value}\n")).client.path_command;
            let texts = list.expect("commands").into_iter().map(|item| item.0);
            texts.collect::<Vec<_>>()
        };
        assert_eq!(commands("'nc %h %p'"), ["nc %h %p"]);
        assert_eq!(commands("{ command = 'nc %h %p' }"), ["nc %h %p"]);
        assert_eq!(commands("[{ command = 'a' }, 'b']"), ["a", "b"]);
    }

    #[test]
    fn a_command_s_table_with_another_key_is_refused_with_the_right_one() {
        for value in ["{ command = 'a', comand = 'b' }", "{ comand = 'b', command = 'a' }"] {
            for value in [value.to_owned(), format!("['a', {value}]")] {
                let error = refusal(&format!("[client]\n\npath = {value}\n"));
                assert_eq!(error.to_string(), "bowline.toml, line 3: unknown key `comand`");
                assert_eq!(error.nearest_key(), Some("command"));
            }
        }
        let error = refusal("[client]\npath = {}\n");
        assert_eq!(error.to_string(), "bowline.toml, line 2: missing field `command`");
        let error = refusal("[client]\nrelay = { command = 'a' }\n");
        assert!(error.to_string().contains("invalid type: map, expected"), "{error}");
    }

    #[test]
    fn a_list_in_a_list_is_refused() {
        for text in ["[client]\npath = [['a']]\n", "[serve]\nlisten = [[':22']]\n"] {
            let error = refusal(text);
            assert!(error.to_string().contains("line 2: invalid type: sequence"), "{error}");
        }
        let error = refusal("[client]\npath = { command = ['a'] }\n");
        assert!(error.to_string().contains("line 2: invalid type: sequence"), "{error}");
    }

    #[test]
    fn no_error_holds_what_was_written_as_a_proxy() {
        for value in [
            "socks4://ada:secret@proxy",
            "['http://ada:secret@proxy']",
            "{ url = 'http://ada:secret@proxy' }",
            "http://ada:secret@proxy",
            "'http://ada:secret@proxy",
            "\"http://ada:secret\\q@proxy\"",
        ] {
            let error = refusal(&format!("[client]\nproxy = {value}\n"));
            assert!(!error.to_string().contains("secret"), "{error}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }

    #[test]
    fn a_file_that_was_asked_for_must_be_there_the_usual_one_need_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = folder.path().join("bowline.toml");
        assert!(ConfigFile::load(None, Some(&missing)).is_ok());
        assert!(matches!(
            ConfigFile::load(Some(&missing), None),
            Err(ConfigError::CannotRead { .. })
        ));
    }
}
