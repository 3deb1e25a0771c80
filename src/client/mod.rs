//! The client half: produces carriers, and joins a local pipe to a session.

pub mod journal;
pub mod network_watch;
pub mod stdio;
