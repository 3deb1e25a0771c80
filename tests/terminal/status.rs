//! `bowline status` and `bowline kill` know on which terminal a session is.

use crate::support::BOWLINE;
use crate::support::process::{Outcome, run};
use crate::{Desk, LIMIT, PROMPT};
use serde_json::Value;
use std::fs;

fn bowline(desk: &Desk, arguments: &[&str]) -> Outcome {
    let mut command = desk.rig.ssh.command(BOWLINE);
    command
        .args(arguments)
        .arg("--runtime-dir")
        .arg(desk.rig.ssh.path("run"));
    run(&mut command, LIMIT)
}

fn session(desk: &Desk) -> Value {
    let said = bowline(desk, &["status", "--json"]).expect_code(0);
    let mut said: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    let sessions = said["sessions"].as_array_mut().expect("sessions");
    assert_eq!(sessions.len(), 1, "{sessions:#?}");
    sessions.remove(0)
}

#[test]
fn status_tells_the_terminal_and_the_time_of_the_last_key_and_kill_takes_the_terminal() {
    let mut desk = Desk::new();
    let device = fs::read_link(format!("/proc/{}/fd/0", desk.pty.shell.id())).expect("a terminal");
    let name = device.strip_prefix("/dev").expect("a terminal").display().to_string();
    desk.log_in("");
    let before = session(&desk);
    assert_eq!(before["terminal"], *name);
    assert_eq!(
        before["last_key_ms"],
        Value::Null,
        "the answer of the terminal is no key"
    );
    desk.pty.enter("echo up-$((1+1))");
    desk.pty.expect("up-2\r\n");
    let typed = session(&desk);
    let age = typed["last_key_ms"].as_u64().expect("a time");
    assert!(age < 30_000, "{age}");
    let table = bowline(&desk, &["status"]).expect_code(0).out();
    assert!(
        table.contains("TERMINAL") && table.contains(&name) && table.contains(" s ago"),
        "{table}"
    );

    // It does not answer, and is known all the same.
    desk.pty.press("\r~\x1a");
    desk.pty.expect("Stopped");
    desk.pty.expect(PROMPT);
    let stopped = session(&desk);
    assert_eq!(stopped["terminal"], *name);
    assert_eq!(stopped["last_key_ms"], Value::Null);
    desk.pty.enter("fg");
    desk.pty.expect("bssh");

    let other = bowline(&desk, &["kill", "/dev/pts/99999"]).expect_code(69);
    assert!(
        other.err().contains("no session here has the terminal pts/99999"),
        "{}",
        other.err()
    );
    let ended = bowline(&desk, &["kill", &name]).expect_code(0);
    assert!(ended.out().contains(&format!(" on {name})")), "{}", ended.out());
    desk.pty.expect(PROMPT);
    assert!(desk.pty.is_cooked(), "ssh has ended");
}
