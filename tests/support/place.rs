//! Where a program runs: on this machine's loopback, or on a host of the lab.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
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
