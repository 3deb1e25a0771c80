//! `Match exec` that runs bowline, which asks `ssh -G`, which runs `Match exec`.

use crate::support::process::run;
use crate::support::rig::Rig;
use crate::support::ssh::{HOST, SshFiles};
use crate::support::{BOWLINE, write_program};
use crate::{LIMIT, bowline, put_first};
use std::fs;
use std::path::PathBuf;

/// So often the script below runs bowline, and then never again: without an end of its own, this one fails and does no harm.
const AT_MOST: usize = 12;

/// A program for `Match exec` that runs `bowline ARGUMENTS`, and writes a line into a file at each start.
fn counted(ssh: &SshFiles, arguments: &str) -> (PathBuf, PathBuf) {
    let (program, starts) = (ssh.path("asks-bowline"), ssh.path("starts"));
    fs::write(&starts, "").expect("the scratch folder");
    let file = starts.display();
    write_program(
        &program,
        &format!(
            "echo \"$1\" >>'{file}'\n[ \"$(wc -l <'{file}')\" -le {AT_MOST} ] || exit 1\n\
             exec timeout 20 {BOWLINE} {arguments}"
        ),
    );
    (program, starts)
}

fn count(starts: &PathBuf) -> usize {
    fs::read_to_string(starts).expect("our own file").lines().count()
}

#[test]
fn bowline_is_used_where_match_exec_finds_by_check_that_it_works() {
    let rig = Rig::bowline();
    let (port, config) = (rig.serve().udp().port(), rig.ssh.config());
    let folders = format!(
        "--state-dir {} --runtime-dir {} -F {}",
        rig.ssh.state().display(),
        rig.ssh.path("run").display(),
        config.display()
    );
    let (program, starts) = counted(&rig.ssh, &format!("check --port {port} {folders} \"$1\""));
    let lines = format!(
        "Match host box exec \"{} %n\"\n  ProxyCommand {BOWLINE} proxy --port {port} {folders} '%r@%n' %p\n",
        program.display()
    );
    // The proxy of the rig is not to be there at all.
    let rest = fs::read_to_string(&config).expect("our own file");
    let rest: String = rest
        .lines()
        .filter(|line| !line.contains("ProxyCommand"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&config, rest).expect("the scratch folder");
    put_first(&rig.ssh, &lines);

    let said = rig.ssh.remote("echo through", LIMIT).expect_code(0);
    assert_eq!(said.out(), "through\n");
    assert_eq!(rig.serve().logged("event=\"opened\""), 1, "{}", rig.serve().log());
    assert!(count(&starts) < AT_MOST, "{} starts", count(&starts));

    fs::write(&starts, "").expect("the scratch folder");
    run(bowline(&rig, "check").arg(HOST), LIMIT).expect_code(0);
    assert!(count(&starts) < AT_MOST, "{} starts", count(&starts));
}

#[test]
fn hosts_that_always_differ_come_to_an_end() {
    // Each `bowline proxy` asks about another host than the one before.
    let rig = Rig::plain();
    let folders = format!(
        "--state-dir {} -F {}",
        rig.ssh.state().display(),
        rig.ssh.config().display()
    );
    let (program, starts) = counted(&rig.ssh, &format!("proxy {folders} \"x$1\""));
    put_first(
        &rig.ssh,
        &format!("Match exec \"{} %n\"\n  Compression no\n", program.display()),
    );
    run(rig.ssh.ssh(&["-G", HOST]).arg("true"), LIMIT).expect_code(0);
    assert!(count(&starts) < AT_MOST, "{} starts", count(&starts));
}

#[test]
fn whoever_is_asked_within_the_same_question_answers_at_once() {
    let rig = Rig::plain();
    let within = |arguments: &[&str]| {
        let mut command = rig.ssh.command(BOWLINE);
        // Not even a name that leads nowhere is looked at.
        let command = command.args(arguments).env("BOWLINE_ASKS_SSH", "nowhere.invalid");
        run(command.arg("nowhere.invalid"), LIMIT)
    };
    let checked = within(&["check"]).expect_code(0);
    assert_eq!((checked.out(), checked.err()), (String::new(), String::new()));
    let config = rig.ssh.config().display().to_string();
    for arguments in [&["proxy"][..], &["setup", "--yes", "-F", &config]] {
        let refused = within(arguments).expect_code(64).err();
        assert!(
            refused.contains("ssh -G for nowhere.invalid is already running"),
            "{refused}"
        );
        assert!(
            refused.contains("\nhint: `Match exec` in ssh's configuration may run `bowline check`"),
            "{refused}"
        );
    }
}
