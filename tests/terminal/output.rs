//! Bytes pass unchanged, at any size of the terminal, and at the terminal's pace.

use crate::support::data::{hash_bytes, random_bytes};
use crate::support::pty::size;
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use crate::support::{measured, wait_for};
use crate::{Desk, LIMIT, PROMPT, THERE, expect_gone, kill};
use rustix::process::Signal;
use std::fs;
use std::time::Duration;

#[test]
fn bytes_of_any_kind_are_shown_unchanged_in_terminals_of_any_size() {
    let mut desk = Desk::new();
    let bytes = random_bytes(7, 300_000);
    fs::write(desk.rig.ssh.path("bytes"), &bytes).expect("the scratch folder");
    for (columns, rows) in [(80, 24), (1, 1), (5000, 2), (0, 0)] {
        desk.pty.resize(size(columns, rows));
        let path = desk.rig.ssh.path("bytes");
        let command = format!("stty raw; echo begins=; cat {}; echo; echo =ends", path.display());
        desk.pty.enter(&format!(
            "./bssh -F ssh_config -t {HOST} '{command}'; echo \"code=$?.\""
        ));
        desk.pty.expect("begins=\n");
        let start = desk.pty.seen();
        desk.pty.expect("\n=ends\n");
        let shown = &desk.pty.shown_since(start)[..bytes.len()];
        assert_eq!(hash_bytes(shown), hash_bytes(&bytes), "{columns}x{rows}");
        desk.expect_end(0);
    }
}

#[test]
fn typed_lines_run_once_in_a_terminal_of_one_cell_and_of_5000_columns() {
    let mut desk = Desk::of(Rig::gated(|setup| setup));
    for (columns, rows) in [(1, 1), (5000, 2)] {
        desk.pty.resize(size(columns, rows));
        let command = "TERM=xterm exec bash --norc --noprofile -i";
        desk.pty.enter(&format!(
            "./bssh --predict always -F ssh_config -t {HOST} '{command}'; echo \"code=$?.\""
        ));
        // The line editor is ready.
        desk.pty.expect("\x1b[?2004h");
        desk.rig.gate().set("delay=100");
        for key in "echo up-$((1+1))".chars() {
            desk.pty.press(key.to_string());
        }
        desk.pty.enter("");
        desk.pty.expect("up-2\r\n");
        desk.pty.enter("exit 3");
        desk.expect_end(3);
        desk.rig.gate().set("delay=0");
    }
}

#[test]
fn a_terminal_that_stops_reading_stops_the_program_and_loses_nothing() {
    let mut desk = Desk::new();
    desk.log_in("");
    let counter = desk.rig.ssh.path("counter");
    let script = format!(
        "seq -f %010.0f 300000 | tee {} ; echo the-end-$((1+1))",
        counter.display()
    );
    desk.pty.set_reading(false);
    desk.pty.enter(&script);
    let written = || fs::metadata(&counter).map_or(0, |file| file.len());
    // It stops once all on the way is full: nothing more within a second.
    let mut before = (written(), crate::support::now());
    let stopped = wait_for(LIMIT, || {
        let now = written();
        if now != before.0 {
            before = (now, crate::support::now());
        }
        (now > 0 && before.1.elapsed() > Duration::from_secs(1)).then_some(now)
    });
    let stopped = stopped.expect("the program stops");
    measured("bytes on their way when the terminal does not read", stopped);
    assert!(stopped < 3_300_000, "it has not written all");
    let memory = fs::read_to_string(format!("/proc/{}/status", desk.bowline())).expect("a process");
    let own = memory
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .unwrap_or_default()
        .trim();
    measured("memory of bowline in front of ssh (RssAnon)", own);
    let start = desk.pty.mark();
    desk.pty.set_reading(true);
    desk.pty.expect("the-end-2\r\n");
    let shown = desk.pty.shown_since(start);
    let text = String::from_utf8_lossy(&shown);
    let numbers = text.lines().filter_map(|line| line.trim().parse::<u32>().ok());
    let numbers: Vec<u32> = numbers.collect();
    assert!(numbers.len() > 250_000, "{} lines", numbers.len());
    assert!(
        numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "in order, without a gap"
    );
    desk.pty.enter("exit 0");
    desk.expect_end(0);
}

#[test]
fn what_ssh_says_at_the_end_comes_behind_all_output() {
    let mut desk = Desk::new();
    let command = "seq 100000; echo the-end-$((1+1))";
    desk.pty.enter(&format!(
        "./bssh -F ssh_config -o LogLevel=INFO -t {HOST} '{command}'; echo \"code=$?.\""
    ));
    desk.pty.expect("the-end-2\r\n");
    desk.pty.expect("closed.\r");
    desk.expect_end(0);
}

#[test]
fn the_output_of_a_session_that_began_and_ended_unseen_comes_before_what_ssh_says_at_its_end() {
    let mut desk = Desk::new();
    desk.pty.enter(&format!(
        "./bssh -F ssh_config -o LogLevel=INFO -t {HOST} 'sleep 1; echo out-$((1+1))'"
    ));
    let ssh = wait_for(LIMIT, || desk.pty.processes("ssh").first().copied()).expect("ssh starts");
    kill(desk.bowline(), Signal::STOP);
    // The shell says so.
    desk.pty.expect("Stopped");
    expect_gone(&[ssh]);
    desk.pty.enter("fg");
    // The shell may still have the terminal in its own mode, in which it adds a return to each line.
    desk.pty.expect("out-2\r");
    desk.pty.expect("closed.\r");
    desk.pty.expect(PROMPT);
}

#[test]
fn a_command_of_the_users_here_writes_to_a_terminal() {
    let mut desk = Desk::new();
    let options = "-o PermitLocalCommand=yes -o 'LocalCommand=test -t 1 && echo on-a-terminal-$((1+1))'";
    desk.log_in(options);
    let shown = String::from_utf8_lossy(&desk.pty.shown_since(0)).into_owned();
    assert!(shown.contains("on-a-terminal-2\r\n"), "{shown}");
    desk.pty.enter("exit 0");
    desk.expect_end(0);
}

#[test]
fn a_paste_of_a_mebibyte_arrives_whole() {
    let mut desk = Desk::new();
    desk.log_in("");
    let path = desk.rig.ssh.path("pasted");
    desk.pty.enter(&format!(
        "stty raw -echo; echo ready; head -c 1048576 > {}; stty sane",
        path.display()
    ));
    desk.pty.expect("ready\n");
    let text: Vec<u8> = (0..1 << 20).map(|index| b'a' + (index % 23) as u8).collect();
    desk.pty.press(&text);
    desk.pty.press("\r");
    desk.pty.expect(THERE);
    assert!(fs::read(&path).expect("written") == text, "the same bytes");
}
