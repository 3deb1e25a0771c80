//! How `bowline status` and `bowline kill` tell that they could not do what was asked.

use std::io;

use super::{Exit, Failure};
use crate::cli::values::SessionName;

/// The terminal went away, or is none.
pub(crate) fn cannot_show(error: &io::Error) -> Failure {
    Failure::new(Exit::Unavailable, format_args!("cannot use the terminal: {error}"))
}

const LOOK: &str = "`bowline status` lists the sessions; those of a server half are shown only to its user and to root";

/// No session is named so.
pub(crate) fn no_such_session(name: &SessionName) -> Failure {
    let what = match name {
        SessionName::Id(beginning) => format!("no session here has an id that begins with {beginning}"),
        SessionName::Terminal(terminal) => format!("no session here has the terminal {terminal}"),
    };
    Failure::new(Exit::Unavailable, what).hint(LOOK)
}

/// More than one is.
pub(crate) fn several_sessions(name: &SessionName, ids: &[&str]) -> Failure {
    let (what, hint) = match name {
        SessionName::Id(beginning) => (
            format!("several sessions here have ids that begin with {beginning}"),
            "give more digits of the id; nothing was ended",
        ),
        SessionName::Terminal(terminal) => (
            format!("several sessions here have the terminal {terminal}"),
            "give the id of one of them; nothing was ended",
        ),
    };
    let failure = ids
        .iter()
        .fold(Failure::new(Exit::Usage, what), |failure, id| failure.fact(id));
    failure.hint(hint)
}

/// Whoever has it did not do it.
pub(crate) fn not_ended(id: &str) -> Failure {
    Failure::new(
        Exit::Unavailable,
        format_args!("the session {id} was not ended: it is gone, or does not answer"),
    )
    .hint(LOOK)
}

/// Only a server half has orphans, and knows keys.
pub(crate) fn no_server_half() -> Failure {
    Failure::new(Exit::Unavailable, "no server half answers on this machine").hint(
        "only its user and root can ask it; if it was started with --runtime-dir, pass the same \
            --runtime-dir here",
    )
}
