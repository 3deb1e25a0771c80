//! What stands on ssh's own command line, and names that are not those of the host: bowline asks about what runs.

use crate::LIMIT;
use crate::support::process::{Running, run};
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use crate::support::{BOWLINE, Scratch, measured, wait_for};
use rustix::process::Signal;
use std::fs;
use std::process::Command;

/// A configuration with the proxy alone, for everybody; `token` is how it gets the host. Gives the options of ssh that lead
/// to sshd.
fn bare(rig: &Rig, token: &str, more: &str) -> Vec<String> {
    let port = rig.serve().udp().port();
    let text = format!(
        "{more}Host *\n  ProxyCommand {BOWLINE} proxy --port {port} --state-dir {state} --runtime-dir {run} -F {config} \
         {token} %p\n  BatchMode yes\n  IdentitiesOnly yes\n  UpdateHostKeys no\n  GlobalKnownHostsFile /dev/null\n",
        state = rig.ssh.state().display(),
        run = rig.ssh.path("run").display(),
        config = rig.ssh.config().display(),
    );
    fs::write(rig.ssh.config(), text).expect("the scratch folder");
    let known_hosts = format!("UserKnownHostsFile={}", rig.ssh.known_hosts().display());
    let host = format!("HostName={}", rig.sshd.address().ip());
    let port = rig.sshd.port().to_string();
    let user = rig.sshd.user();
    let key = rig.sshd.user_key().display().to_string();
    ["-o", &known_hosts, "-o", &host, "-p", &port, "-l", &user, "-i", &key]
        .map(str::to_owned)
        .to_vec()
}

#[track_caller]
fn logs_in(rig: &Rig, options: &[String], arguments: &[&str]) {
    let mut ssh = rig.ssh.ssh(&[]);
    let out = run(ssh.args(options).args(arguments).arg("echo in"), LIMIT).expect_code(0);
    assert_eq!(out.out(), "in\n");
}

#[test]
fn options_of_ssh_s_own_command_line_count() {
    let rig = Rig::bowline();
    let options = bare(&rig, "'%r@%n'", "");
    logs_in(&rig, &options, &[HOST]);
    assert_eq!(rig.serve().logged("event=\"opened\""), 1, "{}", rig.serve().log());
    // Behind the host too, and in one word.
    let known_hosts = rig.ssh.known_hosts().display().to_string();
    let key = format!("-i{}", rig.sshd.user_key().display());
    let user = format!("{}@{HOST}", rig.sshd.user());
    let (host, port) = (rig.sshd.address().ip().to_string(), rig.sshd.port());
    let (host, port) = (format!("-oHostName={host}"), format!("-vp{port}"));
    let known_hosts = format!("-oUserKnownHostsFile={known_hosts}");
    logs_in(&rig, &[], &[&user, &key, &host, &port, &known_hosts]);
    // What `ssh -G` itself would stumble over.
    let log = rig.ssh.path("log").display().to_string();
    logs_in(&rig, &options, &["-S", "none", "-vE", &log, HOST]);
    let logged = fs::read_to_string(log).expect("the ssh that runs writes it");
    assert_eq!(logged.matches("Reading configuration data").count(), 1, "{logged}");
}

#[test]
fn an_alias_is_found_where_the_proxy_is_given_the_name_of_the_host() {
    let rig = Rig::bowline();
    let key = rig.sshd.user_key().display().to_string();
    let known_hosts = rig.ssh.known_hosts().display().to_string();
    let address = rig.sshd.address();
    let alias = format!(
        "Match originalhost {HOST}\n  HostName {}\n  Port {}\n  User {}\n  IdentityFile {key}\n  UserKnownHostsFile \
         {known_hosts}\n",
        address.ip(),
        address.port(),
        rig.sshd.user()
    );
    for token in ["'%r@%h'", "'%r@%n'"] {
        bare(&rig, token, &alias);
        logs_in(&rig, &[], &[HOST]);
    }
}

#[test]
fn an_ssh_on_its_way_to_another_host_does_not_count() {
    let rig = Rig::bowline();
    let options = bare(&rig, "nowhere.invalid", "");
    let mut ssh = rig.ssh.ssh(&[]);
    let told = run(ssh.args(options).arg(HOST), LIMIT).expect_code(255).err();
    assert!(told.contains("cannot resolve nowhere.invalid"), "{told}");
}

