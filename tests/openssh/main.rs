//! Real ssh, scp, sftp, rsync and git over both halves to a real sshd, on loopback, through faults.
//!
//! The scenarios are those that `harness` runs over plain TCP. No root needed.

#[path = "../scenarios/mod.rs"]
mod scenarios;
#[path = "../support/mod.rs"]
mod support;

mod cuts;
mod many;
mod paths;

use scenarios::{endings, forwarding, transfers};
use std::time::Duration;
use support::data::MIB;
use support::process::run_with_input;
use support::rig::Rig;
use support::serve::ServeOptions;
use support::ssh::HOST;
use support::sshd::SESSIONS_FROM;
use support::{data, heavy, measured, now};

/// How often the lead is closed in the transfers under fault.
const EVERY: &str = "500ms";

#[test]
fn exit_codes_and_last_words_are_those_of_the_remote_command() {
    let rig = Rig::bowline();
    endings::exit_codes_are_kept(&rig);
    let logins = endings::EXIT_CODES.len();
    assert_eq!(
        rig.sshd.connections_from(SESSIONS_FROM),
        logins,
        "one connection to sshd per session"
    );
    assert_eq!(rig.sshd.logins(), logins);
    assert_eq!(rig.resumes(), 0, "nothing to resume on a good path");
}

#[test]
fn rsync_of_256_mib_survives_a_closed_lead_every_500_ms() {
    let _turn = heavy();
    under_fault(|rig| transfers::rsync_both_ways(rig, 256 * MIB));
}

#[test]
fn scp_survives_a_closed_lead_every_500_ms() {
    let _turn = heavy();
    under_fault(|rig| transfers::scp_both_ways(rig, 256 * MIB));
}

#[test]
fn sftp_survives_a_closed_lead_every_500_ms() {
    let _turn = heavy();
    under_fault(|rig| transfers::sftp_put_and_get(rig, 256 * MIB));
}

#[test]
fn git_clone_and_push_survive_a_closed_lead_every_500_ms() {
    let _turn = heavy();
    under_fault(|rig| transfers::git_clone_and_push(rig, 48 * MIB));
}

#[test]
fn a_transfer_survives_a_server_half_that_closes_the_lead_every_500_ms() {
    let _turn = heavy();
    let options = ServeOptions::here().fault(&format!("close-carrier-after={EVERY}"));
    let rig = Rig::with(options, |setup| setup);
    transfers::scp_both_ways(&rig, 256 * MIB);
    assert!(rig.resumes() > 0, "the fault happened");
}

#[test]
fn four_mib_are_byte_exact_when_every_carrier_is_closed_7_ms_after_its_attach() {
    let _turn = heavy();
    let rig = Rig::faulty("7ms");
    let bytes = data::random_bytes(41, 4 << 20);
    let outcome = run_with_input(
        &mut rig.ssh.ssh(&[HOST, "cat; exit 3"]),
        bytes.clone(),
        scenarios::LIMIT,
    );
    let outcome = outcome.expect_code(3);
    assert_eq!(
        data::hash_bytes(&outcome.stdout),
        data::hash_bytes(&bytes),
        "{} bytes",
        outcome.stdout.len()
    );
    measured(
        "4 MiB both ways in a storm",
        format_args!("{:?}, {} resumes", outcome.took, rig.resumes()),
    );
    assert!(rig.resumes() > 0, "the fault happened");
}

#[test]
fn ports_socks_agent_stdio_and_jumps_are_forwarded() {
    let rig = Rig::bowline();
    forwarding::local(&rig);
    forwarding::remote(&rig);
    forwarding::dynamic(&rig);
    forwarding::agent(&rig);
    forwarding::stdio(&rig);
    forwarding::jump(&rig);
}

#[test]
fn ten_sessions_share_one_control_master() {
    let _turn = heavy();
    forwarding::ten_sessions_over_one_control_master(&Rig::bowline());
    under_fault(forwarding::ten_sessions_over_one_control_master);
}

#[test]
fn a_client_that_half_closes_gets_the_rest() {
    endings::half_close_reaches_the_remote_command(&Rig::bowline());
    endings::half_close_reaches_the_remote_command(&Rig::faulty("50ms"));
}

#[test]
fn full_windows_in_both_directions_do_not_deadlock() {
    let _turn = heavy();
    endings::full_windows_both_ways_do_not_deadlock(&Rig::bowline(), 64 * MIB);
    under_fault(|rig| endings::full_windows_both_ways_do_not_deadlock(rig, 64 * MIB));
}

#[test]
fn a_slow_reader_gets_every_byte_and_pauses_the_writer() {
    let _turn = heavy();
    endings::a_slow_reader_gets_every_byte(&Rig::bowline(), 64 * MIB);
    under_fault(|rig| endings::a_slow_reader_gets_every_byte(rig, 64 * MIB));
}

#[test]
fn a_closed_stdout_ends_the_remote_command() {
    let rig = Rig::bowline();
    endings::a_closed_stdout_ends_the_remote_command(&rig);
    let ended = support::wait_for(Duration::from_secs(10), || (rig.sshd.processes() == 1).then_some(()));
    assert!(
        ended.is_some(),
        "sshd is alone again: {} processes",
        rig.sshd.processes()
    );
}

/// Runs a scenario with the lead closed over and over, and insists that this happened about as often as it should.
fn under_fault(scenario: impl FnOnce(&Rig)) {
    let rig = Rig::faulty(EVERY);
    let start = now();
    scenario(&rig);
    let (took, resumes) = (start.elapsed(), rig.resumes());
    measured(
        "under fault",
        format_args!("{resumes} resumes in {:.1} s", took.as_secs_f64()),
    );
    assert!(resumes > 0, "the fault happened: {}", rig.ssh.proxy_log());
}
