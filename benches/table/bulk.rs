//! How fast bulk moves, and what it costs: one transfer through ssh each way, without delay and over links of the lab.

use crate::scenarios::LIMIT;
use crate::sides::{self, Peer, Side, Sides};
use crate::support::lab::Lab;
use crate::support::lab::wire::Wire;
use crate::support::now;
use crate::support::place::Place;
use crate::support::process::{Running, read_within};
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use crate::table::{Row, Table};
use std::io::{Read, Write};
use std::ops::Range;
use std::thread;
use std::time::Duration;

/// What arrives before the clock starts.
const HEAD: usize = 1 << 20;
const CHUNK: usize = 1 << 20;
/// More than anybody waits for.
const ENDLESS: usize = 1 << 40;
/// A transfer that takes longer is measured by what it has moved until then.
const LONGEST: Duration = Duration::from_secs(20);
/// The time that counts where two share a link.
const SHARED: Range<Duration> = Duration::from_secs(2)..Duration::from_secs(12);

/// A link of the lab: its settings at the client's access, and how much is moved over it.
struct Path {
    name: &'static str,
    client: &'static str,
    mib: usize,
}

const PATHS: [Path; 3] = [
    Path {
        name: "bulk, 50 ms, 500 Mbit/s",
        client: "delay=25,rate=500",
        mib: 256,
    },
    Path {
        name: "bulk, 50 ms, 1 % loss, 100 Mbit/s",
        client: "delay=25,loss=1,rate=100",
        mib: 96,
    },
    Path {
        name: "bulk, 150 ms, 0.5 % loss, 100 Mbit/s",
        client: "delay=75,loss=0.5,rate=100",
        mib: 48,
    },
];
/// Moved where there is no delay, in MiB.
const UNDELAYED: usize = 1024;

#[derive(Clone, Copy)]
enum Way {
    Down,
    Up,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Down => "down",
            Way::Up => "up",
        }
    }
}

/// Over the cable: rates, and the processor time of all processes.
pub(crate) fn over_a_cable(table: &mut Table, rounds: usize) {
    let wire = Wire::lay();
    without_delay(table, rounds, "a cable", &wire.client(), &wire.server());
}

/// The same within one machine.
pub(crate) fn over_loopback(table: &mut Table, rounds: usize) {
    without_delay(table, rounds, "loopback", &Place::here(), &Place::here());
}

/// The same over a link of the lab that does nothing.
pub(crate) fn over_the_lab(table: &mut Table, rounds: usize) {
    let lab = Lab::up(&[("client", ""), ("server", "")]);
    without_delay(table, rounds, "the lab", &lab.place("client"), &lab.place("server"));
}

fn without_delay(table: &mut Table, rounds: usize, over: &str, client: &Place, server: &Place) {
    let mut sides = Sides::start(&Peer::PROXIES, client, server);
    for way in [Way::Down, Way::Up] {
        let (mut rates, mut costs) = (sides.figures(), sides.figures());
        sides.take_turns(rounds, |at, side| {
            let (rate, cost) = side.transfer(way, UNDELAYED << 20);
            rates[at].push(rate);
            costs[at].push(cost);
        });
        let name = way.name();
        table.add(Row::new(
            &format!("bulk, RTT 0, {over}, {name}"),
            "Mbit/s",
            sides.named(rates),
        ));
        table.add(Row::new(
            &format!("CPU per GB, {over}, {name}"),
            "s",
            sides.named(costs),
        ));
    }
}

/// Over the lab's links.
pub(crate) fn over_links(table: &mut Table, rounds: usize) {
    for path in PATHS {
        let lab = Lab::up(&[("client", path.client), ("server", "")]);
        sides::use_tcp_control(&lab, "bbr");
        let mut sides = Sides::start_in(&lab, &Peer::PROXIES);
        for way in [Way::Down, Way::Up] {
            let mut rates = sides.figures();
            sides.take_turns(rounds, |at, side| rates[at].push(side.transfer(way, path.mib << 20).0));
            table.add(Row::new(
                &format!("{}, {}", path.name, way.name()),
                "Mbit/s",
                sides.named(rates),
            ));
        }
    }
}

