//! What a fuzzer feeds to this program: one function for each kind of input. It panics if a promise is broken.
//!
//! Compiled for the unit tests, which replay the seeds of `fuzz/`, and with `--cfg fuzzing`; never for users. Each function
//! stands beside what it tests.

use std::error::Error;

use crate::wire::{ErrorChain, is_active};

pub use crate::carrier::relays::fuzzing::srv_answer;
pub use crate::carrier::stream::fuzzing::{http_connect, socks5};
pub use crate::cli::fuzzing::bowline_toml;
pub use crate::identity::authorized_keys::fuzzing::authorized_keys;
pub use crate::identity::fuzzing::{known_hosts, signatures};
pub use crate::identity::ssh_config::fuzzing::ssh_g;
pub use crate::observe::fuzzing::control_requests;
pub use crate::server::ipc::fuzzing::keeper_messages;
pub use crate::server::session_store::fuzzing::session_record;
pub use crate::server::sshd_config::fuzzing::sshd_t;

/// Checks what is shown of an error.
pub(crate) fn check_error(error: &(dyn Error + 'static)) {
    check_text(&ErrorChain(error).to_string());
}

/// Checks that no terminal obeys a text that is shown.
pub(crate) fn check_text(text: &str) {
    assert!(!text.contains(is_active), "{text:?}");
}

#[cfg(test)]
mod tests;
