//! SSH sessions that do not break.
//!
//! A client half and a server half carry an ordinary SSH connection over QUIC. The path between them may
//! die; the session waits, keeps the bytes, and goes on from the exact byte where it stopped.
//! `ARCHITECTURE.md` says what lives where; `PROTOCOL.md` gives the wire format.

pub mod carrier;
#[doc(hidden)]
pub mod cli;
pub mod client;
pub mod clock;
mod descriptor;
#[cfg_attr(not(debug_assertions), path = "fault/none.rs")]
mod fault;
mod hints;
pub mod identity;
mod local_socket;
#[cfg(target_os = "linux")]
mod memory;
mod observe;
pub mod pump;
pub mod relay;
mod safe_path;
pub mod server;
pub mod session;
pub mod sshd;
mod tasks;
mod tcp_info;
pub mod wire;
