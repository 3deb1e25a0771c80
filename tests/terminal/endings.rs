//! How it ends, and what is left behind: nothing.

use crate::support::ssh::HOST;
use crate::support::wait_for;
use crate::{Desk, LIMIT, PROMPT, THERE, expect_gone, kill};
use rustix::process::Signal;
use std::path::Path;

#[test]
fn exit_codes_are_those_of_the_remote_program() {
    let mut desk = Desk::new();
    for code in [0, 1, 7, 255] {
        desk.pty.enter(&format!(
            "./bssh -F ssh_config -t {HOST} exit {code}; echo \"code=$?.\""
        ));
        desk.expect_end(code);
    }
}

#[test]
fn the_last_output_before_the_end_is_shown_whole() {
    let mut desk = Desk::new();
    for _ in 0..5 {
        desk.pty.enter(&format!(
            "./bssh -F ssh_config -t {HOST} 'seq 20000; echo the-end'; echo \"code=$?.\""
        ));
        desk.pty.expect("\r\n20000\r\nthe-end\r\n");
        desk.expect_end(0);
    }
}

#[test]
fn a_signal_that_ends_ssh_ends_bowline_and_the_terminal_is_restored() {
    let mut desk = Desk::new();
    for signal in [Signal::KILL, Signal::ABORT] {
        desk.log_in("");
        kill(desk.ssh(), signal);
        desk.expect_end(128 + signal.as_raw());
    }
}

#[test]
fn a_program_on_the_whole_screen_leaves_no_modes_behind_if_ssh_is_killed() {
    let mut desk = Desk::new();
    desk.log_in("");
    desk.pty
        .enter(r"printf '\033[?1049h\033[?1000h\033[?2004h\033[?25l'; echo on-$((1+1))");
    desk.pty.expect("on-2");
    kill(desk.ssh(), Signal::KILL);
    let start = desk.pty.seen();
    desk.expect_end(137);
    let shown = String::from_utf8_lossy(&desk.pty.shown_since(start)).into_owned();
    for undone in ["\x1b[?1049l", "\x1b[?1000l", "\x1b[?2004l", "\x1b[?25h"] {
        assert!(shown.contains(undone), "{undone:?} in {shown:?}");
    }
}

#[test]
fn signals_sent_to_bowline_end_ssh_in_order() {
    let mut desk = Desk::new();
    for signal in [Signal::TERM, Signal::HUP] {
        desk.log_in("");
        let all = [desk.pty.processes("ssh"), desk.pty.processes("bowline")].concat();
        kill(desk.bowline(), signal);
        desk.expect_end(255);
        expect_gone(&all);
    }
}

#[test]
fn no_ssh_stays_behind_if_bowline_or_the_process_between_is_killed() {
    let mut desk = Desk::new();
    for index in [0, 1] {
        for trap in ["", "trap '' HUP; "] {
            desk.pty.enter(&format!(
                "{trap}./bssh -F ssh_config -t {HOST} \"PS1='there''> ' exec sh\""
            ));
            desk.pty.expect(THERE);
            let (ssh, bowline) = (desk.ssh(), desk.pty.processes("bowline"));
            kill(bowline[index], Signal::KILL);
            expect_gone(&[&[ssh][..], &bowline].concat());
            desk.pty.expect(PROMPT);
            // As after any program that was killed.
            desk.pty.enter("trap - HUP; stty sane");
            desk.pty.expect(PROMPT);
        }
    }
}

#[test]
fn the_socket_of_a_killed_bowline_is_removed_by_the_next() {
    let mut desk = Desk::new();
    let sockets = |desk: &Desk| {
        let files = std::fs::read_dir(desk.rig.ssh.path("run")).expect("the runtime folder");
        let names = files.map(|file| file.expect("a file").file_name().into_string().expect("a name"));
        names.filter(|name| name.starts_with("terminal-")).collect::<Vec<_>>()
    };
    desk.log_in("");
    let first = sockets(&desk);
    assert_eq!(first.len(), 1, "{first:?}");
    kill(desk.bowline(), Signal::KILL);
    desk.pty.expect(PROMPT);
    assert_eq!(sockets(&desk), first, "it could not remove it");
    desk.pty.enter("stty sane");
    desk.pty.expect(PROMPT);
    desk.log_in("");
    let second = sockets(&desk);
    assert!(second.len() == 1 && second != first, "{first:?}, {second:?}");
}

#[test]
fn keys_at_the_end_are_left_to_the_shell_if_the_terminal_does_not_say_where_its_cursor_is() {
    let mut desk = Desk::new();
    desk.pty.set_silent();
    desk.log_in("");
    let (ssh, between) = (desk.ssh(), desk.pty.processes("bowline")[1]);
    kill(ssh, Signal::KILL);
    // Once bowline has collected it, it knows of the end. It still waits for the answer.
    let collected = wait_for(LIMIT, || {
        (!Path::new(&format!("/proc/{between}")).exists()).then_some(())
    });
    assert!(collected.is_some(), "the process between ends");
    for key in ["i", "d"] {
        desk.pty.press(key);
    }
    desk.expect_end(137);
    desk.pty.press("\r");
    desk.pty.expect("uid=");
}

#[test]
fn no_ssh_stays_behind_if_bowline_is_killed_while_ssh_is_stopped() {
    let mut desk = Desk::new();
    desk.log_in("");
    desk.pty.press("\r~\x1a");
    desk.pty.expect("Stopped");
    let all = [desk.pty.processes("ssh"), desk.pty.processes("bowline")].concat();
    kill(desk.bowline(), Signal::KILL);
    expect_gone(&all);
}

#[test]
fn one_runs_inside_another() {
    let mut desk = Desk::new();
    desk.log_in("");
    let folder = desk.rig.ssh.path("");
    let home = folder.display();
    desk.pty.enter(&format!(
        "cd {home} && HOME={home} ./bssh -F ssh_config -t {HOST} 'echo inner-$((1+1)); cat'"
    ));
    desk.pty.expect("inner-2");
    desk.pty.enter("echoed");
    desk.pty.expect("echoed\r\nechoed\r\n");
    // The second tilde is for the inner one.
    desk.pty.press("\r~~.");
    desk.pty.expect(THERE);
    desk.pty.enter("exit 9");
    desk.expect_end(9);
}
