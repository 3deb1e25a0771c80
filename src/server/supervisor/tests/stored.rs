//! What a worker stores is given to the next one.

use super::{KeeperProcess, roles::STORE_LIMIT};

#[test]
fn what_a_worker_stored_comes_back_to_the_next_and_what_it_removed_does_not() {
    let mut keeper = KeeperProcess::start("plain");
    assert_eq!(keeper.ask("kept"), "");
    for order in ["store 1 one", "store 2 two", "store 2 more", "store lock lock"] {
        assert_eq!(keeper.ask(order), "stored");
    }
    keeper.kill_worker();
    keeper.next_worker();
    assert_eq!(keeper.ask("kept"), "1=one 2=more 2=two lock=lock");
    assert_eq!(keeper.ask("remove 2"), "removed");
    assert_eq!(keeper.ask("store 3 three"), "stored");
    keeper.kill_worker();
    keeper.next_worker();
    assert_eq!(keeper.ask("kept"), "1=one 3=three lock=lock");
}

#[test]
fn what_was_stored_just_before_death_is_there() {
    let mut keeper = KeeperProcess::start("plain");
    let mut expected = Vec::new();
    for round in 0..20 {
        assert_eq!(keeper.ask(&format!("store x{round} {round}")), "stored");
        keeper.kill_worker();
        keeper.next_worker();
        expected.push(format!("x{round}={round}"));
        expected.sort();
        assert_eq!(keeper.ask("kept"), expected.join(" "));
    }
}

#[test]
fn names_that_are_none_more_than_fits_and_strange_descriptors_are_not_kept() {
    let mut keeper = KeeperProcess::start("plain");
    assert_eq!(keeper.ask("store toolongname x"), "Name { name: \"toolongname\" }");
    keeper.ask("store odd socket");
    assert_eq!(
        keeper.ask(&format!("store many *{STORE_LIMIT}")),
        format!("Full {{ limit: {STORE_LIMIT} }}")
    );
    keeper.kill_worker();
    keeper.next_worker();
    assert_eq!(keeper.ask("kept"), format!("many=many x{}", STORE_LIMIT - 100));
}

#[test]
fn connections_are_kept_and_sockets_that_listen_or_could_be_made_to_are_not() {
    let mut keeper = KeeperProcess::start("plain");
    for order in ["store 1 connection", "store 2 fresh", "store 3 turned"] {
        keeper.ask(order);
    }
    keeper.kill_worker();
    keeper.next_worker();
    assert_eq!(keeper.ask("kept"), "1=connection");
}

#[test]
fn names_of_listening_sockets_are_not_the_worker_s_to_use() {
    let keeper = KeeperProcess::start("plain");
    for name in ["udp", "tcp"] {
        assert_eq!(
            keeper.ask(&format!("store {name} x")),
            format!("Name {{ name: {name:?} }}")
        );
    }
}
