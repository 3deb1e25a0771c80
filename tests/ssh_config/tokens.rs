//! The tokens of a ProxyCommand, and what shells and other programs make of them.

use crate::LIMIT;
use crate::support::process::run;
use crate::support::ssh::HOST;
use crate::support::{BOWLINE, Scratch, write_program};
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

/// Runs ssh with a configuration in which the ProxyCommand is `bowline ..`, and gives the words that bowline gets.
fn words(scratch: &Scratch, arguments: &[&str]) -> Vec<String> {
    let (bin, record) = (scratch.join("bin"), scratch.join("record"));
    let _ = fs::create_dir(&bin);
    let _ = fs::remove_file(bin.join("bowline"));
    write_program(
        &bin.join("bowline"),
        &format!(
            "for word in \"$@\"; do printf '%s\\n' \"$word\"; done >'{}'",
            record.display()
        ),
    );
    let mut ssh = Command::new("ssh");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default());
    ssh.env("PATH", path)
        .arg("-F")
        .arg(scratch.join("config"))
        .args(arguments);
    run(&mut ssh, LIMIT).expect_code(255);
    let record = fs::read_to_string(record).expect("bowline was run");
    record.lines().map(str::to_owned).collect()
}

#[test]
fn a_user_with_a_backslash_reaches_the_proxy_whole_by_the_readme_and_by_setup() {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).expect("the README");
    let line = readme
        .lines()
        .find(|line| line.trim_start().starts_with("ProxyCommand bowline proxy "));
    let scratch = Scratch::new();
    let config = scratch.join("config");
    fs::write(
        &config,
        format!("Host {HOST}\n{}\n", line.expect("the README has a line")),
    )
    .expect("the scratch folder");
    let by_readme = words(&scratch, &["-l", "CORP\\ann", HOST]);
    assert_eq!(by_readme, ["proxy", "CORP\\ann@box", "22"]);

    fs::write(&config, "").expect("the scratch folder");
    let _ = fs::remove_file(scratch.join("bin/bowline"));
    symlink(BOWLINE, scratch.join("bin/bowline")).expect("the scratch folder");
    let mut setup = Command::new(BOWLINE);
    let path = format!(
        "{}:{}",
        scratch.join("bin").display(),
        std::env::var("PATH").unwrap_or_default()
    );
    setup.env("PATH", path).env("HOME", scratch.path());
    run(setup.args(["setup", "--yes", HOST, "-F"]).arg(&config), LIMIT).expect_code(0);
    let by_setup = words(&scratch, &["-l", "CORP\\ann", HOST]);
    assert_eq!(by_setup[by_setup.len() - 2..], ["CORP\\ann@box", "22"], "{by_setup:?}");
}

#[test]
fn a_token_that_nobody_has_replaced_is_named_with_what_most_programs_know() {
    let scratch = Scratch::new();
    for (arguments, token) in [
        (["root@%n", "22"], "%n"),
        (["%r@box", "22"], "%r"),
        (["root@box", "%p"], "%p"),
    ] {
        let mut command = Command::new(BOWLINE);
        let command = command.arg("proxy").args(arguments).env("HOME", scratch.path());
        let said = run(command, LIMIT).expect_code(64).err();
        assert!(
            said.contains(&format!(
                "`{token}` was not expanded: the program that runs this ProxyCommand"
            )),
            "{said}"
        );
        assert!(said.contains("all support %r, %h and %p"), "{said}");
    }
}
