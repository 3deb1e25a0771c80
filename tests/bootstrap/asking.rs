//! The user at a terminal: the question, and passwords.

use super::server::{LIMIT, LOGS_IN, PASSWORD, Server, may_run};
use crate::support::BOWLINE;
use crate::support::pty::{PROMPT, Pty, size};

/// A terminal at which `bowline ssh` is typed.
fn desk(server: &Server) -> Pty {
    Pty::start(server.command("setsid"), size(200, 24), LIMIT)
}

fn line(server: &Server, options: &str) -> String {
    format!(
        "{BOWLINE} ssh --link-line=false -F ssh_config -o Compression=no {options} box 'echo from $SSH_CONNECTION; exit 7'; echo code=$?.",
    )
    .replace("KEY", &server.there.join("user").display().to_string())
}

fn expect_end(pty: &mut Pty) {
    pty.expect("code=7.");
    pty.expect(PROMPT);
}

#[test]
fn the_user_is_asked_once_and_no_is_remembered() {
    if !may_run() {
        return;
    }
    let server = Server::start();
    let mut pty = desk(&server);
    let command = line(&server, "-t -i KEY");
    pty.enter(command.trim());
    pty.expect("[Y/n] ");
    pty.enter("n");
    pty.expect("from 127.0.0.1 ");
    expect_end(&mut pty);
    let mark = pty.mark();
    pty.enter(command.trim());
    pty.expect("from 127.0.0.1 ");
    expect_end(&mut pty);
    let shown = String::from_utf8_lossy(&pty.shown_since(mark)).into_owned();
    assert!(!shown.contains("[Y/n]") && !shown.contains(LOGS_IN), "{shown}");
    assert_eq!(
        Server::files(&server.home()),
        Vec::<String>::new(),
        "nothing was written"
    );
}

#[test]
fn a_password_is_asked_for_by_each_login_and_then_only_for_the_session() {
    if !may_run() {
        return;
    }
    let server = Server::start().with_program();
    let mut pty = desk(&server);
    let command = line(&server, "-t -o PubkeyAuthentication=no");
    let prompt = "password: ";
    pty.enter(command.trim());
    pty.expect(prompt);
    pty.enter(PASSWORD);
    pty.expect("[Y/n] ");
    pty.enter("");
    pty.expect(prompt);
    pty.enter(PASSWORD);
    pty.expect("from 127.");
    expect_end(&mut pty);
    assert_eq!(server.keepers().len(), 1);
    let mark = pty.mark();
    pty.enter(command.trim());
    pty.expect(prompt);
    pty.enter(PASSWORD);
    expect_end(&mut pty);
    let shown = String::from_utf8_lossy(&pty.shown_since(mark)).into_owned();
    assert!(
        !shown.contains("[Y/n]") && !shown.contains("from 127.0.0.1 "),
        "{shown}"
    );
    assert!(!shown.contains(PASSWORD), "{shown}");
}
