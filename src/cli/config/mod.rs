//! `bowline config`: the settings that count, and where each came from.

mod command_matches;
mod file_values;
mod keys;
mod page;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::json;

use super::args::{CommonArgs, ConfigArgs};
use super::places::{self, Owner};
use super::report::Failure;
use super::settings::Context;
use crate::carrier::stream::masked;
use command_matches::CommandMatches;
use file_values::FileValues;
use keys::{Key, Table};
pub(super) use page::page;

/// A setting that counts.
struct Setting {
    table: Table,
    key: Key,
    /// As TOML; `None` where the default is no value but a rule, or there is none.
    value: Option<String>,
    origin: Origin,
}

enum Origin {
    Flag,
    Variable(String),
    File { path: PathBuf, line: usize, table: String },
    Default,
    Unset,
}

/// Prints the settings that were asked for, or all.
///
/// # Errors
/// As the commands that read these settings: the file or a variable cannot be used, there is no home folder; and, after
/// they were shown, that those of one command contradict each other.
pub(super) fn run(args: &ConfigArgs, common: &CommonArgs) -> Result<(), Failure> {
    let host = args.destination.as_ref().map(|destination| &*destination.host);
    let asked = asked_for(args);
    let groups = asked.iter().map(|(owner, tables)| {
        let tables: Vec<_> = [Table::Everywhere].into_iter().chain(tables.iter().copied()).collect();
        Ok((title(&tables, host), gather(common, *owner, &tables, host)?))
    });
    let groups = groups.collect::<Result<Vec<_>, Failure>>()?;
    let text = if args.json {
        let all = groups
            .iter()
            .flat_map(|(_, group)| &group.settings)
            .map(Setting::to_json);
        format!("{:#}\n", json!({ "settings": all.collect::<Vec<_>>() }))
    } else {
        groups
            .iter()
            .map(|(title, group)| group.to_text(title))
            .collect::<Vec<_>>()
            .join("\n")
    };
    // A closed stdout is not an error: `bowline config | head -1`.
    let _ = io::stdout().write_all(text.as_bytes());
    match &*asked {
        [(owner, [table])] => CommandMatches::of(*table, host)?.settle(common, *owner),
        _ => Ok(()),
    }
}

/// The tables, by whose file they stand in.
fn asked_for(args: &ConfigArgs) -> Vec<(Owner, &'static [Table])> {
    let daemon = Owner::of_daemon();
    match args {
        _ if args.destination.is_some() => vec![(Owner::User, &[Table::Client])],
        _ if args.serve => vec![(daemon, &[Table::Serve])],
        _ if args.relay => vec![(daemon, &[Table::Relay])],
        _ if args.sshd => vec![(daemon, &[Table::Sshd])],
        _ => vec![
            (Owner::User, &[Table::Client]),
            (daemon, &[Table::Serve, Table::Relay, Table::Sshd]),
        ],
    }
}

fn title(tables: &[Table], host: Option<&str>) -> String {
    match (tables, host) {
        ([_, Table::Client], Some(host)) => format!("proxy, ssh and check, for {host}"),
        ([_, Table::Client], None) => "proxy, ssh and check, for a host that matches no host table".to_owned(),
        ([_, one], _) => format!("{}, if this user starts it", one.name()),
        _ => "serve, relay and sshd, if this user starts them".to_owned(),
    }
}

/// What is read from one file.
struct Group {
    file: Option<PathBuf>,
    is_there: bool,
    settings: Vec<Setting>,
}

fn gather(common: &CommonArgs, owner: Owner, tables: &[Table], host: Option<&str>) -> Result<Group, Failure> {
    let usual = places::config_file(owner);
    let folders = Context::load(common.clone(), owner)?.folders()?;
    let file = common.config.clone().or(usual);
    let text = file.as_deref().and_then(|path| std::fs::read_to_string(path).ok());
    let written = text.and_then(FileValues::parse);
    let mut settings = vec![];
    for table in tables {
        let matches = CommandMatches::of(*table, host)?;
        for key in table.keys() {
            let flag = common_flag(common, *table, &key.name).map(|flag| (Origin::Flag, as_written(&flag)));
            let variable = matches.variable(&key);
            let given = match (flag, variable) {
                // A variable's value is there as if it were a flag's.
                (Some(flag), Some(variable)) if flag.1 == variable.1 => Some(variable),
                (flag, variable) => flag.or(variable),
            };
            let mut setting = Setting::find(*table, key, given, written.as_ref().zip(file.as_deref()), host);
            if setting.value.is_none() {
                let folder = match (*table, &*setting.key.name) {
                    (Table::Everywhere, "state-dir") => Some(&folders.state),
                    (Table::Everywhere, "runtime-dir") => Some(&folders.runtime),
                    _ => None,
                };
                if let Some(folder) = folder {
                    setting.value = Some(quoted(&folder.display().to_string()));
                    setting.origin = Origin::Default;
                }
            }
            settings.push(setting);
        }
    }
    let is_there = written.is_some();
    Ok(Group {
        file,
        is_there,
        settings,
    })
}

