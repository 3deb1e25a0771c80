//! Names of accounts that sshd alone can take apart, and many sessions at once of one account.

use crate::net::Net;
use crate::support::Scratch;
use crate::support::place::Place;
use crate::support::serve::Serve;
use crate::support::ssh::{SshFiles, SshSetup};
use crate::support::sshd::{self, TestSshd, make_key, public_key};
use crate::{EVERYWHERE, LIMIT, REFUSED, Server, options, possible};
use std::fs;

/// The server with two accounts more, of which one has the name of the other and a domain.
fn with_accounts(net: &Net, scratch: &Scratch) -> Place {
    let mut mounts = String::new();
    for (file, [first, second]) in [
        (
            "/etc/passwd",
            ["bob:x:4712:4712::/tmp:/bin/sh", "bob@corp:x:4713:4713::/tmp:/bin/sh"],
        ),
        ("/etc/shadow", ["bob:*:19000::::::", "bob@corp:*:19000::::::"]),
    ] {
        let text = fs::read_to_string(file).expect("a file of every Unix");
        let ours = scratch.join(file.rsplit('/').next().expect("a name"));
        fs::write(&ours, format!("{text}{first}\n{second}\n")).expect("the scratch folder");
        mounts += &format!("mount --bind '{}' {file} && ", ours.display());
    }
    // The namespace of mounts is one of its own for each program that `ip netns exec` starts.
    let script = format!("{mounts}exec \"$@\"");
    net.server().entered_further_by(&["sh", "-c", &script, "sh"])
}

#[test]
fn whom_sshd_denies_by_account_and_host_is_refused_and_everybody_else_is_not() {
    if !possible("accounts with an @ in their names") {
        return;
    }
    let net = Net::up();
    let scratch = Scratch::new();
    let place = with_accounts(&net, &scratch);
    // OpenSSH 9.2 divides a pattern at its first `@`, OpenSSH 10 at its last. So the first pattern is for nobody, or for
    // bob@corp; the second for bob, the third for both, and the fourth for nobody who comes from the client.
    let patterns = [
        "bob@corp@198.51.100.*",
        "bob@198.51.100.*",
        "*@198.51.100.*",
        "bob@*@127.0.0.1",
    ];
    let mut denied = 0;
    for pattern in patterns {
        let sshd = TestSshd::start_at(place.clone(), &format!("{EVERYWHERE}DenyUsers {pattern}\n"));
        let mut options = options(&net, "real");
        options.place = place.clone();
        let serve = Serve::start(&sshd, options);
        for user in ["bob", "bob@corp"] {
            let login = |setup: SshSetup| {
                let ssh: SshFiles = setup.at(net.client()).user(user).write();
                ssh.remote("exit 7", LIMIT).code
            };
            let plain = login(SshSetup::plain(&sshd));
            let through = login(SshSetup::bowline(&sshd, serve.udp().port()));
            assert_eq!(
                through,
                plain,
                "DenyUsers {pattern}, {user}\n{}\n{}",
                serve.log(),
                sshd.log()
            );
            denied += u32::from(plain == Some(REFUSED));
        }
    }
    let expected = if sshd::version() >= 1000 { 4 } else { 3 };
    assert_eq!(denied, expected, "logins of 8 that sshd itself denies");
}

#[test]
fn a_client_that_opens_many_sessions_at_once_is_not_locked_out() {
    if !possible("penalties of sshd") {
        return;
    }
    let net = Net::up();
    let server = Server::start(&net, "real", EVERYWHERE);
    let ssh = server.ssh(&net);
    // From OpenSSH 9.8 on four questions that end without a login would be enough.
    std::thread::scope(|scope| {
        let sessions: Vec<_> = (0..16).map(|_| scope.spawn(|| ssh.remote("exit 7", LIMIT))).collect();
        for session in sessions {
            session.join().expect("a session").expect_code(7);
        }
    });
    // One with another key, about which sshd has to be asked, and one that goes without bowline.
    let scratch = Scratch::new();
    let another = scratch.join("another");
    make_key(&another, "ed25519");
    let keys = server.sshd.authorized_keys();
    let known = fs::read_to_string(&keys).expect("sshd's folder");
    fs::write(&keys, format!("{known}{}\n", public_key(&another))).expect("sshd's folder");
    let other = server.setup(&net).identity(Some(another)).write();
    other.remote("exit 7", LIMIT).expect_code(7);
    let plain = SshSetup::plain(&server.sshd).at(net.client()).write();
    plain.remote("exit 7", LIMIT).expect_code(7);
    assert!(!server.sshd.log().contains("drop connection"), "{}", server.sshd.log());
}
