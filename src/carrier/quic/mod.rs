//! The QUIC carrier: one connection with one bidirectional stream. Probes and copies are datagrams.
//!
//! The server half sends its host message in its first flight (0.5-RTT) on a unidirectional stream;
//! the client half opens the bidirectional stream.

pub(super) mod config;
pub(super) mod congestion;
mod gso;
pub(super) mod socket;

pub use config::{EndpointSecrets, ListenerSecrets, MtuCap, MtuCapError, QuicConfigError, QuicLimits};
pub use socket::bind;

use super::dialed::{DialError, Dialed, HostMessage};
use super::link::{Link, QuicLink, close_quic};
use super::{Carrier, CarrierError, CarrierInfo, CloseReason, Kind, Rank};
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::identity::statement::EXPORTER_LABEL;
use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use socket::PolledSocket;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The server name that quinn requires. It is never sent, because keys are checked, not names.
pub(super) const NO_NAME: &str = "bowline";

/// A UDP socket of the client half, and all connections made over it.
#[derive(Clone)]
pub struct QuicDialer {
    endpoint: quinn::Endpoint,
    mtu_cap: MtuCap,
}

impl QuicDialer {
    /// Binds a new socket of the address family of `remote`.
    ///
    /// # Errors
    /// The socket cannot be created.
    pub fn new(remote: SocketAddr, mtu_cap: MtuCap) -> io::Result<QuicDialer> {
        QuicDialer::reporting_to(remote, mtu_cap, Arc::default())
    }

    /// The same, and sets `heard` whenever anything arrives.
    ///
    /// # Errors
    /// The system gives no socket.
    pub(crate) fn reporting_to(remote: SocketAddr, mtu_cap: MtuCap, heard: Arc<AtomicBool>) -> io::Result<QuicDialer> {
        let socket = bind(socket::any_local(remote))?;
        let socket = PolledSocket::reporting_to(socket, heard)?;
        let endpoint = socket::endpoint_over(socket, config::client_endpoint(), None)?;
        Ok(QuicDialer { endpoint, mtu_cap })
    }

    /// Dials `remote` and authenticates with `key`. Dropping the future cancels the attempt.
    ///
    /// # Errors
    /// [`DialError`]: no answer, a server key that is not accepted, or not a bowline server.
    pub async fn dial(&self, remote: SocketAddr, key: &TlsKey, accept: ServerKey) -> Result<Dialed, DialError> {
        let config = config::client(key, accept, self.mtu_cap.at(remote))?;
        let connection = self.endpoint.connect_with(config, remote, NO_NAME)?.await?;
        let streams = connection.open_bi().await?;
        let info = describe(&connection)?;
        let link = QuicLink::new(connection.clone(), streams, config::SESSION_WINDOW);
        Ok(Dialed::new(
            Carrier::new(info, Link::Quic(link)),
            HostMessage::Stream(connection),
        ))
    }
}

/// A UDP socket of the server half.
pub struct QuicListener {
    endpoint: quinn::Endpoint,
    socket: Arc<PolledSocket>,
}

impl QuicListener {
    /// Listens on a bound socket. `secrets` gives the keys for its address.
    ///
    /// # Errors
    /// The socket cannot be used, or TLS cannot be set up.
    pub fn new(
        socket: UdpSocket,
        key: &TlsKey,
        secrets: &EndpointSecrets,
        limits: &QuicLimits,
    ) -> Result<QuicListener, QuicConfigError> {
        let secrets = secrets.of_listener(socket.local_addr()?);
        QuicListener::with_secrets(socket, key, &secrets, limits)
    }

    /// Listens with the keys of another listener, in order to reset that one's connections. That
    /// listener must be gone for good.
    ///
    /// # Errors
    /// As [`QuicListener::new`].
    pub fn with_secrets(
        socket: UdpSocket,
        key: &TlsKey,
        secrets: &ListenerSecrets,
        limits: &QuicLimits,
    ) -> Result<QuicListener, QuicConfigError> {
        socket.set_nonblocking(true)?;
        let limits = QuicLimits {
            mtu_cap: limits.mtu_cap.at(socket.local_addr()?),
            ..*limits
        };
        let server = config::server(key, secrets, &limits)?;
        let endpoint = config::server_endpoint(secrets);
        let socket = PolledSocket::new(socket)?;
        let endpoint = socket::endpoint_over(Arc::clone(&socket), endpoint, Some(server))?;
        Ok(QuicListener { endpoint, socket })
    }

