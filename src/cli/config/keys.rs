//! The settings that `bowline.toml` may hold, taken from the definition of the command line: names, defaults, variables.

use crate::cli::args;
use crate::cli::config_file::ConfigFile;

/// Where a setting stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Table {
    /// Above all tables: for every command.
    Everywhere,
    /// `[client]` and `[host."PATTERN"]`.
    Client,
    Serve,
    Relay,
    Sshd,
}

impl Table {
    pub(in crate::cli) const ALL: [Table; 5] = [
        Table::Everywhere,
        Table::Client,
        Table::Serve,
        Table::Relay,
        Table::Sshd,
    ];

    /// Its name in the file; empty for [`Table::Everywhere`].
    pub(in crate::cli) fn name(self) -> &'static str {
        match self {
            Table::Everywhere => "",
            Table::Client => "client",
            Table::Serve => "serve",
            Table::Relay => "relay",
            Table::Sshd => "sshd",
        }
    }

    /// The settings that may stand there, in the order of `--help`.
    pub(in crate::cli) fn keys(self) -> Vec<Key> {
        let mut whole = args::command();
        whole.build();
        let allowed = ConfigFile::keys_of(self.name());
        let mut keys: Vec<Key> = Vec::new();
        for name in self.commands() {
            let command = match *name {
                "" => Some(&whole),
                name => whole.find_subcommand(name),
            };
            let arguments = command.into_iter().flat_map(|command| command.get_arguments());
            for key in arguments.filter_map(Key::of) {
                if allowed.contains(&key.name) && !keys.iter().any(|known| known.name == key.name) {
                    keys.push(key);
                }
            }
        }
        keys
    }

    /// The commands whose options its keys are.
    fn commands(self) -> &'static [&'static str] {
        match self {
            Table::Everywhere => &[""],
            Table::Client => &["proxy", "ssh"],
            Table::Serve => &["serve"],
            Table::Relay => &["relay"],
            Table::Sshd => &["sshd"],
        }
    }
}

/// One setting.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Key {
    /// clap's name for the option.
    pub(super) id: String,
    /// Its name, which is that of the long option.
    pub(in crate::cli) name: String,
    /// What the option's value is called in `--help`; empty where it takes none.
    pub(in crate::cli) value_name: String,
    /// The help, without the default.
    pub(in crate::cli) summary: String,
    /// The default, if there is one.
    pub(in crate::cli) default: Option<String>,
    /// Whether that is a rule in words, no value.
    pub(in crate::cli) is_rule: bool,
    /// The environment variable.
    pub(in crate::cli) variable: Option<String>,
}

impl Key {
    fn of(argument: &clap::Arg) -> Option<Key> {
        if argument.is_hide_set() {
            return None;
        }
        let help = argument.get_help()?.to_string();
        let long = argument.get_long_help().map(ToString::to_string).unwrap_or_default();
        let (summary, default) = match help.split_once(" [default: ") {
            Some((summary, default)) => (summary.to_owned(), Some(default.trim_end_matches(']').to_owned())),
            None => (help, default_in(&long)),
        };
        let takes_value = argument.get_action().takes_values();
        let value_names = argument.get_value_names().filter(|_| takes_value);
        Some(Key {
            id: argument.get_id().to_string(),
            name: argument.get_long()?.to_owned(),
            value_name: value_names
                .and_then(|names| names.first())
                .map(ToString::to_string)
                .unwrap_or_default(),
            summary,
            is_rule: default.as_deref().is_some_and(is_rule),
            default: default.or((!takes_value).then(|| "false".to_owned())),
            variable: argument.get_env().map(|name| name.to_string_lossy().into_owned()),
        })
    }
}

fn is_rule(default: &str) -> bool {
    default.contains(' ') || ["none", "never"].contains(&default)
}

