//! The QUIC carrier: one connection, one bidirectional stream, probes and copies as datagrams.
//!
//! The server half's host message goes out in its first flight (0.5-RTT) on a unidirectional stream; the client
//! half opens the bidirectional one.

pub(super) mod config;
pub(super) mod congestion;
mod departure;
pub(super) mod socket;

pub use config::{EndpointSecrets, ListenerSecrets, MtuCap, MtuCapError, QuicConfigError, QuicLimits};
pub use socket::bind;

use super::dialed::{DialError, Dialed, Introduction};
use super::link::{Link, QuicLink, close_quic};
use super::{Carrier, CarrierError, CarrierInfo, CloseReason, Kind, Rank};
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::identity::statement::EXPORTER_LABEL;
use bytes::Bytes;
use rustls::pki_types::CertificateDer;
use socket::Polled;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

/// The name that QUIC insists on and that is never sent: keys are checked, not names.
pub(super) const NO_NAME: &str = "bowline";

/// A UDP socket of the client half, and all the connections made over it.
#[derive(Clone)]
pub struct QuicDialer {
    endpoint: quinn::Endpoint,
    mtu_cap: MtuCap,
}

impl QuicDialer {
    /// Takes a fresh socket of the address family of `remote`.
    ///
    /// # Errors
    /// The system gives no socket.
    pub fn new(remote: SocketAddr, mtu_cap: MtuCap) -> io::Result<QuicDialer> {
        let socket = bind(socket::any_local(remote))?;
        let endpoint = socket::endpoint(socket, config::client_endpoint(), None)?;
        Ok(QuicDialer { endpoint, mtu_cap })
    }

    /// Dials `remote` and proves `key`. Dropping the future gives the attempt up.
    ///
    /// # Errors
    /// [`DialError`]: no answer, the wrong server key, or no bowline there.
    pub async fn dial(&self, remote: SocketAddr, key: &TlsKey, accept: ServerKey) -> Result<Dialed, DialError> {
        let config = config::client(key, accept, self.mtu_cap.at(remote))?;
        let connection = self.endpoint.connect_with(config, remote, NO_NAME)?.await?;
        let streams = connection.open_bi().await?;
        let info = describe(&connection)?;
        let link = QuicLink::new(connection.clone(), streams, config::SESSION_WINDOW);
        Ok(Dialed::new(
            Carrier::new(info, Link::Quic(link)),
            Introduction::Stream(connection),
        ))
    }
}

/// The server half's end of a UDP socket.
pub struct QuicListener {
    endpoint: quinn::Endpoint,
    socket: Arc<Polled>,
}

impl QuicListener {
    /// Listens on a bound socket, with the keys that `secrets` give a listener there.
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

    /// The same with the keys of a listener elsewhere, which it answers for: it resets the connections of that one, which
    /// must be gone for good.
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
        let socket = Polled::new(socket)?;
        let endpoint = socket::endpoint_over(Arc::clone(&socket), endpoint, Some(server))?;
        Ok(QuicListener { endpoint, socket })
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// As `getsockname(2)`.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// The next attempt at a connection; `None` once the listener was closed.
    pub async fn accept(&self) -> Option<quinn::Incoming> {
        self.endpoint.accept().await
    }

    /// Leaves what arrives from now on to whoever else has the socket. What is sent still goes out.
    pub fn end_hearing(&self) {
        self.socket.end_hearing();
    }

    /// Tells all peers that this half goes away, and takes no more.
    pub async fn close(&self) {
        self.endpoint.set_server_config(None);
        self.endpoint.close(3u32.into(), b"shutting down");
        self.endpoint.wait_idle().await;
    }
}

/// Completes one handshake and says `host` in the first flight.
///
/// # Errors
/// The connection is lost, or the client proves no key.
pub async fn shake_hands(incoming: quinn::Incoming, host: Bytes) -> Result<Acquaintance, CarrierError> {
    let mut connecting = incoming.accept()?;
    // A stream can be opened once the client's whole first message is here. With post-quantum keys it takes two
    // datagrams, and quinn 0.11 wakes nobody who began to open one between them.
    connecting.handshake_data().await?;
    let (connection, handshake) = match connecting.into_0rtt() {
        Ok((connection, accepted)) => (connection, Some(accepted)),
        // Never on the server side; waiting for the handshake costs a round trip and nothing else.
        Err(connecting) => (connecting.await?, None),
    };
    let mut stream = connection.open_uni().await?;
    stream.write_chunk(host).await.map_err(io::Error::from)?;
    // The stream cannot be finished yet: it was opened a line above.
    let _ = stream.finish();
    if let Some(handshake) = handshake {
        handshake.await;
    }
    Ok(Acquaintance {
        info: describe(&connection)?,
        connection,
    })
}

