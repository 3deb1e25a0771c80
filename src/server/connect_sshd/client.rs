//! Connections to sshd from each client's own address: the keeper opens them, which takes a privilege, and passes them
//! to the worker.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rustix::io::Errno;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::super::client_address::Families;
use super::super::ipc::{NotConnected, Reply, Request, Response};
use super::super::sshd_config::is_here_in_zone;
use super::super::worker::keeper_client::KeeperClient;
use super::{Client, ConnectSshd, Connecting, FromLoopback, Purpose};

/// How long a connection from the client's own port may take. If the client itself has a connection with the same
/// addresses and ports, sshd's end ignores ours; another port is tried then. On this machine an answer takes
/// microseconds.
const OWN_PORT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long connecting may take in other cases.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects from the addresses of clients.
#[derive(Debug)]
pub(crate) struct FromClient {
    keeper: KeeperClient,
    families: Families,
    /// Whether a client whose address cannot be shown to sshd is refused. Otherwise its connection comes from
    /// loopback.
    insists: bool,
    /// The keeper has said that it may not: it was started by an earlier worker, and has no more rights than this
    /// process.
    is_denied: AtomicBool,
    /// For the banner, and for clients whose address cannot be shown.
    loopback: FromLoopback,
}

/// The keeper's answer.
enum KeeperAnswer {
    Connecting(OwnedFd),
    Not(NotConnected),
}

impl FromClient {
    pub(crate) fn new(keeper: KeeperClient, families: Families, insists: bool, loopback: FromLoopback) -> Self {
        Self {
            keeper,
            families,
            insists,
            is_denied: AtomicBool::new(false),
            loopback,
        }
    }

    async fn connect_for(&self, client: Client, port: u16, purpose: Purpose) -> io::Result<TcpStream> {
        let address = client.remote.ip();
        if address.is_loopback() || is_own_in_zone(client) {
            return self.connect_here(client).await;
        }
        if !self.can_show(client) {
            return match self.insists {
                true => Err(self.cannot_show(client)),
                false => self.loopback.connect(purpose).await,
            };
        }
        let asked = self.ask(SocketAddr::new(address, port), client.local).await?;
        let asked = match asked {
            KeeperAnswer::Connecting(socket) if port != 0 => match timeout(OWN_PORT_TIMEOUT, connected(socket)).await {
                Ok(connected) => return connected,
                Err(_) => self.ask(SocketAddr::new(address, 0), client.local).await?,
            },
            asked => asked,
        };
        match asked {
            KeeperAnswer::Connecting(socket) => match timeout(CONNECT_TIMEOUT, connected(socket)).await {
                Ok(connected) => connected,
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, NO_ANSWER)),
            },
            KeeperAnswer::Not(NotConnected::OwnAddress) => self.connect_here(client).await,
            KeeperAnswer::Not(why) => {
                // From now on sshd sees such clients on loopback, where other rules apply; this client was admitted
                // without them.
                self.is_denied.fetch_or(why == NotConnected::NotAllowed, Relaxed);
                Err(self.not_connected(why, address))
            }
        }
    }

    async fn ask(&self, client: SocketAddr, reached: Option<IpAddr>) -> io::Result<KeeperAnswer> {
        let request = Request::ConnectToSshd { client, reached };
        match self.keeper.request(request).await.map_err(io::Error::other)? {
            Reply {
                response: Response::Connecting { .. },
                descriptor: Some(socket),
            } => Ok(KeeperAnswer::Connecting(socket)),
            Reply {
                response: Response::NotConnected(why),
                ..
            } => Ok(KeeperAnswer::Not(why)),
            _ => Err(io::Error::other("the keeper answered with an unexpected message")),
        }
    }

    /// A client on this machine is connected from its address, as it would be without bowline.
    async fn connect_here(&self, client: Client) -> io::Result<TcpStream> {
        let target = self.loopback.target();
        let reached = client.reached().map(|mut reached| {
            reached.set_port(target.port());
            reached
        });
        for to in reached.into_iter().chain([target]) {
            match connect_from(client.remote, to).await {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                connected => return connected,
            }
        }
        // sshd listens for the other family only: any address of this machine will do.
        let stream = TcpStream::connect(target).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn can_show(&self, client: Client) -> bool {
        let address = client.remote.ip();
        if client.is_link_local() {
            return is_own_in_zone(client);
        }
        address.is_loopback()
            || (self.families.include(address) && !self.keeper.lacks_rights() && !self.is_denied.load(Relaxed))
    }

    fn cannot_show(&self, client: Client) -> io::Error {
        let address = client.remote.ip();
        if client.is_link_local() {
            return io::Error::other(LINK_LOCAL);
        }
        let why = match self.families.include(address) {
            true => NotConnected::NotAllowed,
            false => NotConnected::NotListening,
        };
        self.not_connected(why, address)
    }

    fn not_connected(&self, why: NotConnected, address: IpAddr) -> io::Error {
        let port = self.loopback.target().port();
        let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
        io::Error::other(match why {
            NotConnected::NotListening => {
                format!("cannot connect to sshd from {address}: it does not listen for {family} on port {port}")
            }
            NotConnected::OtherAddress => {
                "sshd does not listen at the address that the client reached, and has rules that depend on \
                                           that address"
                    .to_owned()
            }
            NotConnected::NotAllowed => "the server half has lost its privileges: restart bowline serve".to_owned(),
            NotConnected::OwnAddress | NotConnected::NoClient => format!("no client can be at {address}"),
            NotConnected::Failed { errno } => return io::Error::from(Errno::from_raw_os_error(errno)),
        })
    }
}

impl ConnectSshd for FromClient {
    fn target(&self) -> SocketAddr {
        self.loopback.target()
    }

    fn connect(&self, purpose: Purpose) -> Connecting<'_> {
        Box::pin(async move {
            match purpose {
                Purpose::Banner | Purpose::SecondQuery(_) => self.loopback.connect(purpose).await,
                // The client's own port is for the session.
                Purpose::Query(client) => self.connect_for(client, 0, purpose).await,
                Purpose::Session(client) => self.connect_for(client, client.remote.port(), purpose).await,
            }
        })
    }

    fn hides(&self, client: Client) -> bool {
        !self.shows(client) && self.loopback.hides(client)
    }

    fn handle_accepted(&self, client: Client) {
        self.loopback.handle_accepted(client);
    }

    fn shows(&self, client: Client) -> bool {
        self.insists || self.can_show(client)
    }
}

const NO_ANSWER: &str = "sshd did not answer a connection from the client's address; a firewall of this machine may drop what \
                         comes in on lo";

/// Waits until a connection that the keeper has started is established.
async fn connected(socket: OwnedFd) -> io::Result<TcpStream> {
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

const LINK_LOCAL: &str = "cannot connect to sshd from a link-local address of another machine";

/// Whether the client is on this machine, at a link-local address. The keeper does not know zones.
fn is_own_in_zone(client: Client) -> bool {
    client.is_link_local() && is_here_in_zone(client.remote)
}

async fn connect_from(mut address: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    if address.is_ipv4() != to.is_ipv4() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    address.set_port(0);
    socket.bind(address)?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
