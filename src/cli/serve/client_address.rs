//! Which address of a client sshd sees: the client's own where that can be had.

use std::net::SocketAddr;

use tracing::{info, warn};

use super::ServeSettings;
use crate::cli::report::{self, Exit, Failure};
use crate::cli::values::ClientAddressWord;
use crate::server::client_address::{ClientAddresses, SetUpError};
use crate::server::worker::ClientAddressSetup;

/// What a keeper starts with.
pub(super) struct Chosen {
    pub(super) addresses: Option<ClientAddresses>,
    pub(super) setup: ClientAddressSetup,
}

/// Sets up what the settings want for the sshd at `target`; `None` is the built-in server.
///
/// # Errors
/// Clients' own addresses were asked for and cannot be had.
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
            tell(&error);
            Ok(loopback(ClientAddresses::left_behind(target)))
        }
    }
}

fn real(addresses: ClientAddresses, insists: bool) -> Chosen {
    let families = addresses.families();
    if !(families.v4 && families.v6) {
        let become_of_others = if insists {
            "refused"
        } else {
            "shown to sshd as on loopback"
        };
        info!(%families, become_of_others, "sshd listens for clients of one kind of address alone");
    }
    Chosen {
        addresses: Some(addresses),
        setup: ClientAddressSetup::Real { families, insists },
    }
}

/// What is there of an earlier keeper stays for its sessions.
fn loopback(addresses: Option<ClientAddresses>) -> Chosen {
    Chosen {
        addresses,
        setup: ClientAddressSetup::Loopback,
    }
}

/// Whoever may not set it up, or whose sshd is elsewhere, has not asked for it either.
fn tell(error: &SetUpError) {
    let (cause, hint) = (report::chain(error), report::client_address_hint(error));
    match error {
        SetUpError::NotAllowed | SetUpError::Elsewhere { .. } => {
            info!(%cause, hint, "sshd sees clients on loopback");
        }
        _ => warn!(%cause, hint, "sshd sees clients on loopback"),
    }
}
