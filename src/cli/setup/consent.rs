//! Shows what is to be done, and asks whether it may be.

use std::io::{self, IsTerminal, Write};

use super::say;
use crate::cli::args::SetupArgs;
use crate::cli::report::{self, Failure};

/// Who says yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    /// The user, at the terminal.
    Ask,
    /// Whoever gave `--yes`.
    Given,
    /// Nobody: `--dry-run`.
    DryRun,
}

impl Consent {
    pub(super) fn of(args: &SetupArgs) -> Self {
        match (args.yes, args.dry_run) {
            (_, true) => Consent::DryRun,
            (true, false) => Consent::Given,
            (false, false) => Consent::Ask,
        }
    }

    /// Shows the diffs; whether to go on.
    ///
    /// # Errors
    /// The answer is no, or there is nobody to ask.
    pub(super) fn to(self, diffs: &str) -> Result<bool, Failure> {
        say(diffs);
        match self {
            Consent::Given => Ok(true),
            Consent::DryRun => {
                say("nothing was changed (--dry-run)\n");
                Ok(false)
            }
            Consent::Ask if !(io::stdin().is_terminal() && io::stdout().is_terminal()) => Err(report::nobody_to_ask()),
            Consent::Ask if is_yes(&asked()) => Ok(true),
            Consent::Ask => Err(report::declined()),
        }
    }
}

/// The end of input is an answer too.
fn asked() -> String {
    say("Make this change? [y/N] ");
    let _ = io::stdout().flush();
    let mut answer = String::new();
    if !matches!(io::stdin().read_line(&mut answer), Ok(1..)) {
        say("\n");
    }
    answer
}

fn is_yes(answer: &str) -> bool {
    ["y", "yes"].iter().any(|yes| answer.trim().eq_ignore_ascii_case(yes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for yes in ["y\n", "Y", " yes \r\n"] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["", "\n", "n", "yess", "y y"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }
}
