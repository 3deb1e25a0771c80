//! What every command's settings have in common: the file, the folders, the log.
//!
//! Raw arguments are in `args`, validated settings beside each command. The order is: flag, then `BOWLINE_*`
//! (both by clap), then `bowline.toml`, then the default.

use std::path::PathBuf;

use super::args::CommonArgs;
use super::config_file::{ConfigError, ConfigFile};
use super::logging::{LogSettings, Verbosity};
use super::places::{self, Folders, Owner};
use super::values::Written;
use crate::carrier::stream::ProxyUrlError;

/// The settings contradict each other or the machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// The configuration file cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Two options that exclude each other.
    #[error("{one} and {other} contradict each other")]
    Conflict {
        /// As written on the command line.
        one: &'static str,
        /// As written on the command line.
        other: &'static str,
    },
    /// At least one of these options is required.
    #[error("one of these is needed: {options}")]
    Missing {
        /// As written on the command line, and what they mean.
        options: &'static str,
    },
    /// A value below what can work.
    #[error("{option} is too small: it must be at least {least}")]
    TooSmall {
        /// As written on the command line.
        option: &'static str,
        /// The least that works, with its unit.
        least: &'static str,
    },
    /// The value is not a proxy.
    #[error("{origin} cannot be used: {shown}")]
    Proxy {
        /// Where it was written.
        origin: &'static str,
        /// It, without credentials.
        shown: String,
        /// Why.
        #[source]
        source: ProxyUrlError,
    },
    /// The user has no home folder to keep a default folder in.
    #[error("this user has no home folder, so {option} has no default")]
    NoHome {
        /// The option that gives the folder.
        option: &'static str,
    },
}

/// The configuration file together with the arguments that every command takes.
#[derive(Debug)]
pub(super) struct Context {
    /// The file's content.
    pub(super) file: ConfigFile,
    common: CommonArgs,
    owner: Owner,
}

impl Context {
    /// Reads the configuration file.
    ///
    /// # Errors
    /// It cannot be read or used.
    pub(super) fn load(common: CommonArgs, owner: Owner) -> Result<Self, SettingsError> {
        let file = ConfigFile::load(common.config.as_deref(), places::config_file(owner).as_deref())?;
        Ok(Context { file, common, owner })
    }

    /// The folders to use. Nothing is created.
    ///
    /// # Errors
    /// [`SettingsError::NoHome`].
    pub(super) fn folders(&self) -> Result<Folders, SettingsError> {
        let state = self.common.state_dir.clone().or(one(&self.file.state_dir));
        let runtime = self.common.runtime_dir.clone().or(one(&self.file.runtime_dir));
        let state = state
            .or_else(|| places::state_folder(self.owner))
            .ok_or(SettingsError::NoHome { option: "--state-dir" })?;
        let runtime = runtime
            .or_else(|| places::runtime_folder(self.owner))
            .unwrap_or_else(|| state.join("run"));
        Ok(Folders { state, runtime })
    }

    /// The folders in which other processes may have sockets: the configured one, otherwise the user's and the machine's.
    ///
    /// # Errors
    /// [`SettingsError::NoHome`].
    pub(super) fn runtime_folders(&self) -> Result<Vec<PathBuf>, SettingsError> {
        let own = self.folders()?.runtime;
        let is_said = self.common.runtime_dir.is_some() || self.file.runtime_dir.is_some();
        let others = places::machine_runtime_folders()
            .into_iter()
            .filter(|other| !is_said && *other != own);
        Ok(std::iter::once(own.clone()).chain(others).collect())
    }

    /// How to log. `normal` is the verbosity without `-v`.
    pub(super) fn log(&self, normal: Verbosity) -> LogSettings {
        let file: Option<PathBuf> = self.common.log_file.clone().or(one(&self.file.log_file));
        // Whoever names a log file wants something in it.
        let normal = if file.is_some() {
            normal.max(Verbosity::Info)
        } else {
            normal
        };
        LogSettings {
            verbosity: normal.raised_by(self.common.verbose),
            file,
            format: self.common.log_format.or(one(&self.file.log_format)),
        }
    }
}

/// The value of a key of the configuration file.
fn one<T: Clone>(written: &Option<Written<T>>) -> Option<T> {
    written.as_ref().map(|written| written.0.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(common: CommonArgs, text: &str) -> Context {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("bowline.toml");
        std::fs::write(&path, text).expect("written");
        Context::load(
            CommonArgs {
                config: Some(path),
                ..common
            },
            Owner::System,
        )
        .expect("a good file")
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let text = "state-dir = '/file'\nruntime-dir = '/file/run'\n";
        let flag = CommonArgs {
            state_dir: Some("/flag".into()),
            ..CommonArgs::default()
        };
        let folders = context(flag, text).folders().expect("folders");
        assert_eq!(
            folders,
            Folders {
                state: "/flag".into(),
                runtime: "/file/run".into()
            }
        );
        let folders = context(CommonArgs::default(), "").folders().expect("folders");
        assert_eq!(
            folders,
            Folders {
                state: "/var/lib/bowline".into(),
                runtime: "/run/bowline".into()
            }
        );
    }

    #[test]
    fn a_log_file_is_worth_at_least_info() {
        let quiet = context(CommonArgs::default(), "").log(Verbosity::Silent);
        assert_eq!(quiet.verbosity, Verbosity::Silent);
        let filed = context(CommonArgs::default(), "log-file = '/log'\n").log(Verbosity::Silent);
        assert_eq!((filed.verbosity, filed.file), (Verbosity::Info, Some("/log".into())));
        let verbose = context(
            CommonArgs {
                verbose: 9,
                ..CommonArgs::default()
            },
            "",
        )
        .log(Verbosity::Silent);
        assert_eq!(verbose.verbosity, Verbosity::Trace);
    }
}
