//! ssh's own command line, read as ssh(1) reads it.
//!
//! Only as far as bowline must know it: which options are there, and whom they lead to. Nothing is judged:
//! what ssh would refuse is left for ssh to refuse.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// ssh's options that take a value, of OpenSSH 9.9 (`getopt` in ssh.c).
const WITH_VALUE: &[u8] = b"bceilmopBDEFIJLOPQRSwW";

/// An option as found.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SshOption {
    letter: u8,
    value: Option<OsString>,
    /// The argument it stands in, and the byte of its letter there.
    argument: usize,
    byte: usize,
    /// Whether its value is the next argument.
    value_follows: bool,
}

/// ssh's arguments, understood.
#[derive(Debug, Clone)]
pub(in crate::cli) struct SshArguments {
    raw: Vec<OsString>,
    found: Vec<SshOption>,
    destination: Option<OsString>,
    has_command: bool,
    misplaced: Option<OsString>,
}

impl SshArguments {
    /// Reads them as ssh does: options, the destination, more options, then the command.
    pub(in crate::cli) fn read(raw: Vec<OsString>) -> Self {
        let mut read = SshArguments {
            raw,
            found: Vec::new(),
            destination: None,
            has_command: false,
            misplaced: None,
        };
        let (destination, ended) = read.options_from(0);
        if let Some(name) = read.raw.get(destination) {
            read.destination = Some(name.clone());
            let mut rest = destination + 1;
            if !ended {
                (rest, _) = read.options_from(rest);
            }
            read.has_command = rest < read.raw.len();
        }
        read
    }

    /// `[USER@]HOST` or `ssh://..`, when there is one.
    pub(in crate::cli) fn destination(&self) -> Option<&OsStr> {
        self.destination.as_deref()
    }

    /// Whether a command follows the destination; the name of a subsystem counts as one.
    pub(super) fn has_command(&self) -> bool {
        self.has_command
    }

    /// A long option where ssh expects its own, which has none.
    pub(super) fn misplaced_long_option(&self) -> Option<&OsStr> {
        self.misplaced.as_deref()
    }

    /// Whether the option is there.
    pub(super) fn has(&self, letter: u8) -> bool {
        self.found.iter().any(|found| found.letter == letter)
    }

    /// The values of an option, in order.
    pub(super) fn values(&self, letter: u8) -> impl Iterator<Item = &OsStr> {
        self.found
            .iter()
            .filter(move |found| found.letter == letter)
            .filter_map(|found| found.value.as_deref())
    }

    /// All options as letters, in order, with their values.
    pub(in crate::cli) fn options(&self) -> impl Iterator<Item = (u8, Option<&OsStr>)> {
        self.found.iter().map(|found| (found.letter, found.value.as_deref()))
    }

    /// The value that `-o KEYWORD=..` gives first, as ssh takes it.
    pub(super) fn configured(&self, keyword: &str) -> Option<OsString> {
        self.values(b'o').find_map(|option| {
            let (name, value) = split_option(option);
            name.eq_ignore_ascii_case(keyword.as_bytes())
                .then(|| OsString::from_vec(value.to_vec()))
        })
    }

    /// All arguments as they were.
    pub(in crate::cli) fn raw(&self) -> &[OsString] {
        &self.raw
    }

    /// All arguments but these options, each of which takes a value.
    pub(in crate::cli) fn without(&self, letters: &[u8]) -> Vec<OsString> {
        let mut left: Vec<Option<OsString>> = self.raw.iter().cloned().map(Some).collect();
        for option in self.found.iter().filter(|found| letters.contains(&found.letter)) {
            // A value ends the argument, so what stands before the letter is all that is left of it: `-vJ host`.
            let before = &self.raw[option.argument].as_bytes()[..option.byte];
            left[option.argument] = (before != b"-").then(|| OsStr::from_bytes(before).to_owned());
            if option.value_follows
                && let Some(value) = left.get_mut(option.argument + 1)
            {
                *value = None;
            }
        }
        left.into_iter().flatten().collect()
    }

    /// Reads options up to the first argument that is none: its index, and whether `--` stood before it.
    fn options_from(&mut self, start: usize) -> (usize, bool) {
        let mut at = start;
        while let Some(argument) = self.raw.get(at).map(|argument| argument.as_bytes().to_vec()) {
            match argument.as_slice() {
                b"--" => return (at + 1, true),
                [b'-', b'-', ..] => {
                    self.misplaced = Some(OsString::from_vec(argument));
                    return (self.raw.len(), true);
                }
                [b'-', _, ..] => at += self.letters(at, &argument),
                _ => return (at, false),
            }
        }
        (at, false)
    }

