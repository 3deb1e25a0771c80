//! When bowline stays in front of ssh, and when the process becomes ssh.

use crate::Desk;
use crate::support::process::tree;
use crate::support::ssh::HOST;

/// Runs it until there is a program there, and returns what the shell waits for: `bowline`, or `ssh`.
fn in_front(desk: &mut Desk, line: &str) -> &'static str {
    desk.pty.enter(line);
    desk.pty.expect("up-2");
    let nearest = |name| desk.pty.processes(name).first().copied();
    let ssh = nearest("ssh").expect("an ssh");
    let is_below = nearest("bowline").is_some_and(|bowline| tree(bowline).contains(&ssh));
    if is_below { "bowline" } else { "ssh" }
}

fn sleeps(arguments: &str) -> String {
    format!("./bssh -F ssh_config {arguments}; echo \"code=$?.\"")
}

#[test]
fn it_stays_for_a_remote_terminal_only() {
    let mut desk = Desk::new();
    for (arguments, expected) in [
        (format!("-t {HOST} 'echo up-$((1+1)); cat'"), "bowline"),
        (format!("{HOST} 'echo up-$((1+1)); cat'"), "ssh"),
        (format!("-T {HOST} 'echo up-$((1+1)); cat'"), "ssh"),
        (format!("-tt {HOST} 'echo up-$((1+1)); cat' | cat"), "ssh"),
        (format!("-o StdinNull=yes {HOST} 'echo up-$((1+1)); sleep 1000'"), "ssh"),
    ] {
        assert_eq!(in_front(&mut desk, &sleeps(&arguments)), expected, "{arguments}");
        desk.pty.press(if expected == "bowline" { "\x04" } else { "\x03" });
        desk.pty.expect("code=");
        desk.pty.expect(crate::PROMPT);
    }
}

#[test]
fn plain_can_be_an_option_a_variable_and_a_setting() {
    let mut desk = Desk::new();
    std::fs::write(desk.rig.ssh.path("plain.toml"), "[client]\nplain = true\n").expect("the scratch folder");
    let rest = format!("-F ssh_config -t {HOST} 'echo up-$((1+1)); exec cat'; echo \"code=$?.\"");
    for (line, expected) in [
        (format!("./bssh {rest}"), "bowline"),
        (format!("./bssh --plain {rest}"), "ssh"),
        (format!("BOWLINE_PLAIN=1 ./bssh {rest}"), "ssh"),
        (format!("./bssh --config plain.toml {rest}"), "ssh"),
        (
            format!("BOWLINE_PLAIN=false ./bssh --config plain.toml {rest}"),
            "bowline",
        ),
    ] {
        assert_eq!(in_front(&mut desk, &line), expected, "{line}");
        desk.pty.press("\x04");
        desk.expect_end(0);
    }
}

#[test]
fn verbose_says_why_ssh_has_the_terminal_to_itself() {
    let mut desk = Desk::new();
    desk.pty.enter(&format!(
        "./bssh --verbose -F ssh_config {HOST} true 2>&1 | grep itself; echo done-$((1+1))"
    ));
    desk.pty
        .expect("bowline replaces itself with ssh: stdout is not the controlling terminal\r\n");
    desk.pty.expect("done-2");
    desk.pty.enter(&format!(
        "./bssh --verbose -F ssh_config {HOST} exit 3; echo \"code=$?.\""
    ));
    desk.pty
        .expect("bowline replaces itself with ssh: a command, without -t\r\n");
    desk.expect_end(3);
}

#[test]
fn a_terminal_of_kind_dumb_works_and_is_said_with_verbose() {
    let mut desk = Desk::new();
    desk.pty.enter("export TERM=dumb");
    desk.start("--verbose", &format!("-t {HOST}"));
    // Arguments of bowline come first.
    desk.pty.expect("code=64.");
    desk.pty.enter(&format!(
        "./bssh --verbose -F ssh_config -t {HOST} 'echo up; exit 4'; echo \"code=$?.\""
    ));
    desk.pty.expect("this terminal cannot move its cursor (TERM)");
    desk.expect_end(4);
}

#[test]
fn without_a_controlling_terminal_it_becomes_ssh() {
    let mut desk = Desk::new();
    // The new session has this terminal as its input and output, and no /dev/tty.
    desk.pty.enter(&format!(
        "setsid --wait ./bssh --verbose -F ssh_config -tt {HOST} 'echo up; exit 5'; echo \"code=$?.\""
    ));
    desk.pty.expect("stdin is not the controlling terminal");
    desk.pty.expect("up\r\n");
    desk.pty.expect("code=5.");
}

#[test]
fn it_stays_in_a_container_that_the_leader_of_the_session_is_not_in() {
    let mut desk = Desk::new();
    // Not its first process, which would have no default actions for signals.
    let enter =
        "unshare $(test `id -u` = 0 || echo --user --map-root-user) --pid --fork sh -c './bssh \"$@\"; exit $?' sh";
    let line = format!("{enter} -F ssh_config -t {HOST} 'echo up-$((1+1)); cat; exit 6'; echo \"code=$?.\"");
    assert_eq!(in_front(&mut desk, &line), "bowline");
    desk.pty.press("\x04");
    desk.expect_end(6);
}
