//! The question, at a terminal and where there is none.

use crate::support::process::{Outcome, Running};
use crate::support::ssh::HOST;
use crate::{Desk, LIMIT};
use rustix::pty::OpenptFlags;
use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;

/// Both ends of a terminal.
fn terminal() -> (File, File) {
    let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    rustix::pty::grantpt(&ours).expect("a terminal");
    rustix::pty::unlockpt(&ours).expect("a terminal");
    let name = rustix::pty::ptsname(&ours, Vec::new()).expect("its name");
    let name = name.to_str().expect("its name");
    let theirs = File::options().read(true).write(true).open(name);
    (File::from(ours), theirs.expect("its other end"))
}

/// Runs `setup` at a terminal and types `answer` when it asks; what stood on the screen, and how it ended.
fn answered(desk: &Desk, answer: &[u8]) -> (String, Outcome) {
    let (mut ours, theirs) = terminal();
    let mut command = desk.setup(&[HOST]);
    let both = (theirs.try_clone().expect("a terminal"), theirs);
    command.stdin(both.0).stdout(both.1).stderr(Stdio::inherit());
    let running = Running::spawn(&mut command);
    drop(command);
    let (mut screen, mut buffer) = (String::new(), [0; 4096]);
    while !screen.contains("[y/N] ") {
        match ours.read(&mut buffer) {
            Ok(count) if count > 0 => screen += &String::from_utf8_lossy(&buffer[..count]),
            ended => panic!("{ended:?} before the question: {screen:?}"),
        }
    }
    ours.write_all(answer).expect("a terminal");
    (screen, running.finish(LIMIT))
}

#[test]
fn at_a_terminal_the_change_is_shown_and_made_after_a_yes() {
    let desk = Desk::new(b"User ann\n");
    let (screen, outcome) = answered(&desk, b"y\n");
    outcome.expect_code(0);
    assert!(screen.contains("+Host box\r\n"), "{screen}");
    assert_eq!(desk.proxy_command(HOST), desk.ours());
}

#[test]
fn any_other_answer_is_a_no() {
    for answer in [&b"\n"[..], b"n\n", b"\x04"] {
        let desk = Desk::new(b"User ann\n");
        let (_, outcome) = answered(&desk, answer);
        outcome.expect_code(130);
        assert_eq!(desk.content(), b"User ann\n");
    }
}

#[test]
fn what_changes_while_the_question_stands_is_not_overwritten() {
    let desk = Desk::new(b"User ann\n");
    let (mut ours, theirs) = terminal();
    let mut command = desk.setup(&[HOST]);
    let out = theirs.try_clone().expect("a terminal");
    command.stdin(theirs).stdout(out).stderr(Stdio::inherit());
    let running = Running::spawn(&mut command);
    drop(command);
    let (mut screen, mut buffer) = (String::new(), [0; 4096]);
    while !screen.contains("[y/N] ") {
        let count = ours.read(&mut buffer).expect("a terminal");
        screen += &String::from_utf8_lossy(&buffer[..count]);
    }
    std::fs::write(desk.config(), "User bob\n").expect("the scratch folder");
    ours.write_all(b"y\n").expect("a terminal");
    running.finish(LIMIT).expect_code(73);
    assert_eq!(desk.content(), b"User bob\n");
}

#[test]
fn without_a_terminal_and_without_yes_nothing_is_changed() {
    let desk = Desk::new(b"User ann\n");
    let outcome = desk.run(&[HOST], 64);
    assert!(outcome.out().contains("+Host box\n"), "{}", outcome.out());
    assert!(
        outcome.err().contains("hint: --yes makes the change without asking"),
        "{}",
        outcome.err()
    );
    assert_eq!(desk.content(), b"User ann\n");
}
