//! A bad UDP path inside the test process: no root, no namespace.
//!
//! The client half sends to the gate's port, the gate sends on to the server half from a port per client, as a NAT
//! does. Each direction has a link (delay, loss, rate and queue) and a blackhole switch. Not for TCP.

use super::link::{Counters, Link, configure, nanos};
use super::place::Place;
use socket2::SockRef;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often a thread that waits for packets looks whether it should end.
const LOOK: Duration = Duration::from_millis(50);
/// No datagram is larger.
const LARGEST: usize = 65_536;

/// One of the two ways through the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

/// The forwarder; it ends with its owner.
pub struct UdpGate {
    shared: Arc<Shared>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    front: UdpSocket,
    server: SocketAddr,
    flows: Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>,
    to_server: Lane,
    to_client: Lane,
    stop: AtomicBool,
}

/// One direction: its link, and what is on its way.
struct Lane {
    link: Mutex<Link>,
    closed: AtomicBool,
    /// Packets still let through; negative: all.
    allowance: AtomicI64,
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    packets: BinaryHeap<Reverse<Due>>,
    count: u64,
}

/// A packet and when it comes out; the number keeps equals in order.
struct Due {
    at: u64,
    number: u64,
    data: Vec<u8>,
    socket: Option<Arc<UdpSocket>>,
    to: SocketAddr,
}

impl UdpGate {
    /// A gate in front of a server half, perfect until told otherwise.
    pub fn to(server: SocketAddr) -> UdpGate {
        let front = open_socket();
        let address = front.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            front,
            server,
            flows: Mutex::default(),
            to_server: Lane::new(1),
            to_client: Lane::new(2),
            stop: AtomicBool::new(false),
        });
        let mut threads = vec![];
        for work in [Shared::read_clients, Shared::run_to_server, Shared::run_to_client] {
            let shared = shared.clone();
            threads.push(std::thread::spawn(move || work(&shared)));
        }
        UdpGate {
            shared,
            address,
            threads,
        }
    }

    /// Where clients send to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port of that address.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Changes the links: `delay=25,loss=1,up.rate=0.256,queue=10000`; up is towards the server half.
    pub fn set(&self, settings: &str) {
        configure(
            settings,
            &mut held(&self.shared.to_server.link),
            &mut held(&self.shared.to_client.link),
        );
    }

    /// Everything vanishes, both ways, what is on its way included.
    pub fn cut(&self) {
        self.cut_one(Direction::ToServer);
        self.cut_one(Direction::ToClient);
    }

    /// One direction vanishes.
    pub fn cut_one(&self, direction: Direction) {
        self.lane(direction).closed.store(true, SeqCst);
    }

    /// A direction lets `packets` more through, then vanishes.
    pub fn cut_after(&self, direction: Direction, packets: u32) {
        self.lane(direction).allowance.store(packets.into(), SeqCst);
    }

    /// Whether a direction is cut, or has used up what it was to let through.
    pub fn is_cut(&self, direction: Direction) -> bool {
        let lane = self.lane(direction);
        lane.closed.load(SeqCst) || lane.allowance.load(SeqCst) == 0
    }

    /// Both directions carry again.
    pub fn restore(&self) {
        for lane in [&self.shared.to_server, &self.shared.to_client] {
            lane.allowance.store(-1, SeqCst);
            lane.closed.store(false, SeqCst);
        }
    }

    /// A silent NAT rebinding: from now on the server half sees every client at a new port, and what it sends
    /// to the old one vanishes. Nobody is told.
    pub fn rebind(&self) {
        for (client, flow) in &mut *held(&self.shared.flows) {
            *flow = Shared::open_flow(&self.shared, *client);
        }
    }

    /// What became of the packets of a direction.
    pub fn counters(&self, direction: Direction) -> Counters {
        held(&self.lane(direction).link).counters
    }

    /// How many clients have sent anything.
    pub fn clients(&self) -> usize {
        held(&self.shared.flows).len()
    }

    fn lane(&self, direction: Direction) -> &Lane {
        match direction {
            Direction::ToServer => &self.shared.to_server,
            Direction::ToClient => &self.shared.to_client,
        }
    }
}