    /// The address on which it listens.
    ///
    /// # Errors
    /// As getsockname(2).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next connection attempt; `None` once the listener is closed.
    pub async fn accept(&self) -> Option<quinn::Incoming> {
        self.endpoint.accept().await
    }

    /// Leaves packets that arrive from now on to the other process that shares the socket. Sending
    /// still works.
    pub fn stop_receiving(&self) {
        self.socket.stop_receiving();
    }

    /// Closes all connections, and accepts no more.
    pub async fn close(&self) {
        self.endpoint.set_server_config(None);
        self.endpoint.close(3u32.into(), b"shutting down");
        self.endpoint.wait_idle().await;
    }
}

/// Completes one handshake, and sends `host` in the first flight.
///
/// # Errors
/// The connection is lost, or the client proves no key.
pub async fn handshake(incoming: quinn::Incoming, host: Bytes) -> Result<AuthenticatedClient, CarrierError> {
    let mut connecting = incoming.accept()?;
    // A stream can be opened once the whole ClientHello has arrived. With post-quantum keys it
    // takes two datagrams, and quinn 0.11 does not wake a task that began to open a stream in
    // between.
    connecting.handshake_data().await?;
    let (connection, handshake) = match connecting.into_0rtt() {
        Ok((connection, accepted)) => (connection, Some(accepted)),
        // Does not happen on the server side. Waiting for the handshake would cost one round trip.
        Err(connecting) => (connecting.await?, None),
    };
    let mut stream = connection.open_uni().await?;
    stream.write_chunk(host).await.map_err(io::Error::from)?;
    // Cannot fail: the stream was opened just now.
    let _ = stream.finish();
    if let Some(handshake) = handshake {
        handshake.await;
    }
    Ok(AuthenticatedClient {
        info: describe(&connection)?,
        connection,
    })
}

/// A client that has proved its TLS key and sent no message yet.
pub struct AuthenticatedClient {
    info: CarrierInfo,
    connection: quinn::Connection,
}

impl AuthenticatedClient {
    /// The client's address.
    pub fn remote(&self) -> SocketAddr {
        unmapped(self.connection.remote_address())
    }

    /// The client's TLS key, SPKI DER.
    pub fn tls_key(&self) -> &Bytes {
        &self.info.peer_key
    }

    /// Waits for the stream of its first message.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn carrier(&self) -> Result<Carrier, CarrierError> {
        let streams = self.connection.accept_bi().await?;
        let link = QuicLink::new(self.connection.clone(), streams, config::SESSION_WINDOW);
        Ok(Carrier::new(self.info.clone(), Link::Quic(link)))
    }

    /// Closes the connection for this reason.
    pub fn turn_away(self, reason: CloseReason) {
        close_quic(&self.connection, reason);
    }
}

fn describe(connection: &quinn::Connection) -> Result<CarrierInfo, CarrierError> {
    let mut exporter = [0; 32];
    let exported = connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"");
    exported.map_err(|_| io::Error::other("the TLS exporter failed"))?;
    let identity = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let peer_key = identity.as_deref().and_then(|keys| keys.first());
    let peer_key = peer_key.ok_or(CarrierError::NoPeerKey)?;
    let peer_key = Bytes::copy_from_slice(peer_key);
    Ok(CarrierInfo {
        kind: Kind::Quic,
        remote: Some(unmapped(connection.remote_address())),
        via: None,
        rank: Rank::Direct,
        peer_key,
        exporter,
    })
}

