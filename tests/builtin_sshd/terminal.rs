//! Programs on a terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::harness::{Server, eventually, is_alive, text};

#[test]
fn a_session_with_a_terminal_has_a_real_one() {
    let server = Server::start();
    let output = server.run(&["-tt"], "tty; test $(tty) = $SSH_TTY && echo same; echo err >&2", b"");
    let said = text(&output.stdout);
    assert!(said.starts_with("/dev/pts/"), "{said}");
    assert!(said.contains("same\r\n") && said.contains("err\r\n"), "{said}");
}

#[test]
fn without_one_there_is_none() {
    let server = Server::start();
    assert_eq!(text(&server.run(&["-T"], "tty", b"").stdout), "not a tty\n");
}

#[test]
fn exit_codes_and_all_output_come_from_a_terminal_too() {
    let server = Server::start();
    let output = server.run(&["-tt"], "seq 20000; exit 7", b"");
    assert_eq!(output.status.code(), Some(7));
    let expected: String = (1..=20000).map(|number| format!("{number}\r\n")).collect();
    assert!(text(&output.stdout) == expected, "{} bytes", output.stdout.len());
}

#[test]
fn control_c_kills_what_runs() {
    let server = Server::start();
    let mut client = server.start_ssh(&["-tt"], "echo $$; exec sleep 1000");
    let pid = client.first_line.clone();
    eventually("the shell has become sleep", || {
        proc_file(&pid, "comm").trim_end() == "sleep"
    });
    client.send(b"\x03");
    for _ in 0..100 {
        if !is_alive(&pid) {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let (state, signals) = (proc_file(&pid, "stat"), proc_file(&pid, "status"));
    assert!(!is_alive(&pid), "sleep goes on: {state}{signals}");
    assert_eq!(client.finish().1, Some(255));
}

fn proc_file(pid: &str, name: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

#[test]
fn a_killed_clients_terminal_is_hung_up() {
    let server = Server::start();
    let client = server.start_ssh(&["-tt"], "echo $$; exec sleep 1000");
    let pid = client.first_line.clone();
    drop(client);
    eventually("the remote program is gone", || !is_alive(&pid));
}

#[test]
fn a_program_left_behind_does_not_hold_the_session() {
    let server = Server::start();
    let output = server.run(&["-tt"], "trap '' HUP; sleep 1000 & echo $!", b"");
    let pid = text(&output.stdout).trim().to_owned();
    assert!(is_alive(&pid), "{pid}");
    Command::new("kill").arg(&pid).status().unwrap();
}

/// A terminal of this test's own, for an ssh that believes a user sits there.
fn own_terminal() -> (OwnedFd, File) {
    let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    rustix::pty::grantpt(&ours).unwrap();
    rustix::pty::unlockpt(&ours).unwrap();
    let name = rustix::pty::ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().unwrap())
        .unwrap();
    (ours, theirs)
}

fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Reads until this was said.
fn read_until(terminal: &mut File, wanted: &str) -> String {
    let mut said = String::new();
    let mut buffer = [0; 4096];
    while !said.contains(wanted) {
        match terminal.read(&mut buffer) {
            Ok(count) if count > 0 => said.push_str(&text(&buffer[..count])),
            ended => panic!("{ended:?} before {wanted:?}: {said:?}"),
        }
    }
    said
}

#[test]
fn the_terminal_has_the_clients_size_modes_and_kind_and_follows_its_resizes() {
    let server = Server::start();
    let (ours, theirs) = own_terminal();
    rustix::termios::tcsetwinsize(&ours, size(80, 24)).unwrap();
    Command::new("stty")
        .args(["erase", "^H", "-ixon"])
        .stdin(theirs.try_clone().unwrap())
        .status()
        .unwrap();
    let mut command = Command::new("setsid");
    command
        .args(["--ctty", "ssh", "-t", "-F"])
        .arg(server.path("config"))
        .arg("target");
    command.arg("stty -a; echo $TERM; trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.05; done");
    command
        .env("TERM", "vt220")
        .stdin(theirs.try_clone().unwrap())
        .stdout(theirs)
        .stderr(Stdio::null());
    let mut client = command.spawn().unwrap();
    drop(command);
    let mut terminal = File::from(ours);
    let said = read_until(&mut terminal, "ready");
    for wanted in ["rows 24; columns 80", "erase = ^H", " -ixon", "vt220"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    rustix::termios::tcsetwinsize(&terminal, size(123, 45)).unwrap();
    read_until(&mut terminal, "45 123");
    assert!(client.wait().unwrap().success());
}
