//! Arguments that come from the environment: what counts as set, and which variable an error is about.

use std::ffi::OsString;

use clap::builder::{Resettable, StyledStr};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ArgMatches, Command, Error};

use super::command;

/// Reads `words` as clap does, and what they leave open from the environment. An empty variable is an unset one: systemd
/// units, compose files and scripts that pass a setting on write one if they have none.
///
/// # Errors
/// clap's own, which name the variable that a bad value came from. Help and version are such errors too.
pub(in crate::cli) fn matches_from(words: impl IntoIterator<Item = OsString>) -> Result<ArgMatches, Error> {
    let words: Vec<OsString> = words.into_iter().collect();
    without_empty_variables(command())
        .try_get_matches_from(&words)
        .map_err(|error| match error.kind() {
            // It names all variables, whatever is in them.
            ErrorKind::DisplayHelp => with_all_variables(&words).unwrap_or(error),
            _ => naming_the_variable(error, &words),
        })
}

/// Whether this variable holds a setting.
fn is_set(variable: impl AsRef<std::ffi::OsStr>) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

/// The variable that can say a long option, if it does.
pub(in crate::cli) fn set_variable_of(option: &str) -> Option<String> {
    let name = option.trim_start_matches('-').split([' ', '=']).next()?;
    let variable = format!("BOWLINE_{}", name.to_uppercase().replace('-', "_"));
    is_set(&variable).then_some(variable)
}

fn with_all_variables(words: &[OsString]) -> Option<Error> {
    command().try_get_matches_from(words).err()
}

fn without_empty_variables(command: Command) -> Command {
    command
        .mut_args(|arg| match arg.get_env() {
            Some(variable) if !is_set(variable) => arg.env(Resettable::Reset),
            _ => arg,
        })
        .mut_subcommands(without_empty_variables)
}

/// clap says `--port` also if nobody wrote that.
fn naming_the_variable(mut error: Error, words: &[OsString]) -> Error {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let option = argument.split([' ', '=']).next().unwrap_or_default().to_owned();
    let is_written = |word: &OsString| {
        let word = word.to_string_lossy();
        word.strip_prefix(&*option)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    };
    if let Some(variable) = set_variable_of(&option).filter(|_| !words.iter().any(is_written)) {
        let told = StyledStr::from(format!("the value is that of the environment variable {variable}"));
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![told]));
    }
    error
}
