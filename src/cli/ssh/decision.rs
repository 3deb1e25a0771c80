//! Whether `bowline ssh` stays in front of ssh, with a terminal between them, or replaces itself with ssh.
//!
//! Pure: what the command line, `ssh -G` and the terminal say are arguments.

use std::ffi::OsStr;
use std::fmt::{self, Display};

use super::arguments::SshArguments;

/// Options with which ssh opens no remote terminal, or connects to no server at all. `ssh -G` says most of it as well,
/// but only since OpenSSH 8.7.
const WITHOUT_TERMINAL: &[u8] = b"NnfWOGVQs";

/// What is known apart from ssh's arguments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation<'a> {
    /// `--plain`, or the setting.
    pub(super) is_plain: bool,
    /// Whether stdin is the controlling terminal of this process.
    pub(super) has_stdin: bool,
    /// Whether stdout is.
    pub(super) has_stdout: bool,
    /// `TERM`.
    pub(super) term: Option<&'a OsStr>,
}

/// What bowline does while it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overlay {
    /// It may draw over the program's output.
    Possible,
    /// It only passes bytes on: the terminal cannot move its cursor.
    Impossible,
}

/// Why bowline replaces itself with ssh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlainReason {
    /// `--plain`, or the setting.
    Requested,
    /// stdin or stdout is not the controlling terminal: a pipe, a file, another terminal, or there is none.
    NoTerminal(&'static str),
    /// An option of ssh.
    Option(u8),
    /// `ssh -G` said nothing; ssh itself will say why.
    NoAnswer,
    /// A line of `ssh -G`: keyword and value.
    Setting(&'static str),
    /// A command, without `-t`.
    Command,
}

/// Decides. `said`: the output of `ssh -G` for these arguments.
///
/// # Errors
/// Why bowline does not stay.
pub(super) fn decide(ssh: &SshArguments, said: &[u8], situation: Situation<'_>) -> Result<Overlay, PlainReason> {
    if situation.is_plain {
        return Err(PlainReason::Requested);
    }
    for (is_there, name) in [(situation.has_stdin, "stdin"), (situation.has_stdout, "stdout")] {
        if !is_there {
            return Err(PlainReason::NoTerminal(name));
        }
    }
    if let Some(letter) = WITHOUT_TERMINAL.iter().find(|letter| ssh.has(**letter)) {
        return Err(PlainReason::Option(*letter));
    }
    requests_terminal(ssh, said)?;
    Ok(match situation.term {
        Some(term) if !term.is_empty() && term != "dumb" && term != "unknown" => Overlay::Possible,
        _ => Overlay::Impossible,
    })
}

/// Whether ssh may run commands of the user's on this machine, which write to its stdout (LocalCommand, `~C` with `!`).
pub(super) fn runs_local_commands(said: &[u8]) -> bool {
    value_of(said, "permitlocalcommand") != Some("no")
}

/// As ssh decides it (ssh.c, `tty_flag`).
fn requests_terminal(ssh: &SshArguments, said: &[u8]) -> Result<(), PlainReason> {
    let request = value_of(said, "requesttty").ok_or(PlainReason::NoAnswer)?;
    for (keyword, value, shown) in [
        ("sessiontype", "none", "SessionType none"),
        ("sessiontype", "subsystem", "SessionType subsystem"),
        ("stdinnull", "yes", "StdinNull yes"),
        ("forkafterauthentication", "yes", "ForkAfterAuthentication yes"),
    ] {
        if value_of(said, keyword) == Some(value) {
            return Err(PlainReason::Setting(shown));
        }
    }
    match request {
        "no" | "false" => Err(PlainReason::Setting("RequestTTY no")),
        "yes" | "true" | "force" => Ok(()),
        _ if ssh.has_command() || has_remote_command(said) => Err(PlainReason::Command),
        _ => Ok(()),
    }
}

fn has_remote_command(said: &[u8]) -> bool {
    value_of(said, "remotecommand").is_some_and(|command| command != "none")
}

fn value_of<'a>(said: &'a [u8], keyword: &str) -> Option<&'a str> {
    let lines = said.split(|byte| *byte == b'\n');
    let mut pairs = lines.filter_map(|line| std::str::from_utf8(line).ok()?.split_once(' '));
    pairs.find(|(name, _)| *name == keyword).map(|(_, value)| value)
}

