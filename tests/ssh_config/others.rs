//! Programs beside OpenSSH that read the same configuration: paramiko, asyncssh, libssh.

use crate::LIMIT;
use crate::setup;
use crate::support::process::run;
use crate::support::rig::Rig;
use crate::support::serve::{Serve, ServeOptions};
use crate::support::ssh::{HOST, SshSetup};
use crate::support::sshd::TestSshd;
use crate::support::{Scratch, write_program};
use std::fs;
use std::path::Path;
use std::process::Command;

/// What people write with paramiko: the configuration says where the host is, and the ProxyCommand is its socket. Without a file
/// of known hosts it only runs the ProxyCommand.
const PARAMIKO: &str = r#"
import paramiko, sys
found = paramiko.SSHConfig.from_path(sys.argv[1]).lookup(sys.argv[2])
proxy = paramiko.ProxyCommand(found["proxycommand"])
if len(sys.argv) < 4:
    sys.exit(proxy.process.wait())
client = paramiko.SSHClient()
client.load_host_keys(sys.argv[3])
client.connect(found["hostname"], int(found["port"]), found["user"], key_filename=found["identityfile"],
               sock=proxy, banner_timeout=30, allow_agent=False, look_for_keys=False)
print(client.exec_command("echo in")[1].read().decode(), end="")
client.close()
"#;

const ASYNCSSH: &str = r#"
import asyncio, asyncssh, sys
async def main():
    known = sys.argv[3] if len(sys.argv) > 3 else None
    async with asyncssh.connect(sys.argv[2], config=sys.argv[1], known_hosts=known, agent_path=None) as connection:
        print((await connection.run("echo in")).stdout, end="")
asyncio.run(main())
"#;

const LIBSSH: &str = r#"
#include <libssh/libssh.h>
#include <stdio.h>

static int fail(ssh_session session, int code) {
    fprintf(stderr, "%s\n", ssh_get_error(session));
    return code;
}

int main(int count, char **words) {
    char text[100];
    int length;
    ssh_session session = ssh_new();
    (void)count;
    ssh_options_set(session, SSH_OPTIONS_HOST, words[2]);
    if (ssh_options_parse_config(session, words[1]) != SSH_OK) return fail(session, 2);
    if (ssh_connect(session) != SSH_OK) return fail(session, 3);
    if (ssh_session_is_known_server(session) != SSH_KNOWN_HOSTS_OK) return fail(session, 4);
    if (ssh_userauth_publickey_auto(session, NULL, NULL) != SSH_AUTH_SUCCESS) return fail(session, 5);
    ssh_channel channel = ssh_channel_new(session);
    if (ssh_channel_open_session(channel) != SSH_OK) return fail(session, 6);
    if (ssh_channel_request_exec(channel, "echo in") != SSH_OK) return fail(session, 7);
    while ((length = ssh_channel_read(channel, text, sizeof text, 0)) > 0) fwrite(text, 1, length, stdout);
    ssh_channel_close(channel);
    ssh_disconnect(session);
    return 0;
}
"#;

/// The programs, in the order of the table in docs/setup.md.
const PROGRAMS: [&str; 4] = ["OpenSSH", "asyncssh", "libssh", "paramiko"];

/// How a program is started that reads a configuration and connects: two arguments follow, and known hosts where these are checked.
fn client(program: &str, scratch: &Path) -> Vec<String> {
    let file = |name: &str, text: &str| {
        let path = scratch.join(name);
        fs::write(&path, text).expect("the scratch folder");
        path.display().to_string()
    };
    // Debian's own, which has Debian's packages.
    let python = "/usr/bin/python3".to_owned();
    match program {
        "OpenSSH" => ["ssh", "-F"].map(str::to_owned).into(),
        "asyncssh" => vec![python, file("by_asyncssh.py", ASYNCSSH)],
        "paramiko" => vec![python, file("by_paramiko.py", PARAMIKO)],
        _ => {
            let (source, made) = (file("libssh.c", LIBSSH), scratch.join("libssh").display().to_string());
            run(Command::new("cc").args(["-o", &made, &source, "-lssh"]), LIMIT).expect_code(0);
            vec![made]
        }
    }
}

#[track_caller]
fn gets_in_by_the_line_of_setup(program: &str) {
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
    let (scratch, command) = (Scratch::new(), |words: &[String]| {
        let mut command = rig.ssh.command(&words[0]);
        command.args(&words[1..]);
        command
    });
    let mut command = command(&client(program, scratch.path()));
    command.arg(rig.ssh.config()).arg(HOST).arg(rig.ssh.known_hosts());
    assert_eq!(run(&mut command, LIMIT).expect_code(0).out(), "in\n");
    assert_eq!(rig.serve().logged("event=\"opened\""), 1, "{}", rig.serve().log());
}

#[test]
fn paramiko_gets_in_by_the_line_of_setup() {
    gets_in_by_the_line_of_setup("paramiko");
}

#[test]
fn asyncssh_gets_in_by_the_line_of_setup() {
    gets_in_by_the_line_of_setup("asyncssh");
}

#[test]
fn libssh_gets_in_by_the_line_of_setup() {
    gets_in_by_the_line_of_setup("libssh");
}

/// What a program makes of a token in a ProxyCommand, in the words of the table.
fn made_of(program: &[String], token: &str, value: &str) -> String {
    let scratch = Scratch::new();
    let (recorder, record, config) = (scratch.join("recorder"), scratch.join("record"), scratch.join("config"));
    write_program(&recorder, &format!("printf '%s' \"$1\" >'{}'", record.display()));
    let text = format!(
        "Host {HOST}\n  HostName 127.0.0.1\n  Port 4022\n  User ann\n  ProxyCommand {} '{token}'\n",
        recorder.display()
    );
    fs::write(&config, text).expect("the scratch folder");
    let mut command = Command::new(&program[0]);
    command
        .args(&program[1..])
        .arg(config)
        .arg(HOST)
        .env("HOME", scratch.path());
    run(&mut command, LIMIT);
    // It may end before the program that it has started for nothing.
    let recorded = crate::support::wait_for(std::time::Duration::from_millis(500), || {
        fs::read_to_string(&record).ok()
    });
    match recorded.as_deref() {
        None => "refused",
        Some(word) if word == value => "replaced",
        Some(word) if word == token => "left as it is",
        Some(word) => panic!("{program:?} makes {word:?} of {token}"),
    }
    .to_owned()
}

#[test]
fn every_program_makes_of_a_token_what_the_documentation_says() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/setup.md")).expect("the page");
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| `%"))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let user = run(Command::new("id").arg("-un"), LIMIT).out();
    let values = [
        ("%h", "127.0.0.1"),
        ("%p", "4022"),
        ("%r", "ann"),
        ("%n", HOST),
        ("%u", user.trim()),
        ("%%", "%"),
    ];
    assert_eq!(rows.len(), values.len(), "{rows:?}");
    let (scratch, mut wrong) = (Scratch::new(), Vec::new());
    for (column, program) in PROGRAMS.into_iter().enumerate() {
        let command = client(program, scratch.path());
        for (row, (token, value)) in rows.iter().zip(values) {
            assert!(row[0].starts_with(&format!("`{token}`")), "{row:?}");
            let (told, made) = (row[column + 1], made_of(&command, token, value));
            if told != made {
                wrong.push(format!("{program} {token}: {made}, not {told}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
