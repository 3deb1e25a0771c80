//! Arguments of `proxy` and `ssh` that say how a server half is reached.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use russh::keys::ssh_key::Fingerprint;

use super::parse;
use crate::carrier::relays::RelayName;
use crate::cli::values::{Fallback, MtuCap, PathCommand, Port, ProxyText, Transport};

/// By which `ssh` gives its `--proxy` on: unlike arguments, other users do not see it.
pub(in crate::cli) const PROXY_VARIABLE: &str = "BOWLINE_PROXY";

/// How to reach a server half: `proxy` and `ssh`.
#[derive(Debug, Clone, Default, Args)]
pub(in crate::cli) struct ReachArgs {
    /// Trust these host keys instead of known_hosts
    #[arg(long, value_name = "FINGERPRINT", env = "BOWLINE_PIN", value_parser = parse::<Fingerprint>)]
    pub(in crate::cli) pin: Vec<Fingerprint>,
    /// Read host keys from this file, not from ssh's own
    #[arg(long, value_name = "FILE", env = "BOWLINE_KNOWN_HOSTS")]
    pub(in crate::cli) known_hosts: Option<PathBuf>,
    /// UDP port of the server half [default: ssh's port]
    #[arg(long, value_name = "UDP", env = "BOWLINE_PORT", value_parser = parse::<Port>)]
    pub(in crate::cli) port: Option<Port>,
    /// TCP port of the server half's TLS, for networks without UDP [default: 443]
    #[arg(long, value_name = "TCP", env = "BOWLINE_TLS_PORT", value_parser = parse::<Port>)]
    pub(in crate::cli) tls_port: Option<Port>,
    /// Reach the server half through this relay too; repeatable
    ///
    /// r1.example.org, r2.example.org:4433, with #SHA256:.. behind it to pin the relay's key; or the name of SRV
    /// records, _bowline-relay._udp.example.org. A relay finds a host by its host keys, so one must be known.
    #[arg(long, value_name = "HOST[:PORT]", env = "BOWLINE_RELAY", value_delimiter = ',', value_parser = parse::<RelayName>)]
    pub(in crate::cli) relay: Vec<RelayName>,
    /// Dial TLS through this proxy, or direct [default: HTTPS_PROXY or ALL_PROXY]
    ///
    /// http://[USER:PASSWORD@]HOST:PORT (CONNECT), socks5:// or socks5h://; direct is none. Without it HTTPS_PROXY,
    /// ALL_PROXY and NO_PROXY count as they do for curl. It is one more path, beside the straight ones. Arguments are seen
    /// by every user of the machine: a password is better kept in BOWLINE_PROXY or bowline.toml.
    #[arg(long, value_name = "URL", env = PROXY_VARIABLE, hide_env_values = true, value_parser = parse::<ProxyText>)]
    pub(in crate::cli) proxy: Option<ProxyText>,
    /// Reach the server half's TLS port also by this program; repeatable
    ///
    /// One more path, used beside the others and not instead of them. The program's standard input and output are the
    /// connection: `nc %h %p`, `ssh -W %h:%p jump`, somebody else's tunnel. Run by sh, with %h and %p as in ssh's
    /// ProxyCommand; %p is --tls-port. In bowline.toml: path = { command = ".." }
    #[arg(long, value_name = "COMMAND", value_parser = parse::<PathCommand>)]
    pub(in crate::cli) path_command: Vec<PathCommand>,
    /// Dial by auto, quic or tls [default: auto]
    ///
    /// `auto` dials QUIC, and TLS where that does not get through; a session on TLS goes back to QUIC as soon as
    /// that works.
    #[arg(long, value_name = "KIND", env = "BOWLINE_TRANSPORT", value_parser = parse::<Transport>)]
    pub(in crate::cli) transport: Option<Transport>,
    /// When nothing answers: tcp (sshd itself) or none
    ///
    /// `tcp` connects to sshd's own TCP port when no path leads to the server half. Such a session
    /// ends with its path. Default: none; for `bowline ssh` tcp.
    #[arg(long, value_name = "KIND", env = "BOWLINE_FALLBACK", value_parser = parse::<Fallback>)]
    pub(in crate::cli) fallback: Option<Fallback>,
    /// Give up opening after this long [default: 10s]
    ///
    /// Without it: ssh's ConnectTimeout less half a second, else 10s.
    #[arg(long, value_name = "DURATION", env = "BOWLINE_CONNECT_TIMEOUT", value_parser = parse::<Duration>)]
    pub(in crate::cli) connect_timeout: Option<Duration>,
    /// Give up an open session after an outage this long
    ///
    /// Without it: as long as the server half keeps the session, 7 days unless it says otherwise.
    #[arg(long, value_name = "DURATION", env = "BOWLINE_PATIENCE", value_parser = parse::<Duration>)]
    pub(in crate::cli) patience: Option<Duration>,
    /// Send no UDP payload longer than this
    #[arg(long, value_name = "BYTES", env = "BOWLINE_MTU_CAP", value_parser = parse::<MtuCap>)]
    pub(in crate::cli) mtu_cap: Option<MtuCap>,
}
