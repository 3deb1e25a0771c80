//! A server half of a user who may not read sshd's host keys: it has a key of its own, and says how clients learn it.

mod support;

use std::fs;
use std::time::Duration;
use support::daemon::{Daemon, Home};
use support::place::Place;
use support::process::{Outcome, run};
use support::ssh::SshSetup;
use support::sshd::TestSshd;

const REFUSED: i32 = 77;

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_server_half_without_sshd_s_host_keys_is_pinned_once_and_known_from_then_on() {
    if !rustix::process::geteuid().is_root() {
        return support::measured("a sshd of another user", "SKIPPED, only root can run one");
    }
    let (sshd, home) = (TestSshd::start(), Home::of_nobody());
    sshd.show_configuration();
    let (target, config) = (sshd.address().to_string(), sshd.config().display().to_string());
    let arguments = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--target",
        &target,
        "--sshd-config",
        &config,
    ];
    let serve = Daemon::start(&home, &arguments);
    let fingerprint = serve.field("fingerprint");
    assert!(serve.log().contains(&format!("--pin {fingerprint}")), "{}", serve.log());

    let setup = || SshSetup::bowline(&sshd, serve.port("udp"));
    let untold = setup().write();
    let outcome: Outcome = run(&mut untold.proxy(), LIMIT).expect_code(REFUSED);
    assert!(outcome.err().contains("--pin"), "how to learn it: {}", outcome.err());

    let pinned = setup().proxy_arguments(&["--pin", &fingerprint]).write();
    pinned.remote("exit 7", LIMIT).expect_code(7);
    let kept = fs::read_to_string(pinned.state().join("known_hosts")).expect("what was pinned is kept");

    // The same, without the pin.
    fs::create_dir_all(untold.state()).expect("the scratch folder");
    fs::write(untold.state().join("known_hosts"), kept).expect("the scratch folder");
    untold.remote("exit 7", LIMIT).expect_code(7);

    // By the line that the server half gives.
    let log = serve.log();
    let (_, key) = log.split_once("key=\"").expect("the key itself");
    let line = format!(
        "[127.0.0.1]:{} {}",
        sshd.address().port(),
        key.split('"').next().unwrap_or_default()
    );
    let told = setup().write();
    fs::create_dir_all(told.state()).expect("the scratch folder");
    fs::write(told.state().join("known_hosts"), line).expect("the scratch folder");
    told.remote("exit 7", LIMIT).expect_code(7);
    assert_eq!(serve.stop(), Some(0));
}

/// The server half that a user starts without root: of one user, on a port of a range, as long as it is used.
fn serve_for<'a>(sshd: &TestSshd, home: &'a Home, keys: &'a str, more: &[&'a str]) -> Daemon {
    let target = sshd.address().to_string();
    let mut arguments = vec![
        "serve",
        "--target",
        &target,
        "--authorized-keys",
        keys,
        "--accept-loopback-match",
    ];
    arguments.extend(more);
    Daemon::start(home, &arguments)
}

#[test]
fn other_users_are_refused_as_unknown_keys_are() {
    let (sshd, home) = (TestSshd::start(), Home::mine());
    let (known, unknown) = (sshd.authorized_keys(), home.authorized_keys());
    let [known, unknown] = [&known, &unknown].map(|path| path.to_str().expect("UTF-8"));
    let user = sshd.user();
    let listen = ["--listen", "127.0.0.1:0", "--only-user"];
    let answer = |keys: &str, only: &str| {
        let serve = serve_for(&sshd, &home, keys, &[&listen[..], &[only]].concat());
        let setup =
            SshSetup::bowline(&sshd, serve.port("udp")).proxy_arguments(&["--pin", &serve.field("fingerprint")]);
        let outcome = run(&mut setup.write().proxy(), LIMIT);
        assert_eq!(serve.stop(), Some(0));
        outcome
    };
    let other_user = answer(known, "somebody-else").expect_code(REFUSED).err();
    let unknown_key = answer(unknown, &user).expect_code(REFUSED).err();
    assert!(
        unknown_key.contains("none of the offered keys is accepted"),
        "{unknown_key}"
    );
    let without_paths = |text: &str| text.lines().next().map(str::to_owned);
    assert_eq!(without_paths(&other_user), without_paths(&unknown_key), "{other_user}");

    let serve = serve_for(&sshd, &home, known, &[&listen[..], &[&user]].concat());
    let pin = serve.field("fingerprint");
    let pinned = SshSetup::bowline(&sshd, serve.port("udp"))
        .proxy_arguments(&["--pin", &pin])
        .write();
    pinned.remote("exit 7", LIMIT).expect_code(7);
    assert_eq!(serve.stop(), Some(0));
}

#[test]
fn two_server_halves_take_two_ports_of_one_range() {
    let (sshd, homes) = (TestSshd::start(), [Home::mine(), Home::mine()]);
    let keys = sshd.authorized_keys();
    let keys = keys.to_str().expect("UTF-8");
    let first = Place::free_port();
    let listen = format!("127.0.0.1:{first}-{}", first + 40);
    let more = ["--listen", &listen, "--listen-tls", &listen];
    let serves = [&homes[0], &homes[1]].map(|home| serve_for(&sshd, home, keys, &more));
    let ports = |kind| [serves[0].port(kind), serves[1].port(kind)];
    for kind in ["udp", "tls"] {
        let [one, other] = ports(kind);
        assert_ne!(one, other, "{kind}");
        assert!(
            [one, other].iter().all(|port| (first..=first + 40).contains(port)),
            "{kind}: {one} {other}"
        );
    }
    for serve in serves {
        assert_eq!(serve.field("version"), env!("CARGO_PKG_VERSION"));
        assert_eq!(serve.field("keeper"), serve.id().to_string());
        assert_eq!(serve.stop(), Some(0));
    }
}

#[test]
fn it_stops_when_there_was_no_session_for_the_time_that_was_said() {
    let (sshd, home) = (TestSshd::start(), Home::mine());
    let keys = sshd.authorized_keys();
    let keys = keys.to_str().expect("UTF-8");
    let serve = serve_for(
        &sshd,
        &home,
        keys,
        &["--listen", "127.0.0.1:0", "--exit-when-idle", "4s"],
    );
    let pin = serve.field("fingerprint");
    let setup = SshSetup::bowline(&sshd, serve.port("udp"))
        .proxy_arguments(&["--pin", &pin])
        .write();
    // Longer than the time: a session keeps it.
    setup.remote("sleep 6; exit 7", LIMIT).expect_code(7);
    let log = home.path("log");
    assert_eq!(serve.ended(), Some(0));
    let log = fs::read_to_string(log).expect("its log");
    assert!(log.contains("--exit-when-idle"), "{log}");
}
