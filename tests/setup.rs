//! `bowline setup` on files of its own, with the real ssh as the judge. Never the machine's `~/.ssh`, `/etc/ssh` or systemd.

#[path = "setup/machine.rs"]
mod machine;
#[path = "setup/private.rs"]
mod private;
#[path = "setup/server.rs"]
mod server;
mod support;
#[path = "setup/terminal.rs"]
mod terminal;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::process::{Outcome, run};
use support::serve::{Serve, ServeOptions};
use support::ssh::{HOST, SshSetup};
use support::sshd::TestSshd;
use support::{BOWLINE, Scratch};

const LIMIT: Duration = Duration::from_secs(30);

/// A home folder, and an ssh configuration in it that ssh is pointed to by `-F`.
struct Desk {
    scratch: Scratch,
}

impl Desk {
    fn new(config: &[u8]) -> Desk {
        let desk = Desk {
            scratch: Scratch::new(),
        };
        fs::write(desk.config(), config).expect("the scratch folder");
        desk
    }

    fn config(&self) -> PathBuf {
        self.scratch.join("config")
    }

    fn content(&self) -> Vec<u8> {
        fs::read(self.config()).expect("a configuration")
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", self.scratch.path());
        command
    }

    fn setup(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(BOWLINE);
        command.arg("setup").arg("-F").arg(self.config()).args(arguments);
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str], code: i32) -> Outcome {
        run(&mut self.setup(arguments), LIMIT).expect_code(code)
    }

    /// Everything that ssh makes of the configuration for a host.
    fn ssh_says(&self, host: &str) -> String {
        let mut command = self.command("ssh");
        run(command.arg("-G").arg("-F").arg(self.config()).arg(host), LIMIT)
            .expect_code(0)
            .out()
    }

    fn proxy_command(&self, host: &str) -> String {
        let said = self.ssh_says(host);
        let line = said.lines().find_map(|line| line.strip_prefix("proxycommand "));
        line.unwrap_or_default().to_owned()
    }

    /// The line that `setup` writes here.
    fn ours(&self) -> String {
        format!("{BOWLINE} proxy -F {} '%r@%h' %p", self.config().display())
    }
}

