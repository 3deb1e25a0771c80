//! Both sides of the takeover protocol, for tests.

use rustix::fd::OwnedFd;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept, bind, connect, listen, recv,
    send, socket_with,
};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The control sockets of keepers in a runtime folder.
pub(crate) fn socket_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the runtime folder").flatten();
    let files = entries.map(|entry| entry.path());
    files
        .filter(|path| path.extension().is_some_and(|end| end == "sock"))
        .collect()
}

fn socket() -> OwnedFd {
    let made = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    let socket = made.expect("a socket");
    let limit = Some(Duration::from_secs(10));
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, limit).expect("a socket");
    socket
}

fn hear(socket: &OwnedFd) -> Option<String> {
    let mut bytes = vec![0; 1 << 16];
    let (length, _) = recv(socket, bytes.as_mut_slice(), RecvFlags::empty()).ok()?;
    (length > 0).then(|| String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// A client of the takeover protocol.
pub(crate) struct Peer(OwnedFd);

impl Peer {
    /// Connects.
    pub(crate) fn enter(file: &Path) -> Peer {
        let socket = socket();
        connect(&socket, &SocketAddrUnix::new(file).expect("a short path")).expect("somebody listens");
        Peer(socket)
    }

    /// Sends anything. Whether it is received is not known.
    pub(crate) fn say(&self, bytes: &[u8]) {
        let _ = send(&self.0, bytes, SendFlags::NOSIGNAL);
    }

    /// Sends a request and returns the reply.
    pub(crate) fn ask(&self, text: &str) -> String {
        self.say(text.as_bytes());
        hear(&self.0).unwrap_or_else(|| panic!("no answer to {text}"))
    }
}

/// A keeper of a version that does not exist.
pub(crate) struct Host {
    asked: Arc<Mutex<Vec<String>>>,
}

impl Host {
    /// Replies that it listens at an address, and refuses to hand over.
    pub(crate) fn open(file: &Path, udp: SocketAddr) -> Host {
        let listener = socket();
        bind(&listener, &SocketAddrUnix::new(file).expect("a short path")).expect("a free name");
        listen(&listener, 4).expect("a socket");
        let asked = Arc::new(Mutex::new(vec![]));
        let heard = asked.clone();
        std::thread::spawn(move || {
            while let Ok(peer) = accept(&listener) {
                while let Some(text) = hear(&peer) {
                    let (word, answer) = answer(&text, udp);
                    heard.lock().expect("no panics").push(word);
                    let _ = send(&peer, answer.as_bytes(), SendFlags::NOSIGNAL);
                }
            }
        });
        Host { asked }
    }

    /// The requests that it has received.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panics").clone()
    }
}

fn answer(text: &str, udp: SocketAddr) -> (String, String) {
    if text.contains("TakeOver") {
        let refusal = "{\"Refused\":{\"Version\":{\"theirs\":9999}}}";
        return ("TakeOver".to_owned(), refusal.to_owned());
    }
    let network = std::fs::metadata("/proc/self/ns/net").expect("Linux").ino();
    let here = format!(
        "{{\"Identity\":{{\"keeper\":1,\"worker\":null,\"version\":\"9.9.9\",\"addresses\":[\"{udp}\"],\"age\":{{\"secs\":5,\
         \"nanos\":0}},\"managed\":false,\"network\":{network},\"more\":\"of a later version\"}}}}"
    );
    (text.to_owned(), here)
}
