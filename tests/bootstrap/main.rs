//! A server half that `bowline ssh` starts itself, with real ssh and sshd, at accounts of their own.
//!
//! Wants root, for a mount namespace in which the account exists; without it nothing is tried, which is told.

#[path = "../support/mod.rs"]
mod support;

mod asking;
mod cable;
mod failing;
mod server;

use rustix::process::Signal;
use server::{LIMIT, LOGS_IN, Server, Special, USER, may_run, write_for};
use std::fs;
use std::path::Path;
use std::process::Command;
use support::process::{Running, pid_of, run};
use support::{BOWLINE, wait_for, write_program};

#[test]
fn one_command_starts_a_server_half_at_a_fresh_account_and_the_next_one_finds_it() {
    if !may_run() {
        return;
    }
    let server = Server::start();
    let first = server.expect_session(&[]);
    assert!(first.err().contains(LOGS_IN), "{}", first.err());
    assert_eq!((server.logins(), server.keepers().len()), (2, 1));
    let next = server.expect_session(&[]);
    assert_eq!(next.err(), "", "nothing has to be said");
    assert_eq!(server.logins(), 3, "one more login, that of the session");
}

#[test]
fn every_login_shell_will_do() {
    if !may_run() {
        return;
    }
    for shell in [
        "/bin/dash",
        "/bin/bash",
        "/usr/bin/zsh",
        "/usr/bin/fish",
        "/bin/tcsh",
        "/bin/csh",
    ] {
        if !Path::new(shell).exists() {
            support::measured("login shell", format!("{shell} is not here"));
            continue;
        }
        let server = Server::with(Special {
            shell,
            ..Special::default()
        })
        .with_program();
        server.expect_session(&[]);
    }
}

#[test]
fn busybox_will_do() {
    if !may_run() {
        return;
    }
    let server = Server::with(Special {
        sshd: "SetEnv PATH={dir}/bin".to_owned(),
        ..Special::default()
    });
    let programs = server.there.join("bin");
    fs::create_dir(&programs).expect("the scratch folder");
    run(Command::new("busybox").args(["--install", "-s"]).arg(&programs), LIMIT).expect_code(0);
    server.expect_session(&[]);
    run(&mut server.ssh(&["--uninstall", "box"]), LIMIT).expect_code(0);
    assert!(server.keepers().is_empty());
}

#[test]
fn an_agent_signs_for_logins_only() {
    if !may_run() {
        return;
    }
    let server = Server::start().with_program();
    let socket = server.here.join("agent");
    let mut agent = server.command("ssh-agent");
    let _agent = Running::start(agent.arg("-D").arg("-a").arg(&socket));
    let mut add = server.command("ssh-add");
    add.arg("-q")
        .arg(server.there.join("user"))
        .env("SSH_AUTH_SOCK", &socket);
    let added = wait_for(LIMIT, || (run(&mut add, LIMIT).code == Some(0)).then_some(()));
    assert!(added.is_some(), "the agent has the key");
    for _ in 0..2 {
        let mut command = server.command(BOWLINE);
        command.args(["ssh", "--install=yes", "-F", "ssh_config", "-o", "IdentitiesOnly=no"]);
        command.args([
            "-o",
            "Compression=no",
            "-o",
            "BatchMode=yes",
            "box",
            "echo from $SSH_CONNECTION",
        ]);
        let outcome = run(command.env("SSH_AUTH_SOCK", &socket), LIMIT).expect_code(0);
        assert!(
            !outcome.out().contains("from 127.0.0.1 "),
            "{}{}",
            outcome.out(),
            outcome.err()
        );
    }
    assert_eq!(server.logins(), 3);
}

