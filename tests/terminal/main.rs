//! `bowline ssh` on a real terminal, under a real shell with job control, with real ssh and sshd.

#[path = "../support/mod.rs"]
mod support;

mod endings;
mod outages;
mod output;
mod prediction;
mod prompts;
mod shells;
mod status;
mod staying;
mod suspending;
mod tmux;

use std::time::Duration;
use support::BOWLINE;
use support::process::pid_of;
use support::pty::{PROMPT, Pty, size};
use support::rig::Rig;
use support::serve::ServeOptions;
use support::ssh::{HOST, SshSetup};
use support::{wait_for, write_program};

/// No step takes longer.
const LIMIT: Duration = Duration::from_secs(30);

/// What the remote shell asks for commands with.
const THERE: &str = "there> ";

/// The server's side and the user before the terminal.
struct Desk {
    rig: Rig,
    pty: Pty,
}

impl Desk {
    fn new() -> Desk {
        Desk::with(|setup| setup)
    }

    fn with(adjust: impl FnOnce(SshSetup) -> SshSetup) -> Desk {
        Desk::of(Rig::with(ServeOptions::here(), adjust))
    }

    /// The path goes through the rig's gate if it has one. `bssh` is `bowline ssh` with what this rig needs.
    fn of(rig: Rig) -> Desk {
        let port = rig.gate.as_ref().map_or(rig.serve().udp().port(), |gate| gate.port());
        let script = format!(
            "exec {BOWLINE} ssh --port {port} --transport quic --state-dir {} --runtime-dir {} \"$@\"",
            rig.ssh.state().display(),
            rig.ssh.path("run").display()
        );
        write_program(&rig.ssh.path("bssh"), &script);
        let mut setsid = rig.ssh.command("setsid");
        setsid.current_dir(rig.ssh.path(""));
        let pty = Pty::start(setsid, size(80, 24), LIMIT);
        Desk { rig, pty }
    }

    /// Starts a shell there, as `ssh -t`.
    fn log_in(&mut self, options: &str) {
        self.start(&format!("{options} -t"), HOST);
        self.pty.expect(THERE);
    }

    /// Types `bowline ssh` with a small shell as the command.
    fn start(&mut self, options: &str, host: &str) {
        let line = format!("./bssh -F ssh_config {options} {host} \"PS1='there''> ' exec sh\"; echo \"code=$?.\"");
        self.pty.enter(&line);
    }

    /// The shell here has its prompt and its terminal back.
    #[track_caller]
    fn expect_end(&mut self, code: i32) {
        self.pty.expect(format!("code={code}."));
        self.pty.expect(PROMPT);
        assert!(self.pty.is_cooked(), "the terminal has its modes back");
    }

    /// The one ssh that runs on a terminal of its own.
    #[track_caller]
    fn ssh(&self) -> u32 {
        let found = self.pty.processes("ssh");
        assert_eq!(found.len(), 1, "one ssh");
        found[0]
    }

    /// The nearest process to the shell that is bowline's.
    #[track_caller]
    fn bowline(&self) -> u32 {
        *self.pty.processes("bowline").first().expect("bowline in front of ssh")
    }
}

fn kill(pid: u32, signal: rustix::process::Signal) {
    rustix::process::kill_process(pid_of(pid), signal).expect("a process of this test");
}

/// Whether it has ended, collected or not.
fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('Z'));
    state.unwrap_or(true)
}

#[track_caller]
fn expect_gone(pids: &[u32]) {
    assert!(!pids.is_empty(), "there are processes to wait for");
    let ended = wait_for(LIMIT, || pids.iter().all(|pid| has_ended(*pid)).then_some(()));
    assert!(ended.is_some(), "a process stays behind");
}
