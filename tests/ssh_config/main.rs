//! What people have in ssh's configuration, with the real ssh and a real sshd: bowline has to get along with it.

#[path = "../support/mod.rs"]
mod support;

mod canonical;
mod command_line;
mod fdpass;
mod known_hosts;
mod others;
mod recursion;
mod terminal;
mod tokens;
mod zone;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;
use support::BOWLINE;
use support::process::{Outcome, run};
use support::rig::Rig;
use support::ssh::SshFiles;

/// Nothing here takes longer unless it hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// Puts lines before all others of the configuration: there they win.
fn put_first(ssh: &SshFiles, lines: &str) {
    let rest = fs::read_to_string(ssh.config()).expect("our own file");
    fs::write(ssh.config(), format!("{lines}{rest}")).expect("the scratch folder");
}

/// `bowline COMMAND` with this rig's folders, its port and its configuration; the host is still to come.
fn bowline(rig: &Rig, command: &str) -> Command {
    let mut bowline = rig.ssh.command(BOWLINE);
    let port = rig.serve().udp().port().to_string();
    bowline
        .args([command, "--port", &port, "--state-dir"])
        .arg(rig.ssh.state());
    bowline
        .arg("--runtime-dir")
        .arg(runtime(rig))
        .arg("-F")
        .arg(rig.ssh.config());
    bowline
}

fn runtime(rig: &Rig) -> PathBuf {
    rig.ssh.path("run")
}

/// `bowline setup`, with these arguments and this rig's configuration.
fn setup(rig: &Rig, arguments: &[&str]) -> Outcome {
    let mut command = rig.ssh.command(BOWLINE);
    run(
        command.arg("setup").arg("-F").arg(rig.ssh.config()).args(arguments),
        LIMIT,
    )
}
