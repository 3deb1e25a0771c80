//! Sessions that end, hang or are silent while the worker is dead.

use crate::client::Client;
use crate::held::{Door, Held};
use crate::scenarios::ticker::Ticker;
use crate::support::process::Running;
use crate::support::rig::Rig;
use crate::support::serve::ServeOptions;
use crate::support::server_half::{is_alive, signal};
use crate::support::ssh::HOST;
use crate::support::{heavy, measured, measured_time, now, wait_for};
use crate::{LIMIT, OpenHouse, last_lines};
use rustix::process::Signal;
use socket2::SockRef;
use std::fs;
use std::io::{self, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc::sync_channel;
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

#[test]
fn an_upstream_that_resets_while_nobody_reads_loses_no_byte() {
    let door = Door::open();
    let options = ServeOptions::here().argument("--replay-buffer").argument("64KiB");
    let house = OpenHouse::with(door.address(), options);
    let (read, may_read) = sync_channel::<()>(0);
    let client = Client::start_read_slowly(house.ssh.proxy(), 1, move || {
        // Until the other end is dropped.
        let _ = may_read.recv();
    });
    let mut session = door.session_of(client, &house, 1);
    // The kernel holds the last of it: neither half of bowline has room.
    while is_all_read(&session.stream) {
        session.send(16_000);
        session.wait_until_taken();
    }
    measured("bytes sent before nobody takes more", session.sent);
    reset(&mut session);
    assert!(session.client.write(b"what no upstream takes any more"));
    // The server half sees that the connection is broken, and has long nobody to give the rest to.
    sleep(Duration::from_secs(3));
    drop(read);
    session.expect_everything();
    session.client.finish(LIMIT).expect_code(0);
}

/// Whether the other end has read everything, or does within half a second.
fn is_all_read(stream: &TcpStream) -> bool {
    let all_read = || (unread_by_peer(stream) == 0).then_some(());
    wait_for(Duration::from_millis(500), all_read).is_some()
}

/// Bytes that lie unread at the other end of a connection within this machine (proc(5): `/proc/net/tcp`, `rx_queue`).
fn unread_by_peer(stream: &TcpStream) -> u64 {
    let address = |address: io::Result<SocketAddr>| match address.expect("a connected socket") {
        SocketAddr::V4(address) => format!(
            "{:08X}:{:04X}",
            u32::from_ne_bytes(address.ip().octets()),
            address.port()
        ),
        SocketAddr::V6(address) => panic!("no address of IPv4: {address}"),
    };
    let ends = format!("{} {} ", address(stream.peer_addr()), address(stream.local_addr()));
    let table = fs::read_to_string("/proc/thread-self/net/tcp").expect("Linux");
    let line = table.lines().find_map(|line| line.split_once(&ends));
    let (_, fields) = line.expect("the other end is open");
    // st tx_queue:rx_queue ..
    let queues = fields.split_whitespace().nth(1).and_then(|both| both.split_once(':'));
    let (_, unread) = queues.expect("two queues");
    u64::from_str_radix(unread, 16).expect("a number")
}

/// Puts another stream, which nobody uses, in the place of the one that is reset.
fn reset(session: &mut Held) {
    let _ = SockRef::from(&session.stream).set_linger(Some(Duration::ZERO));
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a TCP port on loopback");
    let address = nobody.local_addr().expect("a bound socket has an address");
    session.stream = TcpStream::connect(address).expect("our own listener");
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