/// A client that proved its TLS key and has said nothing yet.
pub struct Acquaintance {
    info: CarrierInfo,
    connection: quinn::Connection,
}

impl Acquaintance {
    /// Where the client is.
    pub fn remote(&self) -> SocketAddr {
        unmapped(self.connection.remote_address())
    }

    /// The TLS key that it has proved, SPKI DER.
    pub fn tls_key(&self) -> &Bytes {
        &self.info.peer_key
    }

    /// Waits for its first word.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn carrier(&self) -> Result<Carrier, CarrierError> {
        let streams = self.connection.accept_bi().await?;
        let link = QuicLink::new(self.connection.clone(), streams, config::SESSION_WINDOW);
        Ok(Carrier::new(self.info.clone(), Link::Quic(link)))
    }

    /// Closes the connection, and says why.
    pub fn turn_away(self, reason: CloseReason) {
        close_quic(&self.connection, reason);
    }
}

fn describe(connection: &quinn::Connection) -> Result<CarrierInfo, CarrierError> {
    let mut exporter = [0; 32];
    let exported = connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"");
    exported.map_err(|_| io::Error::other("the TLS exporter gave nothing"))?;
    let identity = connection
        .peer_identity()
        .and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    let peer_key = identity.as_deref().and_then(|keys| keys.first());
    let peer_key = peer_key.ok_or_else(|| io::Error::other("the peer proved no TLS key"))?;
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

/// An IPv4 peer seen by a dual-stack socket has its address back; a link-local one keeps its zone.
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
    async fn what_arrives_after_the_end_of_hearing_is_for_who_else_has_the_socket() {
        let (key, client) = (TlsKey::generate(), TlsKey::generate());
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let secrets = EndpointSecrets::new([1; 32]);
        let listen = |socket| QuicListener::new(socket, &key, &secrets, &QuicLimits::default()).unwrap();
        let leaving = listen(socket.try_clone().unwrap());
        leaving.end_hearing();
        let address = leaving.local_addr().unwrap();
        let dialer = QuicDialer::new(address, MtuCap::default()).unwrap();
        let mut dialing = Box::pin(dialer.dial(address, &client, ServerKey::Exactly(key.spki().to_vec())));
        let unheard = timeout(APART, async { tokio::join!(&mut dialing, leaving.accept()) });
        assert!(unheard.await.is_err());
        let next = listen(socket);
        let answer = async {
            let incoming = next.accept().await.expect("it was left in the buffer");
            shake_hands(incoming, Bytes::new()).await
        };
        // Nothing is sent again within this time (RFC 9002 section 6.2.2).
        let (dialed, greeted) = timeout(Duration::from_millis(900), async { tokio::join!(dialing, answer) })
            .await
            .expect("answered from what had been left");
        assert!(dialed.is_ok() && greeted.is_ok());
    }

    #[tokio::test]
    async fn the_host_message_comes_although_the_first_flight_arrives_in_pieces() {
        let key = TlsKey::generate();
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let secrets = EndpointSecrets::new([1; 32]);
        let listener = QuicListener::new(socket, &key, &secrets, &QuicLimits::default()).unwrap();
        let path = tokio::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (near, far) = (path.local_addr().unwrap(), listener.local_addr().unwrap());
        let host = Host { statements: Vec::new() };
        let said = host.encode();
        // Tasks of their own: polled together, each would be woken by what wakes the others.
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let client = shake_hands(listener.accept().await.unwrap(), said).await.unwrap();
            // Ends with an error: the client never uses its stream.
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
    async fn a_touch_is_acknowledged_by_the_transport_and_asks_for_no_more() {
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
            let met = shake_hands(listener.accept().await.unwrap(), host.encode()).await;
            let mut far = met.unwrap().carrier().await.unwrap();
            far.read_message().await.unwrap();
            far
        };
        let (mut near, mut far) = tokio::join!(near, far);
        // Whatever was said before is acknowledged by then.
        sleep(APART).await;
        let mark = near.answer_mark();
        near.touch(7);
        let heard = poll_fn(|cx| far.poll_frame(cx)).await.unwrap();
        assert_eq!(heard.frame, Frame::Pong { token: 7 }, "which nobody answers");
        let moved = async {
            while near.answer_mark() == mark {
                sleep(APART / 20).await;
            }
        };
        timeout(APART * 10, moved).await.expect("an acknowledgement");
    }

    /// A path on which each of the first datagrams has been dealt with when the next arrives.
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
