//! Options of `proxy`, `check` and `ssh`, and thus the keys of `[client]` and `[host."PATTERN"]`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::BoolishValueParser;
use russh::keys::ssh_key::Fingerprint;

use super::options::options;
use super::parse;
use crate::carrier::relays::RelayName;
use crate::cli::values::{Fallback, Install, MtuCap, PathCommand, Port, Predict, ProxyText, Transport};

/// The variable in which `bowline ssh` passes its `--proxy` to the ProxyCommand. Other users can read arguments, but not
/// this.
pub(in crate::cli) const PROXY_VARIABLE: &str = "BOWLINE_PROXY";

options! {
    /// `[client]` and `[host."PATTERN"]`.
    pub(in crate::cli) table ClientTable;

    /// Which of ssh's files and keys count: `proxy`.
    pub(in crate::cli) struct ProxyOptions {
        /// Pass this configuration file to `ssh -G`
        #[arg(short = 'F', long, value_name = "FILE", env = "BOWLINE_SSH_CONFIG")]
        pub(in crate::cli) ssh_config: Option<PathBuf>,
        /// Pass this option to `ssh -G`
        #[arg(short = 'o', long = "ssh-option", value_name = "OPTION")]
        #[serde(skip)]
        pub(in crate::cli) ssh_options: Vec<String>,
        /// Offer this user key before the keys from ssh's configuration
        #[arg(short = 'i', long, value_name = "KEY")]
        pub(in crate::cli) identity: Option<Vec<PathBuf>>,
    }

    /// How to reach a server half: `proxy` and `ssh`.
    pub(in crate::cli) struct ReachOptions {
        /// Trust the host key with this fingerprint instead of known_hosts; repeatable
        #[arg(long, value_name = "FINGERPRINT", env = "BOWLINE_PIN", value_parser = parse::<Fingerprint>)]
        pub(in crate::cli) pin: Option<Vec<Fingerprint>>,
        /// Read known host keys from this file instead of ssh's files
        #[arg(long, value_name = "FILE", env = "BOWLINE_KNOWN_HOSTS")]
        pub(in crate::cli) known_hosts: Option<PathBuf>,
        /// UDP port of the server half; bowline also tries UDP port 443 [default: ssh's port]
        #[arg(long, value_name = "UDP", env = "BOWLINE_PORT", value_parser = parse::<Port>)]
        pub(in crate::cli) port: Option<Port>,
        /// TCP port of the server half for TLS, used if UDP is blocked [default: 443]
        #[arg(long, value_name = "TCP", env = "BOWLINE_TLS_PORT", value_parser = parse::<Port>)]
        pub(in crate::cli) tls_port: Option<Port>,
        /// Also try to reach the server half through this relay; repeatable
        ///
        /// The server half must be registered there (`bowline serve --relay`). A relay is written as r1.example.org or
        /// r2.example.org:4433. Append #SHA256:.. to pin the relay's key. The value can also be the name of SRV
        /// records, such as _bowline-relay._udp.example.org, or an alias (CNAME) of such a name. Relays look up a
        /// server half by its host keys, so you must already know one of them (known_hosts or --pin).
        #[arg(long, value_name = "HOST[:PORT]", env = "BOWLINE_RELAY", value_delimiter = ',', value_parser = parse::<RelayName>)]
        pub(in crate::cli) relay: Option<Vec<RelayName>>,
        /// Also connect through this proxy, with TLS; `direct` for no proxy [default: HTTPS_PROXY or ALL_PROXY]
        ///
        /// URL is http://[USER:PASSWORD@]HOST:PORT (CONNECT), socks5://HOST:PORT or socks5h://HOST:PORT. By
        /// default HTTPS_PROXY, ALL_PROXY and NO_PROXY apply as they do in curl. The proxy is an additional path:
        /// direct paths are tried too. Every user of this machine can see command lines, so put a password into
        /// BOWLINE_PROXY or bowline.toml.
        #[arg(long, value_name = "URL", env = PROXY_VARIABLE, hide_env_values = true, value_parser = parse::<ProxyText>)]
        pub(in crate::cli) proxy: Option<ProxyText>,
        /// Also connect through this program, with TLS; repeatable
        ///
        /// The program is an additional path: the other paths are tried too. Its standard input and output must be a
        /// connection to the server half's TLS port. Examples: `nc %h %p`, `ssh -W %h:%p jump`, another tunnel. It is
        /// run by sh. %h and %p are expanded as in ssh's ProxyCommand; %p is --tls-port. In bowline.toml: path = {
        /// command = ".." }
        #[arg(long, value_name = "COMMAND", value_parser = parse::<PathCommand>)]
        #[serde(alias = "path")]
        pub(in crate::cli) path_command: Option<Vec<PathCommand>>,
        /// Use this transport: auto, quic or tls [default: auto]
        ///
        /// `auto` uses QUIC, or TLS if QUIC does not get through. A session on TLS returns to QUIC as soon as QUIC
        /// works.
        #[arg(long, value_name = "KIND", env = "BOWLINE_TRANSPORT", value_parser = parse::<Transport>)]
        pub(in crate::cli) transport: Option<Transport>,
        /// If the server half cannot be reached: tcp (connect to sshd) or none (fail)
        ///
        /// `tcp` connects to sshd's own TCP port if no path reaches the server half. Such a session ends when that TCP
        /// connection breaks. Default: none; for `bowline ssh`, tcp.
        #[arg(long, value_name = "KIND", env = "BOWLINE_FALLBACK", value_parser = parse::<Fallback>)]
        pub(in crate::cli) fallback: Option<Fallback>,
        /// If the host has no server half, start one there over ssh, without root: yes, no or ask
        ///
        /// bowline logs in with ssh's own arguments, copies itself into ~/.cache/bowline on the server unless a bowline
        /// is there, and starts it for this user. `ask` asks on the terminal, once for each host. Default: for `bowline
        /// ssh` on a terminal, ask; otherwise no. `bowline ssh --uninstall HOST` removes it.
        #[arg(long, value_name = "WHEN", env = "BOWLINE_INSTALL", value_parser = parse::<Install>)]
        pub(in crate::cli) install: Option<Install>,
        /// Give up if the session is not open after this time [default: 10s]
        ///
        /// Default: ssh's ConnectTimeout minus 0.5 s, if that is set. Otherwise bowline waits 10s for an answer of a
        /// server half (3s with --fallback tcp), four times as long if packets arrive, and 120s if the server half
        /// reports that it waits for sshd. `bowline check` gives each path 5s.
        #[arg(long, value_name = "DURATION", env = "BOWLINE_CONNECT_TIMEOUT", value_parser = parse::<Duration>)]
        pub(in crate::cli) connect_timeout: Option<Duration>,
        /// Give up an open session if an outage lasts longer than this
        ///
        /// Default: as long as the server half keeps the session, which is 7 days unless its --session-ttl differs.
        #[arg(long, value_name = "DURATION", env = "BOWLINE_PATIENCE", value_parser = parse::<Duration>)]
        pub(in crate::cli) patience: Option<Duration>,
        /// Report about the link to the `bowline ssh` that listens at this socket
        #[arg(long, value_name = "FILE", hide = true)]
        #[serde(skip)]
        pub(in crate::cli) terminal_socket: Option<PathBuf>,
        /// Send no UDP payload larger than this
        #[arg(long, value_name = "BYTES", env = "BOWLINE_MTU_CAP", value_parser = parse::<MtuCap>)]
        pub(in crate::cli) mtu_cap: Option<MtuCap>,
    }

    /// What bowline does on the terminal: `ssh`.
    pub(in crate::cli) struct TerminalOptions {
        /// Let ssh have the terminal to itself [default: false]
        ///
        /// By default bowline stays between ssh and your terminal if ssh opens a remote terminal.
        #[arg(long, value_name = "BOOL", env = "BOWLINE_PLAIN", num_args = 0..=1, require_equals = true,
              default_missing_value = "true", value_parser = BoolishValueParser::new())]
        pub(in crate::cli) plain: Option<bool>,
        /// Show a line about the link while the server does not answer [default: true]
        #[arg(long, value_name = "BOOL", env = "BOWLINE_LINK_LINE", num_args = 0..=1, require_equals = true,
              default_missing_value = "true", value_parser = BoolishValueParser::new())]
        pub(in crate::cli) link_line: Option<bool>,
        /// Show typed keys before the server returns them: adaptive, always or never [default: adaptive]
        ///
        /// `adaptive` shows them while the round-trip time is above 60 ms, or if answers are late. Where the server does not
        /// return keys, as at a prompt for a password, none are shown.
        #[arg(long, value_name = "MODE", env = "BOWLINE_PREDICT", value_parser = parse::<Predict>)]
        pub(in crate::cli) predict: Option<Predict>,
    }
}
