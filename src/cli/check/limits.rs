//! What ends a session in an outage: ssh's settings, sshd's, and bowline's own.

use crate::cli::proxy::is_over_bowline;
use crate::identity::ssh_config::SshConfig;
use crate::wire::{PeerText, Probed};
use std::time::Duration;

/// One thing that ends a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Limit {
    pub(super) side: Side,
    /// What ends it, with the setting's name.
    pub(super) what: String,
    /// The outage that is survived; `None` where it is no matter of time.
    pub(super) survives: Option<Duration>,
    /// The line that fixes it; `None` if nothing is wrong.
    pub(super) fix: Option<String>,
    /// Where that line belongs.
    pub(super) file: Option<String>,
    /// Whether it holds for sessions that are logged in.
    pub(super) after_login: bool,
}

/// Whose setting it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Ssh,
    Sshd,
    Bowline,
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        match self {
            Side::Ssh => "ssh",
            Side::Sshd => "sshd",
            Side::Bowline => "bowline",
        }
    }
}

/// All that can be known, the soonest first. `answer` is the server half's, where a path works.
pub(super) fn all(ssh: &SshConfig, answer: Option<&Probed>, patience: Option<Duration>) -> Vec<Limit> {
    let mut limits: Vec<Limit> = [server_alive(ssh), channel_timeout(ssh)]
        .into_iter()
        .flatten()
        .collect();
    limits.extend(answer.into_iter().flat_map(of_server));
    limits.extend(patience.map(|patience| own("the client half gives up the session (--patience)", patience)));
    limits.sort_by_key(|limit| (limit.survives.is_none(), limit.survives));
    limits
}

/// ssh sends its first question after one interval, and ends when one more has passed after the last one that it puts
/// up with: how long an outage may last depends on when it begins. This is the least.
fn server_alive(ssh: &SshConfig) -> Option<Limit> {
    let interval = ssh.server_alive_interval?;
    Some(Limit {
        side: Side::Ssh,
        what: "ssh ends the session if no answer comes (ServerAliveInterval x ServerAliveCountMax)".into(),
        survives: Some(interval.saturating_mul(ssh.server_alive_count_max)),
        fix: Some("ServerAliveInterval 0".into()),
        file: Some("~/.ssh/config, for this host; `bowline ssh` sets it unless you set another value".into()),
        after_login: true,
    })
}

fn channel_timeout(ssh: &SshConfig) -> Option<Limit> {
    let value = ssh.channel_timeout.as_ref()?;
    Some(Limit {
        side: Side::Ssh,
        what: format!("ssh closes idle channels, and in an outage all are idle (ChannelTimeout {value})"),
        survives: None,
        fix: Some("ChannelTimeout none".into()),
        file: Some("~/.ssh/config, for this host".into()),
        after_login: true,
    })
}

fn of_server(answer: &Probed) -> Vec<Limit> {
    let some = |text: &PeerText| (!text.is_empty()).then(|| text.to_string());
    let of_sshd = answer.limits.iter().flatten().map(|limit| Limit {
        side: Side::Sshd,
        what: limit.what.to_string(),
        survives: limit.survives.map(Duration::from_secs),
        fix: some(&limit.mend),
        file: some(&limit.file),
        after_login: !limit.what.contains("LoginGraceTime"),
    });
    let ttl = own(
        "the server half ends the session (serve --session-ttl)",
        Duration::from_secs(answer.ttl),
    );
    of_sshd.chain([ttl]).collect()
}

fn own(what: &str, survives: Duration) -> Limit {
    Limit {
        side: Side::Bowline,
        what: what.to_owned(),
        survives: Some(survives),
        fix: None,
        file: None,
        after_login: true,
    }
}

/// The outage that a session which is logged in survives, as far as is known; `None` if nothing is.
pub(super) fn survival(limits: &[Limit]) -> Option<Duration> {
    let counting = limits.iter().filter(|limit| limit.after_login);
    counting.filter_map(|limit| limit.survives).min()
}

/// What nobody can see from outside of a login.
pub(super) const UNKNOWN: &str = "idle limits inside the login (the shell's TMOUT, logind's StopIdleSessionSec): an outage counts as idle \
     time";

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