impl Drop for UdpGate {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.to_server.wake.notify_all();
        self.shared.to_client.wake.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn read_clients(self: &Arc<Shared>) {
        let mut buffer = vec![0; LARGEST];
        while let Some((length, client)) = self.receive(&self.front, &mut buffer) {
            let flow = held(&self.flows)
                .entry(client)
                .or_insert_with(|| Shared::open_flow(self, client))
                .clone();
            self.to_server.offer(&buffer[..length], Some(flow), self.server);
        }
    }

    /// A new port towards the server half, and the thread that reads what comes back to it. The thread ends once
    /// another port has taken its place: the old socket stays open until then, so that no ICMP error gives it away.
    fn open_flow(shared: &Arc<Shared>, client: SocketAddr) -> Arc<UdpSocket> {
        let socket = Arc::new(open_socket());
        let (shared, own) = (shared.clone(), socket.clone());
        std::thread::spawn(move || {
            let mut buffer = vec![0; LARGEST];
            while let Some((length, _)) = shared.receive(&own, &mut buffer) {
                let current = held(&shared.flows)
                    .get(&client)
                    .is_some_and(|flow| Arc::ptr_eq(flow, &own));
                if current {
                    shared.to_client.offer(&buffer[..length], None, client);
                }
            }
        });
        socket
    }

    /// The next datagram; `None` once the gate ends.
    fn receive(&self, socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        while !self.stop.load(SeqCst) {
            match socket.recv_from(buffer) {
                Ok(received) => return Some(received),
                // A closed port at the other end is reported here once; the path does not care.
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(e) if matches!(e.kind(), ErrorKind::ConnectionRefused | ErrorKind::Interrupted) => {}
                Err(e) => panic!("the gate cannot receive: {e}"),
            }
        }
        None
    }

    fn run_to_server(self: &Arc<Shared>) {
        self.to_server.run(&self.front, &self.stop);
    }

    fn run_to_client(self: &Arc<Shared>) {
        self.to_client.run(&self.front, &self.stop);
    }
}

impl Lane {
    fn new(seed: u64) -> Lane {
        Lane {
            link: Mutex::new(Link::new(seed)),
            closed: AtomicBool::new(false),
            allowance: AtomicI64::new(-1),
            queue: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    fn offer(&self, data: &[u8], socket: Option<Arc<UdpSocket>>, to: SocketAddr) {
        let closing = self
            .allowance
            .fetch_update(SeqCst, SeqCst, |left| (left >= 0).then(|| (left - 1).max(0)));
        if closing == Ok(0) {
            held(&self.link).counters.blackholed += 1;
            return;
        }
        let Some(at) = held(&self.link).offer(nanos(), data.len()) else {
            return;
        };
        let mut queue = held(&self.queue);
        queue.count += 1;
        let number = queue.count;
        queue.packets.push(Reverse(Due {
            at,
            number,
            data: data.to_vec(),
            socket,
            to,
        }));
        self.wake.notify_one();
    }

    /// Sends each packet when its time has come.
    fn run(&self, front: &UdpSocket, stop: &AtomicBool) {
        let mut queue = held(&self.queue);
        while !stop.load(SeqCst) {
            let wait = match queue.packets.peek() {
                None => LOOK,
                Some(Reverse(due)) => Duration::from_nanos(due.at.saturating_sub(nanos())),
            };
            if !wait.is_zero() {
                queue = self
                    .wake
                    .wait_timeout(queue, wait)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
                continue;
            }
            let Some(Reverse(due)) = queue.packets.pop() else {
                continue;
            };
            drop(queue);
            if self.closed.load(SeqCst) {
                held(&self.link).counters.blackholed += 1;
            } else {
                // A full socket buffer or a closed port loses the packet, as any path may.
                let _ = due.socket.as_deref().unwrap_or(front).send_to(&due.data, due.to);
            }
            queue = held(&self.queue);
        }
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Due) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

fn open_socket() -> UdpSocket {
    let socket = UdpSocket::bind((Place::here().address, 0)).expect("a UDP port on loopback");
    socket.set_read_timeout(Some(LOOK)).expect("a socket of our own");
    // Bursts of whole windows must not be lost here: only the links lose. The kernel caps it at rmem_max.
    SockRef::from(&socket)
        .set_recv_buffer_size(4 << 20)
        .expect("a socket of our own");
    socket
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
