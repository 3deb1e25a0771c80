//! What keeps `ssh HOST` from paths that work: a setting of ssh's own beside its ProxyCommand.

use crate::cli::proxy::is_over_bowline;
use crate::identity::ssh_config::SshConfig;

/// Why ssh does not get to the host, whatever the paths say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Obstacle {
    /// What is set, and what comes of it.
    pub(super) what: &'static str,
    /// What to do.
    pub(super) hint: &'static str,
}

/// How ssh itself gets to the host, where that is not over bowline.
pub(super) fn other_way(ssh: &SshConfig) -> Option<&str> {
    match ssh.proxy_command.as_deref() {
        Some(command) => Some(command).filter(|command| !is_over_bowline(command)),
        None => Some("no ProxyCommand"),
    }
}

/// Where ssh goes over bowline, and cannot.
pub(super) fn find(ssh: &SshConfig) -> Option<Obstacle> {
    let is_over_bowline = ssh.proxy_command.as_deref().is_some_and(is_over_bowline);
    (is_over_bowline && ssh.proxy_use_fdpass).then_some(Obstacle {
        what: "ProxyUseFdpass is set next to bowline's ProxyCommand: ssh expects a connected socket from it, but \
            bowline cannot pass one",
        hint: "add `ProxyUseFdpass no` next to the ProxyCommand in ssh's configuration, before any \
            `ProxyUseFdpass yes`; `bowline setup` and `bowline ssh` do this for you",
    })
}

/// Options of `bowline proxy` that decide what is dialed and whom it is taken for.
const DECIDE: &[&str] = &[
    "--port",
    "--tls-port",
    "--relay",
    "--proxy",
    "--path-command",
    "--transport",
    "--pin",
    "--known-hosts",
    "--config",
    "-F",
    "-i",
    "-o",
];

/// Those in the ProxyCommand of ssh's configuration that are not among `given`, what this program was given: ssh then goes
/// another way than the one that was checked.
pub(super) fn not_given(ssh: &SshConfig, given: &[String]) -> Vec<&'static str> {
    let command = ssh.proxy_command.as_deref().filter(|command| is_over_bowline(command));
    let words: Vec<&str> = command.unwrap_or_default().split(' ').collect();
    let given: Vec<&str> = given.iter().map(String::as_str).collect();
    let missing = DECIDE
        .iter()
        .filter(|option| has(&words, option) && !has(&given, option));
    missing.copied().collect()
}

fn has(words: &[&str], option: &str) -> bool {
    let is_it = |word: &&str| word.split('=').next() == Some(option);
    words.iter().any(is_it)
}
