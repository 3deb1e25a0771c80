//! A session with a test at both of its ends: the client half's pipes, and the connection that sshd would have.

use crate::client::Client;
use crate::support::data::Pattern;
use crate::support::upstream::Service;
use crate::upstream::wait_until_taken;
use crate::{LIMIT, OpenHouse};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};

/// Sessions that have come and that no test has asked for yet: at most one, as each is opened and taken.
const MAX_WAITING: usize = 1;

/// Where sessions arrive.
pub(crate) struct Door {
    service: Service,
    arrived: Receiver<TcpStream>,
}

impl Door {
    /// On a free port of loopback.
    pub(crate) fn open() -> Door {
        let (arrives, arrived) = sync_channel(MAX_WAITING);
        let service = Service::start(move |stream| drop(arrives.try_send(stream)));
        Door { service, arrived }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.service.address()
    }

    /// A new session of this house, open to both ends.
    #[track_caller]
    pub(crate) fn session(&self, house: &OpenHouse, seed: u64) -> Held {
        self.session_of(Client::start(house.ssh.proxy(), seed), house, seed)
    }

    /// The session of a client that has just been started.
    #[track_caller]
    pub(crate) fn session_of(&self, client: Client, house: &OpenHouse, seed: u64) -> Held {
        let stream = self.arrived.recv_timeout(LIMIT);
        let stream = stream.unwrap_or_else(|_| panic!("no session: {}\n{}", client.said(), house.logs()));
        stream.set_read_timeout(Some(LIMIT)).expect("a connected socket");
        Held {
            client,
            stream,
            pattern: Pattern::new(seed),
            sent: 0,
        }
    }
}

/// One session.
pub(crate) struct Held {
    pub(crate) client: Client,
    pub(crate) stream: TcpStream,
    pattern: Pattern,
    /// Bytes that the upstream has sent.
    pub(crate) sent: u64,
}

impl Held {
    /// The upstream sends its next bytes.
    #[track_caller]
    pub(crate) fn send(&mut self, length: usize) {
        assert!(self.try_send(length), "the server half holds the connection");
    }

    /// The same; `false` when nobody takes them any more.
    pub(crate) fn try_send(&mut self, length: usize) -> bool {
        let mut bytes = vec![0; length];
        self.pattern.fill(self.sent, &mut bytes);
        let taken = self.stream.write_all(&bytes).is_ok();
        self.sent += if taken { length as u64 } else { 0 };
        taken
    }

    /// Waits until the other kernel has everything.
    pub(crate) fn wait_until_taken(&self) {
        wait_until_taken(&self.stream);
    }

    /// Everything that was sent has come.
    #[track_caller]
    pub(crate) fn expect_everything(&mut self) {
        self.client.expect_bytes(self.sent, LIMIT);
    }

    /// The client sends these, and the upstream gets them.
    #[track_caller]
    pub(crate) fn expect_from_client(&mut self, bytes: &[u8]) {
        assert!(self.client.write(bytes), "the client half ends: {}", self.client.said());
        let mut got = vec![0; bytes.len()];
        self.stream.read_exact(&mut got).expect("what the client has sent");
        assert_eq!(got, bytes, "from the client");
    }

    /// Both directions work.
    #[track_caller]
    pub(crate) fn expect_alive(&mut self) {
        self.send(100);
        self.expect_everything();
        self.expect_from_client(b"still here");
    }
}
