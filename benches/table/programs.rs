//! Programs of others, where they are installed, and their server sides.

use crate::support::place::Place;
use crate::support::process::{Running, pid_of};
use crate::support::wait_for;
use rustix::fd::OwnedFd;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// The variable of the environment that names a folder to look into before those of `PATH`.
const FOLDER: &str = "BOWLINE_BENCH_PEERS";
const STARTED: Duration = Duration::from_secs(10);

/// Where a program is, if anywhere.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let folders = [FOLDER, "PATH"].map(|variable| std::env::var_os(variable).unwrap_or_default());
    let folders: Vec<PathBuf> = folders.iter().flat_map(std::env::split_paths).collect();
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_absolute() && path.is_file())
}

/// The same of one that is known to be there.
///
/// # Panics
/// Where it is not.
pub(crate) fn found(name: &str) -> PathBuf {
    find(name).unwrap_or_else(|| panic!("{name} is gone"))
}

/// The server side of quicssh-rs.
pub(crate) struct QuicsshServer {
    place: Place,
    listen: SocketAddr,
    target: SocketAddr,
    running: Running,
}

impl QuicsshServer {
    /// Starts it before a sshd.
    pub(crate) fn start(place: Place, port: u16, target: SocketAddr) -> QuicsshServer {
        let listen = SocketAddr::new(place.address, port);
        let running = run_quicssh(&place, listen, target);
        QuicsshServer {
            place,
            listen,
            target,
            running,
        }
    }

    /// A fresh process. The one before spins on the end of each session until its idle timeout, a minute later, and whoever is
    /// measured next would have one processor less.
    pub(crate) fn restart(self) -> QuicsshServer {
        let QuicsshServer {
            place,
            listen,
            target,
            running,
        } = self;
        drop(running);
        QuicsshServer::start(place, listen.port(), target)
    }
}

fn run_quicssh(place: &Place, listen: SocketAddr, target: SocketAddr) -> Running {
    let mut command = place.command(found("quicssh-rs"));
    command.args(["server", "--listen", &listen.to_string()]);
    command.args(["--proxy-to", &target.to_string()]);
    let running = Running::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()));
    // A client whose first packet meets no server waits a second before the next.
    let udp = format!("/proc/{}/net/udp", running.id());
    let port = format!(":{:04X} ", listen.port());
    let listens = || {
        fs::read_to_string(&udp)
            .is_ok_and(|sockets| sockets.contains(&port))
            .then_some(())
    };
    assert!(
        wait_for(STARTED, listens).is_some(),
        "quicssh-rs does not listen at {listen}"
    );
    running
}

/// A server side of mosh, for one session; ends with its owner.
pub(crate) struct MoshServer {
    process: OwnedFd,
    pub(crate) port: String,
    pub(crate) key: String,
}

impl MoshServer {
    /// Starts it with a command on its terminal, as ssh does for mosh(1).
    ///
    /// # Panics
    /// Where it does not start, with what it said.
    pub(crate) fn start(place: &Place, remote: &str) -> MoshServer {
        let mut command = place.command(found("mosh-server"));
        command.args(["new", "-i", &place.address.to_string(), "--", "sh", "-c", remote]);
        // It leaves our processes: were we killed, this would end it.
        command.env("MOSH_SERVER_NETWORK_TMOUT", "900").env("LC_ALL", "C.UTF-8");
        let outcome = Running::start(&mut command).finish(STARTED).expect_code(0);
        let (out, err) = (outcome.out(), outcome.err());
        let connect = out.lines().find_map(|line| line.strip_prefix("MOSH CONNECT "));
        let id = err.split_once("pid = ").and_then(|(_, rest)| rest.split(']').next());
        match (
            connect.and_then(|words| words.split_once(' ')),
            id.and_then(|id| id.parse().ok()),
        ) {
            (Some((port, key)), Some(id)) => MoshServer {
                process: pidfd_open(pid_of(id), PidfdFlags::empty()).expect("it runs"),
                port: port.into(),
                key: key.trim().into(),
            },
            _ => panic!("mosh-server: {out}{err}"),
        }
    }
}

impl Drop for MoshServer {
    fn drop(&mut self) {
        // Its program is hung up with it.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
    }
}
