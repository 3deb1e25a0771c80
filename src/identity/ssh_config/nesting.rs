//! Detects that `ssh -G` is already running for a host, in an ancestor of this process.
//!
//! `Match exec` in ssh's configuration may run bowline, and bowline runs `ssh -G`, which runs
//! `Match exec`. So each `ssh -G` gets an environment variable with the name of its host, and a
//! process that finds its own host there does not run `ssh -G` again.

use std::ffi::OsStr;
use std::process::Command;

/// The variable: host names separated by spaces, outermost first.
pub const NESTING_VARIABLE: &str = "BOWLINE_ASKS_SSH";

/// Deepest nesting. A `Match exec` that connects to another host over bowline (a gateway, for
/// example) is one level. Each level may start several processes, so there must be a limit even if
/// the hosts always differ.
const MAX_DEPTH: usize = 3;

/// The hosts for which an ancestor of this process runs `ssh -G`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OuterQueries(Vec<String>);

impl OuterQueries {
    /// Reads the environment.
    pub fn here() -> Self {
        Self::read(std::env::var_os(NESTING_VARIABLE).as_deref().unwrap_or_default())
    }

    fn read(text: &OsStr) -> Self {
        Self(text.to_string_lossy().split_whitespace().map(str::to_owned).collect())
    }

    /// Whether `ssh -G` for `host` would repeat an outer one, or would be nested too deeply.
    pub fn is_repeated(&self, host: &str) -> bool {
        self.0.len() >= MAX_DEPTH || self.0.iter().any(|asked| *asked == word(host))
    }

    /// Sets the variable for `ssh` and all programs that it runs.
    pub fn mark(&self, ssh: &mut Command, host: &str) {
        let hosts: Vec<String> = self.0.iter().cloned().chain([word(host)]).collect();
        ssh.env(NESTING_VARIABLE, hosts.join(" "));
    }
}

/// ssh accepts names with spaces, or used to.
fn word(host: &str) -> String {
    let plain: String = host.split_whitespace().collect::<Vec<_>>().join("_");
    plain.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_and_too_deep_queries_are_detected() {
        let asked = OuterQueries::read("build".as_ref());
        assert!(asked.is_repeated("Build") && !asked.is_repeated("gateway"));
        assert!(!OuterQueries::read("".as_ref()).is_repeated("build"));
        assert!(OuterQueries::read("a b c".as_ref()).is_repeated("d"));
    }

    #[test]
    fn ssh_inherits_the_hosts_of_all_outer_queries() {
        let mut ssh = Command::new("ssh");
        OuterQueries::read("build".as_ref()).mark(&mut ssh, "the gate\nway");
        let marked: Vec<_> = ssh.get_envs().collect();
        assert_eq!(
            marked,
            [(NESTING_VARIABLE.as_ref(), Some("build the_gate_way".as_ref()))]
        );
    }
}
