//! The ssh whose ProxyCommand this process is, and its command line.
//!
//! A ProxyCommand is not told what stood on ssh's command line: `-p`, `-o`, `-F`, `-P`, or the command that `Match command`
//! looks at. With other arguments `ssh -G` gives another configuration than the one in effect. On Linux the arguments
//! of the parent can be read from /proc (proc_pid_cmdline(5)). They count only if the parent is a program named ssh and, by
//! its own `ssh -G`, on its way to the host that we are to reach; otherwise the host alone is asked about.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};

use crate::cli::ssh::{SshArguments, host_of};
use crate::identity::ssh_config::OuterQueries;

/// What is not given on: `-E` has a file written, and `-S` overrides the ControlPath that `ssh -G` is asked by.
const NOT_OURS: &[u8] = b"ES";

/// An ssh on its way to the host.
#[derive(Debug)]
pub(super) struct Caller {
    /// The host as ssh was given it: an alias, perhaps.
    pub(super) host: String,
    /// Its arguments, without those that are not given on.
    pub(super) arguments: Vec<OsString>,
}

impl Caller {
    /// The parent, if it is an ssh on its way to `host`: the name that it was given, or the one that it made of it.
    pub(super) fn of(host: &str) -> Option<Caller> {
        let arguments = SshArguments::read(arguments_of_parent()?);
        let given = host_of(arguments.destination()?);
        let is_it = given.eq_ignore_ascii_case(host)
            || hostname(&arguments, &given).is_some_and(|name| name.eq_ignore_ascii_case(host));
        is_it.then(|| Caller {
            host: given,
            arguments: arguments.without(NOT_OURS),
        })
    }

    /// The same without its `-F`, for whoever names another file.
    pub(super) fn arguments_without_config(&self) -> Vec<OsString> {
        SshArguments::read(self.arguments.clone()).without(b"F")
    }
}

fn arguments_of_parent() -> Option<Vec<OsString>> {
    let parent = rustix::process::getppid()?.as_raw_nonzero();
    let line = std::fs::read(format!("/proc/{parent}/cmdline")).ok()?;
    let program = std::fs::read_link(format!("/proc/{parent}/exe")).ok()?;
    if program.file_name() != Some(OsStr::new("ssh")) {
        return None;
    }
    let words = line.strip_suffix(b"\0")?.split(|byte| *byte == 0);
    Some(words.skip(1).map(|word| OsString::from_vec(word.to_vec())).collect())
}

/// What ssh makes of the host that it was given.
fn hostname(ssh: &SshArguments, given: &str) -> Option<String> {
    let asked = OuterQueries::here();
    if asked.is_repeated(given) {
        return None;
    }
    let mut command = Command::new("ssh");
    asked.mark(&mut command, given);
    command.arg("-G").args(ssh.without(NOT_OURS));
    let output = command.stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.strip_prefix("hostname "))
        .map(str::to_owned)
}
