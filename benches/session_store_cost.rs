//! The cost of the session store: bulk throughput and CPU of a server half with it, beside one without it. Both in one
//! run, in turn; medians.
//!
//! `cargo bench --bench session_store_cost`; `BOWLINE_BENCH_MIB` and `BOWLINE_BENCH_ROUNDS` set the size and the
//! number of rounds.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench reports")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;
use support::process::cpu_seconds;
use support::serve::{Serve, ServeOptions};
use support::sshd::TestSshd;
use support::{BOWLINE, Scratch, now};

/// Bytes moved by one write or read of the bench itself.
const CHUNK: usize = 256 * 1024;

fn main() {
    let size = setting("BOWLINE_BENCH_MIB", 1024) << 20;
    let rounds = setting("BOWLINE_BENCH_ROUNDS", 7) as usize;
    let sshd = TestSshd::start();
    let target = service(size);
    let sides = [
        Side::new("on", &sshd, target, &[]),
        Side::new("off", &sshd, target, &["--no-session-store"]),
    ];
    println!(
        "cost of the session store: {} MiB a run, {rounds} rounds, server half on loopback",
        size >> 20
    );
    for direction in [b'd', b'u'] {
        let name = if direction == b'd' { "down" } else { "up" };
        let mut runs: [Vec<Cost>; 2] = [vec![], vec![]];
        for round in 0..=rounds {
            // The order alternates, so that neither profits from warm caches.
            for place in [round % 2, 1 - round % 2] {
                let cost = sides[place].run(direction, size);
                // The first round warms up.
                if round > 0 {
                    runs[place].push(cost);
                }
            }
        }
        let [on, off] = runs;
        let wall = ratio(&on, &off, |cost| cost.wall);
        let server = ratio(&on, &off, |cost| cost.server);
        println!("{name}: wall, on / off: {wall}");
        println!("{name}: CPU of the server half, on / off: {server}");
    }
}

/// One server half, with a client's folder.
struct Side {
    name: &'static str,
    serve: Serve,
    scratch: Scratch,
}

/// Seconds of one run.
struct Cost {
    wall: f64,
    server: f64,
}

impl Side {
    fn new(name: &'static str, sshd: &TestSshd, target: SocketAddr, arguments: &[&str]) -> Side {
        let mut options = ServeOptions::here().argument("--auth").argument("none");
        for key in sshd.host_keys() {
            options = options.argument("--host-key").argument(key);
        }
        for argument in arguments {
            options = options.argument(*argument);
        }
        Side {
            name,
            serve: Serve::start_before(target, options),
            scratch: Scratch::new(),
        }
    }

    fn run(&self, direction: u8, size: u64) -> Cost {
        let (cpu, start) = (self.cpu(), now());
        let mut proxy = self.proxy();
        let mut input = proxy.stdin.take().expect("a pipe");
        let mut output = proxy.stdout.take().expect("a pipe");
        input.write_all(&[direction]).expect("a running proxy");
        if direction == b'u' {
            let chunk = vec![7; CHUNK];
            for _ in 0..size / CHUNK as u64 {
                input.write_all(&chunk).expect("a running proxy");
            }
        }
        let mut buffer = vec![0; CHUNK];
        let mut read = 0;
        let wanted = if direction == b'u' { 1 } else { size };
        while read < wanted {
            match output.read(&mut buffer).expect("a running proxy") {
                0 => panic!("session store {}: only {read} of {wanted} bytes came", self.name),
                count => read += count as u64,
            }
        }
        let wall = start.elapsed().as_secs_f64();
        drop((input, output));
        proxy.wait().expect("its exit code");
        Cost {
            wall,
            server: self.cpu() - cpu,
        }
    }

    fn proxy(&self) -> Child {
        let fingerprint = self.serve.ready_field("fingerprint").expect("a fingerprint");
        let udp = self.serve.udp();
        Command::new(BOWLINE)
            .args(["proxy", "--pin", fingerprint, "--port", &udp.port().to_string()])
            .arg("--state-dir")
            .arg(self.scratch.join("state"))
            .args(["-F", "/dev/null", "bench@127.0.0.1", "22"])
            .env("HOME", self.scratch.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bowline")
    }

    /// User and system time of keeper and worker, in seconds.
    fn cpu(&self) -> f64 {
        let keeper = self.serve.id();
        let children = std::fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|id| id.parse().ok());
        std::iter::once(keeper).chain(children).map(cpu_seconds).sum()
    }
}

fn ratio(on: &[Cost], off: &[Cost], of: impl Fn(&Cost) -> f64) -> String {
    let middle = |costs: &[Cost]| {
        let mut values: Vec<f64> = costs.iter().map(&of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let mut pairs: Vec<f64> = on.iter().zip(off).map(|(on, off)| of(on) / of(off)).collect();
    pairs.sort_by(f64::total_cmp);
    let (on, off) = (middle(on), middle(off));
    let (least, most) = (pairs[0], pairs[pairs.len() - 1]);
    let paired = pairs[pairs.len() / 2];
    format!(
        "{on:.2} s / {off:.2} s, ratio of medians {:.3}, median of pairs {paired:.3} ({least:.2} to {most:.2})",
        on / off
    )
}

/// A TCP service that sends `size` bytes on `d`, and receives them on `u`.
fn service(size: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || serve(stream, size));
        }
    });
    address
}

fn serve(mut stream: TcpStream, size: u64) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let mut buffer = vec![0; CHUNK];
    let mut word = [0];
    if stream.read_exact(&mut word).is_err() {
        return;
    }
    if word == *b"d" {
        for _ in 0..size / CHUNK as u64 {
            if stream.write_all(&buffer).is_err() {
                return;
            }
        }
    } else {
        let mut left = size;
        while left > 0 {
            match stream.read(&mut buffer) {
                Ok(count @ 1..) => left -= (count as u64).min(left),
                _ => return,
            }
        }
        let _ = stream.write_all(b"!");
    }
    // The client ends first.
    while matches!(stream.read(&mut buffer), Ok(1..)) {}
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|value| value.parse().ok())
        .unwrap_or(default)
}