impl Display for PlainReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PlainReason::Requested => f.write_str("--plain"),
            PlainReason::NoTerminal(name) => write!(f, "{name} is not the controlling terminal"),
            PlainReason::Option(letter) => write!(f, "-{}", char::from(*letter)),
            PlainReason::NoAnswer => f.write_str("`ssh -G` failed"),
            PlainReason::Setting(setting) => f.write_str(setting),
            PlainReason::Command => f.write_str("a command, without -t"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::process::{Command, Stdio};

    use super::*;

    const AT_TERMINAL: Situation<'static> = Situation {
        is_plain: false,
        has_stdin: true,
        has_stdout: true,
        term: None,
    };

    fn arguments(line: &[&str]) -> SshArguments {
        SshArguments::read(line.iter().map(OsString::from).collect())
    }

    /// With the answer of the real ssh. It is asked without what it would act on instead of answering.
    fn decided_in(line: &[&str], situation: Situation<'_>) -> Result<Overlay, PlainReason> {
        let ssh = arguments(line);
        let mut asked = Command::new("ssh");
        asked.args(["-G", "-F", "none"]).args(ssh.without(b"OQ"));
        let output = asked.stdin(Stdio::null()).stderr(Stdio::null()).output();
        decide(&ssh, &output.expect("ssh runs").stdout, situation)
    }

    fn decided(line: &[&str]) -> Result<Overlay, PlainReason> {
        let term = Some(OsStr::new("xterm"));
        decided_in(line, Situation { term, ..AT_TERMINAL })
    }

    #[test]
    fn it_stays_for_a_shell_and_for_a_command_with_t() {
        for line in [
            &["host"][..],
            &["-v", "-p", "22", "ann@host"],
            &["-A", "-L", "1:a:2", "host"],
            &["-t", "host", "top"],
            &["host", "-t", "top"],
            &["-tt", "host", "top"],
            &["-T", "-t", "host"],
            &["-o", "RequestTTY=yes", "host", "top"],
            &["-o", "RequestTTY=force", "host", "top"],
            &["-o", "RemoteCommand=top", "-t", "host"],
            &["-M", "host"],
            &["--", "host"],
        ] {
            assert_eq!(decided(line), Ok(Overlay::Possible), "{line:?}");
        }
    }

    #[test]
    fn local_commands_are_run_only_if_they_are_permitted() {
        let said = |line: &[&str]| {
            let output = Command::new("ssh").args(["-G", "-F", "none"]).args(line).output();
            output.expect("ssh runs").stdout
        };
        assert!(!runs_local_commands(&said(&["-o", "LocalCommand=echo", "host"])));
        assert!(runs_local_commands(&said(&["-o", "PermitLocalCommand=yes", "host"])));
    }

    #[test]
    fn it_does_not_stay_for_a_command_without_t() {
        for line in [
            &["host", "top"][..],
            &["host", "--", "top"],
            &["-o", "RemoteCommand=top", "host"],
            &["-o", "RequestTTY=auto", "host", "top"],
        ] {
            assert_eq!(decided(line), Err(PlainReason::Command), "{line:?}");
        }
    }

    #[test]
    fn it_does_not_stay_for_an_option_without_a_terminal() {
        for (line, letter) in [
            (&["-N", "host"][..], b'N'),
            (&["-n", "host"], b'n'),
            (&["-n", "-tt", "host"], b'n'),
            (&["-f", "host", "-t", "top"], b'f'),
            (&["-W", "a:1", "host"], b'W'),
            (&["-Wa:1", "-t", "host"], b'W'),
            (&["-O", "check", "host"], b'O'),
            (&["-G", "host"], b'G'),
            (&["-V"], b'V'),
            (&["-tV", "host"], b'V'),
            (&["-Q", "key"], b'Q'),
            (&["host", "-s", "sftp"], b's'),
        ] {
            assert_eq!(decided(line), Err(PlainReason::Option(letter)), "{line:?}");
        }
    }

    #[test]
    fn it_does_not_stay_if_the_configuration_asks_for_no_terminal() {
        for (line, setting) in [
            (&["-T", "host"][..], "RequestTTY no"),
            (&["-t", "-T", "host"], "RequestTTY no"),
            (&["-o", "RequestTTY no", "host"], "RequestTTY no"),
            (&["-o", "SessionType=none", "host"], "SessionType none"),
            (
                &["-o", "SessionType=subsystem", "-t", "host", "sftp"],
                "SessionType subsystem",
            ),
            (&["-o", "StdinNull=yes", "-tt", "host"], "StdinNull yes"),
            (
                &[
                    "-o",
                    "ForkAfterAuthentication=yes",
                    "-o",
                    "StdinNull=no",
                    "-t",
                    "host",
                    "top",
                ],
                "ForkAfterAuthentication yes",
            ),
        ] {
            let reason = decided(line);
            let is_expected = reason == Err(PlainReason::Setting(setting))
                // ssh makes the one of the other.
                || (setting.starts_with("Fork") && reason == Err(PlainReason::Setting("StdinNull yes")));
            assert!(is_expected, "{line:?}: {reason:?}");
        }
    }

    #[test]
    fn what_ssh_refuses_is_left_to_ssh() {
        for line in [&["-o", "Nonsense=1", "host"][..], &["-%", "host"], &["-p"], &[]] {
            assert_eq!(decided(line), Err(PlainReason::NoAnswer), "{line:?}");
        }
    }

    #[test]
    fn it_stays_only_between_a_keyboard_and_a_screen_and_never_if_plain_is_asked_for() {
        let without = |name| Err(PlainReason::NoTerminal(name));
        let no_stdin = Situation {
            has_stdin: false,
            ..AT_TERMINAL
        };
        let no_stdout = Situation {
            has_stdout: false,
            ..AT_TERMINAL
        };
        let plain = Situation {
            is_plain: true,
            ..AT_TERMINAL
        };
        for line in [&["host"][..], &["-tt", "host"]] {
            assert_eq!(decided_in(line, no_stdin), without("stdin"));
            assert_eq!(decided_in(line, no_stdout), without("stdout"));
            assert_eq!(decided_in(line, plain), Err(PlainReason::Requested));
        }
    }

    #[test]
    fn a_terminal_that_cannot_move_its_cursor_gets_no_overlay() {
        for term in [None, Some("dumb"), Some("unknown"), Some("")] {
            let term = term.map(OsStr::new);
            let decided = decided_in(&["host"], Situation { term, ..AT_TERMINAL });
            assert_eq!(decided, Ok(Overlay::Impossible), "{term:?}");
        }
    }
}
