//! Processes that have a port open, as far as `/proc` shows: root sees all, other users see their own.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::server::client_address::parse_address;
use crate::server::handover::{Endpoint, Protocol};

/// The TCP state LISTEN, as the kernel prints it.
const TCP_LISTEN: &str = "0A";

/// A process that has a port open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) pid: u32,
    /// As `ps` shows it.
    pub(crate) name: String,
    /// Whether its program has our file name.
    is_bowline: bool,
    arguments: Vec<OsString>,
}

impl Holder {
    /// Whether it is the keeper of a `bowline serve`.
    pub(crate) fn is_keeper(&self) -> bool {
        self.is_bowline && (self.has("serve") || self.has("serve-keeper"))
    }

    /// Whether it is the worker of a `bowline serve`.
    pub(crate) fn is_worker(&self) -> bool {
        self.is_bowline && self.has("serve-worker")
    }

    /// Whether it can run: it is neither dead nor stopped.
    pub(crate) fn runs(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        // The name stands in parentheses and may contain any character: the state follows the last one.
        let state = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.trim_start().chars().next());
        !matches!(state, None | Some('Z' | 'X' | 'T' | 't'))
    }

    /// Whether it has the Unix socket of this file open. The socket may have been bound under another file extension.
    pub(crate) fn holds(&self, file: &Path) -> bool {
        let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let table = fs::read_to_string("/proc/self/net/unix").unwrap_or_default();
        let links = table.lines().filter_map(|line| {
            let (_, path) = line.split_once('/')?;
            let is_it = Path::new(path)
                .file_stem()
                .is_some_and(|own| own.to_string_lossy() == stem);
            let inode = line.split_whitespace().nth(6)?;
            is_it.then(|| format!("socket:[{inode}]").into())
        });
        has_any(self.pid, &links.collect::<Vec<PathBuf>>())
    }

    fn has(&self, argument: &str) -> bool {
        self.arguments.iter().skip(1).any(|own| own == argument)
    }
}

/// The processes whose sockets prevent others from listening at this endpoint.
pub(crate) fn holders(endpoint: Endpoint) -> Vec<Holder> {
    let links = links_of(endpoint);
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| has_any(*pid, &links)).filter_map(holder).collect()
}

/// The process with this id.
pub(crate) fn holder(pid: u32) -> Option<Holder> {
    let file = |name: &str| fs::read(format!("/proc/{pid}/{name}")).ok();
    let arguments = file("cmdline")?;
    Some(Holder {
        pid,
        is_bowline: program(&pid.to_string()).is_some_and(|name| Some(name) == program("self")),
        name: String::from_utf8_lossy(&file("comm")?).trim_end().to_owned(),
        arguments: arguments
            .split(|byte| *byte == 0)
            .map(|argument| OsString::from_vec(argument.to_vec()))
            .collect(),
    })
}

/// The file name of its program, also if that file was replaced.
fn program(pid: &str) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let name = path.file_name()?.to_string_lossy().into_owned();
    Some(name.strip_suffix(" (deleted)").map_or(name.clone(), str::to_owned))
}

/// The sockets' names in `/proc/PID/fd`.
fn links_of(Endpoint { protocol, address }: Endpoint) -> Vec<PathBuf> {
    let family = if address.is_ipv4() { "" } else { "6" };
    let table = fs::read_to_string(format!("/proc/self/net/{protocol}{family}")).unwrap_or_default();
    let inodes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let own = parse_address(fields.get(1)?)?;
        let is_every = own.ip().is_unspecified() || address.ip().is_unspecified();
        let clashes = own.port() == address.port() && (own.ip() == address.ip() || is_every);
        // Connections from that port do not prevent listening.
        let is_bound = protocol == Protocol::Udp || fields.get(3) == Some(&TCP_LISTEN);
        (clashes && is_bound).then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")).into())
    });
    inodes.collect()
}

/// Whether a process has one of these open.
fn has_any(pid: u32, links: &[PathBuf]) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|link| links.contains(&link))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

    #[test]
    fn a_socket_of_this_process_is_found_by_its_address_and_by_every_address() {
        let all = [("127.0.0.1", "0.0.0.0"), ("::1", "::")];
        for (own, every) in all.map(|(own, every)| (own.parse::<IpAddr>(), every.parse::<IpAddr>())) {
            let (own, every) = (own.expect("an address"), every.expect("an address"));
            let (Ok(udp), Ok(tcp)) = (UdpSocket::bind((own, 0)), TcpListener::bind((own, 0))) else {
                assert!(own.is_ipv6(), "every machine has an IPv4 loopback");
                continue;
            };
            let port = |address: std::io::Result<SocketAddr>| address.expect("a bound socket").port();
            for ip in [own, every] {
                for endpoint in [
                    Endpoint::udp(SocketAddr::new(ip, port(udp.local_addr()))),
                    Endpoint::tcp(SocketAddr::new(ip, port(tcp.local_addr()))),
                ] {
                    let found = holders(endpoint);
                    assert!(
                        found.iter().any(|holder| holder.pid == std::process::id()),
                        "{endpoint}"
                    );
                }
            }
            drop((udp, tcp));
        }
    }
}
