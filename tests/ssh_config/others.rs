//! Programs beside OpenSSH that read the same configuration.

use crate::LIMIT;
use crate::setup;
use crate::support::process::run;
use crate::support::rig::Rig;
use crate::support::serve::{Serve, ServeOptions};
use crate::support::ssh::{HOST, SshSetup};
use crate::support::sshd::TestSshd;
use std::fs;

/// What people write with paramiko: the configuration says where the host is, and the ProxyCommand is its socket.
const SCRIPT: &str = r#"
import paramiko, sys
found = paramiko.SSHConfig.from_path(sys.argv[1]).lookup(sys.argv[2])
client = paramiko.SSHClient()
client.load_host_keys(sys.argv[3])
client.connect(found["hostname"], int(found["port"]), found["user"], key_filename=found["identityfile"],
               sock=paramiko.ProxyCommand(found["proxycommand"]), banner_timeout=30, allow_agent=False, look_for_keys=False)
print(client.exec_command("echo in")[1].read().decode(), end="")
client.close()
"#;

#[test]
fn paramiko_gets_in_by_the_line_of_setup() {
    let sshd = TestSshd::start();
    let serve = Serve::start(&sshd, ServeOptions::here());
    let port = serve.udp().port().to_string();
    let ssh = SshSetup::plain(&sshd).environment("BOWLINE_PORT", &port).write();
    let rig = Rig {
        ssh,
        serve: Some(serve),
        gate: None,
        sshd,
    };
    setup(&rig, &["--yes", HOST]).expect_code(0);
    let script = rig.ssh.path("script.py");
    fs::write(&script, SCRIPT).expect("the scratch folder");
    // Debian's own, which has Debian's paramiko.
    let mut python = rig.ssh.command("/usr/bin/python3");
    python
        .arg(script)
        .arg(rig.ssh.config())
        .arg(HOST)
        .arg(rig.ssh.known_hosts());
    assert_eq!(run(&mut python, LIMIT).expect_code(0).out(), "in\n");
    assert_eq!(rig.serve().logged("event=\"opened\""), 1, "{}", rig.serve().log());
}
