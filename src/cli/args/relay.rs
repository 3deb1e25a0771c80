//! Arguments of `bowline relay`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;

use super::parse;
use crate::cli::values::{ByteSize, Count, ListenAddress, MetricsAddress, MtuCap};

/// What `bowline relay --help` says first.
pub(super) const ABOUT: &str = "Join clients to server halves that nothing reaches from outside. A relay sees ciphertext only, and keeps \
nothing that matters.\n\nPrints one line when it serves: ready udp=ADDR:PORT tls=ADDR:PORT \
fingerprint=SHA256:..";

/// `bowline relay`.
#[derive(Debug, Clone, Default, Args)]
#[command(after_help = "Example:\n  bowline relay --allow-servers /etc/bowline/servers")]
pub(in crate::cli) struct RelayArgs {
    /// Listen for QUIC here; repeatable, port 0 is any free one [default: :443]
    #[arg(long, value_name = "ADDR", env = "BOWLINE_LISTEN", value_delimiter = ',', value_parser = parse::<ListenAddress>)]
    pub(in crate::cli) listen: Vec<ListenAddress>,
    /// Listen for TLS here; repeatable [default: :443]
    #[arg(long, value_name = "ADDR", env = "BOWLINE_LISTEN_TLS", value_delimiter = ',', value_parser = parse::<ListenAddress>)]
    pub(in crate::cli) listen_tls: Vec<ListenAddress>,
    /// List the server halves that prove one of the host keys in this file
    ///
    /// One a line: a fingerprint (SHA256:..), or a public key as in known_hosts or a .pub file.
    #[arg(long, value_name = "FILE", env = "BOWLINE_ALLOW_SERVERS")]
    pub(in crate::cli) allow_servers: Option<PathBuf>,
    /// List every server half that proves a host key
    #[arg(long, env = "BOWLINE_OPEN", value_parser = FalseyValueParser::new())]
    pub(in crate::cli) open: bool,
    /// Most server halves [default: 1000]
    #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_SERVERS", value_parser = parse::<Count>)]
    pub(in crate::cli) max_servers: Option<Count>,
    /// Most server halves of one source address [default: 32]
    #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_SERVERS_PER_SOURCE", value_parser = parse::<Count>)]
    pub(in crate::cli) max_servers_per_source: Option<Count>,
    /// Most sessions in all [default: 4000]
    #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_SPLICES", value_parser = parse::<Count>)]
    pub(in crate::cli) max_splices: Option<Count>,
    /// Most sessions of one server half [default: 500]
    #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_SPLICES_PER_SERVER", value_parser = parse::<Count>)]
    pub(in crate::cli) max_splices_per_server: Option<Count>,
    /// Most sessions of one client source address [default: 200]
    #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_SPLICES_PER_SOURCE", value_parser = parse::<Count>)]
    pub(in crate::cli) max_splices_per_source: Option<Count>,
    /// New connections of one source address per second [default: 50]
    #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_CONNECTIONS_PER_SECOND", value_parser = parse::<Count>)]
    pub(in crate::cli) max_connections_per_second: Option<Count>,
    /// Most handshakes under way at once [default: 512]
    #[arg(long, value_name = "COUNT", env = "BOWLINE_MAX_HALF_OPEN", value_parser = parse::<Count>)]
    pub(in crate::cli) max_half_open: Option<Count>,
    /// Memory for what waits in the relay [default: a quarter of the machine's, or half of its control group's limit]
    ///
    /// QUIC's windows towards both ends of every session are counted, and what waits between them. A session begins with
    /// little and gets more while it moves; one that stands still is not read from, and nothing is dropped. Without memory
    /// for another session, clients are told that the relay is busy.
    #[arg(long, value_name = "SIZE", env = "BOWLINE_MEMORY_BUDGET", value_parser = parse::<ByteSize>)]
    pub(in crate::cli) memory_budget: Option<ByteSize>,
    /// Let sessions go on for so long after SIGTERM [default: 30s]
    #[arg(long, value_name = "DURATION", env = "BOWLINE_DRAIN", value_parser = parse::<Duration>)]
    pub(in crate::cli) drain: Option<Duration>,
    /// Started by root: the user that it becomes
    #[arg(long, value_name = "NAME", env = "BOWLINE_WORKER_USER")]
    pub(in crate::cli) worker_user: Option<String>,
    /// Send no UDP payload longer than this
    #[arg(long, value_name = "BYTES", env = "BOWLINE_MTU_CAP", value_parser = parse::<MtuCap>)]
    pub(in crate::cli) mtu_cap: Option<MtuCap>,
    /// Serve metrics for Prometheus here, on loopback only [default: nowhere]
    ///
    /// http://ADDR/metrics, for instance at 127.0.0.1:9470. What is counted stands in packaging/grafana/README.md of the
    /// source, installed as /usr/share/bowline/grafana/README.md.
    #[arg(long, value_name = "ADDR", env = "BOWLINE_METRICS", value_parser = parse::<MetricsAddress>)]
    pub(in crate::cli) metrics: Option<MetricsAddress>,
}