/// Configurations that send `box` another way, each by another means.
fn rivals(desk: &Desk) -> Vec<Vec<u8>> {
    let include = desk.scratch.join("more");
    fs::write(&include, "ProxyCommand nc %h %p\n").expect("the scratch folder");
    let include = format!("Include {}\nHost other\n  User ann\n", include.display());
    [
        "",
        "Host box\n  ProxyCommand nc %h %p\n  User ann\n",
        "ProxyJump jump\nUser ann\n\nHost *\n  Port 2222",
        "Host *\r\n  ProxyCommand nc %h %p\r\n",
        "Match host box,other\n  ProxyJump jump\n",
        "Match final\n  ProxyCommand nc %h %p\n",
        "CanonicalizeHostname no\nProxyCommand none\nServerAliveInterval 60\n",
        &include,
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

#[test]
fn the_block_beats_every_other_line_for_its_host_and_changes_nothing_for_others() {
    let desk = Desk::new(b"");
    for rival in rivals(&desk) {
        fs::write(desk.config(), &rival).expect("the scratch folder");
        let before = desk.ssh_says("other");
        let told = desk.run(&["--yes", HOST], 0).out();
        let text = String::from_utf8_lossy(&rival);
        assert_eq!(desk.proxy_command(HOST), desk.ours(), "{text}");
        assert!(desk.ssh_says(HOST).contains("serveraliveinterval 0\n"), "{text}");
        assert_eq!(desk.ssh_says("other"), before, "{text}");
        assert!(
            told.contains("+Host box") && told.contains("done: ssh now uses bowline for box\n"),
            "{told}"
        );
        let next = format!("next: bowline check -F {} box\n", desk.config().display());
        assert!(told.ends_with(&next), "{told}");
        let told = desk.run(&["--yes", "--undo", HOST], 0).out();
        assert!(told.contains("done: removed the block for box from "), "{told}");
        assert_eq!(desk.content(), rival, "{text}");
    }
}

#[test]
fn a_way_that_is_replaced_is_named() {
    let desk = Desk::new(b"Host box\n  ProxyJump jump\n");
    let told = desk.run(&["--dry-run", HOST], 0).out();
    assert!(
        told.starts_with("note: until now ssh connects to box with `ProxyJump jump`."),
        "{told}"
    );
    assert!(told.ends_with("nothing was changed (--dry-run)\n"), "{told}");
}

#[test]
fn a_second_time_there_is_nothing_to_do() {
    let desk = Desk::new(b"Host *\n  User ann\n");
    desk.run(&["--yes", "*.example.org", "!old.example.org", "box"], 0);
    let once = desk.content();
    // Neither terminal nor --yes: there is nothing to ask.
    let told = desk.run(&["*.example.org", "!old.example.org", "box"], 0).out();
    assert!(told.starts_with("nothing to do: "), "{told}");
    assert_eq!(desk.content(), once);
    assert_eq!(desk.proxy_command("new.example.org"), desk.ours());
    assert_eq!(desk.proxy_command("old.example.org"), "");
    let told = desk.run(&["--undo", "box"], 0).out();
    assert!(
        told.starts_with("nothing to do: there is no block for box in "),
        "{told}"
    );
    assert!(
        told.contains("\n  there is a block for *.example.org !old.example.org box\n"),
        "{told}"
    );
    desk.run(&["--undo", "--yes", "*.example.org", "!old.example.org", "box"], 0);
    assert_eq!(desk.content(), b"Host *\n  User ann\n");
}

#[test]
fn a_line_of_the_user_s_own_that_goes_over_bowline_is_enough() {
    let config = format!("Host box\n  ProxyCommand {BOWLINE} proxy --port 4022 '%r@%n' %p\n");
    let desk = Desk::new(config.as_bytes());
    let told = desk.run(&[HOST], 0).out();
    assert!(told.contains("--port 4022 '%r@%n' %p` for box\n"), "{told}");
    assert_eq!(desk.content(), config.as_bytes());
}

#[test]
fn a_block_whose_program_is_gone_or_that_comes_too_late_is_written_again_on_top() {
    let rest = "Host box\n  User ann\n";
    let desk = Desk::new(rest.as_bytes());
    desk.run(&["--yes", HOST], 0);
    let good = String::from_utf8(desk.content()).expect("text");
    let gone = good.replace(BOWLINE, "/nowhere/bowline");
    let block = good.strip_suffix(rest).expect("the block is on top");
    for (bad, after) in [
        (gone, good.clone()),
        (
            format!("ProxyJump a\n{block}{rest}"),
            format!("{block}ProxyJump a\n{rest}"),
        ),
    ] {
        fs::write(desk.config(), &bad).expect("the scratch folder");
        desk.run(&["--yes", HOST], 0);
        assert_eq!(String::from_utf8(desk.content()).expect("text"), after);
    }
}

#[test]
fn the_program_is_called_by_its_name_where_the_path_leads_to_it() {
    let desk = Desk::new(b"");
    let folder = desk.scratch.join("bin");
    fs::create_dir(&folder).expect("the scratch folder");
    symlink(BOWLINE, folder.join("bowline")).expect("the scratch folder");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = desk.setup(&["--yes", HOST]);
    run(command.env("PATH", format!("{}:{path}", folder.display())), LIMIT).expect_code(0);
    let line = format!("bowline proxy -F {} '%r@%h' %p", desk.config().display());
    assert_eq!(desk.proxy_command(HOST), line);
}

#[test]
fn a_new_file_is_for_its_owner_alone_and_another_keeps_its_mode_behind_its_link() {
    let desk = Desk::new(b"");
    let mode = |path: &PathBuf| fs::metadata(path).expect("a file").permissions().mode() & 0o7777;
    let anew = desk.scratch.join("new/config");
    let mut command = desk.command(BOWLINE);
    run(command.args(["setup", "-y", HOST, "-F"]).arg(&anew), LIMIT).expect_code(0);
    assert_eq!((mode(&anew), mode(&desk.scratch.join("new"))), (0o600, 0o700));
    let real = desk.scratch.join("dotfiles");
    fs::rename(desk.config(), &real).expect("the scratch folder");
    fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).expect("our own file");
    symlink(&real, desk.config()).expect("the scratch folder");
    desk.run(&["-y", HOST], 0);
    assert!(fs::symlink_metadata(desk.config()).expect("a link").is_symlink());
    assert_eq!(mode(&real), 0o640);
    assert_eq!(desk.proxy_command(HOST), desk.ours());
}

#[test]
fn what_cannot_be_changed_is_refused_with_advice() {
    let config = b"Host a\n  User ann\n";
    let desk = Desk::new(config);
    fs::set_permissions(desk.config(), fs::Permissions::from_mode(0o400)).expect("our own file");
    let said = desk.run(&["--yes", HOST], 77).err();
    assert!(
        said.contains(" is write-protected\n") && said.contains("hint: "),
        "{said}"
    );
    assert_eq!(desk.content(), config);
    fs::remove_file(desk.config()).expect("our own file");
    fs::create_dir(desk.config()).expect("the scratch folder");
    let said = desk.run(&["--yes", HOST], 73).err();
    assert!(said.contains(" is not a regular file\n"), "{said}");
}

#[test]
fn a_configuration_that_ssh_does_not_take_is_left_alone() {
    let desk = Desk::new(b"Host a\n  Nonsense yes\n");
    let said = desk.run(&["--yes", HOST], 64).err();
    assert!(said.contains("line 2: Bad configuration option: nonsense\n"), "{said}");
    assert_eq!(desk.content(), b"Host a\n  Nonsense yes\n");
    let half = b"# >>> bowline: box >>>\nHost box\n";
    fs::write(desk.config(), half).expect("the scratch folder");
    let said = desk.run(&["--yes", HOST], 64).err();
    assert!(said.contains("line 1 is one marker of a bowline block"), "{said}");
    assert_eq!(desk.content(), half);
}

#[test]
fn a_block_without_effect_is_told_and_can_be_taken_out() {
    let desk = Desk::new(b"User ann\n");
    let said = desk.run(&["--yes", "box", "!b*"], 69).err();
    assert!(
        said.contains("the block was written, but ssh does not use it for box\n"),
        "{said}"
    );
    assert!(said.contains("  the block does not apply to box\n"), "{said}");
    desk.run(&["--yes", "--undo", "box", "!b*"], 0);
    assert_eq!(desk.content(), b"User ann\n");
}

#[test]
fn what_is_no_host_is_a_usage_error() {
    let desk = Desk::new(b"");
    for bad in ["a\nProxyCommand evil", "a b", "'a'", "\"", "a#", "ann@box", ""] {
        let said = desk.run(&["--yes", bad], 64).err();
        assert!(said.contains("a host or pattern may not "), "{bad:?}: {said}");
    }
    desk.run(&["--yes", "--", "-oProxyCommand=x"], 64);
    let said = desk.run(&["--yes", "!box"], 64).err();
    assert!(said.contains("these patterns only exclude hosts"), "{said}");
    let said = run(desk.command(BOWLINE).args(["setup", "--yes"]), LIMIT).expect_code(64);
    assert!(said.err().contains("<HOST>"), "{}", said.err());
    assert_eq!(desk.content(), b"");
    let evil = desk.scratch.join("a\nb");
    let said = run(
        desk.command(BOWLINE).args(["setup", "--yes", HOST, "-F"]).arg(&evil),
        LIMIT,
    )
    .expect_code(64);
    assert!(
        said.err().contains("cannot be written into ssh's configuration"),
        "{}",
        said.err()
    );
    assert!(!evil.exists());
}

/// ssh asks the user database for the home folder, so a block where HOME says would have no effect.
#[test]
fn a_home_that_is_not_ssh_s_is_told() {
    let desk = Desk::new(b"");
    let said = run(desk.command(BOWLINE).args(["setup", "--yes", HOST]), LIMIT).expect_code(64);
    let begin = format!(
        "error: HOME is {}, but ssh ignores HOME and reads ",
        desk.scratch.path().display()
    );
    assert!(said.err().starts_with(&begin), "{}", said.err());
    assert!(!desk.scratch.join(".ssh").exists());
}

#[test]
fn ssh_logs_in_through_the_block_and_straight_again_without_it() {
    let sshd = TestSshd::start();
    let serve = Serve::start(&sshd, ServeOptions::here());
    let ssh = SshSetup::plain(&sshd)
        .environment("BOWLINE_PORT", &serve.udp().port().to_string())
        .write();
    let before = fs::read(ssh.config()).expect("a configuration");
    let setup = |arguments: &[&str]| {
        let mut command = ssh.command(BOWLINE);
        command.arg("setup").arg("-F").arg(ssh.config()).args(arguments);
        run(&mut command, LIMIT).expect_code(0);
    };
    setup(&["--yes", HOST]);
    assert_eq!(ssh.remote("echo through", LIMIT).expect_code(0).out(), "through\n");
    assert_eq!(serve.logged("event=\"opened\""), 1, "{}", serve.log());
    setup(&["--yes", "--undo", HOST]);
    assert_eq!(fs::read(ssh.config()).expect("a configuration"), before);
    assert_eq!(ssh.remote("echo straight", LIMIT).expect_code(0).out(), "straight\n");
    assert_eq!(serve.logged("event=\"opened\""), 1, "{}", serve.log());
}
