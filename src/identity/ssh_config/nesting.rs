//! About which hosts `ssh -G` is being asked already, further up among our own ancestors.
//!
//! `Match exec` in ssh's configuration may run bowline, and bowline runs `ssh -G`, which runs `Match exec`. So each
//! `ssh -G` gets a variable with the host that it is asked about, and whoever finds that host there does not ask again.

use std::ffi::OsStr;
use std::process::Command;

/// The variable: hosts apart by spaces, the first asked about first.
pub const ASKED_VARIABLE: &str = "BOWLINE_ASKS_SSH";

/// Most questions within one another. A `Match exec` that connects to another host over bowline (a gateway, say) is one
/// within one; each level may cost several processes, so there must be an end for hosts that always differ, too.
const DEEPEST: usize = 3;

/// The hosts that are being asked about, where this process stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked(Vec<String>);

impl Asked {
    /// What the environment says.
    pub fn here() -> Self {
        Self::read(std::env::var_os(ASKED_VARIABLE).as_deref().unwrap_or_default())
    }

    fn read(text: &OsStr) -> Self {
        Self(text.to_string_lossy().split_whitespace().map(str::to_owned).collect())
    }

    /// Whether a question about `host` would be asked within itself, or too deep within others.
    pub fn is_repeated(&self, host: &str) -> bool {
        self.0.len() >= DEEPEST || self.0.iter().any(|asked| *asked == word(host))
    }

    /// Tells `ssh`, and all that it runs, that it is asked about `host`.
    pub fn mark(&self, ssh: &mut Command, host: &str) {
        let hosts: Vec<String> = self.0.iter().cloned().chain([word(host)]).collect();
        ssh.env(ASKED_VARIABLE, hosts.join(" "));
    }
}

/// ssh takes names with spaces, or used to.
fn word(host: &str) -> String {
    let plain: String = host.split_whitespace().collect::<Vec<_>>().join("_");
    plain.to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_asked_about_once_and_others_within_it_only_so_deep() {
        let asked = Asked::read("build".as_ref());
        assert!(asked.is_repeated("Build") && !asked.is_repeated("gateway"));
        assert!(!Asked::read("".as_ref()).is_repeated("build"));
        assert!(Asked::read("a b c".as_ref()).is_repeated("d"));
    }

    #[test]
    fn a_marked_ssh_knows_all_hosts_above_it() {
        let mut ssh = Command::new("ssh");
        Asked::read("build".as_ref()).mark(&mut ssh, "the gate\nway");
        let marked: Vec<_> = ssh.get_envs().collect();
        assert_eq!(marked, [(ASKED_VARIABLE.as_ref(), Some("build the_gate_way".as_ref()))]);
    }
}
