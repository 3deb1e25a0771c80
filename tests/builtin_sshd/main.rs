//! The built-in SSH server against the real OpenSSH client.

#![allow(clippy::unwrap_used)]

mod files;
mod flow;
mod forwarding;
mod harness;
mod login;
mod programs;
mod terminal;
