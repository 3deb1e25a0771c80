//! How `bowline setup` tells that it did not do what was asked, or that it has no effect.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::{Exit, Failure};
use crate::cli::setup::{Damaged, FileError, SshError};

/// A file stays as it is.
pub(crate) fn cannot_change(error: &FileError) -> Failure {
    let exit = match error {
        FileError::NotOurs { .. } | FileError::WriteProtected { .. } => Exit::Refused,
        FileError::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::Refused,
        _ => Exit::CannotCreate,
    };
    let failure = Failure::new(exit, error).fact("it was not changed");
    match error {
        FileError::NotOurs { .. } => failure.hint("run as the owner of the file"),
        FileError::WriteProtected { path } => failure.hint(format_args!(
            "to change it anyway, first run: chmod u+w {}",
            path.display()
        )),
        FileError::Changed { .. } => failure.hint("run it again, and check the new diff"),
        FileError::Io { .. } if exit == Exit::Refused => failure.hint("run as a user who may write there"),
        FileError::NotPlain { .. } | FileError::Outside { .. } | FileError::Io { .. } => failure,
    }
}

/// It cannot be said where a block ends.
pub(crate) fn damaged_block(file: &Path, damaged: &Damaged) -> Failure {
    Failure::new(Exit::Usage, format_args!("{}: {damaged}", file.display()))
        .fact("the file was not changed")
        .hint(
            "a block begins with `# >>> bowline: NAME >>>` and ends with `# <<< bowline: NAME <<<`; repair or \
            remove it by hand",
        )
}

/// Neither a terminal nor `--yes`.
pub(crate) fn nobody_to_ask() -> Failure {
    Failure::new(Exit::Usage, "there is no terminal to ask on; nothing was changed")
        .hint("--yes makes the change without asking, --dry-run only shows it")
}

/// The user's answer.
pub(crate) fn declined() -> Failure {
    Failure::new(Exit::Interrupted, "nothing was changed")
}

/// All patterns begin with `!`.
pub(crate) fn no_host_is_meant() -> Failure {
    Failure::new(Exit::Usage, "these patterns only exclude hosts")
        .hint("name at least one host to include, for example: bowline setup '*.example.org' '!old.example.org'")
}

/// ssh and `$HOME` are not of one mind.
pub(crate) fn another_home(own: &Path, usual: &Path) -> Failure {
    Failure::new(
        Exit::Usage,
        format_args!(
            "HOME is {}, but ssh ignores HOME and reads {}",
            own.display(),
            usual.display()
        ),
    )
    .hint(format_args!(
        "name the file to change, for example: -F {}",
        usual.display()
    ))
}

/// ssh does not know the user.
pub(crate) fn no_home_of_ssh() -> Failure {
    Failure::new(Exit::Unavailable, "ssh does not know your home folder")
        .hint("your user needs an entry in the user database (getent passwd)")
}

/// A file name with an end of line in it, or that is no text.
pub(crate) fn no_line_of_ssh(words: &[OsString]) -> Failure {
    Failure::new(
        Exit::Usage,
        format_args!("{words:?} cannot be written into ssh's configuration"),
    )
    .hint("file names there must be UTF-8, without newlines and other control characters")
}

/// ssh gives no answer.
pub(crate) fn ssh_rejects(error: &SshError) -> Failure {
    match error {
        SshError::NotRunnable(source) => super::cannot_run("ssh", source),
        SshError::AskedAlready { .. } => super::asked_already(error),
        SshError::Rejected { said } => said
            .iter()
            .fold(Failure::new(Exit::Usage, error), Failure::fact)
            .hint("fix this first; ssh itself does not run with it either"),
    }
}

/// The way to a host would not be all that changes. `is_there`: the block is in the file by now.
pub(crate) fn changes_others(host: &str, before: &[String], after: &[String], is_there: bool) -> Failure {
    let what = match is_there {
        true => format!("the block was written, but it also changes other settings for {host}"),
        false => format!("the block would also change other settings for {host}; nothing was changed"),
    };
    let gone = before.iter().filter(|line| !after.contains(line)).take(MAX_LINES);
    let failure = gone.fold(Failure::new(Exit::Unavailable, what), |failure, line| {
        failure.fact(format_args!("ssh -G without the block: {line}"))
    });
    let new = after.iter().filter(|line| !before.contains(line)).take(MAX_LINES);
    let failure = new.fold(failure, |failure, line| {
        failure.fact(format_args!("ssh -G with the block: {line}"))
    });
    failure.hint(
        "use the name that ssh resolves the host to (CanonicalizeHostname), or use `bowline ssh`; bowline setup \
         --undo removes the block",
    )
}

/// Lines of each kind that are told.
const MAX_LINES: usize = 6;

/// Another line comes first. `before`: those that apply to the host ahead of the block; `None`, the block does not apply.
pub(crate) fn not_in_effect(host: &str, takes: &str, before: Option<&[&str]>) -> Failure {
    let failure = Failure::new(
        Exit::Unavailable,
        format_args!("the block was written, but ssh does not use it for {host}"),
    )
    .fact(format_args!("ssh uses {takes}"));
    let Some(before) = before else {
        return failure
            .fact(format_args!("the block does not apply to {host}"))
            .hint("a pattern with `!`, or a Host or Match line around an Include, excludes it");
    };
    let failure = before.iter().fold(failure, |failure, line| {
        failure.fact(format_args!("{line} applies to it too and comes first"))
    });
    failure.hint(
        "ssh uses the first value that it reads: move the line that includes this file above these lines, or run \
         setup without -F; bowline setup --undo removes the block",
    )
}

/// Only root may prepare a machine.
pub(crate) fn no_root() -> Failure {
    Failure::new(Exit::Refused, "only root can prepare this machine as a server")
        .hint("run: sudo bowline setup --server   (--dry-run shows the changes without root)")
}

/// The unit keeps this folder from its own process.
pub(crate) fn hidden_program(program: &Path, folder: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        format_args!("the service cannot run {}: its unit hides {folder}", program.display()),
    )
    .hint(format_args!(
        "run: install -m 755 {} /usr/local/bin/bowline   and then: /usr/local/bin/bowline setup --server",
        program.display()
    ))
}

/// Removing the unit of a service that is to run would leave it half there.
pub(crate) fn cannot_undo_enabled() -> Failure {
    Failure::new(Exit::Usage, "bowline.service is enabled; nothing was removed")
        .hint("first run: systemctl disable --now bowline   (this ends its sessions)")
}

/// What runs would go on without a unit, and nothing would start it again.
pub(crate) fn cannot_undo_running() -> Failure {
    Failure::new(Exit::Usage, "bowline.service is running; nothing was removed")
        .hint("first run: systemctl stop bowline   (this ends its sessions)")
}

/// sshd would not start with what was installed, so that is gone again.
pub(crate) fn sshd_rejects(said: &str) -> Failure {
    let failure = Failure::new(Exit::Unavailable, "sshd rejects its configuration with these settings");
    let failure = said.lines().take(8).fold(failure, Failure::fact);
    failure
        .fact("these settings were removed again; the other files stay")
        .hint("please report this with the version of sshd (ssh -V)")
}
