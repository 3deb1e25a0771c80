//! Where bowline keeps things: configuration, state and runtime folders of this platform.
//!
//! Only names them: whoever writes there creates the folder ([`make_folder`]), readable by its owner alone.

use std::io;
use std::path::{Path, PathBuf};

use directories::{BaseDirs, ProjectDirs};

use super::report::{self, Failure};
use crate::safe_path::{self, UnsafePath};

/// The folders a command uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folders {
    /// What outlives a reboot: keys, pins, the journal. Default `$XDG_STATE_HOME/bowline`
    /// (`~/.local/state/bowline`), for `serve` as root `/var/lib/bowline`.
    pub(crate) state: PathBuf,
    /// What does not: sockets and locks. Default `$XDG_RUNTIME_DIR/bowline`, for `serve` as root `/run/bowline`;
    /// where the system gives none, `run` in the state folder.
    pub(crate) runtime: PathBuf,
}

/// Makes a folder and those above it, for its owner only, unless there is one.
///
/// # Errors
/// Others decide what is in it ([`safe_path`]); as `mkdir(2)`.
pub(super) fn make_folder(path: &Path) -> io::Result<()> {
    safe_path::make_folder(path)
}

/// The same for memories that a client half does without.
///
/// # Errors
/// What root would write there could land anywhere.
pub(super) fn make_folder_of_memories(path: &Path) -> Result<(), Failure> {
    match make_folder(path) {
        Err(error) if UnsafePath::of(&error).is_some() && rustix::process::geteuid().is_root() => {
            Err(report::cannot_use_file(path, &error))
        }
        _ => Ok(()),
    }
}

/// Whose folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The calling user's own.
    User,
    /// The machine's: a daemon started by root.
    System,
}

impl Owner {
    /// `System` for a daemon that runs as root, else `User`.
    pub(super) fn of_daemon() -> Owner {
        if rustix::process::geteuid().is_root() {
            Owner::System
        } else {
            Owner::User
        }
    }
}

/// The calling user's home folder: `$HOME`, else as the user database says.
pub(super) fn home() -> Option<PathBuf> {
    BaseDirs::new().map(|dirs| dirs.home_dir().to_owned())
}

/// `bowline.toml` where this platform keeps configuration.
pub(super) fn config_file(owner: Owner) -> Option<PathBuf> {
    match owner {
        Owner::System => Some(PathBuf::from("/etc/bowline/bowline.toml")),
        Owner::User => own_folders().map(|dirs| dirs.config_dir().join("bowline.toml")),
    }
}

/// The state folder's default.
pub(super) fn state_folder(owner: Owner) -> Option<PathBuf> {
    match owner {
        Owner::System => Some(PathBuf::from("/var/lib/bowline")),
        // Only XDG has a state folder of its own.
        Owner::User => own_folders().map(|dirs| dirs.state_dir().unwrap_or(dirs.data_local_dir()).to_owned()),
    }
}

/// The runtime folder's default, where the platform has one.
pub(super) fn runtime_folder(owner: Owner) -> Option<PathBuf> {
    match owner {
        Owner::System => Some(PathBuf::from("/run/bowline")),
        Owner::User => own_folders().and_then(|dirs| dirs.runtime_dir().map(PathBuf::from)),
    }
}

/// All of the machine's: a relay that a service manager runs has one of its own.
pub(super) fn machine_runtime_folders() -> [PathBuf; 2] {
    ["/run/bowline", "/run/bowline-relay"].map(PathBuf::from)
}

fn own_folders() -> Option<ProjectDirs> {
    ProjectDirs::from("", "", "bowline")
}
