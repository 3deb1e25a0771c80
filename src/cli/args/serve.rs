//! Arguments of `bowline serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;

use super::parse;
use crate::carrier::relays::RelayName;
use crate::cli::values::{AuthWord, ByteSize, ClientAddressWord, Count, ListenAddress, MetricsAddress, MtuCap, Target};

/// `bowline serve`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Example:\n  bowline serve --listen :22 --target 127.0.0.1:22")]
pub(in crate::cli) struct ServeArgs {
    /// Listen for QUIC here; repeatable, port 0 is any free one
    ///
    /// ADDR is 192.0.2.1:22, [::1]:22, an address alone, or a port alone. Default: every address, at the
    /// number of sshd's TCP port.
    #[arg(long, value_name = "ADDR", env = "BOWLINE_LISTEN", value_delimiter = ',', value_parser = parse::<ListenAddress>)]
    pub(in crate::cli) listen: Vec<ListenAddress>,
    /// Listen for TLS over TCP here, where UDP is blocked; repeatable
    ///
    /// As --listen; an address without a port is at 443. Default: nowhere.
    #[arg(long, value_name = "ADDR", env = "BOWLINE_LISTEN_TLS", value_delimiter = ',', value_parser = parse::<ListenAddress>)]
    pub(in crate::cli) listen_tls: Vec<ListenAddress>,
    /// Be listed at this relay, for clients that nothing lets in here; repeatable
    ///
    /// r1.example.org, r2.example.org:4433, with #SHA256:.. behind it to pin the relay's key; or the name of SRV
    /// records, _bowline-relay._udp.example.org, or an alias of it (CNAME). Where there are more than three, three are
    /// chosen by the host keys. BIND 9.18 serves no zone with more than 100 records of one name.
    #[arg(long, value_name = "HOST[:PORT]", env = "BOWLINE_RELAY", value_delimiter = ',', value_parser = parse::<RelayName>)]
    pub(in crate::cli) relay: Vec<RelayName>,
    /// Join sessions to this sshd, or to builtin
    ///
    /// Of a name with several addresses the one that answers counts. Default: where sshd listens, as `sshd -T` says; else
    /// 127.0.0.1:22.
    #[arg(long, value_name = "HOST:PORT", env = "BOWLINE_TARGET", value_parser = parse::<Target>)]
    pub(in crate::cli) target: Option<Target>,
    /// Prove this SSH host key; repeatable
    ///
    /// Default: those sshd uses. Not as root, a key of bowline's own in the state folder where those cannot be read.
    #[arg(long = "host-key", value_name = "FILE")]
    pub(in crate::cli) host_keys: Vec<PathBuf>,
    /// Who may open: sshd decides, or none checks [default: sshd]
    ///
    /// `sshd` asks sshd whether it would take the key. `none` leaves it all to the inner login.
    #[arg(long, value_name = "WHO", env = "BOWLINE_AUTH", value_parser = parse::<AuthWord>)]
    pub(in crate::cli) auth: Option<AuthWord>,
    /// Let the keys of this file decide instead of sshd
    #[arg(long, value_name = "FILE", env = "BOWLINE_AUTHORIZED_KEYS")]
    pub(in crate::cli) authorized_keys: Option<PathBuf>,
    /// The address of a client that sshd sees: real, or loopback [default: real if possible]
    ///
    /// `real` shows sshd the client's own address, so that its rules, penalties and log are exact; it takes CAP_NET_ADMIN,
    /// a policy rule and net.ipv4.tcp_fwmark_accept, which are set up at start. `loopback` needs none of this. `auto`, the
    /// default, is `real` if a test at start shows that it works, else `loopback`.
    #[arg(long, value_name = "WHICH", env = "BOWLINE_CLIENT_ADDRESS", value_parser = parse::<ClientAddressWord>)]
    pub(in crate::cli) client_address: Option<ClientAddressWord>,
    /// Open although sshd has rules by address, and sees loopback
    ///
    /// Where sshd sees every client on loopback, nothing is opened as long as a line of its configuration may depend on
    /// where a client connects from or to (Match Address and its like, user@host), its configuration cannot be read, or
    /// its penalties for one client would meet all; and a key must be good from other addresses too. This allows it.
    #[arg(long)]
    pub(in crate::cli) accept_loopback_match: bool,
    /// Read sshd's configuration here
    #[arg(long, value_name = "FILE", env = "BOWLINE_SSHD_CONFIG")]
    pub(in crate::cli) sshd_config: Option<PathBuf>,
    /// Ask this sshd for its configuration
    #[arg(long, value_name = "FILE", env = "BOWLINE_SSHD_BINARY")]
    pub(in crate::cli) sshd_binary: Option<PathBuf>,
    /// Started by root: the user that parses the network
    #[arg(long, value_name = "NAME", env = "BOWLINE_WORKER_USER")]
    pub(in crate::cli) worker_user: Option<String>,
    /// Keep a session without a path this long [default: 7d]
    #[arg(long, value_name = "DURATION", env = "BOWLINE_SESSION_TTL", value_parser = parse::<Duration>)]
    pub(in crate::cli) session_ttl: Option<Duration>,
    /// Keep this much per session for replay [default: 16MiB]
    ///
    /// At most the memory budget, which is the default if it is less.
    #[arg(long, value_name = "SIZE", env = "BOWLINE_REPLAY_BUFFER", value_parser = parse::<ByteSize>)]
    pub(in crate::cli) replay_buffer: Option<ByteSize>,
    /// Memory for the buffers of all sessions [default: 1GiB]
    ///
    /// If half of the machine's memory is less, or half of the limit of the control group (MemoryHigh=, MemoryMax=, a
    /// container's), that is the default. The server half needs memory beside: leave it about as much again.
    #[arg(long, value_name = "SIZE", env = "BOWLINE_MEMORY_BUDGET", value_parser = parse::<ByteSize>)]
    pub(in crate::cli) memory_budget: Option<ByteSize>,
    /// Most sessions in all [default: 1000]
    #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_SESSIONS", value_parser = parse::<Count>)]
    pub(in crate::cli) max_sessions: Option<Count>,
    /// Most sessions of one user key [default: 500]
    #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_SESSIONS_PER_KEY", value_parser = parse::<Count>)]
    pub(in crate::cli) max_sessions_per_key: Option<Count>,
    /// At a limit, end a session of the same key without a client for this long [default: 5m]
    ///
    /// A client that was killed leaves its session behind, which looks like one in an outage. Once a key has as many
    /// sessions as it may have, or the server half as many as it takes, a new one takes the place of the key's own session
    /// that has been without a client for longest, if that is so long. Nobody takes the place of another key's session.
    #[arg(long, value_name = "DURATION", env = "BOWLINE_ABANDONED_AFTER", value_parser = parse::<Duration>)]
    pub(in crate::cli) abandoned_after: Option<Duration>,
    /// Most handshakes under way at once [default: 256]
    #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_HALF_OPEN", value_parser = parse::<Count>)]
    pub(in crate::cli) max_half_open: Option<Count>,
    /// Send no UDP payload longer than this
    #[arg(long, value_name = "BYTES", env = "BOWLINE_MTU_CAP", value_parser = parse::<MtuCap>)]
    pub(in crate::cli) mtu_cap: Option<MtuCap>,
    /// Serve metrics for Prometheus here, on loopback only [default: nowhere]
    ///
    /// http://ADDR/metrics, for instance at 127.0.0.1:9470. What is counted stands in packaging/grafana/README.md of the
    /// source, installed as /usr/share/bowline/grafana/README.md.
    #[arg(long, value_name = "ADDR", env = "BOWLINE_METRICS", value_parser = parse::<MetricsAddress>)]
    pub(in crate::cli) metrics: Option<MetricsAddress>,
    /// Take the place of a running bowline, with its sessions
    ///
    /// The one that serves at the same address hands everything over and ends. Its sessions go on, by the settings of
    /// this one. With nobody there this one just starts.
    #[arg(long, env = "BOWLINE_REPLACE", value_parser = FalseyValueParser::new())]
    pub(in crate::cli) replace: bool,
    /// Go on with what the keeper at the other end of standard input held: after SIGHUP
    #[arg(long, hide = true)]
    pub(in crate::cli) take_over: bool,
    /// Let sessions end with the worker: for measuring what keeping them costs
    #[arg(long, hide = true)]
    pub(in crate::cli) no_session_store: bool,
}
