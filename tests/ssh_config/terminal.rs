//! Signals of a terminal: what ssh survives, its ProxyCommand survives too, and where ssh ends, so does it.

use crate::LIMIT;
use crate::support::process::{Running, pid_of, run, tree};
use crate::support::pty::open_terminal;
use crate::support::rig::Rig;
use crate::support::ssh::{HOST, SshFiles};
use crate::support::wait_for;
use rustix::process::{Signal, kill_process};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// "Promptly" for slow machines. What would wait for an outage to end takes days.
const PROMPT: Duration = Duration::from_secs(15);

/// A terminal, and a script whose terminal it is.
struct Terminal {
    keyboard: Option<File>,
    screen: Arc<Mutex<String>>,
    script: Running,
}

impl Terminal {
    fn run(ssh: &SshFiles, script: &str) -> Terminal {
        let (keyboard, theirs) = open_terminal();
        let mut command = ssh.command("setsid");
        // These tests may run in the background of a script, where SIGINT is ignored and every child inherits that.
        command.args([
            "--wait",
            "--ctty",
            "env",
            "--default-signal=INT,QUIT",
            "sh",
            "-c",
            script,
        ]);
        let end = || theirs.try_clone().expect("a terminal");
        command.stdin(end()).stdout(end()).stderr(end());
        let script = Running::spawn(&mut command);
        let screen = Arc::new(Mutex::new(String::new()));
        let mut reads = keyboard.try_clone().expect("a terminal");
        let shown = Arc::clone(&screen);
        // Ends with the terminal.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reads.read(&mut buffer) {
                shown
                    .lock()
                    .expect("no panic")
                    .push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Terminal {
            keyboard: Some(keyboard),
            screen,
            script,
        }
    }

    #[track_caller]
    fn expect(&self, text: &str) {
        let shown = || self.screen.lock().expect("no panic").clone();
        let found = wait_for(LIMIT, || shown().contains(text).then_some(()));
        assert!(found.is_some(), "no {text:?} on the screen: {}", shown());
    }

    fn press_ctrl_c(&mut self) {
        let keyboard = self.keyboard.as_mut().expect("it is there");
        keyboard.write_all(b"\x03").expect("a terminal");
    }

    /// Those that run `bowline proxy` below the script.
    fn proxies(&self) -> Vec<u32> {
        proxies_below(self.script.id())
    }
}

fn proxies_below(pid: u32) -> Vec<u32> {
    let is_proxy = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).nth(1) == Some(b"proxy")
    };
    tree(pid).into_iter().filter(is_proxy).collect()
}

/// Whether a process has ended, collected or not.
fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with('Z'));
    state.unwrap_or(true)
}

#[track_caller]
fn expect_end(pids: &[u32]) {
    assert!(!pids.is_empty(), "no proxy was found");
    let ended = wait_for(PROMPT, || pids.iter().all(|pid| has_ended(*pid)).then_some(()));
    assert!(ended.is_some(), "the proxy goes on");
}

/// ssh that joins the master, and has no other way.
fn by_master(ssh: &SshFiles, path: &str, arguments: &[&str]) -> Option<i32> {
    let path = format!("ControlPath={path}");
    let options = ["-o", &path, "-o", "ControlMaster=no", "-o", "ProxyCommand=false"];
    run(ssh.ssh(&options).args(arguments), LIMIT).code
}

/// A master that a script has started, then what happens in the script's terminal, then whether the master is well.
fn master_survives(rig: &Rig, happens: impl FnOnce(&mut Terminal)) {
    let path = rig.ssh.path("cm").display().to_string();
    let config = rig.ssh.config().display().to_string();
    let script = format!(
        "ssh -F {config} -o ControlMaster=yes -o ControlPersist=120 -o ControlPath={path} {HOST} true; echo MASTER-UP; sleep 100"
    );
    let mut terminal = Terminal::run(&rig.ssh, &script);
    terminal.expect("MASTER-UP");
    happens(&mut terminal);
    let Terminal { keyboard, script, .. } = terminal;
    script.finish(LIMIT);
    drop(keyboard);
    let alive = by_master(&rig.ssh, &path, &[HOST, "exit 7"]);
    let left = by_master(&rig.ssh, &path, &["-O", "exit", HOST]);
    assert_eq!((alive, left), (Some(7), Some(0)), "the master has ended");
}

fn ctrl_c(terminal: &mut Terminal) {
    terminal.press_ctrl_c();
}

/// The terminal goes, with all who belong to it.
fn hang_up(terminal: &mut Terminal) {
    terminal.keyboard = None;
    // The other descriptor for it is where the screen is read.
    let group = tree(terminal.script.id()).get(1).copied();
    if let Some(shell) = group {
        // What the kernel sends to the foreground group when the last descriptor is closed.
        let _ = rustix::process::kill_process_group(pid_of(shell), Signal::HUP);
    }
}

#[test]
fn a_control_persist_master_survives_what_happens_in_the_terminal_it_was_started_in() {
    for rig in [Rig::plain(), Rig::bowline()] {
        master_survives(&rig, ctrl_c);
        master_survives(&rig, hang_up);
    }
}

#[test]
fn ctrl_c_before_the_login_ends_ssh_and_the_proxy_even_in_an_outage() {
    for is_cut in [false, true] {
        let asks = "StrictHostKeyChecking ask";
        let rig = Rig::gated(|setup| setup.known_hosts("").option(asks).option("BatchMode no"));
        let mut terminal = Terminal::run(&rig.ssh, &format!("exec ssh -F {} {HOST}", rig.ssh.config().display()));
        terminal.expect("continue connecting");
        let proxies = terminal.proxies();
        if is_cut {
            rig.gate.as_ref().expect("a gate").cut();
        }
        terminal.press_ctrl_c();
        assert!(terminal.script.ended(PROMPT), "ssh goes on");
        expect_end(&proxies);
    }
}

#[test]
fn ctrl_c_while_the_session_is_being_opened_ends_ssh_and_the_proxy() {
    let rig = Rig::gated(|setup| setup);
    rig.gate.as_ref().expect("a gate").cut();
    let mut terminal = Terminal::run(&rig.ssh, &format!("exec ssh -F {} {HOST}", rig.ssh.config().display()));
    let proxies = wait_for(LIMIT, || Some(terminal.proxies()).filter(|found| !found.is_empty()));
    terminal.press_ctrl_c();
    assert!(terminal.script.ended(PROMPT), "ssh goes on");
    expect_end(&proxies.expect("a proxy"));
}

#[test]
fn a_proxy_whose_ssh_is_killed_in_an_outage_ends() {
    let rig = Rig::gated(|setup| setup);
    let (ssh, _stdin, mut stdout) = Running::start_piped(&mut rig.ssh.ssh(&[HOST, "echo up; sleep 100"]));
    let mut line = [0; 3];
    crate::support::process::read_within(&mut stdout, &mut line, LIMIT).expect("a login");
    let proxies = proxies_below(ssh.id());
    rig.gate.as_ref().expect("a gate").cut();
    kill_process(pid_of(ssh.id()), Signal::KILL).expect("our own child");
    expect_end(&proxies);
}
