//! The user's keys as people have them: real agents that ask, refuse and hold too much, and types of keys that are not
//! supported. No root needed.
//!
//! Other versions of OpenSSH have other types: `packaging/test-newer-openssh -- --test agents`.

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod asking;
mod command;
mod refusals;
mod sizes;
mod types;

use std::time::Duration;

/// For anything that ends by itself, on a slow machine.
const LIMIT: Duration = Duration::from_secs(90);
