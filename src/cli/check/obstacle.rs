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

/// Where ssh goes over bowline, and cannot.
pub(super) fn find(ssh: &SshConfig) -> Option<Obstacle> {
    let is_over_bowline = ssh.proxy_command.as_deref().is_some_and(is_over_bowline);
    (is_over_bowline && ssh.proxy_use_fdpass).then_some(Obstacle {
        what: "ProxyUseFdpass is on beside bowline's ProxyCommand: ssh waits for a connected socket, and bowline carries bytes",
        hint: "put `ProxyUseFdpass no` beside the ProxyCommand in ssh's configuration, before any `ProxyUseFdpass yes`; \
               `bowline setup` and `bowline ssh` do it by themselves",
    })
}