    /// Reads the letters of one argument: how many arguments they take.
    fn letters(&mut self, at: usize, argument: &[u8]) -> usize {
        for (byte, letter) in argument.iter().copied().enumerate().skip(1) {
            let mut found = SshOption {
                letter,
                value: None,
                argument: at,
                byte,
                value_follows: false,
            };
            if !WITH_VALUE.contains(&letter) {
                self.found.push(found);
                continue;
            }
            found.value_follows = byte + 1 == argument.len();
            found.value = match found.value_follows {
                true => self.raw.get(at + 1).cloned(),
                false => Some(OsString::from_vec(argument[byte + 1..].to_vec())),
            };
            let taken = 1 + usize::from(found.value_follows);
            self.found.push(found);
            return taken;
        }
        1
    }
}

/// `KEYWORD=VALUE` or `KEYWORD VALUE`, as ssh_config has it.
pub(in crate::cli) fn split_option(option: &OsStr) -> (&[u8], &[u8]) {
    let bytes = option.as_bytes().trim_ascii();
    let separator = |byte: &u8| *byte == b'=' || byte.is_ascii_whitespace();
    let end = bytes.iter().position(separator).unwrap_or(bytes.len());
    let value = bytes[end..].trim_ascii_start();
    (
        &bytes[..end],
        value.strip_prefix(b"=").unwrap_or(value).trim_ascii_start(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &[&str]) -> SshArguments {
        SshArguments::read(line.iter().map(OsString::from).collect())
    }

    #[test]
    fn the_destination_is_the_first_argument_that_is_no_option() {
        for line in [
            &["host"][..],
            &["-p", "22", "host", "ls"],
            &["-vp22", "host"],
            &["-4vNL", "8080:a:80", "host"],
            &["-o", "User ann", "--", "host", "-p"],
        ] {
            assert_eq!(read(line).destination(), Some(OsStr::new("host")), "{line:?}");
        }
        assert_eq!(read(&["-V"]).destination(), None);
        assert_eq!(read(&["-p"]).destination(), None);
    }

    #[test]
    fn options_go_on_behind_the_destination_but_not_into_the_command() {
        let line = read(&["-i", "a", "host", "-i", "b", "cmd", "-i", "c"]);
        assert_eq!(line.values(b'i').collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(read(&["--", "host", "-i", "b"]).values(b'i').count(), 0);
    }

    #[test]
    fn a_command_is_what_follows_the_destination_and_its_options() {
        for line in [&["host", "ls"][..], &["host", "-t", "ls"], &["host", "--", "-x"]] {
            assert!(read(line).has_command(), "{line:?}");
        }
        for line in [
            &["host"][..],
            &["host", "-t"],
            &["-i", "a", "host", "-i", "b"],
            &["host", "--"],
        ] {
            assert!(!read(line).has_command(), "{line:?}");
        }
    }

    #[test]
    fn o_options_are_found_in_all_their_spellings() {
        for spelling in [
            "ProxyCommand=a b",
            "proxycommand a b",
            "PROXYCOMMAND = a b",
            " ProxyCommand  a b ",
        ] {
            assert_eq!(
                read(&["-o", spelling, "h"]).configured("ProxyCommand"),
                Some("a b".into()),
                "{spelling}"
            );
        }
        assert_eq!(
            read(&["-oProxyCommand=none", "h"]).configured("ProxyCommand"),
            Some("none".into())
        );
        assert_eq!(read(&["-o", "ProxyCommandX=a", "h"]).configured("ProxyCommand"), None);
        assert_eq!(
            read(&["-o", "Port=1", "-o", "Port=2", "h"]).configured("Port"),
            Some("1".into())
        );
    }

    #[test]
    fn a_jump_is_taken_out_in_all_its_spellings() {
        assert_eq!(read(&["-J", "j", "host", "ls"]).without(b"J"), ["host", "ls"]);
        assert_eq!(read(&["-Jj", "host"]).without(b"J"), ["host"]);
        assert_eq!(read(&["-vJ", "j", "host"]).without(b"J"), ["-v", "host"]);
        assert_eq!(read(&["-vJj", "host", "-J"]).without(b"J"), ["-v", "host"]);
    }

    #[test]
    fn long_options_are_found_where_ssh_would_trip_over_them() {
        assert_eq!(
            read(&["--prot", "22", "host"]).misplaced_long_option(),
            Some(OsStr::new("--prot"))
        );
        assert_eq!(
            read(&["host", "--port", "22"]).misplaced_long_option(),
            Some(OsStr::new("--port"))
        );
        assert_eq!(read(&["host", "ls", "--all"]).misplaced_long_option(), None);
        assert_eq!(read(&["host", "--", "--all"]).misplaced_long_option(), None);
    }
}
