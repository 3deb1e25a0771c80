//! Two machines and the cable between them: servers on one, their clients on the other.
//!
//! As a rule a test has all its programs on loopback, and the server half sees every client come from 127.0.0.1. With
//! [`CLIENT_ADDRESS`] set to `real` a thread of a test that asks for a place gets a pair of its own: network namespaces
//! with a veth device between them. The thread itself moves to the server's machine, and with it all that it starts there
//! (sshd, the server half, threads and listeners of the test); ssh and client halves run on the client's. Nothing of it
//! reaches the machine's own network, whose rules and settings a server half would change otherwise. Needs root and `ip`.

use super::sys;
use crate::support::place::Place;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, PoisonError};

/// The variable of the environment: `real` or `loopback`, which is the default.
pub const CLIENT_ADDRESS: &str = "BOWLINE_TEST_CLIENT_ADDRESS";

/// For documentation (RFC 5737), so nobody's.
const SERVER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);

/// All of this process. They have no names, so they are gone with their last process, whatever ends it.
static PAIRS: Mutex<Vec<Pair>> = Mutex::new(vec![]);

/// The namespaces of both machines.
struct Pair {
    server: File,
    client: File,
}

/// Whether the clients of this run have addresses of their own.
///
/// # Panics
/// When the variable holds neither `real` nor `loopback`.
pub fn is_wanted() -> bool {
    match std::env::var(CLIENT_ADDRESS).as_deref() {
        Ok("real") => true,
        Ok("loopback") | Err(_) => false,
        Ok(other) => panic!("{CLIENT_ADDRESS} is real or loopback, not {other:?}"),
    }
}

/// What a server half is to be told of clients' addresses: `--client-address`. A keeper that its worker has raised may
/// not show sshd addresses of others any more, and goes on as well as it can.
pub fn word() -> &'static str {
    if is_wanted() { "auto" } else { "loopback" }
}

/// Whether somebody has this address: loopback, or a machine of the pair.
pub fn is_somebody(address: IpAddr) -> bool {
    address.is_loopback() || [SERVER, CLIENT].into_iter().any(|machine| address == machine)
}

/// The server's machine, where the calling thread then is.
pub fn server() -> Place {
    client();
    Place::on_this_machine(SERVER.into())
}

/// The client's machine, of the pair on whose server the calling thread is: that of the thread that has started it, or
/// one made now.
pub fn client() -> Place {
    let mut pairs = PAIRS.lock().unwrap_or_else(PoisonError::into_inner);
    let known = pairs.iter().position(Pair::is_ours);
    let at = known.unwrap_or_else(|| {
        pairs.push(Pair::up());
        pairs.len() - 1
    });
    let pair = &pairs[at];
    let descriptor = pair.client.as_raw_fd();
    let path = format!("/proc/{}/fd/{descriptor}", std::process::id());
    Place::entered_by(&["nsenter", &format!("--net={path}")], CLIENT.into())
}

impl Pair {
    /// Makes both machines and moves the calling thread to the server's.
    ///
    /// # Panics
    /// When the machine refuses: not root, no `ip`.
    fn up() -> Pair {
        let prefix = super::next_prefix();
        let [server, client] = ["server", "client"].map(|name| format!("{prefix}{name}"));
        sys::ip(&format!("netns add {server}"));
        sys::ip(&format!("netns add {client}"));
        sys::ip(&format!(
            "-n {server} link add cable type veth peer name cable netns {client}"
        ));
        for (namespace, address, other) in [(&server, SERVER, CLIENT), (&client, CLIENT, SERVER)] {
            for step in [
                "link set lo up".to_owned(),
                "link set cable addrgenmode none up".to_owned(),
                format!("addr add {address}/24 dev cable"),
                // Whoever else there is lives behind the other end.
                format!("route add default via {other}"),
            ] {
                sys::ip(&format!("-n {namespace} {step}"));
            }
        }
        let [server, client] = [server, client].map(|name| {
            let namespace = sys::open_namespace(&name).expect("just made");
            sys::ip(&format!("netns del {name}"));
            namespace
        });
        sys::move_to(&server).expect("root may enter a namespace of its own");
        Pair { server, client }
    }

    /// Whether the calling thread is on its server.
    fn is_ours(&self) -> bool {
        let here = fs::metadata("/proc/thread-self/ns/net").expect("Linux");
        let server = self.server.metadata().expect("an open file");
        (here.dev(), here.ino()) == (server.dev(), server.ino())
    }
}
