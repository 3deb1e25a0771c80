//! Whoever takes another's place, or makes way, is killed at each step of it: one keeper is left, with all sessions.

use crate::support::process::{Running, run};
use crate::support::rig::Rig;
use crate::support::serve::{Serve, ServeOptions};
use crate::support::server_half::signal;
use crate::support::sshd::TestSshd;
use crate::support::wait_for;
use crate::{LIMIT, echo, serve};
use rustix::process::Signal;

/// What the one that asks passes, in this order.
const ASKER: [&str; 4] = ["asked", "offered", "said-ready", "taken-over"];
/// What the one that makes way passes.
const GIVER: [&str; 2] = ["granted", "handed-over"];

#[test]
fn asker_killed_at_each_step_leaves_one_keeper_and_all_sessions() {
    let mut rig = Rig::bowline();
    let mut session = echo(&rig, 1);
    let udp = rig.serve().udp();
    let keeper = rig.serve().half().keeper();
    for point in ASKER {
        let mut asker = rig.serve().another(udp, &["--replace"]);
        asker.env("BOWLINE_FAULT", format!("crash-at={point}:1"));
        let killed = run(&mut asker, LIMIT);
        assert_eq!(killed.code, Some(128 + 9), "it never came to {point}: {}", killed.err());
        session.expect_alive();
        rig.serve().half().worker();
        let left = rig.serve().half().keeper();
        // Until it says that it is ready, the other one has given nothing away.
        assert!(left == keeper || !["asked", "offered"].contains(&point), "{point}");
    }
    assert_eq!(serve(&mut rig).replace(None, &[]).code, Some(0));
    session.expect_alive();
    session.finish();
}

#[test]
fn with_nobody_there_replace_just_starts() {
    let sshd = TestSshd::start();
    let mut serve = Serve::start(&sshd, ServeOptions::here().argument("--replace"));
    let keeper = serve.half().kill_keeper();
    signal(serve.half().keeper_after(keeper), Signal::TERM);
    assert!(wait_for(LIMIT, || serve.half().processes().is_empty().then_some(())).is_some());
    // The file that the raised one may not have been able to remove is of a dead one.
    serve.start_again();
    assert_eq!(serve.stop(LIMIT), Some(0));
}

#[test]
fn giver_killed_at_each_step_leaves_one_keeper_and_all_sessions() {
    for point in GIVER {
        let rig = Rig::with(ServeOptions::here().fault(&format!("crash-at={point}:1")), |setup| {
            setup
        });
        let mut session = echo(&rig, 1);
        let keeper = rig.serve().half().keeper();
        // Nothing is lost when the first ones that the worker raises die in the same way.
        let udp = rig.serve().udp();
        let asker = Running::spawn(rig.serve().another(udp, &["--replace"]).env_remove("BOWLINE_FAULT"));
        rig.serve().half().keeper_after(keeper);
        session.expect_alive();
        assert_ne!(rig.serve().half().keeper(), keeper);
        assert_eq!(rig.serve().logged("another keeper has taken over"), 0, "killed before");
        session.finish();
        drop(asker);
    }
}
