//! Arguments of `bowline relay`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;

use super::options::options;
use super::parse;
use crate::cli::values::{ByteSize, Count, ListenAddress, MetricsAddress, MtuCap};

/// What `bowline relay --help` says first.
pub(super) const ABOUT: &str = "Connect clients to servers that cannot be reached directly, for example behind a NAT. A relay sees \
only ciphertext, and it stores nothing that a session needs: if it stops, sessions continue over another path.\n\nWhen it is \
ready, it prints one line: ready udp=ADDR:PORT tls=ADDR:PORT fingerprint=SHA256:..";

options! {
    /// `bowline relay`.
    #[command(after_help = "Example:\n  bowline relay --allow-servers /etc/bowline/servers")]
    pub(in crate::cli) struct RelayOptions {
        /// Listen for QUIC on this address; repeatable; port 0 is any free port [default: :443]
        #[arg(long, value_name = "ADDR", env = "BOWLINE_LISTEN", value_delimiter = ',', value_parser = parse::<ListenAddress>)]
        pub(in crate::cli) listen: Vec<ListenAddress>,
        /// Listen for TLS on this address; repeatable [default: :443]
        #[arg(long, value_name = "ADDR", env = "BOWLINE_LISTEN_TLS", value_delimiter = ',', value_parser = parse::<ListenAddress>)]
        pub(in crate::cli) listen_tls: Vec<ListenAddress>,
        /// Accept the server halves that prove a host key listed in this file
        ///
        /// One key per line: a fingerprint (SHA256:..), or a public key as in known_hosts or a .pub file.
        #[arg(long, value_name = "FILE", env = "BOWLINE_ALLOW_SERVERS")]
        pub(in crate::cli) allow_servers: Option<PathBuf>,
        /// Accept every server half that proves a host key
        #[arg(long, env = "BOWLINE_OPEN", value_parser = FalseyValueParser::new())]
        pub(in crate::cli) open: bool,
        /// Maximum number of server halves [default: 1000]
        #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_SERVERS", value_parser = parse::<Count>)]
        pub(in crate::cli) max_servers: Option<Count>,
        /// Maximum number of server halves per source address [default: 32]
        #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_SERVERS_PER_SOURCE", value_parser = parse::<Count>)]
        pub(in crate::cli) max_servers_per_source: Option<Count>,
        /// Maximum number of relayed paths [default: 4000]
        #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_SPLICES", value_parser = parse::<Count>)]
        pub(in crate::cli) max_splices: Option<Count>,
        /// Maximum number of relayed paths per server half [default: 500]
        #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_SPLICES_PER_SERVER", value_parser = parse::<Count>)]
        pub(in crate::cli) max_splices_per_server: Option<Count>,
        /// Maximum number of relayed paths per client address [default: 200]
        #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_SPLICES_PER_SOURCE", value_parser = parse::<Count>)]
        pub(in crate::cli) max_splices_per_source: Option<Count>,
        /// Maximum number of new connections per second and source address [default: 50]
        #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_CONNECTIONS_PER_SECOND", value_parser = parse::<Count>)]
        pub(in crate::cli) max_connections_per_second: Option<Count>,
        /// Maximum number of unfinished handshakes [default: 512]
        #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_HALF_OPEN", value_parser = parse::<Count>)]
        pub(in crate::cli) max_half_open: Option<Count>,
        /// Memory for buffered data [default: a quarter of the machine's memory, or half of the control group's limit]
        ///
        /// If both apply, the smaller one is the default. The budget includes QUIC's receive windows towards both ends
        /// of every relayed path, and the data that waits between the two ends. A path starts with a small share and
        /// gets more while it transfers data. If a path stalls, the relay stops reading from it; it drops nothing. If
        /// there is no memory for another path, clients are told that the relay is busy.
        #[arg(long, value_name = "SIZE", env = "BOWLINE_MEMORY_BUDGET", value_parser = parse::<ByteSize>)]
        pub(in crate::cli) memory_budget: Option<ByteSize>,
        /// After SIGTERM, let sessions continue for this long [default: 30s]
        #[arg(long, value_name = "DURATION", env = "BOWLINE_DRAIN", value_parser = parse::<Duration>)]
        pub(in crate::cli) drain: Option<Duration>,
        /// Switch to this user if started by root
        #[arg(long, value_name = "NAME", env = "BOWLINE_WORKER_USER")]
        pub(in crate::cli) worker_user: Option<String>,
        /// Send no UDP payload larger than this
        #[arg(long, value_name = "BYTES", env = "BOWLINE_MTU_CAP", value_parser = parse::<MtuCap>)]
        pub(in crate::cli) mtu_cap: Option<MtuCap>,
        /// Serve Prometheus metrics on this loopback address [default: none]
        ///
        /// The URL is http://ADDR/metrics, for example with ADDR 127.0.0.1:9471. The metrics are described in
        /// packaging/grafana/README.md of the source, which is installed as /usr/share/bowline/grafana/README.md.
        #[arg(long, value_name = "ADDR", env = "BOWLINE_METRICS", value_parser = parse::<MetricsAddress>)]
        pub(in crate::cli) metrics: Option<MetricsAddress>,
    }
}