/// Both at once on one link, ssh with one of the kernel's controllers: who gets how much of it.
pub(crate) fn side_by_side(table: &mut Table, rounds: usize) {
    for control in ["reno", "bbr"] {
        let lab = Lab::up(&[("client", "delay=25,rate=100"), ("server", "")]);
        sides::use_tcp_control(&lab, control);
        let sides = Sides::start_in(&lab, &[Peer::Bowline, Peer::Ssh]);
        let mut rates = sides.figures();
        for _ in 0..rounds {
            let running = sides.all().map(|side| Transfer::start(&side.rig, Way::Down, ENDLESS));
            let running: Vec<_> = running
                .map(|transfer| thread::spawn(move || transfer.share()))
                .collect();
            for (rates, running) in rates.iter_mut().zip(running) {
                rates.push(running.join().expect("a transfer"));
            }
        }
        let name = format!("beside each other, 50 ms, 100 Mbit/s, ssh with {control}");
        table.add(Row::new(&name, "Mbit/s", sides.named(rates)));
    }
}

impl Side {
    /// Mbit/s of one transfer, and the processor time of all its processes in s for each GB.
    fn transfer(&self, way: Way, bytes: usize) -> (f64, f64) {
        let before = self.cgroup.cpu();
        let (moved, took) = self.cgroup.start(|| Transfer::start(&self.rig, way, bytes)).finish();
        let rate = moved as f64 * 8.0 / 1e6 / took.as_secs_f64();
        let cpu = self.cgroup.cpu() - before;
        (rate, cpu.as_secs_f64() * 1e9 / (moved + HEAD) as f64)
    }
}

/// A transfer whose processes have just been started.
struct Transfer {
    running: Running,
    stdin: Option<std::process::ChildStdin>,
    stdout: std::process::ChildStdout,
    way: Way,
    bytes: usize,
}

impl Transfer {
    fn start(rig: &Rig, way: Way, bytes: usize) -> Transfer {
        let command = match way {
            Way::Down => format!("head -c {bytes} /dev/zero"),
            Way::Up => format!("head -c {HEAD} | wc -c; head -c {} | wc -c", bytes - HEAD),
        };
        let (running, stdin, stdout) = Running::start_piped(&mut rig.ssh.ssh(&[HOST, &command]));
        Transfer {
            running,
            stdin: Some(stdin),
            stdout,
            way,
            bytes,
        }
    }

    /// How much moved after the head, and how long that took.
    fn finish(mut self) -> (usize, Duration) {
        let (moved, took) = match self.way {
            Way::Down => self.take(),
            Way::Up => self.give(),
        };
        self.stdin = None;
        if moved == self.bytes - HEAD {
            self.running.finish(LIMIT).expect_code(0);
        }
        (moved, took)
    }

    fn take(&mut self) -> (usize, Duration) {
        let mut buffer = vec![0; CHUNK];
        read_within(&mut self.stdout, &mut buffer[..HEAD], LIMIT).expect("a transfer");
        let (start, all, mut moved) = (now(), self.bytes - HEAD, 0);
        while moved < all && start.elapsed() < LONGEST {
            match self.stdout.read(&mut buffer).expect("our own pipe") {
                0 => panic!("{moved} bytes of {all}: {}", self.running.err_so_far()),
                read => moved += read,
            }
        }
        (moved, start.elapsed())
    }

    /// Mbit/s between the second and the twelfth second; then it is broken off.
    fn share(mut self) -> f64 {
        let mut buffer = vec![0; CHUNK];
        let (start, mut taken) = (now(), 0);
        while start.elapsed() < SHARED.end {
            let read = self.stdout.read(&mut buffer).expect("our own pipe");
            assert!(read > 0, "it ended: {}", self.running.err_so_far());
            taken += if start.elapsed() > SHARED.start { read } else { 0 };
        }
        taken as f64 * 8.0 / 1e6 / (SHARED.end - SHARED.start).as_secs_f64()
    }

    fn give(&mut self) -> (usize, Duration) {
        let zeros = vec![0; CHUNK];
        let mut stdin = self.stdin.take().expect("it is given once");
        stdin.write_all(&zeros[..HEAD]).expect("ssh runs");
        self.taken();
        let (start, mut rest) = (now(), self.bytes - HEAD);
        while rest > 0 && start.elapsed() < LONGEST {
            let part = rest.min(CHUNK);
            stdin.write_all(&zeros[..part]).expect("ssh runs");
            rest -= part;
        }
        drop(stdin);
        (self.taken(), start.elapsed())
    }

    /// Waits for the far end to say how much it has.
    fn taken(&mut self) -> usize {
        let mut line = String::new();
        let mut byte = [0];
        while !line.ends_with('\n') {
            let read = read_within(&mut self.stdout, &mut byte, LIMIT);
            assert!(read.is_ok(), "no answer: {}", self.running.err_so_far());
            line.push(byte[0].into());
        }
        line.trim().parse().expect("wc says a number")
    }
}
