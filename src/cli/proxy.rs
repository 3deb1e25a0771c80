//! `bowline proxy`: its settings, and one session from start to end.

use std::path::PathBuf;
use std::time::Duration;

use russh::keys::ssh_key::Fingerprint;

use super::args::ProxyArgs;
use super::places::Folders;
use super::report::{Exit, Failure};
use super::settings::{Context, SettingsError, list, one};
use super::values::{Destination, Fallback, Transport};

/// What `bowline proxy` works by.
#[derive(Debug, Clone)]
pub(crate) struct ProxySettings {
    /// Whom to reach, as ssh was given it.
    pub(crate) destination: Destination,
    /// ssh's port. Default: as `ssh -G` says.
    pub(crate) ssh_port: Option<u16>,
    /// Given on to `ssh -G -F`. Default: ssh's own files.
    pub(crate) ssh_config: Option<PathBuf>,
    /// Each given on to `ssh -G -o`. Default: none.
    pub(crate) ssh_options: Vec<String>,
    /// User keys to offer before those that `ssh -G` names. Default: none.
    pub(crate) identities: Vec<PathBuf>,
    /// Host keys to trust instead of known_hosts. Default: none, known_hosts counts.
    pub(crate) pins: Vec<Fingerprint>,
    /// Read instead of ssh's known_hosts files. Default: those.
    pub(crate) known_hosts: Option<PathBuf>,
    /// UDP port of the server half. Default: ssh's port number, then 443.
    pub(crate) port: Option<u16>,
    /// What to dial by. Default: auto.
    pub(crate) transport: Transport,
    /// What to do when no path leads to the server half. Default: nothing, fail.
    pub(crate) fallback: Fallback,
    /// Bounds the open. Default: ssh's ConnectTimeout less half a second, else 10 s.
    pub(crate) connect_timeout: Option<Duration>,
    /// The longest outage an open session waits for. Default: the server half's ttl.
    pub(crate) patience: Option<Duration>,
    /// The most bytes of UDP payload in a packet, at least 1200. Default: what the path takes.
    pub(crate) mtu_cap: Option<u16>,
    /// Where the journal and the pins are.
    pub(crate) folders: Folders,
}

impl ProxySettings {
    /// Settles what the arguments leave open by the configuration file, then by default.
    ///
    /// # Errors
    /// No folder for the state.
    pub(super) fn new(args: ProxyArgs, context: &Context) -> Result<Self, SettingsError> {
        let table = context.file.client(&args.destination.host);
        let reach = args.reach;
        Ok(ProxySettings {
            destination: args.destination,
            ssh_port: args.ssh_port.map(|port| port.0),
            ssh_config: args.ssh_config.or(one(&table.ssh_config)),
            ssh_options: args.ssh_options,
            identities: list(args.identities, &table.identity),
            pins: list(reach.pin, &table.pin),
            known_hosts: reach.known_hosts.or(one(&table.known_hosts)),
            port: reach.port.or(one(&table.port)).map(|port| port.0),
            transport: reach.transport.or(one(&table.transport)).unwrap_or(Transport::Auto),
            fallback: reach.fallback.or(one(&table.fallback)).unwrap_or(Fallback::None),
            connect_timeout: reach.connect_timeout.or(one(&table.connect_timeout)),
            patience: reach.patience.or(one(&table.patience)),
            mtu_cap: reach.mtu_cap.or(one(&table.mtu_cap)).map(|cap| cap.0),
            folders: context.folders()?,
        })
    }
}

/// Carries one session between stdin/stdout and the server half.
///
/// # Errors
/// The session could not be opened, or was lost.
pub(super) async fn run(settings: ProxySettings) -> Result<(), Failure> {
    let host = &settings.destination.host;
    Err(Failure::new(
        Exit::Internal,
        format_args!("cannot reach {host}: the client half is not wired up yet"),
    ))
}
