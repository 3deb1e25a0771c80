//! Keys and the link during an outage.

use crate::support::process::{Running, run};
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use crate::support::{BOWLINE, Scratch, wait_for};
use crate::{Desk, LIMIT, THERE};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

#[test]
fn keys_typed_in_an_outage_are_sent_once() {
    let mut desk = Desk::of(Rig::gated(|setup| setup));
    desk.log_in("");
    desk.pty.enter("cat");
    desk.pty.expect("cat\r\n");
    let mark = desk.pty.mark();
    desk.rig.gate().cut();
    for key in "keys of an outage".chars() {
        desk.pty.press(key.to_string());
    }
    desk.rig.gate().restore();
    desk.pty.press("\r");
    desk.pty.expect("keys of an outage\r\nkeys of an outage\r\n");
    desk.pty.press("\x04");
    desk.pty.expect(THERE);
    let shown = String::from_utf8_lossy(&desk.pty.shown_since(mark)).into_owned();
    assert_eq!(shown.matches("outage").count(), 2, "{shown}");
}

#[test]
fn ctrl_c_as_the_first_key_of_an_outage_interrupts_the_program_afterwards() {
    let mut desk = Desk::of(Rig::gated(|setup| setup));
    desk.log_in("");
    desk.pty.enter("sleep 1000");
    desk.pty.expect("sleep 1000\r\n");
    desk.rig.gate().cut();
    desk.pty.press("\x03");
    desk.rig.gate().restore();
    desk.pty.expect(THERE);
}

#[test]
fn the_escape_tilde_dot_ends_ssh_in_an_outage() {
    let mut desk = Desk::of(Rig::gated(|setup| setup));
    desk.log_in("");
    desk.rig.gate().cut();
    desk.pty.press("\r~.");
    desk.expect_end(255);
}

#[test]
fn a_line_says_that_there_is_no_answer_and_goes_when_there_is() {
    let mut desk = Desk::of(Rig::gated(|setup| setup));
    desk.log_in("");
    desk.rig.gate().cut();
    desk.pty.press("ec");
    desk.pty.expect("bowline: no answer for 1 s");
    desk.pty.expect("2 keys wait");
    desk.pty.expect("~. ends");
    desk.pty.expect("bowline: no answer for 2 s; trying quic");
    desk.pty.press("ho");
    desk.pty.expect("4 keys wait");
    desk.rig.gate().restore();
    desk.pty.expect("bowline: back after ");
    desk.pty.expect(" s over quic");
    desk.pty.enter(" up-$((1+1))");
    desk.pty.expect("up-2\r\n");
    desk.pty.enter("exit 0");
    desk.expect_end(0);
}

/// The client half, as the `bowline ssh` in front of it hears it.
#[test]
fn the_client_half_reports_outages_and_answers_without_being_idle_about_it() {
    let folder = Scratch::new();
    let socket = folder.join("terminal.sock");
    let listener = UnixListener::bind(&socket).expect("the scratch folder");
    let socket = socket.display().to_string();
    let rig = Rig::gated(|setup| setup.proxy_arguments(&["--terminal-socket", &socket]));
    let (ssh, mut stdin, _stdout) = Running::start_piped(&mut rig.ssh.ssh(&[HOST, "cat"]));
    let (stream, _) = listener.accept().expect("the client half");
    stream.set_read_timeout(Some(LIMIT)).expect("a socket");
    let mut reports = BufReader::new(stream.try_clone().expect("a socket")).lines();
    let mut next = move || reports.next().expect("a report").expect("a report in time");
    let first = next();
    assert!(
        first.contains(r#""is_suspect":false,"path":"quic","trying":["quic""#),
        "{first}"
    );
    rig.gate().cut();
    stdin.write_all(b"a key\n").expect("ssh reads");
    // Unasked.
    let report = next();
    assert!(report.contains(r#""is_suspect":true"#), "{report}");
    let heard = |report: &str| {
        let (_, rest) = report.split_once(r#""heard_ms":"#).expect("a report");
        rest.split(',').next().expect("a value").parse::<u64>().ok()
    };
    let silent = wait_for(LIMIT, || {
        (&stream).write_all(b"\"report\"\n").expect("the client half");
        let report = next();
        (heard(&report).is_none_or(|time| time >= 1000)).then_some(report)
    });
    let silent = silent.expect("silence for a second");
    assert!(silent.contains(r#""is_suspect":true"#), "{silent}");
    assert!(silent.contains(r#""has_unacknowledged":true"#), "{silent}");
    rig.gate().restore();
    let back = wait_for(LIMIT, || {
        let report = next();
        report.contains(r#""is_suspect":false"#).then_some(report)
    });
    let back = back.expect("the path is back");
    assert!(back.contains(r#""path":"quic""#), "{back}");
    drop(stdin);
    ssh.finish(LIMIT).expect_code(0);
}

#[test]
fn no_line_is_shown_if_it_is_switched_off() {
    let mut desk = Desk::of(Rig::gated(|setup| setup));
    desk.pty.enter("export BOWLINE_LINK_LINE=false");
    desk.log_in("");
    let mark = desk.pty.mark();
    desk.rig.gate().cut();
    desk.pty.press("ec");
    // The client half has found the outage, and longer than the line would wait for.
    let suspected = wait_for(LIMIT, || (session_state(&desk) == "detached").then_some(()));
    assert!(suspected.is_some(), "{}", session_state(&desk));
    desk.rig.gate().restore();
    desk.pty.enter("ho up-$((1+1))");
    desk.pty.expect("up-2\r\n");
    let shown = String::from_utf8_lossy(&desk.pty.shown_since(mark)).into_owned();
    assert!(!shown.contains("bowline"), "{shown}");
}

/// As `bowline status` says.
pub(crate) fn session_state(desk: &Desk) -> String {
    let mut status = desk.rig.ssh.command(BOWLINE);
    status
        .args(["status", "--json", "--runtime-dir"])
        .arg(desk.rig.ssh.path("run"));
    let said = run(&mut status, LIMIT).out();
    let state = said
        .split("\"state\": \"")
        .nth(1)
        .and_then(|rest| rest.split('"').next());
    state.unwrap_or(&said).to_owned()
}
