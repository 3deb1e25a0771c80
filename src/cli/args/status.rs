//! Arguments of `bowline status` and `bowline kill`.

use clap::Args;
use russh::keys::ssh_key::Fingerprint;

use super::parse;
use crate::cli::values::SessionName;

/// What `bowline status --help` says first.
pub(super) const ABOUT_STATUS: &str = "Show the sessions on this machine: your own and, if you have permission, those of a \
server half and the connections through a relay.

The time after \"connected\" and \"probing\" says how long ago the other half was last heard, rounded up. The time after \
\"detached\" says how long the session has had no path. Sessions that ended on a server half in the last five minutes are shown as \"gone\", with the \
reason. TERMINAL and LAST KEY are those of the `bowline ssh` in front of a session. It does not say when the last key was typed \
while it is suspended. For a relay, the newest thousand paths are shown: the address of the client, the host key of the server half, bytes from \
and to the client, and the age.

With --json, the document has these fields. sessions: see below. servers: keeper_pid, worker_pid, version, client_address (the \
one that sshd sees), udp, tls, store_shortage (wanted, kept, most; only if a service manager stores fewer file descriptors \
for the next start than it should). relays: pid, udp, tls, registered, splices (the number of paths), bytes_up, bytes_down, paths \
(each: peer, transport, which is quic or tls, host_key, bytes_up, bytes_down, age_ms). silent: the processes that do not answer \
(each: pid, socket, reason).

A session has: id, half (client, server), host, user, key, peer, alias (the client's address as sshd sees it), path, standby, \
rtt_ms, loss (0 to 1), bytes_in, bytes_out, epoch, outages (survived, longest_ms), buffered, state (connected, probing, detached, \
gone), age_ms, age (state and age in words), reason, terminal (that of `bowline ssh`), last_key_ms (since a key was typed there), \
pid, keeper_pid, worker_pid. Unknown values are null.";

/// The same for `bowline kill`.
pub(super) const ABOUT_KILL: &str = "End sessions. The ssh of each session is told why, and so is the other half if there is a \
path to it. If an argument names no session, or several, nothing is ended.";

/// `bowline status`.
#[derive(Debug, Clone, Copy, Default, Args)]
#[command(after_help = "Example:\n  bowline status --watch")]
pub(in crate::cli) struct StatusArgs {
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    /// Refresh every second, until q or Ctrl-C
    ///
    /// If stdout is a pipe or a file, one table is printed after another; with --json, one document per line.
    #[arg(long)]
    pub(in crate::cli) watch: bool,
}

/// `bowline kill`.
#[derive(Debug, Clone, Default, Args)]
#[command(
    after_help = "Example:\n  bowline kill 3f2a9c01",
    override_usage = "bowline kill [OPTIONS] <ID|TERMINAL>...\n       bowline kill [OPTIONS] --orphans\n       \
                      bowline kill [OPTIONS] --key <FINGERPRINT>"
)]
pub(in crate::cli) struct KillArgs {
    /// Sessions as `bowline status` shows them: the first digits of the id if they are unique, or the terminal
    #[arg(value_name = "ID|TERMINAL", required_unless_present_any = ["orphans", "key"], value_parser = parse::<SessionName>)]
    pub(in crate::cli) sessions: Vec<SessionName>,
    /// End all detached sessions of the server half
    #[arg(long, conflicts_with_all = ["sessions", "key"])]
    pub(in crate::cli) orphans: bool,
    /// End all sessions of the server half that this user key has opened
    #[arg(long, value_name = "FINGERPRINT", conflicts_with = "sessions", value_parser = parse::<Fingerprint>)]
    pub(in crate::cli) key: Option<Fingerprint>,
}