#[test]
fn a_login_whose_proxy_command_leads_to_bowline_again_does_not_start_another() {
    if !may_run() {
        return;
    }
    let server = Server::start().with_program();
    let way = server.here.join("way");
    let config = server.here.join("ssh_config");
    let script = format!("exec {BOWLINE} proxy --install yes -F {} \"$@\"", config.display());
    write_program(&way, &script);
    let text = fs::read_to_string(&config).expect("written");
    let line = format!("Host box\n  ProxyCommand {} %r@%h %p\n", way.display());
    fs::write(&config, line + &text).expect("the scratch folder");
    let mut command = server.command("ssh");
    command.args(["-F", "ssh_config", "-o", "Compression=no", "-o", "BatchMode=yes", "-i"]);
    command.arg(server.there.join("user")).args(["box", "exit 7"]);
    run(&mut command, LIMIT).expect_code(7);
    assert_eq!((server.logins(), server.keepers().len()), (2, 1));
}

#[test]
fn what_a_login_shell_prints_does_no_harm() {
    if !may_run() {
        return;
    }
    let server = Server::with(Special {
        shell: "/bin/bash",
        ..Special::default()
    })
    .with_program();
    write_for(
        &server,
        ".bashrc",
        "echo Welcome; head -c 20000 /dev/zero | tr '\\0' x; printf 'no line break'\n",
    );
    server.expect_session(&[]);
}

#[test]
fn two_clients_at_once_start_one_server_half() {
    if !may_run() {
        return;
    }
    let server = Server::start().with_program();
    let mut other = server.ssh(&["--state-dir=other", "box", "exit 5"]);
    let other = Running::start(&mut other);
    server.expect_session(&[]);
    other.finish(LIMIT).expect_code(5);
    assert_eq!(server.keepers().len(), 1);
    server.expect_session(&["--state-dir=other"]);
    assert_eq!(server.logins(), 2 + 2 + 1, "both have found it");
}

#[test]
fn after_a_reboot_it_is_started_again() {
    if !may_run() {
        return;
    }
    let server = Server::start();
    server.expect_session(&[]);
    server.reboot();
    let again = server.expect_session(&[]);
    assert!(again.err().contains(LOGS_IN), "{}", again.err());
    assert!(
        !again.err().contains("sending"),
        "the program is still there: {}",
        again.err()
    );
    assert_eq!(server.keepers().len(), 1);
}

#[test]
fn a_session_survives_cut_carriers_while_bytes_flow() {
    if !may_run() {
        return;
    }
    let server = Server::start().with_program();
    server.expect_session(&[]);
    let mut command = server.ssh(&["box", "head -c 30000000 /dev/zero | tr '\\0' b; cat | wc -c"]);
    command.env("BOWLINE_FAULT", "close-carrier-after=150ms");
    let sent = vec![b'a'; 10_000_000];
    let outcome = support::process::run_with_input(&mut command, sent, LIMIT).expect_code(0);
    let (bytes, count) = outcome.stdout.split_at(30_000_000);
    assert!(bytes.iter().all(|byte| *byte == b'b'));
    assert_eq!(String::from_utf8_lossy(count).trim(), "10000000");
    let log = server.home().join(".local/state/bowline/bootstrap");
    let logs: Vec<String> = Server::files(&log)
        .into_iter()
        .filter(|file| file.ends_with("/log"))
        .collect();
    let said = fs::read_to_string(&logs[0]).expect("its log");
    assert!(said.matches("resumed").count() > 1, "it was cut: {said}");
}

#[test]
fn tls_is_enough() {
    if !may_run() {
        return;
    }
    let server = Server::start().with_program();
    server.expect_session(&["--transport=tls"]);
}

#[test]
fn a_jump_host_gets_a_server_half() {
    if !may_run() {
        return;
    }
    let server = Server::start().with_program();
    // The key of the way to the jump host comes from the configuration, as with ssh.
    let config = server.here.join("ssh_config");
    let key = format!("  IdentityFile {}\n", server.there.join("user").display());
    fs::write(&config, fs::read_to_string(&config).expect("written") + &key).expect("the scratch folder");
    let inner = ["-J", "box", "inner", "echo from $SSH_CONNECTION; exit 7"];
    run(&mut server.ssh(&inner), LIMIT).expect_code(7);
    assert_eq!(server.keepers().len(), 1);
    assert_eq!(server.logins(), 3, "{}", server.log());
    run(&mut server.ssh(&inner), LIMIT).expect_code(7);
    assert_eq!(server.logins(), 5, "it is found again: {}", server.log());
}

