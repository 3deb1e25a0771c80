//! User keys in practice: agents that ask, refuse or hold many keys, and unsupported key types. No
//! root needed.
//!
//! Other versions of OpenSSH have other key types: `packaging/test-newer-openssh -- --test agents`.

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod command;
mod confirmation;
mod refusals;
mod sizes;
mod types;

use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::process::Running;
use support::sshd::{TestSshd, program};
use support::{BOWLINE, Scratch};

/// For what ends by itself, on a slow machine.
const LIMIT: Duration = Duration::from_secs(90);

/// A server half with the host keys of this sshd configuration, and its directories in `folder`.
fn serve_by(config: &Path, sshd: &TestSshd, folder: &Scratch) -> Running {
    let mut serve = Command::new(BOWLINE);
    serve.args(["serve", "--listen", "127.0.0.1:0", "--target"]);
    serve.arg(sshd.address().to_string());
    serve.arg("--sshd-binary").arg(program());
    serve.arg("--sshd-config").arg(config);
    serve.arg("--state-dir").arg(folder.join("state"));
    serve.arg("--runtime-dir").arg(folder.join("run"));
    Running::start(&mut serve)
}
