//! Where a program runs: on this machine's loopback, or on a host of the lab.

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

/// A machine to run programs on.
#[derive(Clone, Debug)]
pub struct Place {
    namespace: Option<String>,
    /// The address at which others reach it.
    pub address: IpAddr,
}

impl Place {
    /// This machine, reached over loopback.
    pub fn here() -> Place {
        Place {
            namespace: None,
            address: Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// A network namespace, reached at `address`.
    pub fn in_namespace(namespace: &str, address: IpAddr) -> Place {
        Place {
            namespace: Some(namespace.into()),
            address,
        }
    }

    /// A command that will run there. The child's process id is the program's own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        match &self.namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
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
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux");
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
