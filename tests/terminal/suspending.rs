//! ssh's escapes, job control, and the size of the terminal.

use crate::support::pty::size;
use crate::support::ssh::HOST;
use crate::support::wait_for;
use crate::{Desk, LIMIT, PROMPT, THERE, kill};
use rustix::process::Signal;

#[test]
fn the_escape_tilde_dot_ends_ssh() {
    let mut desk = Desk::new();
    desk.log_in("");
    desk.pty.press("\r~?");
    desk.pty.expect("Supported escape sequences");
    desk.pty.press("\r~.");
    desk.expect_end(255);
}

#[test]
fn the_escape_tilde_ctrl_z_stops_the_job_and_fg_continues_it() {
    let mut desk = Desk::new();
    desk.log_in("");
    for round in 0..2 {
        desk.pty.press("\r~\x1a");
        desk.pty.expect("[suspend ssh]");
        desk.pty.expect("Stopped");
        desk.pty.expect(PROMPT);
        assert!(desk.pty.is_cooked(), "the shell has its terminal");
        assert_eq!(state(desk.ssh()), 'T', "ssh is stopped");
        desk.pty.enter(&format!("echo here-$(({round}+40)); fg"));
        desk.pty.expect(format!("here-{}", round + 40));
        desk.pty.press("\r");
        desk.pty.expect(THERE);
        desk.pty.enter(&format!("echo there-$(({round}+50))"));
        desk.pty.expect(format!("there-{}", round + 50));
    }
    desk.pty.enter("exit 6");
    desk.pty.expect(PROMPT);
    assert!(desk.pty.is_cooked());
}

#[test]
fn ctrl_z_at_a_question_stops_the_job_and_fg_asks_again() {
    let mut desk = Desk::with(|setup| {
        let setup = setup.known_hosts("").option("StrictHostKeyChecking ask");
        setup.option("BatchMode no")
    });
    desk.start("-t", HOST);
    desk.pty.expect("continue connecting (yes/no");
    desk.pty.press("\x1a");
    desk.pty.expect("Stopped");
    desk.pty.expect(PROMPT);
    desk.pty.enter("fg");
    desk.pty.expect("bssh");
    desk.pty.enter("yes");
    desk.pty.expect(THERE);
}

#[test]
fn a_new_size_reaches_the_remote_terminal_while_running_and_while_stopped() {
    let mut desk = Desk::new();
    desk.log_in("");
    desk.pty.enter("stty size");
    desk.pty.expect("24 80\r\n");
    desk.pty.resize(size(5000, 3));
    until_size(&mut desk, "3 5000");
    desk.pty.resize(size(1, 1));
    until_size(&mut desk, "1 1");
    desk.pty.press("\r~\x1a");
    desk.pty.expect("Stopped");
    desk.pty.expect(PROMPT);
    desk.pty.resize(size(132, 43));
    desk.pty.enter("fg");
    desk.pty.press("\r");
    until_size(&mut desk, "43 132");
}

/// The size travels beside the keys, so the first answers may have the old one.
fn until_size(desk: &mut Desk, wanted: &str) {
    let wanted = format!("size={wanted}=");
    let mut line = "until [ \"$(stty size)\" = 'WANTED' ]; do sleep 0.05; done; echo size=$(stty size)=".to_owned();
    line = line.replace("WANTED", wanted.trim_matches(['s', 'i', 'z', 'e', '=']));
    desk.pty.enter(&line);
    desk.pty.expect(wanted);
}

#[test]
fn a_stop_signal_from_outside_leaves_a_terminal_that_works_after_fg() {
    let mut desk = Desk::new();
    desk.log_in("");
    kill(desk.bowline(), Signal::STOP);
    desk.pty.expect("Stopped");
    desk.pty.enter("stty sane; echo here-$((1+1)); fg");
    desk.pty.expect("here-2");
    desk.pty.press("\r");
    desk.pty.expect(THERE);
    desk.pty.enter("stty -a | grep -c rows; exit 8");
    desk.pty.expect("1\r\n");
    desk.pty.expect(PROMPT);
}

fn state(pid: u32) -> char {
    let found = wait_for(LIMIT, || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    });
    found.expect("a process")
}
