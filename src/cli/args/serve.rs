//! Arguments of `bowline serve`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;

use super::options::options;
use super::parse;
use crate::carrier::relays::RelayName;
use crate::cli::values::{
    AuthWord, ByteSize, ClientAddressWord, Count, ListenRange, LoginName, MetricsAddress, MtuCap, Target,
};

options! {
    /// `bowline serve`.
    #[command(after_help = "Example:\n  bowline serve --listen :22 --target 127.0.0.1:22")]
    pub(in crate::cli) struct ServeOptions {
        /// Listen for QUIC on this address; repeatable; port 0 is any free port
        ///
        /// ADDR is 192.0.2.1:22 or [::1]:22, an address alone, or a port alone. In place of the port, a range such as
        /// 60000-61000 takes one port of it that is free. Default: every address, on the port number that sshd uses for
        /// TCP.
        #[arg(long, value_name = "ADDR", env = "BOWLINE_LISTEN", value_delimiter = ',', value_parser = parse::<ListenRange>)]
        pub(in crate::cli) listen: Vec<ListenRange>,
        /// Listen for TLS on this address, for networks that block UDP; repeatable
        ///
        /// ADDR is written as for --listen; the default port is 443. Default: none.
        #[arg(long, value_name = "ADDR", env = "BOWLINE_LISTEN_TLS", value_delimiter = ',', value_parser = parse::<ListenRange>)]
        pub(in crate::cli) listen_tls: Vec<ListenRange>,
        /// Register with this relay so that clients outside the NAT can reach this server; repeatable
        ///
        /// A relay is written as r1.example.org or r2.example.org:4433. Append #SHA256:.. to pin the relay's key. The
        /// value can also be the name of SRV records, such as _bowline-relay._udp.example.org, or an alias (CNAME) of
        /// such a name. If there are more than three relays, the host keys determine which three are used. BIND does
        /// not load a zone with more than 100 records of one name and type unless max-records-per-type is higher.
        #[arg(long, value_name = "HOST[:PORT]", env = "BOWLINE_RELAY", value_delimiter = ',', value_parser = parse::<RelayName>)]
        pub(in crate::cli) relay: Vec<RelayName>,
        /// Connect sessions to this SSH server, or to `builtin`
        ///
        /// If a name has several addresses, one that answers is used. Default: the address where sshd listens according
        /// to `sshd -T`; if that is not known, 127.0.0.1:22.
        #[arg(long, value_name = "HOST:PORT", env = "BOWLINE_TARGET", value_parser = parse::<Target>)]
        pub(in crate::cli) target: Option<Target>,
        /// Prove to clients that this server has this SSH host key; repeatable
        ///
        /// ssh_host_ed25519_key in the state folder is bowline's own, which is created at first use. Default: the host
        /// keys of sshd. If bowline does not run as root and cannot read them, it uses a key of its
        /// own in the state folder.
        #[arg(long, value_name = "FILE")]
        pub(in crate::cli) host_key: Vec<PathBuf>,
        /// Who decides whether a user key may open a session: sshd or none [default: sshd]
        ///
        /// `sshd`: bowline asks sshd whether it would accept the key. `none`: bowline does not check keys; only the SSH
        /// login inside the session decides.
        #[arg(long, value_name = "WHO", env = "BOWLINE_AUTH", value_parser = parse::<AuthWord>)]
        pub(in crate::cli) auth: Option<AuthWord>,
        /// Let the keys in this file open sessions, instead of asking sshd
        #[arg(long, value_name = "FILE", env = "BOWLINE_AUTHORIZED_KEYS")]
        pub(in crate::cli) authorized_keys: Option<PathBuf>,
        /// Open sessions for this user only; others are refused as if none of their keys was accepted
        #[arg(long, value_name = "NAME", env = "BOWLINE_ONLY_USER", value_parser = parse::<LoginName>)]
        pub(in crate::cli) only_user: Option<LoginName>,
        /// Stop when there was no session for this long [default: never]
        #[arg(long, value_name = "DURATION", env = "BOWLINE_EXIT_WHEN_IDLE", value_parser = parse::<Duration>)]
        pub(in crate::cli) exit_when_idle: Option<Duration>,
        /// Client address that sshd sees: auto, real or loopback [default: auto]
        ///
        /// `real`: sshd sees the client's own address, so sshd's address rules, penalties and log are exact. This needs
        /// CAP_NET_ADMIN, a policy routing rule and net.ipv4.tcp_fwmark_accept; bowline sets up the last two at
        /// startup. `loopback`: sshd sees a loopback address; this needs no privilege. `auto`: `real` if a test at
        /// startup shows that it works, otherwise `loopback`.
        #[arg(long, value_name = "WHICH", env = "BOWLINE_CLIENT_ADDRESS", value_parser = parse::<ClientAddressWord>)]
        pub(in crate::cli) client_address: Option<ClientAddressWord>,
        /// Open sessions even if sshd has address rules but sees only loopback addresses
        ///
        /// If sshd sees every client on loopback, bowline opens no session in three cases: a line of sshd's
        /// configuration may depend on the address that a client connects from or to (Match Address and similar,
        /// user@host); sshd's configuration cannot be read; or sshd's penalties for one client would affect all
        /// clients. In addition, bowline accepts a key only if sshd would accept it from other addresses too. This
        /// option turns these checks off.
        #[arg(long)]
        pub(in crate::cli) accept_loopback_match: bool,
        /// Read sshd's configuration from this file
        #[arg(long, value_name = "FILE", env = "BOWLINE_SSHD_CONFIG")]
        pub(in crate::cli) sshd_config: Option<PathBuf>,
        /// Ask this sshd program for its configuration
        #[arg(long, value_name = "FILE", env = "BOWLINE_SSHD_BINARY")]
        pub(in crate::cli) sshd_binary: Option<PathBuf>,
        /// If started by root, run the worker, which handles network input, as this user
        #[arg(long, value_name = "NAME", env = "BOWLINE_WORKER_USER")]
        pub(in crate::cli) worker_user: Option<String>,
        /// Keep a session that has no path for this long [default: 7d]
        #[arg(long, value_name = "DURATION", env = "BOWLINE_SESSION_TTL", value_parser = parse::<Duration>)]
        pub(in crate::cli) session_ttl: Option<Duration>,
        /// Size of each session's replay buffer [default: 16MiB]
        ///
        /// It holds the bytes that the client has not acknowledged, to send them again after an outage. The buffer
        /// cannot be larger than --memory-budget. If --memory-budget is less than 16MiB, the default is the value of
        /// --memory-budget.
        #[arg(long, value_name = "SIZE", env = "BOWLINE_REPLAY_BUFFER", value_parser = parse::<ByteSize>)]
        pub(in crate::cli) replay_buffer: Option<ByteSize>,
        /// Memory for the buffers of all sessions [default: 1GiB]
        ///
        /// The default is the smallest of 1GiB, half of the machine's memory, and half of the control group's limit
        /// (MemoryHigh=, MemoryMax=, or a container's limit). The server half needs about the same amount of memory
        /// again for everything else.
        #[arg(long, value_name = "SIZE", env = "BOWLINE_MEMORY_BUDGET", value_parser = parse::<ByteSize>)]
        pub(in crate::cli) memory_budget: Option<ByteSize>,
        /// Maximum number of sessions [default: 1000]
        #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_SESSIONS", value_parser = parse::<Count>)]
        pub(in crate::cli) max_sessions: Option<Count>,
        /// Maximum number of sessions per user key [default: 500]
        #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_SESSIONS_PER_KEY", value_parser = parse::<Count>)]
        pub(in crate::cli) max_sessions_per_key: Option<Count>,
        /// At a limit, replace a session of the same key that had no client for this long [default: 5m]
        ///
        /// A killed client leaves its session behind, and the server half cannot tell that session from one in an
        /// outage. If a user key has --max-sessions-per-key sessions, or the server half has --max-sessions, a new
        /// session replaces the session of the same key that has been without a client for longest, provided that it
        /// has been without one for at least this long. A session of another key is replaced only
        /// if sshd has already ended it.
        #[arg(long, value_name = "DURATION", env = "BOWLINE_ABANDONED_AFTER", value_parser = parse::<Duration>)]
        pub(in crate::cli) abandoned_after: Option<Duration>,
        /// Maximum number of unfinished handshakes [default: 256]
        #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_HALF_OPEN", value_parser = parse::<Count>)]
        pub(in crate::cli) max_half_open: Option<Count>,
        /// Send no UDP payload larger than this
        #[arg(long, value_name = "BYTES", env = "BOWLINE_MTU_CAP", value_parser = parse::<MtuCap>)]
        pub(in crate::cli) mtu_cap: Option<MtuCap>,
        /// Serve Prometheus metrics on this loopback address [default: none]
        ///
        /// The URL is http://ADDR/metrics, for example with ADDR 127.0.0.1:9470. The metrics are described in
        /// packaging/grafana/README.md of the source, which is installed as /usr/share/bowline/grafana/README.md.
        #[arg(long, value_name = "ADDR", env = "BOWLINE_METRICS", value_parser = parse::<MetricsAddress>)]
        pub(in crate::cli) metrics: Option<MetricsAddress>,
        /// Take over from the running bowline, and keep its sessions
        ///
        /// The server half that runs at the same address hands over its sockets and sessions, then exits. Its sessions
        /// continue with the settings of the new one. If none is running, the new one just starts.
        #[arg(long, env = "BOWLINE_REPLACE", value_parser = FalseyValueParser::new())]
        pub(in crate::cli) replace: bool,
        /// After SIGHUP: continue with the state of the keeper at the other end of standard input
        #[arg(long, hide = true)]
        #[serde(skip)]
        pub(in crate::cli) take_over: bool,
        /// Let sessions end with the worker, to measure the cost of keeping them
        #[arg(long, hide = true)]
        #[serde(skip)]
        pub(in crate::cli) no_session_store: bool,
    }
}
