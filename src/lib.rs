//! SSH sessions that do not break.
//!
//! A client half and a server half carry an ordinary SSH connection over QUIC. If the path between them fails, the
//! session keeps the unacknowledged bytes, and continues at the exact byte on a new path. `ARCHITECTURE.md` says
//! where to find what; `PROTOCOL.md` has the wire format.

mod atomic_file;
pub mod carrier;
#[doc(hidden)]
pub mod cli;
pub mod client;
pub mod clock;
mod controlling_terminal;
mod descriptor;
#[cfg_attr(not(debug_assertions), path = "fault/none.rs")]
mod fault;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod hints;
pub mod identity;
mod local_socket;
#[cfg(target_os = "linux")]
mod memory;
mod observe;
pub mod pump;
mod random;
pub mod relay;
mod safe_path;
pub mod server;
pub mod sshd;
mod tasks;
mod tcp_info;
pub mod transport;

pub use bowline_proto::{connection, session, wire};