#[test]
fn a_newer_client_starts_its_own_beside_the_old_one() {
    if !may_run() {
        return;
    }
    let server = Server::start();
    server.expect_session(&[]);
    // As an older version has left it.
    let state = server.home().join(".local/state/bowline/bootstrap");
    let host = fs::read_dir(&state)
        .expect("its folder")
        .flatten()
        .next()
        .expect("one host")
        .path();
    let version = env!("CARGO_PKG_VERSION");
    let old = host.join("0.0.1");
    server.reboot();
    fs::rename(host.join(version), &old).expect("the scratch folder");
    let program = server.home().join(format!(".cache/bowline/{version}/bowline"));
    let mut command = server.command("setpriv");
    let uid = server.uid().to_string();
    command
        .args(["--reuid", &uid, "--regid", &uid, "--clear-groups"])
        .arg(program);
    command
        .args(["serve", "--config", "/dev/null", "--state-dir"])
        .arg(&old);
    command.arg("--runtime-dir").arg(old.join("run"));
    command.args(["--listen", "127.0.0.1:0", "--only-user", USER, "--authorized-keys"]);
    command.arg(old.join("authorized_keys"));
    command.stdout(fs::File::create(old.join("ready")).expect("the scratch folder"));
    let old_one = Running::spawn(&mut command);
    let ready = wait_for(LIMIT, || {
        fs::read_to_string(old.join("ready"))
            .ok()
            .filter(|text| text.ends_with('\n'))
    });
    assert!(ready.is_some());
    server.expect_session(&[]);
    assert_eq!(server.keepers().len(), 2, "the old one runs on");
    rustix::process::kill_process(pid_of(old_one.id()), Signal::TERM).expect("it runs");
}

#[test]
fn check_tests_the_server_half_that_was_started() {
    if !may_run() {
        return;
    }
    let server = Server::start().with_program();
    server.expect_session(&[]);
    let check = |more: &[&str]| {
        let mut command = server.command(BOWLINE);
        command.args(["check", "-F", "ssh_config", "box"]).args(more);
        run(&mut command, LIMIT)
    };
    let told: serde_json::Value = serde_json::from_slice(&check(&["--json"]).expect_code(0).stdout).expect("JSON");
    let started = &told["started"];
    assert_eq!(started["version"], env!("CARGO_PKG_VERSION"), "{told:#}");
    let udp = format!("quic 127.0.0.1:{}", started["udp"]);
    let paths = told["paths"].as_array().expect("paths");
    let works = |path: &&serde_json::Value| path["path"] == *udp && path["diagnosis"] == "works";
    assert!(paths.iter().any(|path| works(&path)) && paths.len() == 2, "{told:#}");
    let text = check(&[]).expect_code(0).out();
    assert!(
        text.starts_with("server half: the one that bowline started there over ssh"),
        "{text}"
    );
    server.reboot();
    let text = check(&[]).expect_code(69).out();
    assert!(text.contains("`bowline ssh box` starts it again over ssh"), "{text}");
    assert!(!text.contains("--listen-tls"), "{text}");
    assert_eq!(server.logins(), 2, "check does not log in");
}

#[test]
fn uninstall_leaves_nothing() {
    if !may_run() {
        return;
    }
    let server = Server::start();
    server.expect_session(&[]);
    run(&mut server.ssh(&["--uninstall", "box"]), LIMIT).expect_code(0);
    assert!(server.keepers().is_empty());
    let left: Vec<String> = Server::files(&server.home());
    assert!(
        left.iter()
            .all(|path| path.ends_with("/.cache") || path.ends_with("/.local") || path.ends_with("/state")),
        "{left:?}"
    );
    let records = Server::files(&server.here.join(".local/state/bowline/bootstrap"));
    assert_eq!(records, Vec::<String>::new());
}