#[test]
fn a_tag_of_ssh_s_command_line_counts() {
    let scratch = Scratch::new();
    fs::write(scratch.join("config"), "Match tagged here\n").expect("the scratch folder");
    let mut asked = Command::new("ssh");
    if run(asked.arg("-F").arg(scratch.join("config")).args(["-G", "x"]), LIMIT).code != Some(0) {
        return measured(
            "ssh_config: Match tagged",
            "not known to this OpenSSH: packaging/test-newer-openssh has one",
        );
    }
    let rig = Rig::bowline();
    let options = bare(&rig, "'%r@%n'", "");
    let (tagged, plain): (Vec<_>, Vec<_>) = options.chunks(2).partition(|pair| pair[1].starts_with("HostName"));
    let text = fs::read_to_string(rig.ssh.config()).expect("our own file");
    let name = tagged[0][1].replace('=', " ");
    fs::write(rig.ssh.config(), format!("Match tagged here\n  {name}\n{text}")).expect("the scratch folder");
    let options: Vec<String> = plain.concat();
    logs_in(&rig, &options, &["-P", "here", HOST]);
}

/// What only a `Match` of newer OpenSSH knows: how the session was asked for, and its command.
#[test]
fn the_kind_of_session_and_its_command_count() {
    let scratch = Scratch::new();
    for (matches, session) in [
        ("sessiontype exec", &["echo in"][..]),
        ("command \"echo *\"", &["echo in"]),
        ("sessiontype none", &["-N"]),
        ("sessiontype subsystem", &["-s", "sftp"]),
        ("sessiontype shell", &[]),
    ] {
        let test = format!("ssh_config: Match {matches}");
        fs::write(scratch.join("config"), format!("Match {matches}\n")).expect("the scratch folder");
        let mut asked = Command::new("ssh");
        if run(asked.arg("-F").arg(scratch.join("config")).args(["-G", "x"]), LIMIT).code != Some(0) {
            measured(&test, "not known to this OpenSSH: packaging/test-newer-openssh has one");
            continue;
        }
        let rig = Rig::bowline();
        let options = bare(&rig, "'%r@%h'", "");
        let text = fs::read_to_string(rig.ssh.config()).expect("our own file");
        // Where the host is stands in this block alone, and in the name of an alias that leads nowhere.
        let (block, options): (Vec<_>, Vec<_>) = options.chunks(2).partition(|pair| pair[1].contains('='));
        let block: String = block
            .iter()
            .map(|pair| format!("  {}\n", pair[1].replacen('=', " ", 1)))
            .collect();
        fs::write(rig.ssh.config(), format!("Match {matches}\n{block}{text}")).expect("the scratch folder");
        let options: Vec<String> = options.concat();
        let (flags, command): (Vec<&str>, Vec<&str>) = session.iter().partition(|word| word.starts_with('-'));
        let mut plain = rig.ssh.ssh(&[]);
        let mut wrapped = rig.ssh.command(BOWLINE);
        wrapped
            .args(["ssh", "--state-dir"])
            .arg(rig.ssh.state())
            .arg("-F")
            .arg(rig.ssh.config());
        wrapped.env("BOWLINE_PORT", rig.serve().udp().port().to_string());
        for (count, ssh) in [(1, &mut plain), (2, &mut wrapped)] {
            ssh.args(&options).args(&flags).arg(HOST).args(&command);
            let (ssh, input, _output) = Running::start_piped(ssh);
            let is_in = || {
                let opened = rig.serve().logged("event=\"opened\"") == count;
                (opened && rig.sshd.log().matches("Accepted publickey").count() == count).then_some(())
            };
            let is_in = wait_for(LIMIT, is_in);
            assert!(
                is_in.is_some(),
                "{test}, {count}: {} {}",
                rig.serve().log(),
                ssh.err_so_far()
            );
            drop(input);
            ssh.signal(Signal::TERM);
            ssh.finish(LIMIT);
        }
    }
}

#[test]
fn check_names_options_of_the_proxy_that_it_was_not_given() {
    let rig = Rig::bowline();
    let told = run(&mut rig.ssh.check(&[]), LIMIT).expect_code(0).out();
    assert!(!told.contains("was not given"), "{told}");
    let mut check = rig.ssh.command(BOWLINE);
    check
        .args(["check", "--state-dir"])
        .arg(rig.ssh.state())
        .arg("-F")
        .arg(rig.ssh.config());
    let told = run(check.arg(HOST), LIMIT).out();
    assert!(
        told.contains("note: this check was not given --port, which ssh's ProxyCommand has"),
        "{told}"
    );
}
