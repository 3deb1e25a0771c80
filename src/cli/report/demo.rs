//! How the demo failed, and what to do about it.

use super::{Exit, Failure};
use crate::cli::demo::DemoError;

/// A demo that did not come to its good end.
pub(crate) fn demo_failed(error: &DemoError) -> Failure {
    let failure = Failure::from_error(exit(error), error);
    match error {
        DemoError::Damaged { expected, found, .. } => failure
            .fact(format_args!("expected SHA-256 {expected}"))
            .fact(format_args!("found SHA-256    {found}"))
            .hint("this must never happen: please report it"),
        DemoError::Counter(_) => failure.hint("this must never happen: please report it"),
        DemoError::EarlyEnd { said } => said.lines().take(8).fold(failure, Failure::fact),
        DemoError::Silent { .. } => failure.hint("if this machine is very busy, try again"),
        DemoError::Folder { .. } | DemoError::File { .. } => {
            failure.hint("the demo needs about 64 MiB of disk space there; TMPDIR sets another folder")
        }
        DemoError::NoTerminal => failure.hint("without --shell, the demo needs no terminal"),
        DemoError::Sshd(_) => failure.hint("your user needs an entry in the user database (getent passwd)"),
        _ => failure,
    }
}

fn exit(error: &DemoError) -> Exit {
    match error {
        DemoError::Interrupted => Exit::Interrupted,
        DemoError::Counter(_)
        | DemoError::Damaged { .. }
        | DemoError::Silent { .. }
        | DemoError::EarlyEnd { .. }
        | DemoError::WrongExitCode { .. }
        | DemoError::TransferFailed { .. }
        | DemoError::DoesNotEnd
        | DemoError::Stream(_)
        | DemoError::Russh(_) => Exit::Lost,
        DemoError::NoTerminal => Exit::Usage,
        DemoError::NotLoggedIn | DemoError::OtherHost => Exit::Refused,
        _ => Exit::Unavailable,
    }
}
