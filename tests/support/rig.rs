//! A whole set-up in one value: sshd, where wanted the server half and a bad path before it, and the user's files.
//!
//! The same rig stands over plain TCP, so that every scenario can be shown to be fair to begin with.

use super::gate::UdpGate;
use super::lab::Lab;
use super::place::Place;
use super::relay::{REGISTERED, Relay};
use super::serve::{Serve, ServeOptions};
use super::ssh::{SshFiles, SshSetup};
use super::sshd::TestSshd;
use super::wait_for;

/// The parts, in the order in which they are to end.
pub struct Rig {
    pub ssh: SshFiles,
    pub serve: Option<Serve>,
    pub gate: Option<UdpGate>,
    pub sshd: TestSshd,
}

impl Rig {
    /// Plain ssh over loopback.
    pub fn plain() -> Rig {
        let sshd = TestSshd::start();
        Rig {
            ssh: SshSetup::plain(&sshd).write(),
            serve: None,
            gate: None,
            sshd,
        }
    }

    /// ssh over bowline over loopback.
    pub fn bowline() -> Rig {
        Rig::with(ServeOptions::here(), |setup| setup)
    }

    /// ssh over bowline, where every carrier is closed loudly so long after its attach.
    pub fn faulty(close_after: &str) -> Rig {
        Rig::with(ServeOptions::here(), |setup| {
            setup.fault(&format!("close-carrier-after={close_after}"))
        })
    }

    /// ssh over bowline with everything adjustable.
    pub fn with(options: ServeOptions, adjust: impl FnOnce(SshSetup) -> SshSetup) -> Rig {
        let sshd = TestSshd::start();
        let serve = Serve::start(&sshd, options);
        let ssh = adjust(SshSetup::bowline(&sshd, serve.udp().port())).write();
        Rig {
            ssh,
            serve: Some(serve),
            gate: None,
            sshd,
        }
    }

    /// ssh over bowline through a gate that a test can make as bad as it likes.
    pub fn gated(adjust: impl FnOnce(SshSetup) -> SshSetup) -> Rig {
        let sshd = TestSshd::start();
        let serve = Serve::start(&sshd, ServeOptions::here());
        let gate = UdpGate::to(serve.udp());
        let ssh = adjust(SshSetup::bowline(&sshd, gate.port())).write();
        Rig {
            ssh,
            serve: Some(serve),
            gate: Some(gate),
            sshd,
        }
    }

    /// Plain ssh between the lab's `client` and `server`.
    pub fn plain_in(lab: &Lab) -> Rig {
        Rig::plain_between(lab.place("client"), lab.place("server"))
    }

    /// Plain ssh from one place to another.
    pub fn plain_between(client: Place, server: Place) -> Rig {
        Rig::plain_with(client, server, |setup| setup)
    }

    /// ssh without bowline from one place to another, with everything adjustable.
    pub fn plain_with(client: Place, server: Place, adjust: impl FnOnce(SshSetup) -> SshSetup) -> Rig {
        let sshd = TestSshd::start_at(server, "");
        Rig {
            ssh: adjust(SshSetup::plain(&sshd).at(client)).write(),
            serve: None,
            gate: None,
            sshd,
        }
    }

    /// ssh over bowline between the lab's `client` and `server`.
    pub fn bowline_in(lab: &Lab) -> Rig {
        Rig::with_in(lab, ServeOptions::here(), |setup| setup)
    }

    /// The same, and the server half listens for TLS too, at the port that client halves expect.
    pub fn tls_in(lab: &Lab) -> Rig {
        Rig::with_in(
            lab,
            ServeOptions::here().argument("--listen-tls").argument("443"),
            |setup| setup,
        )
    }

    /// ssh over bowline between the lab's `client` and `server`, with everything adjustable.
    pub fn with_in(lab: &Lab, options: ServeOptions, adjust: impl FnOnce(SshSetup) -> SshSetup) -> Rig {
        let place = lab.place("server");
        Rig::between(lab.place("client"), ServeOptions { place, ..options }, adjust)
    }

    /// ssh over bowline from a place to that of the server half.
    pub fn between(client: Place, options: ServeOptions, adjust: impl FnOnce(SshSetup) -> SshSetup) -> Rig {
        // sshd listens on the place's own address, so that plain ssh reaches it too.
        let sshd = TestSshd::start_at(options.place.clone(), "");
        let serve = Serve::start(&sshd, options);
        let setup = SshSetup::bowline(&sshd, serve.udp().port()).at(client);
        let ssh = adjust(setup).write();
        Rig {
            ssh,
            serve: Some(serve),
            gate: None,
            sshd,
        }
    }

    /// ssh over bowline, where the lab's `client` reaches its `server` by these relays only.
    ///
    /// # Panics
    /// When the server half is not listed at each in time, with its log.
    pub fn relayed_in(lab: &Lab, relays: &[Relay]) -> Rig {
        let names: Vec<String> = relays.iter().map(Relay::name).collect();
        let options = names.iter().fold(ServeOptions::here(), |options, name| {
            options.argument("--relay").argument(name)
        });
        let rig = Rig::with_in(lab, options, |setup| {
            let flag = |setup: SshSetup, name: &String| setup.proxy_arguments(&["--relay", name]);
            names.iter().fold(setup, flag)
        });
        let times = || rig.serve().logged("event=\"registered\"");
        let listed = wait_for(REGISTERED, || (times() >= relays.len()).then_some(()));
        assert!(listed.is_some(), "registered everywhere: {}", rig.serve().log());
        rig
    }

    /// The gate of a gated rig.
    pub fn gate(&self) -> &UdpGate {
        self.gate.as_ref().expect("a gated rig")
    }

    /// The server half of a rig that has one.
    pub fn serve(&self) -> &Serve {
        self.serve.as_ref().expect("a rig over bowline")
    }

    /// How often the client halves came back to a session.
    pub fn resumes(&self) -> usize {
        self.ssh.proxy_logged("resumed")
    }
}
