//! A relay that records, changes, replays, reorders, swaps, injects or leads astray only makes a path fail.

use crate::lab;
use crate::scenarios::ticker::Ticker;
use crate::scenarios::transfers;
use crate::support::relay::{REGISTERED, Relay};
use crate::support::rig::Rig;
use crate::support::serve::{Serve, ServeOptions};
use crate::support::sshd::TestSshd;
use crate::support::{measured, wait_for};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const HOSTS: [(&str, &str); 4] = [("server", "nat"), ("other", "nat"), ("r1", ""), ("r2", "")];
const LIMIT: Duration = Duration::from_secs(30);
/// Each 20th piece of ciphertext, or each client.
const FAULTS: [&str; 6] = [
    "flips=20",
    "replays=20",
    "reorders=20",
    "swaps=20",
    "injects=20",
    "misleads=1",
];

#[test]
fn a_malicious_relay_only_makes_a_path_fail() {
    let Some((_turn, lab)) = lab("a malicious relay", &HOSTS) else {
        return;
    };
    let mut relays = [Relay::start(lab.place("r1")), Relay::start(lab.place("r2"))];
    let rig = Rig::relayed_in(&lab, &relays);
    // Another server half, to which clients of the first may be led.
    let sshd = TestSshd::start_at(lab.place("other"), "");
    let place = lab.place("other");
    let options = ServeOptions::here().argument("--relay").argument(relays[0].name());
    let _other = Serve::start(&sshd, ServeOptions { place, ..options });
    for fault in FAULTS {
        let ticker = Ticker::start(&rig);
        comes_back(&mut relays[0], 2, |relay| {
            relay.start_faulty(Some(&format!("relay-{fault}")))
        });
        // While the honest one is gone there is no other way than this.
        relays[1].kill();
        let before = relays[0].logged("malicious");
        let met = wait_for(LIMIT, || (relays[0].logged("malicious") > before).then_some(()));
        assert!(met.is_some(), "nothing came by: {}", relays[0].log());
        comes_back(&mut relays[1], 1, Relay::start_again);
        transfers::scp_both_ways(&rig, 4 << 20);
        rig.ssh.remote("exit 7", LIMIT).expect_code(7);
        ticker.finish_in_order();
        measured(fault, format_args!("{} times", relays[0].logged("malicious") - before));
    }
}

/// Waits until so many server halves are listed at a relay that was started again.
#[track_caller]
fn comes_back(relay: &mut Relay, servers: usize, start: impl FnOnce(&mut Relay)) {
    let listed = relay.logged("event=\"registered\"");
    start(relay);
    let back = || relay.logged("event=\"registered\"") >= listed + servers;
    assert!(
        wait_for(REGISTERED, || back().then_some(())).is_some(),
        "{}",
        relay.log()
    );
}

#[test]
fn a_relay_that_records_sees_ciphertext_only() {
    let Some((_turn, lab)) = lab("a relay that records", &HOSTS) else {
        return;
    };
    let mut relays = [Relay::start(lab.place("r1"))];
    let record = tempfile::NamedTempFile::new().expect("the temporary folder");
    // The relay is not root any more when it begins to write.
    fs::set_permissions(record.path(), Permissions::from_mode(0o666)).expect("our own file");
    let rig = Rig::relayed_in(&lab, &relays);
    let listed = rig.serve().logged("event=\"registered\"");
    relays[0].start_faulty(Some(&format!("relay-records={}", record.path().display())));
    let back = || rig.serve().logged("event=\"registered\"") > listed;
    assert!(wait_for(REGISTERED, || back().then_some(())).is_some());
    rig.ssh.remote("exit 7", LIMIT).expect_code(7);
    let seen = fs::read(record.path()).expect("our own file");
    measured("bytes recorded", seen.len());
    assert!(seen.len() > 5_000, "the session came by");
    // What both ends say in the clear before SSH encrypts anything.
    for word in ["SSH-2.0", "OpenSSH", "curve25519", "ssh-ed25519"] {
        assert!(
            !seen.windows(word.len()).any(|bytes| bytes == word.as_bytes()),
            "{word}"
        );
    }
}
