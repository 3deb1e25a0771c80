//! `KnownHostsCommand`: its output counts like the files, it is run as ssh runs it, and if it fails
//! there is no connection.

use super::LIMIT;
use super::support::process::run;
use super::support::serve::{Serve, ServeOptions};
use super::support::ssh::{HOST, SshFiles, SshSetup};
use super::support::sshd::{TestSshd, make_key, public_key};
use super::support::{Scratch, write_program};
use std::fs;

#[test]
fn a_host_that_is_known_by_the_command_alone_is_known() {
    let scene = Scene::new(|sshd, _| format!("echo \"$1 {}\"", public_key(&sshd.host_key("ed25519"))));
    run(&mut scene.ssh.ssh(&[HOST, "true"]), LIMIT).expect_code(0);
    let asked = fs::read_to_string(scene.folder.join("asked")).expect("it was asked");
    let name = format!("[{}]:{}", scene.sshd.address().ip(), scene.sshd.address().port());
    // Behind a ProxyCommand, ssh asks for the name without the port before it has seen a key.
    let port = scene.sshd.address().port();
    let before = format!("<{name}> <ORDER> <NONE> <NONE> <NONE> <a b> <{port}> <%>");
    let then = format!("<{name}> <HOSTNAME> <ssh-ed25519> <SHA256:");
    // By bowline and by the inner ssh, with the same arguments.
    for (line, least) in [(before, 1), (then, 2)] {
        let times = asked.lines().filter(|asked| asked.starts_with(&line)).count();
        assert!(times >= least, "{line}: {asked}");
    }
    let said = run(&mut scene.ssh.check(&[]), LIMIT).expect_code(0).out();
    assert!(!said.contains("No key of this host is known"), "{said}");
}

#[test]
fn a_wrong_key_from_the_command_ends_the_open_before_any_key_is_shown() {
    let scene = Scene::new(|_, folder| {
        make_key(&folder.join("wrong"), "ed25519");
        format!("echo \"$1 {}\"", public_key(&folder.join("wrong")))
    });
    let told = run(&mut scene.ssh.ssh(&[HOST, "true"]), LIMIT).expect_code(255).err();
    assert!(told.contains("has changed"), "{told}");
    assert_eq!(scene.sshd.logins(), 0);
    assert_eq!(scene.ssh.proxy_logged("session opened"), 0, "{}", scene.ssh.proxy_log());
    run(&mut scene.ssh.check(&[]), LIMIT).expect_code(77);
}

#[test]
fn a_command_that_fails_ends_the_open_and_is_named() {
    let scene = Scene::new(|_, _| "exit 3".into());
    let told = run(&mut scene.ssh.ssh(&[HOST, "true"]), LIMIT).expect_code(255).err();
    assert!(
        told.contains("KnownHostsCommand") && told.contains("exit status: 3"),
        "{told}"
    );
    assert_eq!(scene.sshd.logins(), 0);
}

struct Scene {
    ssh: SshFiles,
    _serve: Serve,
    sshd: TestSshd,
    folder: Scratch,
}

impl Scene {
    /// A user with an empty known_hosts, and a command that records its arguments and runs this
    /// shell script.
    fn new(script: impl FnOnce(&TestSshd, &Scratch) -> String) -> Scene {
        let (sshd, folder) = (TestSshd::start(), Scratch::new());
        let command = folder.join("known-hosts");
        let asked = folder.join("asked");
        let log = format!("printf '<%s> ' \"$@\" >> '{0}'; echo >> '{0}'", asked.display());
        write_program(&command, &format!("{log}\n{}", script(&sshd, &folder)));
        let serve = Serve::start(&sshd, ServeOptions::here());
        let setup = SshSetup::bowline(&sshd, serve.udp().port()).known_hosts("");
        let line = format!("KnownHostsCommand {} %H %I %t %f %K \"a b\" %p %%", command.display());
        Scene {
            ssh: setup.option(&line).write(),
            _serve: serve,
            sshd,
            folder,
        }
    }
}
