//! Many sessions in a row: whatever a session takes, it gives back.

use crate::support::data::random_bytes;
use crate::support::echo::TcpEcho;
use crate::support::place::Place;
use crate::support::process::{Running, Usage, run_with_input};
use crate::support::rig::Rig;
use crate::support::serve::{Serve, ServeOptions};
use crate::support::ssh::{HOST, SshFiles, SshSetup};
use crate::support::sshd::TestSshd;
use crate::support::{heavy, measured, now, wait_for};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
/// Until pools, caches and threads have their size.
const WARM_UP: usize = 100;
const SESSIONS: usize = 1_000;
/// What a session may leave behind at most, with its entry among the closed ones, in KiB. Its buffers are a thousand times that.
const KIB_PER_SESSION: u64 = 8;

#[test]
fn a_thousand_sessions_in_a_row_leave_nothing_behind() {
    let _turn = heavy();
    // An echo instead of sshd: the sessions are the server half's, not sshd's, and each takes milliseconds.
    let (sshd, echo) = (TestSshd::start(), TcpEcho::start());
    let mut options = ServeOptions::here().argument("--auth").argument("none");
    for key in sshd.host_keys() {
        options = options.argument("--host-key").argument(key);
    }
    let serve = Serve::start_before(echo.address(), options);
    let ssh = SshSetup::bowline(&sshd, serve.udp().port()).write();
    let session = |n: usize| {
        let bytes = random_bytes(n as u64, 3_000);
        let outcome = run_with_input(&mut ssh.proxy(), bytes.clone(), LIMIT).expect_code(0);
        assert!(
            outcome.stdout == bytes,
            "session {n}: {} of 3000 bytes",
            outcome.stdout.len()
        );
    };
    (0..WARM_UP).for_each(session);
    let before = settled(&serve);
    (WARM_UP..WARM_UP + SESSIONS).for_each(session);
    let after = wait_for(Duration::from_secs(15), || {
        at_most(serve.usage(), before).then(|| serve.usage())
    });
    let after = after.unwrap_or_else(|| serve.usage());
    measured(
        "server half before and after 1,000 sessions",
        format_args!("{before:?}\n        {after:?}"),
    );
    assert_eq!(
        echo.accepted(),
        WARM_UP + SESSIONS,
        "one connection to the target per session"
    );
    assert!(
        at_most(after, before),
        "threads, processes and descriptors: {before:?} before, {after:?} after"
    );
    let grown = after.resident.saturating_sub(before.resident);
    assert!(grown <= KIB_PER_SESSION * SESSIONS as u64, "memory grew by {grown} KiB");
}

#[test]
fn fifty_ssh_sessions_in_a_row_leave_nothing_behind() {
    let _turn = heavy();
    let rig = Rig::bowline();
    let session = |_| drop(rig.ssh.remote("exit 7", LIMIT).expect_code(7));
    (0..5).for_each(session);
    let before = settled(rig.serve());
    (0..50).for_each(session);
    let clean = wait_for(Duration::from_secs(15), || {
        (rig.sshd.processes() == 1 && at_most(rig.serve().usage(), before)).then_some(())
    });
    let after = rig.serve().usage();
    assert!(
        clean.is_some(),
        "sshd has {} processes; {before:?} before, {after:?} after",
        rig.sshd.processes()
    );
}

/// Clients of one address that come at once: three times as many as sshd takes without dropping any.
const CROWD: usize = 60;
const CROWD_LIMIT: Duration = Duration::from_secs(120);

#[test]
fn a_crowd_of_one_address_gets_in_at_least_as_often_as_with_plain_ssh() {
    let _turn = heavy();
    // sshd's own default; the last one counts.
    let sshd = TestSshd::start_with(Place::here(), "", "MaxStartups 10:30:100\n");
    let serve = Serve::start(&sshd, ServeOptions::here());
    let of = |setup: SshSetup| setup.option("ConnectTimeout 110").write();
    let plain = let_in(&of(SshSetup::plain(&sshd)));
    let ours = let_in(&of(SshSetup::bowline(&sshd, serve.udp().port())));
    measured(
        "clients of one address let in of 60 at once, MaxStartups 10:30:100, plain and over bowline",
        format_args!("{plain:?}\n        {ours:?}"),
    );
    assert!(ours.0 >= plain.0, "{ours:?}, with plain ssh {plain:?}: {}", serve.log());
    // A client waits its turn; nothing says no to it.
    assert_eq!(ours.0, CROWD, "{}", serve.log());
}

/// How many of a crowd get in, and how long that takes.
fn let_in(ssh: &SshFiles) -> (usize, Duration) {
    let begun = now();
    let crowd: Vec<_> = (0..CROWD)
        .map(|_| Running::start(&mut ssh.ssh(&[HOST, "true"])))
        .collect();
    let ended = crowd.into_iter().map(|client| client.finish(CROWD_LIMIT));
    let in_there = ended.filter(|outcome| outcome.code == Some(0)).count();
    (in_there, now() - begun)
}

/// What the server half uses once the last session's end is dealt with: the same twice in a row.
fn settled(serve: &Serve) -> Usage {
    let mut last = serve.usage();
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(200));
        let next = serve.usage();
        if (next.threads, next.descriptors) == (last.threads, last.descriptors) {
            return next;
        }
        last = next;
    }
    last
}

fn at_most(now: Usage, before: Usage) -> bool {
    now.processes <= before.processes && now.threads <= before.threads && now.descriptors <= before.descriptors
}
