//! The session store's record of one session is damaged: that session ends with a reason, the others continue.

use crate::held::{Door, Held};
use crate::support::serve::ServeOptions;
use crate::support::server_half::MemoryFile;
use crate::{LIMIT, OpenHouse};
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// Bytes of the header that are in use; the header stands before the ring.
const USED: usize = 4096;
const REPLAY: u64 = 1 << 20;
/// The exit code of a lost session.
const LOST: i32 = 75;

/// Which bytes of a header are changed, and what the log then says.
const DAMAGES: [(Range<usize>, &str); 6] = [
    (0..8, "the memory does not belong to a session"),
    (8..12, "layout"),
    (100..101, "identity is damaged"),
    (2048..2056, "mark"),
    (2112..2368, "latest record is damaged"),
    (0..USED, "the memory does not belong to a session"),
];

#[test]
fn a_damaged_header_ends_only_its_session() {
    std::thread::scope(|scope| {
        for (place, said) in DAMAGES {
            scope.spawn(move || damage_one(place, said));
        }
    });
}

fn damage_one(place: Range<usize>, said: &str) {
    let case = format!("bytes {place:?}");
    let door = Door::open();
    let options = ServeOptions::here().argument("--replay-buffer").argument("1MiB");
    let house = OpenHouse::with(door.address(), options);
    let mut sessions: Vec<Held> = (0..3).map(|n| door.session(&house, n)).collect();
    for session in &mut sessions {
        session.expect_from_client(b"hello");
        session.expect_alive();
    }
    let half = house.serve.half();
    half.without_a_worker(|_| {
        let mut rings = rings(half.memory_files());
        assert_eq!(rings.len(), 3, "a memory file for each session: {rings:?}");
        rings.sort_by_key(|file| file.inode);
        let file = File::options()
            .read(true)
            .write(true)
            .open(&rings[1].path)
            .expect("a memory file of our own");
        let mut page = [0; USED];
        file.read_exact_at(&mut page, 0).expect("a header");
        page[place].iter_mut().for_each(|byte| *byte ^= 0x55);
        file.write_all_at(&page, 0).expect("not sealed against writing");
        // Clients that wait for the next worker send meanwhile.
        for session in &mut sessions {
            session.send(5_000);
        }
    });
    let mut ended = 0;
    for mut session in sessions {
        // All three are tried; one of them ends at its next redial.
        let came = crate::support::wait_for(Duration::from_secs(20), || {
            (session.client.down.bytes() >= session.sent || !session.client.runs()).then_some(())
        });
        assert!(came.is_some(), "{case}: neither goes on nor ends\n{}", house.logs());
        if session.client.runs() {
            session.expect_everything();
            session.expect_alive();
            continue;
        }
        ended += 1;
        let outcome = session.client.finish(LIMIT);
        assert_eq!(outcome.code, Some(LOST), "{case}: {}\n{}", outcome.err(), house.logs());
        assert!(!outcome.err().is_empty(), "{case}: it says why");
    }
    assert_eq!(ended, 1, "{case}: sessions that ended\n{}", house.logs());
    assert_eq!(house.serve.logged("panicked"), 0, "{case}: {}", house.logs());
    let log = house.serve.log();
    let said = log.lines().any(|line| line.contains("WARN") && line.contains(said));
    assert!(said, "{case}: the reason is logged\n{}", house.logs());
}

/// One for each session; other memfds are smaller.
fn rings(files: Vec<MemoryFile>) -> Vec<MemoryFile> {
    files
        .into_iter()
        .filter(|file| (REPLAY..2 * REPLAY).contains(&file.length))
        .collect()
}
