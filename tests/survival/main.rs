//! The server half dies, hangs, is replaced and damaged, under real sessions. Loopback only; no root needed.
//!
//! With `BOWLINE_TEST_CLIENT_ADDRESS=real`, which needs root, clients are on a machine of their own and sshd sees their
//! address ([`support::lab::pair`]): the connections that workers leave to one another are then sockets of another kind.
//!
//! Every test kills only the processes of its own server half, found by [`support::server_half`]. Random ones print
//! their seed; `BOWLINE_SEED` repeats them. `SURVIVAL_QUICK` makes the gibibyte a hundred mebibytes.

#[path = "../scenarios/mod.rs"]
mod scenarios;
#[path = "../support/mod.rs"]
mod support;

mod client;
mod crash_points;
mod damage;
mod endings;
mod gibibyte;
mod held;
mod keeper;
mod killed_clients;
mod memory;
mod panics;
mod replacement;
mod session;
mod two_hundred;
mod upstream;

use std::net::SocketAddr;
use std::time::Duration;
use support::serve::{Serve, ServeOptions};
use support::ssh::{SshFiles, SshSetup};
use support::sshd::TestSshd;

/// No step of any test takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// A server half that lets everybody in, before any TCP service; clients are `bowline proxy` without ssh.
struct OpenHouse {
    ssh: SshFiles,
    serve: Serve,
    /// For its host keys.
    _sshd: TestSshd,
}

impl OpenHouse {
    fn before(target: SocketAddr) -> OpenHouse {
        OpenHouse::with(target, ServeOptions::here())
    }

    fn with(target: SocketAddr, options: ServeOptions) -> OpenHouse {
        OpenHouse::of(TestSshd::start(), target, options)
    }

    fn of(sshd: TestSshd, target: SocketAddr, options: ServeOptions) -> OpenHouse {
        let mut options = options.argument("--auth").argument("none");
        for key in sshd.host_keys() {
            options = options.argument("--host-key").argument(key);
        }
        let serve = Serve::start_before(target, options);
        OpenHouse {
            ssh: SshSetup::bowline(&sshd, serve.udp().port()).write(),
            serve,
            _sshd: sshd,
        }
    }

    /// The last lines of both halves' logs, for a failure.
    fn logs(&self) -> String {
        format!(
            "server half:\n{}\nclient halves:\n{}",
            last_lines(&self.serve.log()),
            last_lines(&self.ssh.proxy_log())
        )
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

/// Of an unsorted, non-empty list.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort();
    sorted[(sorted.len() - 1) * percent / 100]
}