/// What this very command was given of what every command takes, by flag or variable.
fn common_flag(common: &CommonArgs, table: Table, key: &str) -> Option<String> {
    let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
    match key {
        _ if table != Table::Everywhere => None,
        "state-dir" => path(&common.state_dir),
        "runtime-dir" => path(&common.runtime_dir),
        "log-file" => path(&common.log_file),
        "log-format" => common.log_format.map(|format| format.to_string()),
        _ => None,
    }
}

impl Setting {
    fn find(
        table: Table,
        key: Key,
        given: Option<(Origin, String)>,
        file: Option<(&FileValues, &Path)>,
        host: Option<&str>,
    ) -> Setting {
        let (value, origin) = match given {
            Some((origin, value)) => (Some(value), origin),
            None => match file.and_then(|(file, path)| Some((file.find(table, &key.name, host)?, path))) {
                Some((found, path)) => {
                    let origin = Origin::File {
                        path: path.to_owned(),
                        line: found.line,
                        table: found.table,
                    };
                    (Some(found.value.to_string()), origin)
                }
                None => match &key.default {
                    Some(_) if key.is_rule => (None, Origin::Default),
                    Some(value) => (Some(as_written(value)), Origin::Default),
                    None => (None, Origin::Unset),
                },
            },
        };
        let value = match &*key.name {
            "proxy" => value.map(|value| without_credentials(&value)),
            _ => value,
        };
        Setting {
            table,
            key,
            value,
            origin,
        }
    }

    fn to_json(&self) -> serde_json::Value {
        let (origin, place) = match &self.origin {
            Origin::Flag => ("flag", json!({ "flag": format!("--{}", self.key.name) })),
            Origin::Variable(name) => ("environment", json!({ "variable": name })),
            Origin::File { path, line, table } => ("file", json!({ "file": path, "line": line, "table": table })),
            Origin::Default => ("default", json!({ "rule": self.key.default })),
            Origin::Unset => ("unset", json!({})),
        };
        json!({
            "table": self.table.name(),
            "key": self.key.name,
            "value": self.value,
            "origin": origin,
            "place": place,
        })
    }

    /// A line of TOML, and what is said of it.
    fn to_line(&self) -> (String, String) {
        let name = &self.key.name;
        let line = match &self.value {
            Some(value) => format!("{name} = {value}"),
            None => format!("# {name}"),
        };
        let said = match &self.origin {
            Origin::Flag => format!("--{name}"),
            Origin::Variable(variable) => variable.clone(),
            Origin::File { line, table, .. } if table.is_empty() => format!("line {line}"),
            Origin::File { line, table, .. } => format!("line {line}, {table}"),
            Origin::Default if self.value.is_some() => "default".to_owned(),
            Origin::Default => format!("default: {}", self.key.default.as_deref().unwrap_or_default()),
            Origin::Unset => "not set".to_owned(),
        };
        (line, said)
    }
}

impl Group {
    /// TOML that could stand in the file.
    fn to_text(&self, title: &str) -> String {
        let mut text = format!("# {title}\n");
        if let Some(file) = &self.file {
            let state = if self.is_there { "" } else { " (does not exist)" };
            text += &format!("# file: {}{state}\n", file.display());
        }
        let mut table = Table::Everywhere;
        for setting in &self.settings {
            if setting.table != table {
                table = setting.table;
                text += &format!("\n[{}]\n", table.name());
            }
            let (line, said) = setting.to_line();
            text += &format!("{line:<34}  # {said}\n");
        }
        text
    }
}

/// A default of the help as TOML: bare where it is a number or yes and no.
fn as_written(value: &str) -> String {
    if value == "true" || value == "false" || value.parse::<u64>().is_ok() {
        value.to_owned()
    } else {
        quoted(value)
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// The value of `proxy`, in TOML, without what may be a user name or a password.
fn without_credentials(value: &str) -> String {
    let table = toml::from_str::<BTreeMap<String, String>>(&format!("proxy = {value}"));
    let url = table.ok().and_then(|mut table| table.remove("proxy"));
    quoted(&masked(url.as_deref().unwrap_or(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config_file::ConfigFile;

    #[test]
    fn a_proxy_s_password_is_not_shown() {
        for (written, shown) in [
            ("\"http://ada:s@e@proxy:3128\"", "\"http://***@proxy:3128\""),
            ("'ada:secret@proxy'", "\"***@proxy\""),
            ("\"socks5://proxy\"", "\"socks5://proxy\""),
            ("\"direct\"", "\"direct\""),
        ] {
            assert_eq!(without_credentials(written), shown);
        }
    }

    #[test]
    fn what_is_printed_is_a_good_file() {
        for (tables, owner) in [
            (&[Table::Everywhere, Table::Client][..], Owner::User),
            (
                &[Table::Everywhere, Table::Serve, Table::Relay, Table::Sshd],
                Owner::System,
            ),
        ] {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("bowline.toml");
            std::fs::write(&path, "[client]\nport = 4022\npath = { command = 'nc %h %p' }\n").expect("written");
            let common = CommonArgs {
                config: Some(path.clone()),
                ..CommonArgs::default()
            };
            let group = gather(&common, owner, tables, None).expect("settings");
            std::fs::write(&path, group.to_text("again")).expect("written");
            if let Err(error) = ConfigFile::load(Some(&path), None) {
                panic!("{error}\n{}", group.to_text("again"));
            }
        }
    }
}
