//! The server half: takes carriers, and joins sessions to sshd.

pub mod ask_sshd;
pub mod keeper;
pub mod sshd_config;
