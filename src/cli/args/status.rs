//! Arguments of `bowline status` and `bowline kill`.

use clap::Args;
use russh::keys::ssh_key::Fingerprint;

use super::parse;
use crate::cli::values::SessionName;

/// What `bowline status --help` says first.
pub(super) const ABOUT_STATUS: &str = "Show the sessions on this machine: your own, and where permitted those of a server \
half and the paths of sessions through a relay.

The time beside connected and probing is how long ago the other half was heard, at most; beside detached, how long there has \
been no path. Sessions that ended on a server half in the last five minutes are shown as gone, with the reason. Of a relay's paths the newest thousand are shown: where the client is, which host key the \
server half has, bytes from and to the client, and for how long they have been joined.

With --json the document has: sessions, servers (keeper_pid, worker_pid, version, client_address: the one that sshd sees, udp, tls, store_shortage: \
wanted, kept and most, if a service manager keeps fewer descriptors for the next start than it should), relays (pid, udp, tls, \
registered, splices, bytes_up, bytes_down, paths), and silent: processes that do not answer (pid, socket, reason). splices is \
how many paths there are; each of paths has: peer, transport (quic, tls), host_key, bytes_up, bytes_down, age_ms. A session has: id, \
half (client, server), host, user, key, peer, alias (the client as sshd sees it), path, standby, rtt_ms, loss (0 to 1), \
bytes_in, bytes_out, epoch, outages (survived, longest_ms), buffered, state (connected, probing, detached, gone), age_ms, age \
(state and age in words), reason, pid, keeper_pid, worker_pid. What is not known is null.";

/// The same for `bowline kill`.
pub(super) const ABOUT_KILL: &str = "End sessions. Their ssh is told why, and so is the other half where there is a path to \
it. Nothing is ended when one of the ids names no session, or several.";

/// `bowline status`.
#[derive(Debug, Clone, Copy, Default, Args)]
#[command(after_help = "Example:\n  bowline status --watch")]
pub(in crate::cli) struct StatusArgs {
    /// Print one JSON document
    #[arg(long)]
    pub(in crate::cli) json: bool,
    /// Look again every second, until q or Ctrl-C
    ///
    /// Into a pipe or a file one table follows the other; with --json one document a line.
    #[arg(long)]
    pub(in crate::cli) watch: bool,
}

/// `bowline kill`.
#[derive(Debug, Clone, Default, Args)]
#[command(
    after_help = "Example:\n  bowline kill 3f2a9c01",
    override_usage = "bowline kill [OPTIONS] <ID>...\n       bowline kill [OPTIONS] --orphans\n       \
                      bowline kill [OPTIONS] --key <FINGERPRINT>"
)]
pub(in crate::cli) struct KillArgs {
    /// The sessions' ids as `bowline status` shows them, or the beginnings of these
    #[arg(value_name = "ID", required_unless_present_any = ["orphans", "key"], value_parser = parse::<SessionName>)]
    pub(in crate::cli) sessions: Vec<SessionName>,
    /// End the server half's detached sessions
    #[arg(long, conflicts_with_all = ["sessions", "key"])]
    pub(in crate::cli) orphans: bool,
    /// End all of the server half's sessions that this user key has opened
    #[arg(long, value_name = "FINGERPRINT", conflicts_with = "sessions", value_parser = parse::<Fingerprint>)]
    pub(in crate::cli) key: Option<Fingerprint>,
}
