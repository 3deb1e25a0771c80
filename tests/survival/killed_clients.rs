//! Clients that are killed leave their sessions behind. A new client of the same key takes the place of the oldest of
//! these, and of nobody else's.

use crate::LIMIT;
use crate::scenarios::ticker::Ticker;
use crate::support::gate::UdpGate;
use crate::support::place::Place;
use crate::support::process::{Running, run};
use crate::support::rig::Rig;
use crate::support::serve::{Serve, ServeOptions};
use crate::support::ssh::{SshFiles, SshSetup};
use crate::support::sshd::{self, TestSshd, make_key, public_key};
use crate::support::{BOWLINE, heavy, now, wait_for};
use rustix::process::Signal;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

/// Limits of the server half.
const SESSIONS: usize = 100;
/// Minutes, for a user.
const ABANDONED_AFTER: Duration = Duration::from_secs(20);
/// QUIC's idle timeout: a client that says nothing is one in an outage from then on.
const DETACHED: Duration = Duration::from_secs(60);
/// As many at once as a machine starts without a queue.
const AT_ONCE: usize = 8;
/// Sessions that are opened although the limit is reached.
const MORE: usize = 10;

/// A server half where a key has as many sessions as there may be, and the limit of one key is that of all.
struct Crowded {
    serve: Serve,
    sshd: TestSshd,
}

impl Crowded {
    fn new() -> Crowded {
        // sshd itself is not to end those that did not log in, nor to lock out their address for that.
        let penalties = if sshd::version() >= 908 {
            "PerSourcePenalties no"
        } else {
            ""
        };
        let sshd = TestSshd::start_at(Place::here(), &format!("LoginGraceTime 0\n{penalties}"));
        let tls = format!("{}:0", Place::here().address);
        let mut options = ServeOptions::here().argument("--listen-tls").argument(tls);
        for (option, value) in [
            ("--max-sessions", SESSIONS.to_string()),
            ("--max-sessions-per-key", SESSIONS.to_string()),
            ("--abandoned-after", format!("{}s", ABANDONED_AFTER.as_secs())),
        ] {
            options = options.argument(option).argument(value);
        }
        Crowded {
            serve: Serve::start(&sshd, options),
            sshd,
        }
    }

    /// A client whose files are its own, as in a container: none that comes later can clean up after it.
    fn client(&self) -> SshSetup {
        let tls = self.serve.ready_field("tls").expect("a TLS port");
        let port = tls.rsplit(':').next().expect("a port");
        SshSetup::bowline(&self.sshd, self.serve.udp().port()).proxy_arguments(&[
            "--transport",
            "tls",
            "--tls-port",
            port,
        ])
    }

    /// Opens a session and kills its proxy.
    fn open_and_kill(&self) {
        let files = self.client().write();
        let (running, _stdin, mut stdout) = Running::start_piped(&mut files.proxy());
        let mut greeting = [0; 8];
        let read = stdout.read_exact(&mut greeting);
        assert!(read.is_ok(), "no session: {}", running.err_so_far());
        assert_eq!(&greeting, b"SSH-2.0-");
        running.signal(Signal::KILL);
    }

    fn states(&self) -> Vec<String> {
        let mut status = Command::new(BOWLINE);
        status
            .args(["status", "--json", "--runtime-dir"])
            .arg(self.serve.path("run"));
        let told = run(&mut status, LIMIT).expect_code(0);
        let document: Value = serde_json::from_slice(&told.stdout).expect("a document");
        let sessions = document["sessions"].as_array().expect("sessions");
        let states = sessions.iter().filter_map(|session| session["state"].as_str());
        states.map(str::to_owned).collect()
    }

    fn detached(&self) -> usize {
        self.states().iter().filter(|state| *state == "detached").count()
    }
}

#[test]
fn a_key_whose_clients_are_killed_is_not_locked_out_and_one_in_an_outage_lives() {
    let _turn = heavy();
    let crowded = Crowded::new();
    let gate = UdpGate::to(crowded.serve.udp());
    let rig = Rig {
        ssh: SshSetup::bowline(&crowded.sshd, gate.port()).write(),
        serve: None,
        gate: Some(gate),
        sshd: TestSshd::start(),
    };
    let mut in_outage = Ticker::start(&rig);
    for first in (1..SESSIONS).step_by(AT_ONCE) {
        std::thread::scope(|scope| {
            for _ in first..SESSIONS.min(first + AT_ONCE) {
                scope.spawn(|| crowded.open_and_kill());
            }
        });
    }
    rig.gate().cut();
    let all = wait_for(DETACHED, || (crowded.detached() == SESSIONS).then_some(()));
    assert!(all.is_some(), "{:?}", crowded.states());

    // Another key has no session of its own to give for one.
    let other = crowded.sshd.user_key().with_file_name("other");
    make_key(&other, "ed25519");
    let mut keys = File::options()
        .append(true)
        .open(crowded.sshd.authorized_keys())
        .expect("the file");
    writeln!(keys, "{}", public_key(&other)).expect("one more line");
    let refused = remote(&crowded.client().identity(Some(other)).write()).expect_code(255);
    assert!(
        refused.err().contains("100 sessions are open, no more are allowed"),
        "{}",
        refused.err()
    );
    assert_eq!(crowded.serve.logged("ending the session of this key"), 0);

    for round in 0..MORE {
        let opened = remote(&crowded.client().write());
        assert_eq!(
            opened.code,
            Some(7),
            "session {round} more: {}\n{}",
            opened.err(),
            crowded.serve.log()
        );
        crowded.open_and_kill();
    }
    let ended = crowded.serve.logged("ending the session of this key");
    assert!((MORE..=2 * MORE).contains(&ended), "{ended} sessions ended for {MORE}");
    let back = now();
    rig.gate().restore();
    in_outage.next_line_after(back, Duration::from_secs(20));
    in_outage.finish_in_order();
}

fn remote(ssh: &SshFiles) -> crate::support::process::Outcome {
    ssh.remote("exit 7", LIMIT)
}
