//! A configuration that cannot be read.

use super::support::daemon::{Daemon, Home};
use super::support::serve::{Serve, ServeOptions, sshd_arguments};
use super::support::ssh::{HOST, SshSetup};
use super::support::sshd::TestSshd;
use super::support::{self, process::Running, wait_for};
use super::{LIMIT, REFUSED, login, open, open_by};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

#[test]
fn nothing_is_opened_until_the_configuration_can_be_read_and_sessions_go_on() {
    let sshd = TestSshd::start();
    let good = fs::read_to_string(sshd.config()).expect("the scratch folder");
    let serve = Serve::start(&sshd, ServeOptions::here());
    let files = SshSetup::bowline(&sshd, serve.udp().port()).write();
    let (session, mut stdin, mut stdout) = Running::start_piped(&mut files.ssh(&[HOST, "cat"]));
    let mut echo = |text: &[u8]| {
        stdin.write_all(text).expect("the session runs");
        let mut bytes = vec![0; text.len()];
        support::process::read_within(&mut stdout, &mut bytes, LIMIT).expect("the session runs");
        assert_eq!(bytes, text);
    };
    echo(b"before");
    for (bad, said) in [
        ("NoSuchOption yes\n", "bad configuration option"),
        ("Match User \"bob\n", "unterminated quotation mark"),
        ("Include /etc/ssh/[a-z]*/x.conf\n", "Include"),
    ] {
        fs::write(sshd.config(), format!("{good}{bad}")).expect("the scratch folder");
        open(&sshd, &serve).expect_code(REFUSED);
        assert!(serve.log().contains(said), "{said}: {}", serve.log());
    }
    fs::remove_file(sshd.config()).expect("it is there");
    open(&sshd, &serve).expect_code(REFUSED);
    echo(b"meanwhile");
    serve.reload();
    open(&sshd, &serve).expect_code(REFUSED);
    echo(b"and after a reload");
    fs::write(sshd.config(), good).expect("the scratch folder");
    login(&sshd, &serve).expect_code(7);
    echo(b"after");
    drop(session);
}

#[test]
fn a_server_half_that_may_not_read_the_configuration_opens_nothing_until_it_may() {
    if !rustix::process::geteuid().is_root() {
        return support::measured("a configuration of root's alone", "SKIPPED, only root can make one");
    }
    let (sshd, home) = (TestSshd::start(), Home::of_nobody());
    let mode = |mode| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(sshd.config(), permissions).expect("the scratch folder");
    };
    sshd.show_configuration();
    mode(0o600);
    let told: Vec<String> = sshd_arguments(&sshd)
        .into_iter()
        .map(|word| word.into_string().expect("a path"))
        .collect();
    let target = sshd.address().to_string();
    let mut arguments = vec!["serve", "--listen", "127.0.0.1:0", "--target", &target];
    arguments.extend(told.iter().map(String::as_str));
    let serve = Daemon::start(&home, &arguments);
    let fingerprint = serve.field("fingerprint");
    let setup = || SshSetup::bowline(&sshd, serve.port("udp")).proxy_arguments(&["--pin", &fingerprint]);
    open_by(setup()).expect_code(REFUSED);
    assert!(serve.log().contains("Permission denied"), "{}", serve.log());
    mode(0o644);
    let opened = wait_for(Duration::from_secs(5), || {
        (setup().write().remote("exit 7", LIMIT).code == Some(7)).then_some(())
    });
    assert!(opened.is_some(), "{}", serve.log());
}
