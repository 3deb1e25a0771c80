//! A session on such a connection goes on over everything that a session goes on over.

use crate::net::{CLIENT, Net};
use crate::support::process::Running;
use crate::support::ssh::{HOST, SshFiles};
use crate::support::wait_for;
use crate::{EVERYWHERE, LIMIT, Server, possible};
use std::io::{BufRead, BufReader, Write};
use std::process::ChildStdin;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// `ssh box cat`, spoken with line by line.
struct Talk {
    running: Running,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Talk {
    fn start(ssh: &SshFiles) -> Talk {
        let mut command = ssh.ssh(&[HOST, "cat"]);
        let (running, stdin, stdout) = Running::start_piped(&mut command);
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Talk {
            running,
            stdin: Some(stdin),
            lines,
        }
    }

    /// Says something and waits until it comes back.
    #[track_caller]
    fn echoes(&mut self, text: &str) {
        let stdin = self.stdin.as_mut().expect("not yet ended");
        writeln!(stdin, "{text}").expect("ssh runs");
        let line = self.lines.recv_timeout(Duration::from_secs(30));
        assert_eq!(line.as_deref(), Ok(text), "the session goes on");
    }

    #[track_caller]
    fn end(mut self) {
        drop(self.stdin.take());
        assert_eq!(self.running.finish(LIMIT).code, Some(0), "it ends well");
    }
}

#[test]
fn a_session_goes_on_after_the_client_moves_the_worker_is_killed_reloaded_and_replaced() {
    if !possible("survival of sessions from clients' addresses") {
        return;
    }
    let net = Net::up();
    let mut server = Server::start(&net, "real", EVERYWHERE);
    let ssh = server.ssh(&net);
    let mut talk = Talk::start(&ssh);
    talk.echoes("opened");
    assert!(
        server
            .sshd
            .log()
            .contains(&format!("Accepted publickey for root from {CLIENT} "))
    );

    net.move_client();
    talk.echoes("moved");

    server.serve.half().kill_worker();
    talk.echoes("the worker was killed");

    server.serve.reload();
    talk.echoes("reloaded");
    assert!(net.is_set_up());

    server.serve.replace(None, &[]);
    talk.echoes("replaced");
    assert!(net.is_set_up());
    talk.end();

    assert_eq!(server.serve.stop(LIMIT), Some(0));
    assert!(!net.is_set_up(), "all is as before");
}

#[test]
fn after_its_keeper_was_killed_sessions_go_on_and_a_new_one_is_for_sshd_on_loopback_or_refused() {
    if !possible("a keeper without rights") {
        return;
    }
    for (client_address, expected) in [("auto", "127."), ("real", "refused")] {
        let net = Net::up();
        let server = Server::start(&net, client_address, EVERYWHERE);
        assert_eq!(server.shown(), "real", "{}", server.serve.log());
        let ssh = server.ssh(&net);
        let mut talk = Talk::start(&ssh);
        talk.echoes("opened");
        let before = server.serve.logged("a new keeper has taken over");
        server.serve.half().kill_keeper();
        let raised = wait_for(LIMIT, || {
            (server.serve.logged("a new keeper has taken over") > before).then_some(())
        });
        assert!(raised.is_some(), "{}", server.serve.log());
        talk.echoes("the keeper was killed");
        let outcome = server.ssh(&net).remote("echo $SSH_CONNECTION", LIMIT);
        match expected {
            "refused" => {
                assert_eq!(outcome.code, Some(255), "{}", outcome.err());
                assert!(outcome.err().contains("lost its privileges"), "{}", outcome.err());
            }
            address => assert!(
                outcome.out().starts_with(address),
                "{} {}",
                outcome.out(),
                outcome.err()
            ),
        }
        talk.echoes("still there");
        talk.end();
    }
}
