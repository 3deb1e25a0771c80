//! A relay that records, modifies, replays, reorders, swaps, injects or misdirects only makes a
//! path fail.

use crate::scenarios::ticker::Ticker;
use crate::scenarios::transfers;
use crate::shared_lab;
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
const MISLEADS: &str = "relay-misleads=1";
/// The fault, and its effect. A handshake is about ten of 20 chunks.
const FAULTS: [(&str, &[&str]); 2] = [
    (
        "relay-tampers=20",
        &["flips", "replays", "reorders", "swaps", "injects"],
    ),
    (MISLEADS, &["misleads"]),
];

#[test]
fn a_malicious_relay_only_makes_a_path_fail() {
    let Some((_turn, lab)) = shared_lab("a malicious relay", &HOSTS) else {
        return;
    };
    let mut relays = [Relay::start(lab.place("r1")), Relay::start(lab.place("r2"))];
    let rig = Rig::relayed_in(&lab, &relays);
    // Another server half, to which clients of the first may be misdirected.
    let sshd = TestSshd::start_at(lab.place("other"), "");
    let place = lab.place("other");
    let options = ServeOptions::here().argument("--relay").argument(relays[0].name());
    let _other = Serve::start(&sshd, ServeOptions { place, ..options });
    for (fault, kinds) in FAULTS {
        let ticker = Ticker::start(&rig);
        comes_back(&mut relays[0], 2, fault);
        // While the honest relay is down, this is the only path.
        lab.cut("r2");
        let did = |kind: &&str| relays[0].logged(&format!("malicious: it {kind}"));
        let met = wait_for(LIMIT, || kinds.iter().all(|kind| did(kind) > 0).then_some(()));
        assert!(met.is_some(), "not all of it came by: {}", relays[0].log());
        if fault == MISLEADS {
            let alone = rig.ssh.remote("exit 7", LIMIT).expect_code(255);
            assert!(alone.err().contains("the host key of"), "{}", alone.err());
        }
        lab.restore("r2");
        transfers::scp_both_ways(&rig, 4 << 20);
        rig.ssh.remote("exit 7", LIMIT).expect_code(7);
        ticker.finish_in_order();
        kinds
            .iter()
            .for_each(|kind| measured(kind, format_args!("{} times", did(kind))));
    }
}

/// Waits until this many server halves are registered at a restarted relay.
#[track_caller]
fn comes_back(relay: &mut Relay, servers: usize, fault: &str) {
    let listed = relay.logged("event=\"registered\"");
    relay.start_faulty(Some(fault));
    let back = || relay.logged("event=\"registered\"") >= listed + servers;
    assert!(
        wait_for(REGISTERED, || back().then_some(())).is_some(),
        "{}",
        relay.log()
    );
}

#[test]
fn a_relay_that_records_sees_ciphertext_only() {
    let Some((_turn, lab)) = shared_lab("a relay that records", &HOSTS) else {
        return;
    };
    let mut relays = [Relay::start(lab.place("r1"))];
    let record = tempfile::NamedTempFile::new().expect("the temporary folder");
    // The relay has dropped root privileges when it begins to write.
    fs::set_permissions(record.path(), Permissions::from_mode(0o666)).expect("our own file");
    let rig = Rig::relayed_in(&lab, &relays);
    comes_back(&mut relays[0], 1, &format!("relay-records={}", record.path().display()));
    rig.ssh.remote("exit 7", LIMIT).expect_code(7);
    let seen = fs::read(record.path()).expect("our own file");
    measured("bytes recorded", seen.len());
    assert!(seen.len() > 5_000, "the session came by");
    // Both ends send these in the clear before SSH encrypts anything.
    for word in ["SSH-2.0", "OpenSSH", "curve25519", "ssh-ed25519"] {
        assert!(
            !seen.windows(word.len()).any(|bytes| bytes == word.as_bytes()),
            "{word}"
        );
    }
}
