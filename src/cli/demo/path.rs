//! The path between the halves, made to be broken: a UDP forwarder on loopback that behaves as a NAT does.
//!
//! It can swallow everything, take another address, make the server half unreachable, and have connections reset.
//! It knows nothing of sessions, and of QUIC only how to tell a connection's later packets from its first ones.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket as StdSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};

use parking_lot::Mutex;
use tokio::net::UdpSocket;

use crate::tasks::Tasks;
use crate::transport::quic::bind;

/// No datagram is larger.
const MAX_DATAGRAM: usize = 65_536;

/// Clients' ports that are remembered. With one more all are forgotten, as a NAT does whose table is full.
const MAX_FLOWS: usize = 256;

/// Tries to bind the same port a second time.
const MAX_BIND_ATTEMPTS: usize = 16;

/// What the path does with packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Condition {
    /// Carries them.
    Normal = 0,
    /// They vanish, both ways, and nobody is told.
    BlackHole = 1,
    /// Nothing listens at the server half's address; senders get ICMP "port unreachable".
    Unreachable = 2,
}

/// The forwarder. It ends when it is dropped.
pub(super) struct Path {
    shared: Arc<Shared>,
    address: SocketAddr,
    _tasks: Tasks,
}

struct Shared {
    /// Where clients send to.
    front: UdpSocket,
    server: SocketAddr,
    /// An endpoint with the server half's secrets and none of its connections: what it does not know, it resets.
    reset_endpoint: SocketAddr,
    flows: Mutex<HashMap<SocketAddr, Arc<Flow>>>,
    condition: AtomicU8,
    dropped: AtomicU64,
    resets: AtomicU64,
    tasks: Tasks,
}

/// One client's port, and the port by which the server half knows it.
struct Flow {
    client: SocketAddr,
    outside: UdpSocket,
    /// Its next packets go to the endpoint that resets them.
    reset_due: AtomicBool,
}

impl Path {
    /// A path to `server` that works.
    ///
    /// # Errors
    /// No UDP socket on loopback.
    pub(super) fn to(server: SocketAddr, reset_endpoint: SocketAddr) -> io::Result<Path> {
        let front = UdpSocket::from_std(bind_for_good()?)?;
        let address = front.local_addr()?;
        let shared = Arc::new(Shared {
            front,
            server,
            reset_endpoint,
            flows: Mutex::default(),
            condition: AtomicU8::new(Condition::Normal as u8),
            dropped: AtomicU64::new(0),
            resets: AtomicU64::new(0),
            tasks: Tasks::new(),
        });
        let tasks = Tasks::new();
        tasks.spawn("path", Arc::clone(&shared).carry());
        Ok(Path {
            shared,
            address,
            _tasks: tasks,
        })
    }

    /// Where clients send to.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does with packets now.
    pub(super) fn condition(&self) -> Condition {
        self.shared.condition()
    }

    /// Changes that.
    ///
    /// # Errors
    /// The kernel will not take the address away, or not give it back.
    pub(super) fn set(&self, condition: Condition) -> io::Result<()> {
        let front = &self.shared.front;
        let was = self.shared.condition.swap(condition as u8, SeqCst);
        match (was == Condition::Unreachable as u8, condition == Condition::Unreachable) {
            // A connected socket hears one peer only; to everybody else its port is closed. The port stays ours.
            (false, true) => rustix::net::connect(front, &nobody())?,
            (true, false) => rustix::net::connect_unspec(front)?,
            _ => {}
        }
        Ok(())
    }

    /// From now on the server half sees every client at another port. What it sends to the old one vanishes.
    pub(super) fn take_new_address(&self) {
        self.shared.flows.lock().clear();
    }

    /// Each connection's next packet is answered by a stateless reset (RFC 9000 section 10.3): it ends at once.
    pub(super) fn reset_connections(&self) {
        for flow in self.shared.flows.lock().values() {
            flow.reset_due.store(true, SeqCst);
        }
    }

    /// Packets that vanished so far.
    pub(super) fn dropped(&self) -> u64 {
        self.shared.dropped.load(SeqCst)
    }

    /// Resets delivered so far.
    pub(super) fn resets(&self) -> u64 {
        self.shared.resets.load(SeqCst)
    }
}

impl Shared {
    /// From the clients to the server half.
    async fn carry(self: Arc<Shared>) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let Ok((length, client)) = self.front.recv_from(&mut buffer).await else {
                // A closed port on the other side is told here; the path does not care.
                tokio::task::yield_now().await;
                continue;
            };
            let packet = &buffer[..length];
            if self.drops() {
                continue;
            }
            let Ok(flow) = self.flow_of(client) else {
                continue;
            };
            let later = packet.first().is_some_and(|first| first & 0x80 == 0);
            let to = if later && flow.reset_due.load(SeqCst) {
                self.reset_endpoint
            } else {
                self.server
            };
            // A full buffer loses the packet, as any path may.
            let _ = flow.outside.send_to(packet, to).await;
        }
    }

    /// From the server half to one client, until that has another port outside.
    async fn carry_back(self: Arc<Shared>, flow: Arc<Flow>) {
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let Ok((length, from)) = flow.outside.recv_from(&mut buffer).await else {
                tokio::task::yield_now().await;
                continue;
            };
            if !self.is_current(&flow) {
                self.dropped.fetch_add(1, SeqCst);
                return;
            }
            if self.drops() {
                continue;
            }
            if from == self.reset_endpoint && flow.reset_due.swap(false, SeqCst) {
                self.resets.fetch_add(1, SeqCst);
            }
            let _ = self.front.send_to(&buffer[..length], flow.client).await;
        }
    }

    fn flow_of(self: &Arc<Shared>, client: SocketAddr) -> io::Result<Arc<Flow>> {
        let mut flows = self.flows.lock();
        if let Some(flow) = flows.get(&client) {
            return Ok(Arc::clone(flow));
        }
        if flows.len() >= MAX_FLOWS {
            flows.clear();
        }
        let flow = Arc::new(Flow {
            client,
            outside: UdpSocket::from_std(bind((Ipv4Addr::LOCALHOST, 0).into())?)?,
            reset_due: AtomicBool::new(false),
        });
        let (stop, back) = (self.tasks.token(), Arc::clone(self).carry_back(Arc::clone(&flow)));
        self.tasks.spawn("way back", async move {
            stop.run_until_cancelled(back).await;
        });
        flows.insert(client, Arc::clone(&flow));
        Ok(flow)
    }

    fn is_current(&self, flow: &Arc<Flow>) -> bool {
        let flows = self.flows.lock();
        flows
            .get(&flow.client)
            .is_some_and(|current| Arc::ptr_eq(current, flow))
    }

    fn drops(&self) -> bool {
        let drops = self.condition() != Condition::Normal;
        if drops {
            self.dropped.fetch_add(1, SeqCst);
        }
        drops
    }

    fn condition(&self) -> Condition {
        match self.condition.load(SeqCst) {
            1 => Condition::BlackHole,
            2 => Condition::Unreachable,
            _ => Condition::Normal,
        }
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        // The ways back hold what holds them.
        self.shared.tasks.token().cancel();
    }
}

/// A peer that never says anything: the discard port.
fn nobody() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 9).into()
}

/// A socket on a free port that it keeps: Linux takes a port that it chose itself back when a socket is disconnected.
fn bind_for_good() -> io::Result<StdSocket> {
    let mut tries = 1;
    loop {
        let port = bind((Ipv4Addr::LOCALHOST, 0).into())?.local_addr()?;
        match bind(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < MAX_BIND_ATTEMPTS => tries += 1,
            bound => return bound,
        }
    }
}
