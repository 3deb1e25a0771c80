//! `bowline.toml` as it was written: which value stands on which line of which table.

use serde::Deserialize;
use std::collections::BTreeMap;
use toml::{Spanned, Value};

use super::keys::Table;
use crate::cli::config_file::matches_host;

type Keys = BTreeMap<String, Spanned<Value>>;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Raw {
    state_dir: Option<Spanned<Value>>,
    runtime_dir: Option<Spanned<Value>>,
    log_file: Option<Spanned<Value>>,
    log_format: Option<Spanned<Value>>,
    client: Keys,
    host: BTreeMap<Spanned<String>, Keys>,
    serve: Keys,
    relay: Keys,
    sshd: Keys,
}

/// A file that [`crate::cli::config_file::ConfigFile`] has found to be good.
pub(super) struct FileValues {
    text: String,
    raw: Raw,
}

/// A value in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FileValue {
    pub(super) value: Value,
    /// From 1.
    pub(super) line: usize,
    /// The table's header; empty above all tables.
    pub(super) table: String,
}

impl FileValues {
    /// `None`: it is not TOML.
    pub(super) fn parse(text: String) -> Option<FileValues> {
        let raw = toml::from_str(&text).ok()?;
        Some(FileValues { text, raw })
    }

    /// What counts for a key; for [`Table::Client`] also with the tables of the host's patterns.
    pub(super) fn find(&self, table: Table, key: &str, host: Option<&str>) -> Option<FileValue> {
        let raw = &self.raw;
        let keys = match table {
            Table::Everywhere => {
                let value = match key {
                    "state-dir" => raw.state_dir.as_ref(),
                    "runtime-dir" => raw.runtime_dir.as_ref(),
                    "log-file" => raw.log_file.as_ref(),
                    "log-format" => raw.log_format.as_ref(),
                    _ => None,
                };
                return Some(self.found(value?, String::new()));
            }
            Table::Client => return self.find_for(key, host),
            Table::Serve => &raw.serve,
            Table::Relay => &raw.relay,
            Table::Sshd => &raw.sshd,
        };
        Some(self.found(value_of(keys, key)?, format!("[{}]", table.name())))
    }

    fn find_for(&self, key: &str, host: Option<&str>) -> Option<FileValue> {
        let mut tables: Vec<_> = self.raw.host.iter().collect();
        tables.sort_by_key(|(patterns, _)| patterns.span().start);
        let mut matching = tables
            .into_iter()
            .filter(|(patterns, _)| host.is_some_and(|host| matches_host(patterns.as_ref(), host)));
        let for_host = matching.find_map(|(patterns, keys)| {
            let header = format!("[host.{}]", Value::from(patterns.as_ref().as_str()));
            Some(self.found(value_of(keys, key)?, header))
        });
        for_host.or_else(|| Some(self.found(value_of(&self.raw.client, key)?, "[client]".to_owned())))
    }

    fn found(&self, value: &Spanned<Value>, table: String) -> FileValue {
        let before = &self.text.as_bytes()[..value.span().start.min(self.text.len())];
        FileValue {
            value: value.as_ref().clone(),
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            table,
        }
    }
}

fn value_of<'a>(keys: &'a Keys, key: &str) -> Option<&'a Spanned<Value>> {
    // The other name of that key.
    let other = (key == "path-command").then_some("path");
    keys.get(key).or_else(|| keys.get(other?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_that_counts_is_found_with_its_line_and_table() {
        let text =
            "log-format = 'json'\n[client]\nport = 1\n\n[host.'z*']\nport = 2\n[host.'*']\nport = 3\ntls-port = 4\n";
        let file = FileValues::parse(text.to_owned()).expect("TOML");
        let found = |key, host| {
            let found = file.find(Table::Client, key, host)?;
            Some((found.value.as_integer()?, found.line, found.table))
        };
        assert_eq!(found("port", Some("zoo")), Some((2, 6, "[host.\"z*\"]".to_owned())));
        assert_eq!(found("port", Some("ape")), Some((3, 8, "[host.\"*\"]".to_owned())));
        assert_eq!(found("port", None), Some((1, 3, "[client]".to_owned())));
        assert_eq!(found("tls-port", Some("zoo")), Some((4, 9, "[host.\"*\"]".to_owned())));
        assert_eq!(found("tls-port", None), None);
        let format = file.find(Table::Everywhere, "log-format", None).expect("written");
        assert_eq!((format.line, &*format.table), (1, ""));
    }
}
