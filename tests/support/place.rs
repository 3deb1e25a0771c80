//! Where a program runs: on this machine's loopback, on a host of the lab, or on one of a pair of machines.

use super::lab::pair;
use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// A machine to run programs on.
#[derive(Clone, Debug)]
pub struct Place {
    /// The program, with its arguments, that runs another one there.
    enter: Vec<String>,
    /// The address at which others reach it.
    pub address: IpAddr,
}

impl Place {
    /// Where sshd and the server half are, unless a test has a lab for them: this machine, reached over loopback; or
    /// the server of [`pair`], where the calling thread then is.
    pub fn here() -> Place {
        if pair::is_wanted() {
            return pair::server();
        }
        Place::on_this_machine(Ipv4Addr::LOCALHOST.into())
    }

    /// Where ssh and the client half are, unless a test has a lab for them: this machine, or the client of [`pair`].
    pub fn of_clients() -> Place {
        if pair::is_wanted() {
            return pair::client();
        }
        Place::here()
    }

    /// Wherever the calling thread is, reached at `address`.
    pub fn on_this_machine(address: IpAddr) -> Place {
        Place { enter: vec![], address }
    }

    /// A network namespace, reached at `address`.
    pub fn in_namespace(namespace: &str, address: IpAddr) -> Place {
        Place::entered_by(&["ip", "netns", "exec", namespace], address)
    }

    /// Wherever a program runs that is given to this one, which must become it; reached at `address`.
    pub fn entered_by(enter: &[&str], address: IpAddr) -> Place {
        Place {
            enter: enter.iter().map(|word| (*word).to_owned()).collect(),
            address,
        }
    }

    /// The same place, entered by one more program, which must become the one that it is given.
    pub fn entered_further_by(mut self, enter: &[&str]) -> Place {
        self.enter.extend(enter.iter().map(|word| (*word).to_owned()));
        self
    }

    /// A command that will run there. The child's process id is the program's own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.enter[..] {
            [] => Command::new(program),
            [enter, arguments @ ..] => {
                let mut command = Command::new(enter);
                command.args(arguments).arg(program);
                command
            }
        }
    }

    /// A port free for TCP and UDP on loopback, below the range that the kernel hands out itself, so that no
    /// other socket of this run can take it before its owner does.
    pub fn free_port() -> u16 {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Several test crates may run side by side: each starts elsewhere.
        let base = 12_000 + (std::process::id() % 180) as u16 * 100;
        for _ in 0..2_000 {
            let port = base + NEXT.fetch_add(1, Relaxed) % 2_000;
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
                && UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
            if free {
                return port;
            }
        }
        panic!("no free port from {base} on");
    }
}

/// The kernel's name for the TCP socket that listens at an IPv4 address of this machine, as `/proc/PID/fd` shows it.
pub fn socket_at(address: SocketAddr) -> Option<String> {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").expect("Linux");
    let port = format!(":{:04X}", address.port());
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&port) && fields.get(3) == Some(&"0A");
        listens.then(|| format!("socket:[{}]", fields[9]))
    })
}

/// Whether a process has a socket of that name.
pub fn has_open(pid: u32, socket: &str) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|link| link.as_os_str() == socket)
}
