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
    let failure = Failure::new(exit, error).fact("it was left as it is");
    match error {
        FileError::NotOurs { .. } => failure.hint("run as the user the file belongs to"),
        FileError::WriteProtected { path } => {
            failure.hint(format_args!("if you mean to change it: chmod u+w {}", path.display()))
        }
        FileError::Changed { .. } => failure.hint("run it again, and look at the new diff"),
        FileError::Io { .. } if exit == Exit::Refused => failure.hint("run as the user who may write there"),
        FileError::NotPlain { .. } | FileError::Outside { .. } | FileError::Io { .. } => failure,
    }
}

/// It cannot be said where a block ends.
pub(crate) fn damaged_block(file: &Path, damaged: &Damaged) -> Failure {
    Failure::new(Exit::Usage, format_args!("{}: {damaged}", file.display()))
        .fact("the file was left as it is")
        .hint("a block goes from `# >>> bowline: NAME >>>` to `# <<< bowline: NAME <<<`; mend or remove it by hand")
}

/// Neither a terminal nor `--yes`.
pub(crate) fn nobody_to_ask() -> Failure {
    Failure::new(Exit::Usage, "there is no terminal to ask at; nothing was changed")
        .hint("--yes makes the change without asking, --dry-run only shows it")
}

/// The user's answer.
pub(crate) fn declined() -> Failure {
    Failure::new(Exit::Interrupted, "nothing was changed")
}

/// All patterns begin with `!`.
pub(crate) fn no_host_is_meant() -> Failure {
    Failure::new(Exit::Usage, "these say only which hosts are not meant")
        .hint("name at least one that is, for instance: bowline setup '*.example.org' '!old.example.org'")
}

/// ssh and `$HOME` are not of one mind.
pub(crate) fn another_home(own: &Path, usual: &Path) -> Failure {
    Failure::new(
        Exit::Usage,
        format_args!(
            "HOME is {}, but ssh reads {} whatever HOME says",
            own.display(),
            usual.display()
        ),
    )
    .hint(format_args!(
        "name the file that is meant, for instance: -F {}",
        usual.display()
    ))
}

/// ssh does not know the user.
pub(crate) fn no_home_of_ssh() -> Failure {
    Failure::new(Exit::Unavailable, "ssh does not say where your home folder is")
        .hint("it needs an entry for your user in the user database (getent passwd)")
}

/// A file name with an end of line in it, or that is no text.
pub(crate) fn no_line_of_ssh(words: &[OsString]) -> Failure {
    Failure::new(
        Exit::Usage,
        format_args!("{words:?} cannot stand in a line of ssh's configuration"),
    )
    .hint("file names in it are UTF-8, with neither line ends nor other control characters")
}

/// ssh gives no answer.
pub(crate) fn ssh_rejects(error: &SshError) -> Failure {
    match error {
        SshError::NotRunnable(source) => super::cannot_run("ssh", source),
        SshError::AskedAlready { .. } => super::asked_already(error),
        SshError::Rejected { said } => said
            .iter()
            .fold(Failure::new(Exit::Usage, error), Failure::fact)
            .hint("mend that first; ssh itself does not run with it either"),
    }
}

/// The way to a host would not be all that changes. `is_there`: the block is in the file by now.
pub(crate) fn changes_others(host: &str, before: &[String], after: &[String], is_there: bool) -> Failure {
    let what = match is_there {
        true => format!("the block is there, and changes more for {host} than the way"),
        false => format!("the block would change more for {host} than the way; nothing was changed"),
    };
    let gone = before.iter().filter(|line| !after.contains(line)).take(MOST_TOLD);
    let failure = gone.fold(Failure::new(Exit::Unavailable, what), |failure, line| {
        failure.fact(format_args!("ssh -G says without it: {line}"))
    });
    let new = after.iter().filter(|line| !before.contains(line)).take(MOST_TOLD);
    let failure = new.fold(failure, |failure, line| {
        failure.fact(format_args!("ssh -G says with it: {line}"))
    });
    failure.hint(
        "name the host as ssh resolves it (CanonicalizeHostname), or use `bowline ssh`; bowline setup --undo takes a block out",
    )
}

/// Lines of each kind that are told.
const MOST_TOLD: usize = 6;

/// Another line comes first. `before`: those that apply to the host ahead of the block; `None`, the block does not apply.
pub(crate) fn not_in_effect(host: &str, takes: &str, before: Option<&[&str]>) -> Failure {
    let failure = Failure::new(
        Exit::Unavailable,
        format_args!("the block is there, but ssh does not go by it for {host}"),
    )
    .fact(format_args!("ssh takes {takes}"));
    let Some(before) = before else {
        return failure
            .fact(format_args!("the block does not apply to {host}"))
            .hint("a pattern with `!`, or a Host or Match line around an Include, leaves it out");
    };
    let failure = before.iter().fold(failure, |failure, line| {
        failure.fact(format_args!("{line} applies to it too, and comes first"))
    });
    failure.hint(
        "the first value that ssh reads counts: move the line that includes this file above these, or use no -F; \
         bowline setup --undo takes the block out",
    )
}

/// Only root may prepare a machine.
pub(crate) fn no_root() -> Failure {
    Failure::new(Exit::Refused, "only root may prepare this machine as a server")
        .hint("run: sudo bowline setup --server   (--dry-run shows the changes without root)")
}

/// The unit keeps this folder from its own process.
pub(crate) fn hidden_program(program: &Path, folder: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        format_args!(
            "a service does not see {}: its unit hides {folder} from it",
            program.display()
        ),
    )
    .hint(format_args!(
        "run: install -m 755 {} /usr/local/bin/bowline   and then: /usr/local/bin/bowline setup --server",
        program.display()
    ))
}

/// Removing the unit of a service that is to run would leave it half there.
pub(crate) fn cannot_undo_enabled() -> Failure {
    Failure::new(Exit::Usage, "bowline.service is enabled; nothing was removed")
        .hint("run: systemctl disable --now bowline   (this ends its sessions), and then this again")
}

/// What runs would go on without a unit, and nothing would start it again.
pub(crate) fn cannot_undo_running() -> Failure {
    Failure::new(Exit::Usage, "bowline.service is running; nothing was removed")
        .hint("run: systemctl stop bowline   (this ends its sessions), and then this again")
}

/// sshd would not start with what was installed, so that is gone again.
pub(crate) fn sshd_rejects(said: &str) -> Failure {
    let failure = Failure::new(
        Exit::Unavailable,
        "sshd does not take its configuration with these settings",
    );
    let failure = said.lines().take(8).fold(failure, Failure::fact);
    failure
        .fact("they were taken out again; the other files stay")
        .hint("please report this with the version of sshd (ssh -V)")
}
