//! Two hundred sessions through one upgrade and one crash.

use crate::client::Client;
use crate::support::data::Pattern;
use crate::support::echo::TcpEcho;
use crate::support::flow::Flow;
use crate::support::serve::ServeOptions;
use crate::support::ssh::HOST;
use crate::support::sshd::TestSshd;
use crate::support::upstream::Service;
use crate::support::{heavy, measured, now};
use crate::{LIMIT, OpenHouse, percentile};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

const IDLE: usize = 150;
const BUSY: usize = 50;
/// Of each kind, those that are real ssh; the others are `bowline proxy` before an echo.
const SSH: usize = 8;
/// Started at once: the machine is not to be measured by its process table.
const AT_ONCE: usize = 10;
/// Between two keystrokes of a busy session.
const BEAT: Duration = Duration::from_millis(80);
const STROKE: usize = 32;
/// Until everybody is back.
const SETTLED: Duration = Duration::from_secs(4);
/// So long after their last word idle sessions are idle: nobody waits for them.
const QUIET: Duration = Duration::from_secs(6);
/// Most that a user may notice of it, in the median, with the handshakes of 200 clients that are processes of this
/// machine too.
const GAP: Duration = Duration::from_millis(300);
/// On a machine that is slow today: as many times what it takes to open one of the sessions.
const GAP_IN_OPENINGS: u32 = 12;
/// From an idle client's next packet to its echo: it has noticed, resumed and been answered.
const NOTICED: Duration = Duration::from_millis(100);

#[test]
fn two_hundred_sessions_live_through_an_upgrade_and_a_crash() {
    let _turn = heavy();
    let sshd = TestSshd::start();
    let echo = TcpEcho::start();
    let fork = fork(sshd.address(), echo.address());
    // All with one key: the limits are the defaults.
    let house = OpenHouse::of(sshd, fork.address(), ServeOptions::here());
    let mut crowd = Crowd::gather(&house);
    crowd.is_well(&house);

    sleep(QUIET);
    let start = now();
    house.serve.reload();
    crowd.judge("an upgrade", start);
    crowd.is_well(&house);

    sleep(QUIET);
    let start = now();
    house.serve.half().kill_worker();
    crowd.judge("a crash", start);
    crowd.is_well(&house);
    crowd.finish(&house);
}

struct Crowd {
    idle: Vec<Member>,
    busy: Vec<Client>,
    sent: Vec<Arc<Flow>>,
    beats: Vec<JoinHandle<()>>,
    over: Arc<AtomicBool>,
    /// What one of them took to open.
    opening: Duration,
}

/// An idle session.
struct Member {
    client: Client,
    pattern: Pattern,
    sent: u64,
}

impl Crowd {
    fn gather(house: &OpenHouse) -> Crowd {
        let start = now();
        let mut idle = vec![];
        let mut busy = vec![];
        for first in (0..IDLE + BUSY).step_by(AT_ONCE) {
            let numbers = first..(first + AT_ONCE).min(IDLE + BUSY);
            let mut members: Vec<Member> = numbers.clone().map(|n| Member::start(command(house, n), n)).collect();
            members.iter_mut().for_each(Member::say);
            members
                .iter_mut()
                .for_each(|member| member.client.expect_bytes(member.sent, LIMIT));
            for (n, member) in numbers.zip(members) {
                if n < IDLE {
                    idle.push(member)
                } else {
                    busy.push(member.client)
                }
            }
        }
        let opening = start.elapsed() / (IDLE + BUSY) as u32;
        measured("opening one of 200 sessions", format_args!("{opening:?}"));
        let over = Arc::new(AtomicBool::new(false));
        let mut sent = vec![];
        let beats = (IDLE..).zip(&mut busy).map(|(n, client)| {
            let flow = Arc::new(Flow::new(n as u64));
            sent.push(flow.clone());
            let (stdin, over) = (client.take_stdin(), over.clone());
            std::thread::spawn(move || {
                // What was said at the opening.
                let mut greeting = [0; STROKE];
                Pattern::new(n as u64).fill(0, &mut greeting);
                flow.take(&greeting);
                flow.send(stdin, |_| {
                    sleep(BEAT);
                    (!over.load(SeqCst)).then_some(STROKE)
                });
            })
        });
        let beats = beats.collect();
        sleep(Duration::from_secs(1));
        Crowd {
            idle,
            busy,
            sent,
            beats,
            over,
            opening,
        }
    }

