//! sshd sees the client's own address: `--client-address real`, with a real sshd, in network namespaces.
//!
//! Without root for namespaces nothing of it can be tested, and each test says so.

#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod exact;
mod firewalls;
mod net;
mod set_up;
mod survives;

use net::Net;
use std::time::Duration;
use support::serve::{Serve, ServeOptions};
use support::ssh::{SshFiles, SshSetup};
use support::sshd::TestSshd;

/// No step of any test takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// What ssh ends with when its proxy is refused, or the login.
const REFUSED: i32 = 255;

/// sshd as on most machines: at every address.
const EVERYWHERE: &str = "ListenAddress 0.0.0.0\nListenAddress ::\n";

/// How the server half is started.
fn options(net: &Net, client_address: &str) -> ServeOptions {
    let mut options = ServeOptions::here()
        .argument("--client-address")
        .argument(client_address);
    options.place = net.server();
    options
}

/// A server half with sshd behind it, on the server of a net.
struct Server {
    sshd: TestSshd,
    serve: Serve,
}

impl Server {
    fn start(net: &Net, client_address: &str, sshd_config: &str) -> Server {
        Server::with(net, options(net, client_address), sshd_config)
    }

    /// The same, with rules and with `Match` blocks of sshd.
    fn with_rules(net: &Net, rules: &str, match_blocks: &str) -> Server {
        let sshd = TestSshd::start_with(net.server(), rules, match_blocks);
        let serve = Serve::start(&sshd, options(net, "real"));
        Server { sshd, serve }
    }

    fn with(net: &Net, options: ServeOptions, sshd_config: &str) -> Server {
        let sshd = TestSshd::start_at(net.server(), sshd_config);
        let serve = Serve::start(&sshd, options);
        Server { sshd, serve }
    }

    /// ssh on the client, through bowline.
    fn ssh(&self, net: &Net) -> SshFiles {
        self.setup(net).write()
    }

    fn setup(&self, net: &Net) -> SshSetup {
        SshSetup::bowline(&self.sshd, self.serve.udp().port()).at(net.client())
    }

    /// Which address of clients sshd sees, as the server half says when it is ready.
    fn shown(&self) -> &str {
        self.serve
            .ready_field("client-address")
            .expect("a field of the ready line")
    }
}

/// Whether the tests can be run here.
fn possible(test: &str) -> bool {
    support::lab::Lab::possible(test)
}
