//! `bowline sshd`: its settings, and the built-in SSH server run on its own.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use super::args::SshdArgs;
use super::places::{self, Folders};
use super::report::{Exit, Failure};
use super::settings::{Context, SettingsError, list, one};
use super::values::ListenAddress;

/// What `bowline sshd` works by.
#[derive(Debug, Clone)]
pub(crate) struct SshdSettings {
    /// Where to listen; a missing port is 2222. Default: 127.0.0.1:2222.
    pub(crate) listen: Vec<ListenAddress>,
    /// SSH host keys. Default: empty, which means one in the state folder, made at first use.
    pub(crate) host_keys: Vec<PathBuf>,
    /// Keys that may log in. Default: `~/.ssh/authorized_keys`.
    pub(crate) authorized_keys: PathBuf,
    /// Where the host key is.
    pub(crate) folders: Folders,
}

impl SshdSettings {
    /// Settles what the arguments leave open by the configuration file, then by default.
    ///
    /// # Errors
    /// No folder for the state, no home for the keys.
    pub(super) fn new(args: SshdArgs, context: &Context) -> Result<Self, SettingsError> {
        let table = &context.file.sshd;
        let listen = list(args.listen, &table.listen);
        let usual = ListenAddress {
            ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: Some(2222),
        };
        let authorized_keys = args
            .authorized_keys
            .or(one(&table.authorized_keys))
            .or_else(|| places::home().map(|home| home.join(".ssh/authorized_keys")))
            .ok_or(SettingsError::NoHome {
                option: "--authorized-keys",
            })?;
        Ok(SshdSettings {
            listen: if listen.is_empty() { vec![usual] } else { listen },
            host_keys: list(args.host_keys, &table.host_key),
            authorized_keys,
            folders: context.folders()?,
        })
    }
}

/// Serves until it is told to stop.
///
/// # Errors
/// It could not start.
pub(super) async fn run(settings: SshdSettings) -> Result<(), Failure> {
    let listen = &settings.listen;
    Err(Failure::new(
        Exit::Internal,
        format_args!("cannot serve {listen:?}: the built-in server is not wired up yet"),
    ))
}
