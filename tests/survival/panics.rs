//! A panic in one session is that session's alone.

use crate::held::{Door, Held};
use crate::support::serve::ServeOptions;
use crate::support::wait_for;
use crate::{LIMIT, OpenHouse};

#[test]
fn a_panic_in_one_session_is_not_noticed_by_the_others() {
    let door = Door::open();
    let house = OpenHouse::with(door.address(), ServeOptions::here().fault("panic-session=2"));
    let mut sessions: Vec<Held> = (0..3).map(|n| door.session(&house, n)).collect();
    let worker = house.serve.half().worker();
    let panics = || house.serve.logged("a bug in bowline ended the session");
    let panicked = wait_for(LIMIT, || {
        sessions[1].try_send(100);
        sessions[0].expect_alive();
        sessions[2].expect_alive();
        (panics() > 0).then_some(())
    });
    assert!(panicked.is_some(), "{}", house.logs());
    assert_eq!(house.serve.half().worker(), worker, "the worker lives");
    let panicked = sessions.remove(1);
    let outcome = panicked.client.finish(LIMIT);
    assert_eq!(outcome.code, Some(75), "{}\n{}", outcome.err(), house.logs());
    assert!(outcome.err().contains("session"), "it says why: {}", outcome.err());
    sessions.iter_mut().for_each(Held::expect_alive);
    assert_eq!(panics(), 1, "{}", house.logs());
}
