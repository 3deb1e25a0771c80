//! What systemd is told and asked.

use std::process::{Command, Stdio};

use crate::cli::setup::say;
use crate::wire::Escaped;

/// Of a unit that has no process and gets none by itself, in the words of `systemctl is-active`.
const INACTIVE_STATES: [&str; 3] = ["inactive", "failed", "unknown"];

/// Runs a tool of systemd's. That it fails is told, and is no reason to stop: the files are right.
pub(super) fn tool(program: &str, arguments: &[&str]) {
    if let Err(said) = run(program, arguments) {
        tell_failure(program, arguments, &said);
    }
}

/// Whether a unit runs now, is about to, or is about to end: whoever starts it by hand need not have it enabled. Where
/// systemd does not answer, that is told, and it is taken not to.
pub(super) fn is_running(unit: &str) -> bool {
    let arguments = ["is-active", unit];
    // It fails for each that is not active, and names the state all the same.
    let (state, said) = match output("systemctl", &arguments) {
        Ok((_, state, said)) => (state, said),
        Err(error) => (String::new(), error.to_string()),
    };
    if state.is_empty() {
        tell_failure("systemctl", &arguments, &said);
        return false;
    }
    !INACTIVE_STATES.contains(&state.as_str())
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    match output(program, arguments) {
        Ok((true, _, _)) => Ok(()),
        Ok((false, _, said)) => Err(said),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether it succeeds, and what it says on stdout and stderr.
fn output(program: &str, arguments: &[&str]) -> std::io::Result<(bool, String, String)> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
}

fn tell_failure(program: &str, arguments: &[&str], said: &str) {
    say(&format!(
        "note: {program} {} failed: {}\n",
        arguments.join(" "),
        Escaped(said)
    ));
}
