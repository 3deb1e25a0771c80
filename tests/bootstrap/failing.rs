//! Where no server half can be started: one line says why, and ssh works as without bowline.

use super::server::{LIMIT, LOGS_IN, Server, Special, may_run};
use crate::support::process::run;
use crate::support::{BOWLINE, write_program};
use rustix::process::Signal;
use std::fs;
use std::process::Command;

#[test]
fn install_no_writes_nothing_and_does_not_log_in() {
    if !may_run() {
        return;
    }
    let server = Server::start();
    server.expect_plain(&["--install=no"], "no bowline server half answers");
    assert_eq!(server.logins(), 1);
    assert_eq!(Server::files(&server.home()), Vec::<String>::new());
}

#[test]
fn a_login_that_runs_no_commands_is_named_once() {
    if !may_run() {
        return;
    }
    let server = Server::with(Special {
        sshd: "ForceCommand echo not here; exit 3".to_owned(),
        ..Special::default()
    });
    let said = run(&mut server.ssh(&["box"]), LIMIT).expect_code(3).err();
    assert!(
        said.contains("ForceCommand") && said.contains("using plain TCP"),
        "{said}"
    );
    // It is remembered.
    let said = run(&mut server.ssh(&["box"]), LIMIT).expect_code(3).err();
    assert!(said.contains("ForceCommand") && !said.contains(LOGS_IN), "{said}");
    assert_eq!(server.logins(), 3);
}

#[test]
fn a_server_half_that_is_not_reached_is_named_with_its_ports_and_used_again_when_it_is() {
    if !may_run() {
        return;
    }
    let server = Server::start().with_program();
    server.expect_session(&[]);
    // It runs and says nothing, as behind a firewall.
    server.signal_all(Signal::STOP);
    let named = "if there are firewalls, open UDP port 6";
    assert!(server.expect_plain(&[], named).err().contains(LOGS_IN));
    assert!(
        !server.expect_plain(&[], named).err().contains(LOGS_IN),
        "nobody looks twice in an hour"
    );
    server.signal_all(Signal::CONT);
    server.expect_session(&[]);
    assert_eq!(server.keepers().len(), 1);
}

#[test]
fn a_home_that_runs_no_programs_is_named() {
    if !may_run() {
        return;
    }
    let server = Server::with(Special {
        home: Some("noexec"),
        ..Special::default()
    });
    let said = server.expect_plain(&[], "noexec").err();
    assert!(!said.contains("sending"), "nothing was sent: {said}");
    assert!(server.keepers().is_empty());
}

#[test]
fn a_full_disk_is_named_and_not_left_fuller() {
    if !may_run() {
        return;
    }
    let server = Server::with(Special {
        home: Some("size=2m"),
        ..Special::default()
    });
    server.expect_plain(&[], "No space left on device");
    let left = run(
        &mut server.ssh(&["--install=no", "box", "find . -name 'bowline.*'"]),
        LIMIT,
    )
    .expect_code(0);
    assert_eq!(left.out(), "");
}

#[test]
fn nothing_is_sent_to_another_processor() {
    if !may_run() {
        return;
    }
    let server = Server::with(Special {
        sshd: "SetEnv PATH={dir}:/usr/bin:/bin".to_owned(),
        ..Special::default()
    });
    let uname = "[ \"$1\" = -m ] && echo sparc64 || exec /bin/uname \"$@\"";
    write_program(&server.there.join("uname"), uname);
    server.expect_plain(&[], "Linux sparc64");
    assert_eq!(Server::files(&server.home()), Vec::<String>::new());
}

#[test]
fn a_login_that_is_allowed_from_certain_addresses_only_stays_plain() {
    if !may_run() {
        return;
    }
    let rules = ["AllowUsers ann@127.0.0.1", ""];
    for rule in rules {
        let server = Server::with(Special {
            sshd: rule.to_owned(),
            ..Special::default()
        })
        .with_program();
        if rule.is_empty() {
            let key = server.there.join("user.pub");
            let line = fs::read_to_string(&key).expect("written");
            fs::write(&key, format!("from=\"127.0.0.1\" {line}")).expect("the scratch folder");
        }
        let named = "accepts your key from this machine but not from the server itself";
        let first = server.expect_plain(&[], named).err();
        assert!(first.contains(LOGS_IN), "{first}");
        let next = server.expect_plain(&[], named).err();
        assert_eq!(next.lines().count(), 1, "it is remembered: {next}");
        assert_eq!(server.logins(), 3, "{}", server.log());
    }
}

#[test]
fn a_c_library_that_is_too_old_is_named_with_what_to_do() {
    if !may_run() {
        return;
    }
    let server = Server::with(Special {
        sshd: "SetEnv LD_LIBRARY_PATH={dir}/old".to_owned(),
        ..Special::default()
    });
    // A library that this program needs and sh does not, without the versions of its symbols that are in it.
    let needed = run(Command::new("ldd").arg(BOWLINE), LIMIT).expect_code(0).out();
    let library = needed.lines().find(|line| line.contains("libm.so.6"));
    let library = library.and_then(|line| line.split_whitespace().nth(2)).expect("libm");
    let mut bytes = fs::read(library).expect("the library");
    for at in 0..bytes.len() - 8 {
        if bytes[at..].starts_with(b"GLIBC_2.") {
            bytes[at + 6] = b'1';
        }
    }
    let old = server.there.join("old");
    fs::create_dir(&old).expect("the scratch folder");
    fs::write(old.join("libm.so.6"), bytes).expect("the scratch folder");
    let said = server.expect_plain(&[], "older C library").err();
    assert!(said.contains("static build") && said.contains("GLIBC_"), "{said}");
    let again = server.expect_plain(&[], "older C library").err();
    assert_eq!(again.lines().count(), 1, "it is remembered: {again}");
}

#[test]
fn a_program_that_does_not_run_there_is_named() {
    if !may_run() {
        return;
    }
    // A limit that no program of bowline's size fits into stands for a missing library.
    let server = Server::with(Special {
        shell: "/bin/bash",
        ..Special::default()
    });
    super::server::write_for(&server, ".bashrc", "ulimit -v 30000\n");
    let outcome = run(&mut server.ssh(&["box", "exit 7"]), LIMIT).expect_code(7);
    assert!(outcome.err().contains("does not run there"), "{}", outcome.err());
}