/// Converts an IPv4-mapped address back to IPv4. A link-local address keeps its zone.
pub(crate) fn unmapped(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::from((v4, address.port())),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Frame, Hello, Host, SessionId};
    use std::future::poll_fn;
    use std::net::Ipv4Addr;
    use std::time::Duration;
    use tokio::task::JoinSet;
    use tokio::time::{sleep, timeout};

    const APART: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn packets_after_stop_receiving_are_left_to_the_other_process() {
        let (key, client) = (TlsKey::generate(), TlsKey::generate());
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let secrets = EndpointSecrets::new([1; 32]);
        let listen = |socket| QuicListener::new(socket, &key, &secrets, &QuicLimits::default()).unwrap();
        let leaving = listen(socket.try_clone().unwrap());
        leaving.stop_receiving();
        let address = leaving.local_addr().unwrap();
        let dialer = QuicDialer::new(address, MtuCap::default()).unwrap();
        let mut dialing = Box::pin(dialer.dial(address, &client, ServerKey::Exactly(key.spki().to_vec())));
        let unheard = timeout(APART, async { tokio::join!(&mut dialing, leaving.accept()) });
        assert!(unheard.await.is_err());
        let next = listen(socket);
        let answer = async {
            let incoming = next.accept().await.expect("it stayed in the kernel's buffer");
            handshake(incoming, Bytes::new()).await
        };
        // Nothing is retransmitted within this time (RFC 9002 section 6.2.2).
        let (dialed, greeted) = timeout(Duration::from_millis(900), async { tokio::join!(dialing, answer) })
            .await
            .expect("the next listener answers");
        assert!(dialed.is_ok() && greeted.is_ok());
    }

    #[tokio::test]
    async fn host_message_arrives_although_the_first_flight_is_split() {
        let key = TlsKey::generate();
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let secrets = EndpointSecrets::new([1; 32]);
        let listener = QuicListener::new(socket, &key, &secrets, &QuicLimits::default()).unwrap();
        let path = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (near, far) = (path.local_addr().unwrap(), listener.local_addr().unwrap());
        let host = Host { statements: Vec::new() };
        let said = host.encode();
        // Separate tasks: if they were polled together, each would be woken by the events of the
        // others.
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let client = handshake(listener.accept().await.unwrap(), said).await.unwrap();
            // Ends with an error, because the client never opens its stream.
            let _ = client.carrier().await;
        });
        tasks.spawn(async move { hand_on_slowly(&path, far).await });
        let client = async {
            let dialer = QuicDialer::new(near, MtuCap::default()).unwrap();
            let dialed = dialer.dial(near, &key, ServerKey::Any).await.unwrap();
            dialed.host().await.unwrap().1
        };
        assert_eq!(timeout(Duration::from_secs(3), client).await.expect("in time"), host);
    }

    #[tokio::test]
    async fn soliciting_an_ack_needs_no_answer_if_the_transport_shows_acks() {
        let key = TlsKey::generate();
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let secrets = EndpointSecrets::new([1; 32]);
        let listener = QuicListener::new(socket, &key, &secrets, &QuicLimits::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let dialer = QuicDialer::new(address, MtuCap::default()).unwrap();
        let near = async {
            let dialed = dialer.dial(address, &key, ServerKey::Any).await.unwrap();
            let mut near = dialed.host().await.unwrap().0;
            let session = SessionId::new([1; 16]);
            near.send_message(Hello::Standby { session }.encode()).await.unwrap();
            near
        };
        let far = async {
            let host = Host { statements: Vec::new() };
            let met = handshake(listener.accept().await.unwrap(), host.encode()).await;
            let mut far = met.unwrap().carrier().await.unwrap();
            far.read_message().await.unwrap();
            far
        };
        let (mut near, mut far) = tokio::join!(near, far);
        // By then everything sent before is acknowledged.
        sleep(APART).await;
        let mark = near.answer_mark();
        near.solicit_ack(7);
        let heard = poll_fn(|cx| far.poll_frame(cx)).await.unwrap();
        assert_eq!(heard.frame, Frame::Pong { token: 7 }, "a frame that needs no answer");
        let moved = async {
            while near.answer_mark() == mark {
                sleep(APART / 20).await;
            }
        };
        timeout(APART * 10, moved).await.expect("an acknowledgement");
    }

    /// A path that delays the first datagrams, so that each is processed before the next arrives.
    async fn hand_on_slowly(path: &tokio::net::UdpSocket, server: SocketAddr) {
        let mut buffer = vec![0; 65_536];
        let mut client = server;
        for count in 0.. {
            let (length, from) = path.recv_from(&mut buffer).await.unwrap();
            let to = if from == server { client } else { server };
            if from != server {
                client = from;
            }
            if count < 2 {
                sleep(APART).await;
            }
            path.send_to(&buffer[..length], to).await.unwrap();
        }
    }
}
