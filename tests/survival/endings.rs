//! Sessions that end, hang or are silent while the worker is dead.

use crate::held::{Door, Held};
use crate::scenarios::ticker::Ticker;
use crate::support::process::Running;
use crate::support::rig::Rig;
use crate::support::server_half::{is_alive, signal};
use crate::support::ssh::HOST;
use crate::support::{heavy, measured_time, now, wait_for};
use crate::{LIMIT, OpenHouse, last_lines};
use rustix::process::Signal;
use socket2::SockRef;
use std::fs;
use std::io::Read;
use std::net::Shutdown;
use std::thread::sleep;
use std::time::Duration;

#[test]
fn a_session_that_ended_during_the_outage_gives_its_last_words_and_its_exit_code() {
    let rig = Rig::bowline();
    for lines in [1, 2_000] {
        let (go, done) = (rig.ssh.path("go"), rig.ssh.path("done"));
        let command = format!(
            "echo ready; while [ ! -e {} ]; do sleep 0.02; done; seq {lines}; touch {}; exit 7",
            go.display(),
            done.display()
        );
        let (running, _stdin, mut stdout) = Running::start_piped(&mut rig.ssh.ssh(&[HOST, &command]));
        let mut ready = [0; 6];
        stdout
            .read_exact(&mut ready)
            .unwrap_or_else(|e| panic!("no login: {e}: {}", running.err_so_far()));
        let continued = rig.serve().half().without_a_worker(|_| {
            fs::write(&go, "").expect("the scratch folder");
            let ended = wait_for(LIMIT, || done.exists().then_some(()));
            assert!(ended.is_some(), "the remote command goes on without us");
            // sshd reads its last words and says them into the socket.
            sleep(Duration::from_millis(300));
            now()
        });
        let mut rest = String::new();
        stdout.read_to_string(&mut rest).expect("our own pipe");
        let outcome = running.finish(LIMIT);
        measured_time("end of a session that ended during the outage", continued.elapsed());
        let expected: String = (1..=lines).map(|n| format!("{n}\n")).collect();
        assert!(
            rest == expected,
            "{} of {} bytes of last words",
            rest.len(),
            expected.len()
        );
        outcome.expect_code(7);
        for file in [go, done] {
            fs::remove_file(file).expect("just made");
        }
    }
}

#[test]
fn a_server_half_that_is_stopped_ends_its_sessions_and_tells_the_clients() {
    let door = Door::open();
    let house = OpenHouse::before(door.address());
    let mut sessions: Vec<Held> = (0..3).map(|n| door.session(&house, n)).collect();
    sessions.iter_mut().for_each(Held::expect_alive);
    let stopped = now();
    signal(house.serve.half().keeper(), Signal::TERM);
    for session in sessions {
        let outcome = session.client.finish(LIMIT);
        assert_eq!(outcome.code, Some(75), "{}\n{}", outcome.err(), house.logs());
        assert!(outcome.err().contains("session"), "it says so: {}", outcome.err());
    }
    measured_time("from SIGTERM to the last client's end", stopped.elapsed());
}

/// How an upstream may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Closes,
    Resets,
    ClosesThenResets,
    HalfCloses,
}

#[test]
fn an_upstream_that_ended_during_the_outage_loses_no_byte() {
    let door = Door::open();
    let house = OpenHouse::before(door.address());
    for (n, ending) in [
        Ending::Closes,
        Ending::Resets,
        Ending::ClosesThenResets,
        Ending::HalfCloses,
    ]
    .into_iter()
    .enumerate()
    {
        // Unread bytes of the client make a reset of a close; here all are read.
        for unread in [&b""[..], b"never read"] {
            let mut session = door.session(&house, n as u64);
            session.expect_from_client(b"hello");
            session.expect_alive();
            if !unread.is_empty() {
                assert!(session.client.write(unread));
                sleep(Duration::from_millis(100));
            }
            end_without_a_worker(session, ending, &house, unread);
        }
    }
}

fn end_without_a_worker(mut session: Held, ending: Ending, house: &OpenHouse, unread: &[u8]) {
    house.serve.half().without_a_worker(|_| {
        session.send(50_000);
        session.wait_until_taken();
        match ending {
            Ending::Closes | Ending::HalfCloses => {
                let _ = session.stream.shutdown(Shutdown::Write);
            }
            Ending::Resets => reset(&mut session),
            Ending::ClosesThenResets => {
                let _ = session.stream.shutdown(Shutdown::Write);
                session.wait_until_taken();
                reset(&mut session);
            }
        }
    });
    let case = format!("{ending:?} with {} bytes unread", unread.len());
    session.expect_everything();
    if ending == Ending::HalfCloses {
        let mut got = vec![0; unread.len()];
        session
            .stream
            .read_exact(&mut got)
            .expect("what the client had sent before");
        assert_eq!(got, unread, "{case}");
        session.expect_from_client(b"after your end");
    }
    if ending == Ending::Closes {
        let _ = session.stream.shutdown(Shutdown::Both);
    }
    let (sent, down) = (session.sent, session.client.down.clone());
    let outcome = session.client.finish(LIMIT);
    assert_eq!(outcome.code, Some(0), "{case}: {}\n{}", outcome.err(), house.logs());
    assert_eq!(down.bytes(), sent, "{case}");
}

/// Puts another stream, which nobody uses, in the place of the one that is reset.
fn reset(session: &mut Held) {
    let _ = SockRef::from(&session.stream).set_linger(Some(Duration::ZERO));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a TCP port on loopback");
    let address = nobody.local_addr().expect("a bound socket has an address");
    session.stream = std::net::TcpStream::connect(address).expect("our own listener");
}

#[test]
fn a_hung_worker_is_killed_before_its_successor_starts() {
    let _turn = heavy();
    let rig = Rig::bowline();
    let mut ticker = Ticker::start(&rig);
    let half = rig.serve().half();
    for _ in 0..2 {
        let hung = half.worker();
        signal(hung, Signal::STOP);
        let stopped = now();
        let next = wait_for(LIMIT, || {
            let next = half
                .processes()
                .into_iter()
                .find(|(pid, role)| *role == crate::support::server_half::Role::Worker && *pid != hung);
            next.map(|(pid, _)| pid)
        });
        assert!(next.is_some(), "no successor: {}", last_lines(&rig.serve().log()));
        assert!(!is_alive(hung), "the hung worker outlives the start of its successor");
        let took = ticker.next_line_after(stopped + Duration::from_millis(500), LIMIT) + Duration::from_millis(500);
        measured_time("output after a worker hangs", took);
        assert!(took <= Duration::from_secs(7), "{took:?}");
        // So long a life is none of several quick deaths.
        sleep(Duration::from_secs(1));
    }
    ticker.finish_in_order();
}
