//! ssh's prompts, and Ctrl-C at them.

use crate::support::ssh::HOST;
use crate::support::sshd::make_locked_key;
use crate::{Desk, THERE, expect_gone};
use std::fs;

/// A desk whose known_hosts does not know the host.
fn stranger() -> Desk {
    Desk::with(|setup| {
        let setup = setup.known_hosts("").option("StrictHostKeyChecking ask");
        setup.option("BatchMode no")
    })
}

#[test]
fn the_host_key_question_is_asked_and_answered() {
    let mut desk = stranger();
    desk.start("-t", HOST);
    desk.pty.expect("continue connecting (yes/no");
    desk.pty.enter("yes");
    desk.pty.expect(THERE);
    desk.pty.enter("exit 3");
    desk.expect_end(3);
    let known = fs::read_to_string(desk.rig.ssh.known_hosts()).expect("our own file");
    assert!(!known.is_empty(), "ssh has written the key");
}

#[test]
fn ctrl_c_at_a_question_ends_ssh_by_sigint_and_the_proxy_with_it() {
    let mut desk = stranger();
    desk.start("-t", HOST);
    desk.pty.expect("continue connecting (yes/no");
    let all = [desk.pty.processes("ssh"), desk.pty.processes("bowline")].concat();
    desk.pty.press("\x03");
    // bash leaves the rest of the line too, as after any command that Ctrl-C has ended.
    desk.pty.expect(crate::PROMPT);
    desk.pty.enter("echo \"code=$?.\"");
    desk.expect_end(130);
    expect_gone(&all);
}

#[test]
fn a_passphrase_is_asked_for_and_not_shown() {
    let mut desk = Desk::with(|setup| setup.option("BatchMode no"));
    let key = desk.rig.ssh.path("locked");
    make_locked_key(&key, "ed25519", "open sesame");
    let public = fs::read_to_string(key.with_extension("pub")).expect("ssh-keygen writes it");
    let file = desk.rig.sshd.authorized_keys();
    fs::write(file, public).expect("the scratch folder");
    let mark = desk.pty.mark();
    desk.start("-i locked -o IdentitiesOnly=yes -t", HOST);
    // bowline asks for it, and then ssh.
    for _ in 0..2 {
        desk.pty.expect("passphrase for ");
        desk.pty.expect(": ");
        desk.pty.enter("open sesame");
    }
    desk.pty.expect(THERE);
    desk.pty.enter("exit 0");
    desk.expect_end(0);
    let shown = String::from_utf8_lossy(&desk.pty.shown_since(mark)).into_owned();
    assert!(!shown.contains("sesame"), "{shown}");
}

#[test]
fn what_is_typed_before_the_login_reaches_the_shell() {
    let mut desk = Desk::new();
    desk.start("-t", HOST);
    desk.pty.enter("echo typed-$((40+2))-ahead");
    desk.pty.expect("typed-42-ahead\r\n");
    desk.pty.enter("exit 0");
    desk.expect_end(0);
}