    /// How the busy ones took it, and then how soon the idle ones notice.
    fn judge(&mut self, what: &str, start: Instant) {
        sleep(SETTLED);
        let gaps: Vec<Duration> = self
            .busy
            .iter()
            .map(|client| client.down.longest_silence_since(start))
            .collect();
        let answers: Vec<Duration> = self.idle.iter_mut().map(Member::ask).collect();
        for (who, times) in [
            ("gap of busy sessions", &gaps),
            ("first answer of idle sessions", &answers),
        ] {
            measured(
                &format!("{who} through {what}"),
                format_args!(
                    "p50 {:?}, p90 {:?}, max {:?}",
                    percentile(times, 50),
                    percentile(times, 90),
                    percentile(times, 100)
                ),
            );
        }
        let (gap, bound) = (percentile(&gaps, 50), GAP.max(self.opening * GAP_IN_OPENINGS));
        assert!(gap < bound, "{what}: {gap:?} in the median, of {bound:?} at most");
        assert!(
            percentile(&answers, 100) < NOTICED,
            "{what}: {:?} for the last of all",
            percentile(&answers, 100)
        );
    }

    /// All are alive and exact.
    fn is_well(&mut self, house: &OpenHouse) {
        for member in &mut self.idle {
            member.say();
        }
        for member in &mut self.idle {
            member.client.expect_bytes(member.sent, LIMIT);
        }
        for (client, sent) in self.busy.iter_mut().zip(&self.sent) {
            client.expect_bytes(sent.bytes(), LIMIT);
            assert!(client.runs(), "{}\n{}", client.said(), house.logs());
        }
    }

    fn finish(self, house: &OpenHouse) {
        self.over.store(true, SeqCst);
        self.beats
            .into_iter()
            .for_each(|beat| beat.join().expect("it only sends"));
        for (client, sent) in self.busy.into_iter().zip(self.sent) {
            let came = client.down.clone();
            assert_eq!(client.finish(LIMIT).code, Some(0), "{}", house.logs());
            assert_eq!(came.bytes(), sent.bytes(), "echoed");
        }
        for member in self.idle {
            let came = member.client.down.clone();
            assert_eq!(member.client.finish(LIMIT).code, Some(0), "{}", house.logs());
            assert_eq!(came.bytes(), member.sent, "echoed");
        }
    }
}

impl Member {
    fn start(command: Command, number: usize) -> Member {
        Member {
            client: Client::start(command, number as u64),
            pattern: Pattern::new(number as u64),
            sent: 0,
        }
    }

    /// A keystroke.
    fn say(&mut self) {
        let mut stroke = [0; STROKE];
        self.pattern.fill(self.sent, &mut stroke);
        assert!(self.client.write(&stroke), "it ends: {}", self.client.said());
        self.sent += STROKE as u64;
    }

    /// A keystroke, and how long it takes to its echo.
    fn ask(&mut self) -> Duration {
        let start = now();
        self.say();
        self.client.expect_bytes(self.sent, LIMIT);
        start.elapsed()
    }
}

/// ssh for the first few idle and busy ones.
fn command(house: &OpenHouse, number: usize) -> Command {
    if number < SSH || (IDLE..IDLE + SSH).contains(&number) {
        house.ssh.ssh(&[HOST, "cat"])
    } else {
        house.ssh.proxy()
    }
}

/// One service for both: who speaks SSH gets sshd, whoever else the echo.
fn fork(sshd: SocketAddr, echo: SocketAddr) -> Service {
    Service::start(move |stream| {
        std::thread::spawn(move || -> io::Result<()> {
            let mut first = [0; 4];
            stream.peek(&mut first)?;
            let there = TcpStream::connect(if &first == b"SSH-" { sshd } else { echo })?;
            let (back, forth) = (stream.try_clone()?, there.try_clone()?);
            std::thread::spawn(move || copy(&there, &back));
            copy(&stream, &forth);
            Ok(())
        });
    })
}

fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let mut buffer = [0; 1 << 14];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
