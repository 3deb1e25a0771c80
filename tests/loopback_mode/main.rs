//! A server half whose sshd sees all clients on loopback opens nothing as long as that could let anybody in who would not
//! get in directly. With the real sshd; another one by `BOWLINE_TEST_SSHD`.

#[path = "../support/mod.rs"]
mod support;

mod host_keys;
mod loopback_keys;
mod penalties;
mod rules;
mod unknown;

use std::time::Duration;
use support::process::{Outcome, run};
use support::serve::Serve;
use support::ssh::SshSetup;
use support::sshd::TestSshd;

/// How a client ends that is refused.
const REFUSED: i32 = 77;

const LIMIT: Duration = Duration::from_secs(30);

/// What every client hears, whoever it is.
const NOTHING_IS_OPENED: &str = "no session is opened until an administrator has changed something";

/// A client half's attempt to open a session.
fn open(sshd: &TestSshd, serve: &Serve) -> Outcome {
    open_by(SshSetup::bowline(sshd, serve.udp().port()))
}

fn open_by(setup: SshSetup) -> Outcome {
    run(&mut setup.write().proxy(), LIMIT)
}

/// ssh through the server half, to its end.
fn login(sshd: &TestSshd, serve: &Serve) -> Outcome {
    SshSetup::bowline(sshd, serve.udp().port())
        .write()
        .remote("exit 7", LIMIT)
}
