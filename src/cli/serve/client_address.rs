//! Chooses which address of a client sshd sees: the client's own if possible.

use std::net::SocketAddr;

use tracing::{info, warn};

use super::ServeSettings;
use crate::cli::report::{self, Exit, Failure};
use crate::cli::values::ClientAddressWord;
use crate::server::client_address::{ClientAddresses, SetUpError};
use crate::server::worker::ClientAddressSetup;
use crate::wire::ErrorChain;

/// The choice.
pub(super) struct Chosen {
    pub(super) addresses: Option<ClientAddresses>,
    pub(super) setup: ClientAddressSetup,
}

/// Sets up what the settings ask for, for the sshd at `target`; `None` is the built-in server.
///
/// # Errors
/// Clients' own addresses are required but cannot be used.
pub(super) fn choose(settings: &ServeSettings, target: Option<SocketAddr>) -> Result<Chosen, Failure> {
    let word = settings.client_address;
    let Some(target) = target else {
        return match word {
            ClientAddressWord::Real => Err(Failure::new(
                Exit::Usage,
                "the built-in SSH server does not see clients' addresses: --client-address real is for sshd",
            )),
            ClientAddressWord::Auto | ClientAddressWord::Loopback => Ok(loopback(None)),
        };
    };
    if word == ClientAddressWord::Loopback {
        return Ok(loopback(ClientAddresses::left_behind(target)));
    }
    let insists = word == ClientAddressWord::Real;
    match ClientAddresses::set_up(target, insists) {
        Ok(addresses) => Ok(real(addresses, insists)),
        Err(error) if insists => Err(report::no_client_addresses(&error)),
        Err(error) => {
            log_reason(&error);
            Ok(loopback(ClientAddresses::left_behind(target)))
        }
    }
}

fn real(addresses: ClientAddresses, insists: bool) -> Chosen {
    let families = addresses.families();
    if !(families.v4 && families.v6) {
        let become_of_others = if insists { "refused" } else { "seen by sshd on loopback" };
        info!(%families, become_of_others, "sshd listens for clients of one address family only");
    }
    Chosen {
        addresses: Some(addresses),
        setup: ClientAddressSetup::Real { families, insists },
    }
}

/// The setup of an earlier keeper stays for its sessions.
fn loopback(addresses: Option<ClientAddresses>) -> Chosen {
    Chosen {
        addresses,
        setup: ClientAddressSetup::Loopback,
    }
}

/// Logs why. If this process lacks the right, or sshd is elsewhere, that is no reason for a warning.
fn log_reason(error: &SetUpError) {
    let (cause, hint) = (ErrorChain(error), report::client_address_hint(error));
    match error {
        SetUpError::NotAllowed | SetUpError::Elsewhere { .. } => {
            info!(%cause, hint, "sshd sees clients on loopback");
        }
        _ => warn!(%cause, hint, "sshd sees clients on loopback"),
    }
}
