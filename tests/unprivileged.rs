//! A server half of a user who may not read sshd's host keys: it has a key of its own, and says how clients learn it.

mod support;

use std::fs;
use std::time::Duration;
use support::daemon::{Daemon, Home};
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
