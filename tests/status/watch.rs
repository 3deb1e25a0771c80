//! `bowline status --watch`, on a terminal and into a pipe.

use crate::support::process::{Running, run};
use crate::support::rig::Rig;
use crate::support::wait_for;
use crate::{LIMIT, bowline, client_folder, in_state, log_in};
use rustix::process::Signal;
use rustix::pty::OpenptFlags;
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// Both ends of a terminal with 80 columns and 24 rows.
fn terminal() -> (File, File) {
    let ours = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
    rustix::pty::grantpt(&ours).expect("a terminal");
    rustix::pty::unlockpt(&ours).expect("a terminal");
    let name = rustix::pty::ptsname(&ours, Vec::new()).expect("its name");
    let theirs = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().expect("its name"));
    let size = Winsize {
        ws_col: 80,
        ws_row: 24,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&ours, size).expect("a size");
    (File::from(ours), theirs.expect("its other end"))
}

fn read_until(terminal: &mut File, wanted: &str) -> String {
    let mut said = String::new();
    let mut buffer = [0; 4096];
    while !said.contains(wanted) {
        match terminal.read(&mut buffer) {
            Ok(count) if count > 0 => said += &String::from_utf8_lossy(&buffer[..count]),
            ended => panic!("{ended:?} before {wanted:?}: {said:?}"),
        }
    }
    said
}

/// Whether line editing and echo are on, as a shell expects.
fn is_cooked(terminal: &File) -> bool {
    let modes = tcgetattr(terminal).expect("a terminal").local_modes;
    modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
}

#[test]
fn a_terminal_shows_the_sessions_and_is_left_as_it_was() {
    let rig = Rig::bowline();
    let client = client_folder(&rig);
    let _ssh = log_in(&rig);
    let id = in_state(&client, "connected")["id"].as_str().expect("an id")[..8].to_owned();
    for end in ["q", "\x03", "a signal"] {
        let (mut ours, theirs) = terminal();
        assert!(is_cooked(&theirs));
        let side = || Stdio::from(theirs.try_clone().expect("a descriptor"));
        let mut command = bowline(&client, &["status", "--watch"]);
        command.env("TERM", "xterm").stdin(side()).stdout(side()).stderr(side());
        let running = Running::spawn(&mut command);
        drop(command);
        let said = read_until(&mut ours, &id);
        assert!(said.contains(ENTER), "{said:?}");
        assert!(!is_cooked(&theirs));
        match end {
            "a signal" => running.signal(Signal::TERM),
            key => ours.write_all(key.as_bytes()).expect("a key"),
        }
        read_until(&mut ours, LEAVE);
        running.finish(LIMIT).expect_code(0);
        assert!(is_cooked(&theirs), "after {end:?}");
    }
}

#[test]
fn a_pipe_gets_one_table_after_the_other_without_escape_codes() {
    let folder = tempfile::tempdir().expect("a folder");
    for (more, wanted) in [
        (&[][..], "no sessions on this machine\n\nno sessions on this machine\n"),
        (&["--json"], "}\n{\"sessions\":[]"),
    ] {
        let mut arguments = vec!["status", "--watch"];
        arguments.extend(more);
        let running = Running::start(&mut bowline(folder.path(), &arguments));
        let shown = wait_for(LIMIT, || running.out_so_far().contains(wanted).then_some(()));
        assert!(shown.is_some(), "{:?}", running.out_so_far());
        assert!(!running.out_so_far().contains('\x1b'));
        running.signal(Signal::INT);
        running.finish(LIMIT).expect_code(0);
    }
    // A closed pipe is not an error.
    let mut command = std::process::Command::new("sh");
    let script = "\"$0\" status --watch --runtime-dir \"$1\" | head -1; echo over";
    command.args(["-c", script, crate::support::BOWLINE]).arg(folder.path());
    let over = run(&mut command, LIMIT).expect_code(0);
    assert_eq!(
        (over.out().as_str(), over.err().as_str()),
        ("no sessions on this machine\nover\n", "")
    );
}
