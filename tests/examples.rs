//! The examples do what they say, run against each other and against the program.

mod support;

use rustix::process::Signal;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::process::{Outcome, Running, run};
use support::serve::{Serve, ServeOptions};
use support::sshd::{TestSshd, make_key, public_key};
use support::{BOWLINE, Scratch, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// Builds an example, or finds it built, and says where it is.
fn example(name: &str) -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--example", name]);
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    run(cargo.current_dir(env!("CARGO_MANIFEST_DIR")), Duration::from_secs(600)).expect_code(0);
    Path::new(BOWLINE).with_file_name("examples").join(name)
}

/// The example client, to the server half at this port, in front of this sshd.
fn client(scratch: &Scratch, sshd: &TestSshd, key: &Path, port: u16, command: &str) -> Outcome {
    let host_key = public_key(&sshd.host_key("ed25519"));
    fs::write(scratch.join("known_hosts"), format!("[127.0.0.1]:{port} {host_key}\n")).expect("the scratch folder");
    let config = format!(
        "Host box\n HostName 127.0.0.1\n Port {port}\n IdentityFile {}\n IdentitiesOnly yes\n \
         UserKnownHostsFile {}\n GlobalKnownHostsFile /dev/null\n",
        key.display(),
        scratch.join("known_hosts").display()
    );
    fs::write(scratch.join("ssh_config"), config).expect("the scratch folder");
    let mut client = Command::new(example("russh_client"));
    client.arg("-F").arg(scratch.join("ssh_config"));
    client.arg(format!("{}@box", sshd.user())).args(command.split(' '));
    run(client.env("HOME", scratch.path()).env_remove("SSH_AUTH_SOCK"), LIMIT)
}

#[test]
fn the_client_runs_commands_through_the_embedded_server_half() {
    let (sshd, scratch) = (TestSshd::start(), Scratch::new());
    let mut server = Command::new(example("embedded_server"));
    server
        .args(["127.0.0.1:0".to_owned(), sshd.address().to_string()])
        .args([sshd.host_key("ed25519"), sshd.authorized_keys()]);
    let server = Running::start(&mut server);
    let ready = wait_for(LIMIT, || {
        server.out_so_far().contains('\n').then(|| server.out_so_far())
    });
    let ready = ready.unwrap_or_else(|| panic!("not ready: {}", server.err_so_far()));
    let address: SocketAddr = ready
        .trim()
        .rsplit_once('=')
        .expect("ready udp=..")
        .1
        .parse()
        .expect("an address");
    let client = |key: &Path, command: &str| client(&scratch, &sshd, key, address.port(), command);

    let outcome = client(&sshd.user_key(), "echo out; echo err >&2; exit 7").expect_code(7);
    assert_eq!((outcome.out().as_str(), outcome.err().as_str()), ("out\n", "err\n"));
    let megabytes = client(&sshd.user_key(), "head -c 5000000 /dev/zero").expect_code(0);
    assert_eq!(megabytes.stdout.len(), 5_000_000);
    let stranger = scratch.join("stranger");
    make_key(&stranger, "ed25519");
    assert_ne!(client(&stranger, "true").code, Some(0));

    server.signal(Signal::INT);
    server.finish(LIMIT).expect_code(0);
}

#[test]
fn the_client_s_stream_survives_its_carriers() {
    let (sshd, scratch) = (TestSshd::start(), Scratch::new());
    let serve = Serve::start(&sshd, ServeOptions::here().fault("close-carrier-after=300ms"));
    let command = "for n in 1 2 3 4 5 6 7 8 9 10; do echo $n; sleep 0.2; done; exit 7";
    let outcome = client(&scratch, &sshd, &sshd.user_key(), serve.udp().port(), command).expect_code(7);
    assert_eq!(outcome.out(), "1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n");
    assert!(serve.logged("resumed") > 2, "{}", serve.log());
}