/// The sentence of the long help that says what holds where nothing is said.
fn default_in(help: &str) -> Option<String> {
    let (_, rest) = help.split_once("Default: ")?;
    let text = rest.split_whitespace().collect::<Vec<_>>().join(" ");
    let end = text.find(". ").unwrap_or(text.len());
    Some(text[..end].trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::{Cli, Command, CommonArgs};
    use crate::cli::places::Owner;
    use crate::cli::proxy::ProxySettings;
    use crate::cli::relay::RelaySettings;
    use crate::cli::serve::ServeSettings;
    use crate::cli::settings::Context;
    use crate::cli::sshd::SshdSettings;

    /// Options that are said anew each time, and are in no file.
    const NOT_SETTINGS: [&str; 6] = [
        "help",
        "version",
        // Which file.
        "config",
        "verbose",
        // What ssh gives to its ProxyCommand.
        "ssh-option",
        // What is done once.
        "uninstall",
    ];

    #[test]
    fn every_option_is_a_key_of_the_file() {
        let mut whole = args::command();
        whole.build();
        for table in Table::ALL {
            let name = table.name();
            let commands = table.commands().iter().map(|name| match *name {
                "" => &whole,
                name => whole.find_subcommand(name).expect("a command"),
            });
            let everywhere: Vec<_> = Table::Everywhere.keys().into_iter().map(|key| key.name).collect();
            let keys: Vec<_> = table.keys().into_iter().map(|key| key.name).collect();
            let arguments = commands.flat_map(|command| command.get_arguments());
            let shown = arguments.filter(|argument| !argument.is_hide_set());
            let options = shown.filter_map(|argument| argument.get_long());
            for option in options.filter(|option| !NOT_SETTINGS.contains(option)) {
                assert!(
                    keys.iter().chain(&everywhere).any(|key| key == option),
                    "--{option} of {name} has no key"
                );
            }
            for key in ConfigFile::keys_of(table.name()) {
                let is_table =
                    table == Table::Everywhere && ["client", "host", "serve", "relay", "sshd"].contains(&&*key);
                assert!(
                    is_table || key == "path" || keys.contains(&key),
                    "{key} of [{name}] is no option"
                );
            }
        }
    }

    #[test]
    fn defaults_are_those_of_the_help() {
        let default = |table: Table, name: &str| {
            let key = table.keys().into_iter().find(|key| key.name == name).expect("a key");
            key.default
        };
        assert_eq!(default(Table::Serve, "session-ttl").as_deref(), Some("7d"));
        assert_eq!(default(Table::Serve, "replace").as_deref(), Some("false"));
        assert_eq!(default(Table::Client, "tls-port").as_deref(), Some("443"));
        let listen = default(Table::Serve, "listen");
        assert_eq!(
            listen.as_deref(),
            Some("every address, on the port number that sshd uses for TCP")
        );
        assert_eq!(default(Table::Client, "pin"), None);
    }

    /// What comes of a command line and an empty file, in full.
    fn settled(words: &[&str]) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bowline.toml");
        std::fs::write(&path, "").expect("written");
        let cli = Cli::parse_from(["bowline"].iter().chain(words));
        let common = CommonArgs {
            config: Some(path),
            ..CommonArgs::default()
        };
        let context = Context::load(common, Owner::System).expect("a good file");
        match cli.command {
            Command::Proxy(args) => format!("{:?}", ProxySettings::new(*args, &context).expect("settings")),
            Command::Serve(args) => format!("{:?}", ServeSettings::new(*args, &context).expect("settings")),
            Command::Relay(args) => format!("{:?}", RelaySettings::new(*args, &context).expect("settings")),
            Command::Sshd(args) => format!("{:?}", SshdSettings::new(args, &context).expect("settings")),
            other => panic!("no settings of {other:?}"),
        }
    }

    /// Of those that are settled at once: others wait for ssh's or sshd's answer.
    #[test]
    fn the_default_that_the_help_names_is_the_one_that_counts() {
        let of_serve = "auth session-ttl replay-buffer memory-budget max-sessions max-sessions-per-key \
                        abandoned-after max-half-open";
        let of_relay = "max-servers max-servers-per-source max-splices max-splices-per-server max-splices-per-source \
                        max-connections-per-second max-half-open drain";
        for (table, line, names) in [
            (Table::Client, &["proxy", "host"][..], "transport"),
            (Table::Serve, &["serve"], of_serve),
            (Table::Relay, &["relay", "--open"], of_relay),
            (Table::Sshd, &["sshd"], "listen"),
        ] {
            let keys = table.keys();
            for name in names.split_whitespace() {
                let key = keys.iter().find(|key| key.name == name).expect("a key");
                let (flag, default) = (format!("--{name}"), key.default.clone().expect("a default"));
                let said: Vec<&str> = line.iter().copied().chain([flag.as_str(), &default]).collect();
                assert_eq!(settled(&said), settled(line), "{flag} {default}");
            }
        }
    }
}
