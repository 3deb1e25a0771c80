//! What a command would read now: flags for every command, and environment variables, parsed by clap as for that
//! command.

use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};

use super::keys::{Key, Table};
use super::{Origin, as_written, quoted};
use crate::cli::args::{self, Cli, Command, CommonArgs};
use crate::cli::places::Owner;
use crate::cli::proxy::ProxySettings;
use crate::cli::relay::RelaySettings;
use crate::cli::report::{Exit, Failure};
use crate::cli::serve::ServeSettings;
use crate::cli::settings::{Context, SettingsError};
use crate::cli::sshd::SshdSettings;

/// The arguments of one command.
pub(super) struct CommandMatches {
    matches: ArgMatches,
    /// Those of `ssh` too, for the keys that `proxy` has no option for.
    ssh: Option<ArgMatches>,
}

impl CommandMatches {
    /// Of the command that the table is for; `host` is only for those that need one.
    ///
    /// # Errors
    /// A variable holds what the command refuses; it is told.
    pub(super) fn of(table: Table, host: Option<&str>) -> Result<CommandMatches, Failure> {
        let words: &[&str] = match table {
            Table::Everywhere | Table::Client => &["bowline", "proxy", "--", host.unwrap_or("localhost")],
            Table::Serve => &["bowline", "serve"],
            Table::Relay => &["bowline", "relay"],
            Table::Sshd => &["bowline", "sshd"],
        };
        let read = |words: &[&str]| args::matches_from(words.iter().map(Into::into)).map_err(|error| refused(&error));
        let matches = read(words)?;
        let ssh = match table {
            Table::Client => Some(read(&["bowline", "ssh"])?),
            _ => None,
        };
        Ok(CommandMatches { matches, ssh })
    }

    /// The variable that says this key, and its value as TOML.
    pub(super) fn variable(&self, key: &Key) -> Option<(Origin, String)> {
        let all = [Some(&self.matches), self.ssh.as_ref()].into_iter().flatten();
        let mut all = all.map(|matches| matches.subcommand().map_or(matches, |(_, of_command)| of_command));
        let matches = all.find(|matches| matches.try_contains_id(&key.id).is_ok())?;
        if matches.value_source(&key.id) != Some(ValueSource::EnvVariable) {
            return None;
        }
        if let Ok(Some(is_on)) = matches.try_get_one::<bool>(&key.id) {
            return Some((Origin::Variable(key.variable.clone()?), is_on.to_string()));
        }
        let raw = matches.get_raw(&key.id).into_iter().flatten();
        let values: Vec<_> = raw.map(|value| value.to_string_lossy()).collect();
        let value = match &*values {
            [one] => as_written(one),
            several => format!(
                "[{}]",
                several.iter().map(|one| quoted(one)).collect::<Vec<_>>().join(", ")
            ),
        };
        Some((Origin::Variable(key.variable.clone()?), value))
    }

    /// Settles everything as the command would, so that what contradicts itself is refused here too.
    ///
    /// # Errors
    /// What the command would say.
    pub(super) fn settle(&self, common: &CommonArgs, owner: Owner) -> Result<(), Failure> {
        let context = Context::load(common.clone(), owner)?;
        let cli = Cli::from_arg_matches(&self.matches).map_err(|error| refused(&error))?;
        let settled: Result<(), SettingsError> = match cli.command {
            Command::Proxy(args) => ProxySettings::new(*args, &context).map(drop),
            Command::Serve(args) => ServeSettings::new(*args, &context).map(drop),
            Command::Relay(args) => RelaySettings::new(*args, &context).map(drop),
            Command::Sshd(args) => SshdSettings::new(args, &context).map(drop),
            _ => Ok(()),
        };
        Ok(settled?)
    }
}

fn refused(error: &clap::Error) -> Failure {
    let _ = error.print();
    Failure::silent(Exit::Usage as i32)
}
