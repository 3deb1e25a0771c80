//! Handles a new carrier until its session is known: handshake, hello, answer.

use super::ask_sshd::Proof;
use super::authority::{Account, Authority, Greeting, KeyGrant, OpenCheck, OpenObstacle, refusal};
use super::connect_sshd::{Client, ConnectSshd};
use super::prober::Prober;
use super::registry::Registry;
use super::verifier::{ProofError, UnsignedQuery, Verifier};
use crate::carrier::via::IncomingStream;
use crate::carrier::{Carrier, CarrierError, CarrierInfo, CloseReason, Rank, accept_quic, accept_tls};
use crate::clock;
use crate::fault;
use crate::identity::statement::{OpenFields, ProvenKey, open_message};
use crate::transport::Duplex;
use crate::transport::handshake_limiter::{Admission, HandshakeLimiter, Origin, Permit};
use crate::transport::tls::{self, TlsServer};
use crate::wire::{
    Answer, Authorization, DecodeError, ErrorChain, Hello, KeyQuery, Open, Probe, Probed, Refusal, RefusalCode,
    SessionId, UserName, VERSION,
};
use bytes::Bytes;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

/// Limit on the handshake, from the first packet.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit on the first hello. The client half sends it at once, or asks for more time.
const FIRST_HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit on each further hello: the user may have to touch a security key, to type a passphrase or to confirm at an
/// agent. As long as sshd waits for a login by default (LoginGraceTime).
const HELLO_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a client is told that sshd is still being asked. It takes the server half for dead after three intervals.
const ASKING_INTERVAL: Duration = Duration::from_secs(1);
/// The most hellos on one carrier.
const MAX_HELLOS: usize = 8;

/// What clients are told while no session may be opened. Strangers read it too, so it gives no details.
const OPENS_REFUSED: &str = "no session is opened until an administrator has changed something: the log of bowline serve says why, \
                             and what is to be done";

/// Accepts connections and brings them to their sessions.
pub(super) struct Acceptor {
    /// The encoded host message.
    pub(super) host: Bytes,
    /// Our TLS key, SPKI DER.
    pub(super) server_key: Vec<u8>,
    pub(super) authority: Arc<Authority>,
    pub(super) verifier: Verifier,
    pub(super) sshd: Arc<dyn ConnectSshd>,
    pub(super) open_check: Option<Box<dyn OpenCheck>>,
    pub(super) registry: Arc<Registry>,
    pub(super) prober: Prober,
    /// Limits carriers that have no session yet.
    pub(super) unclaimed: HandshakeLimiter,
    /// The same for carriers whose TLS key has opened a session before: they do not compete with strangers.
    pub(super) owners: HandshakeLimiter,
}

/// Permission to open a session.
struct OpenGrant {
    account: Account,
    /// Index of the authorization that was accepted.
    key: Option<u8>,
    /// sshd's identification line, if sshd was asked about the key.
    greeting: Option<Greeting>,
}

/// A key that would be accepted, of a client that has not signed with it yet.
struct PendingKey {
    user: UserName,
    key: Bytes,
    account: Account,
    greeting: Option<Greeting>,
    unsigned: UnsignedQuery,
}

impl Acceptor {
    /// Brings an incoming QUIC connection to its session.
    pub(super) async fn receive(&self, incoming: quinn::Incoming, permit: Permit) {
        let (source, local) = (incoming.remote_address(), incoming.local_ip());
        let handshake = timeout(HANDSHAKE_TIMEOUT, accept_quic(incoming, self.host.clone()));
        let client = tokio::select! {
            () = permit.revoked() => return debug!(%source, "closed in favour of another handshake"),
            done = handshake => match done {
                Ok(Ok(client)) => client,
                Ok(Err(error)) => return debug!(%source, %error, "the handshake failed"),
                Err(_) => return debug!(%source, "the handshake timed out"),
            },
        };
        // Waiting for a hello needs another permit than a handshake.
        drop(permit);
        let at = Client::new(client.remote(), local);
        let Some(permit) = self.permit(client.tls_key(), Origin::direct(at.remote.ip())) else {
            debug!(%source, "refused: too many carriers without a session");
            return client.turn_away(CloseReason::Busy);
        };
        let mut time_is_up = pin!(sleep(FIRST_HELLO_TIMEOUT));
        tokio::select! {
            () = permit.revoked() => client.turn_away(CloseReason::Busy),
            () = &mut time_is_up => client.turn_away(CloseReason::Refused),
            carrier = client.carrier() => match carrier {
                Ok(carrier) => self.read_hello(carrier, at, permit, time_is_up).await,
                Err(error) => debug!(%source, %error, "lost before the hello"),
            },
        }
    }

    /// The same over TCP and TLS.
    pub(super) async fn receive_tls(&self, stream: TcpStream, source: SocketAddr, server: &TlsServer, permit: Permit) {
        if let Err(error) = tls::tune(&stream) {
            return debug!(%source, %error, "cannot set the socket's options");
        }
        let client = Client::new(source, stream.local_addr().ok().map(|local| local.ip()));
        if let Some(carrier) = self.tls_handshake(Box::new(stream), source, server, permit).await {
            self.admit_carrier(carrier, client, Origin::direct(source.ip())).await;
        }
    }

    /// The same through a relay. For sshd's rules and for limits by source, the relay's address counts as the
    /// client's: nobody but the relay knows the real one, and direct clients must not suffer for strangers at a relay.
    pub(super) async fn receive_relayed(&self, incoming: IncomingStream, tls: &TlsServer, permit: Permit) {
        let IncomingStream { stream, relay, source } = incoming;
        let at = stream.remote();
        debug!(%relay, %source, "a client connects through a relay");
        if let Some(carrier) = self.tls_handshake(Box::new(stream), at, tls, permit).await {
            let origin = Origin::relayed(&relay, source.ip());
            let client = Client::new(at, None);
            self.admit_carrier(carrier.via(relay, Rank::Relayed), client, origin)
                .await;
        }
    }

    /// A TLS handshake on a byte stream.
    async fn tls_handshake(
        &self,
        stream: Box<dyn Duplex>,
        source: SocketAddr,
        tls: &TlsServer,
        permit: Permit,
    ) -> Option<Carrier> {
        let handshake = timeout(HANDSHAKE_TIMEOUT, accept_tls(tls, stream, source, self.host.clone()));
        tokio::select! {
            () = permit.revoked() => debug!(%source, "closed in favour of another handshake"),
            done = handshake => match done {
                Ok(Ok(carrier)) => return Some(carrier),
                Ok(Err(error)) => debug!(%source, %error, "the handshake failed"),
                Err(_) => debug!(%source, "the handshake timed out"),
            },
        }
        None
    }

    /// Accepts a carrier whose client has proved its TLS key and has not named a session yet.
    pub(super) async fn admit_carrier(&self, carrier: Carrier, client: Client, origin: Origin) {
        match self.permit(&carrier.info().peer_key, origin) {
            Some(permit) => {
                self.read_hello(carrier, client, permit, sleep(FIRST_HELLO_TIMEOUT))
                    .await
            }
            None => {
                debug!(source = %client.remote, "refused: too many carriers without a session");
                turn_away(carrier);
            }
        }
    }

    fn permit(&self, tls_key: &Bytes, origin: Origin) -> Option<Permit> {
        let admission = match self.registry.owns_session(tls_key) {
            true => self.owners.admit(Origin::owner(tls_key), true, clock::now()),
            false => self.unclaimed.admit(origin, true, clock::now()),
        };
        match admission {
            Admission::Admitted(permit) => Some(permit),
            Admission::ProveAddress | Admission::Refused => None,
        }
    }

    /// Waits for the first hello of a carrier.
    async fn read_hello(
        &self,
        mut carrier: Carrier,
        client: Client,
        permit: Permit,
        time_is_up: impl Future<Output = ()>,
    ) {
        let asked_to_wait = Hello::Wait.encode().slice(1..);
        let mut received = read_message(&mut carrier, &permit, time_is_up).await;
        if matches!(&received, ReadHello::Message(message) if *message == asked_to_wait) {
            received = read_message(&mut carrier, &permit, sleep(HELLO_TIMEOUT)).await;
        }
        self.dispatch(carrier, received, client, permit).await;
    }

    /// Answers hellos until one is accepted or no more are allowed.
    async fn dispatch(&self, mut carrier: Carrier, mut received: ReadHello, client: Client, mut permit: Permit) {
        let source = client.remote;
        let mut pending_key = None;
        for _ in 0..MAX_HELLOS {
            let message = match received {
                ReadHello::Message(message) if permit.begin_service() => message,
                ReadHello::Message(_) | ReadHello::Revoked => return turn_away(carrier),
                ReadHello::Lost(error) => return debug!(%source, %error, "lost before the hello"),
                ReadHello::TimedOut => {
                    debug!(%source, "the hello timed out");
                    return carrier.close(CloseReason::Refused);
                }
            };
            let handled = match decode(message) {
                Ok(hello) => {
                    self.handle_hello(carrier, hello, client, &mut permit, &mut pending_key)
                        .await
                }
                Err(error) => Some((carrier, Answer::Refused(malformed(&error)))),
            };
            let Some((answered, answer)) = handled else { return };
            carrier = answered;
            let is_last = matches!(&answer, Answer::Refused(refusal) if refusal.code != RefusalCode::NotAuthorized);
            if carrier.send_message(answer.encode()).await.is_err() {
                return;
            }
            if is_last {
                break;
            }
            permit.end_service(clock::now());
            received = read_message(&mut carrier, &permit, sleep(HELLO_TIMEOUT)).await;
        }
        until_revoked(&mut permit, finish(carrier, CloseReason::Refused)).await;
    }

    /// Returns the carrier and the answer to send on it; `None` if the carrier was attached or closed, or is lost.
    async fn handle_hello(
        &self,
        mut carrier: Carrier,
        hello: Hello,
        client: Client,
        permit: &mut Permit,
        pending_key: &mut Option<PendingKey>,
    ) -> Option<(Carrier, Answer)> {
        let (source, info) = (client.remote, carrier.info().clone());
        let answer = match hello {
            Hello::Open(open) => {
                let admission = self.admit(&info, &open, client, pending_key);
                match self.while_asking_sshd(&mut carrier, source, admission).await? {
                    Ok(key) => {
                        self.registry.attach_open(carrier, &open, key).await;
                        return None;
                    }
                    Err(refused) => Answer::Refused(refused),
                }
            }
            Hello::Resume(resume) => {
                until_revoked(permit, self.registry.attach_resume(carrier, &resume)).await;
                return None;
            }
            Hello::Standby { session } => {
                until_revoked(permit, self.registry.attach_standby(carrier, session)).await;
                return None;
            }
            Hello::Probe(probe) => {
                let probing = self.probe(&info, &probe, client, pending_key);
                match self.while_asking_sshd(&mut carrier, source, probing).await? {
                    Ok(probed) => {
                        answer_and_close(carrier, Answer::Probed(Box::new(probed)), permit).await;
                        return None;
                    }
                    Err(refused) => Answer::Refused(refused),
                }
            }
            Hello::Reap(reap) => {
                self.registry.reap(&reap);
                answer_and_close(carrier, Answer::Reaped, permit).await;
                return None;
            }
            Hello::KeyQuery(query) => {
                let asking = self.answer_query(query, client, pending_key);
                let key = self.while_asking_sshd(&mut carrier, source, asking).await?;
                key.map_or_else(Answer::Refused, Answer::KeyOk)
            }
            Hello::Wait => {
                let message = "Wait is only allowed once, before the first hello";
                Answer::Refused(refusal(RefusalCode::Desync, message))
            }
        };
        Some((carrier, answer))
    }

    /// Runs `work`, which may have to wait for sshd. Meanwhile the client is told to wait, and why if sshd has no room. If the
    /// client leaves, `work` is cancelled and the result is `None`.
    async fn while_asking_sshd<T>(
        &self,
        carrier: &mut Carrier,
        source: SocketAddr,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        let error = loop {
            tokio::select! {
                biased;
                error = carrier.lost() => break error,
                done = &mut work => return Some(done),
                () = sleep(ASKING_INTERVAL) => {}
            }
            let why = self.registry.why_full(source.ip());
            let why = why.or_else(|| self.authority.why_full(source.ip())).unwrap_or_default();
            if let Err(error) = carrier.send_message(Answer::Asking(why).encode()).await {
                break error;
            }
        };
        debug!(%source, %error, "the client left while sshd was asked");
        None
    }

    /// Index of the key that would be accepted once it signs; `None` if no key is needed.
    async fn answer_query(
        &self,
        query: KeyQuery,
        client: Client,
        pending_key: &mut Option<PendingKey>,
    ) -> Result<Option<u8>, Refusal> {
        if !self.authority.is_about_keys() {
            return Ok(None);
        }
        let source = client.remote.ip();
        // It must not wait for itself: a question before this one has not led to a signature.
        drop(pending_key.take());
        let unsigned = self.verifier.allow_unsigned(source).await;
        let unsigned = unsigned.map_err(|error| refusal(RefusalCode::RetryLater, ErrorChain(&error).to_string()))?;
        let mut keys = Vec::new();
        for blob in &query.keys {
            match ProvenKey::unsigned(blob) {
                Ok(key) => keys.push(key),
                Err(error) if error.is_unsupported() => debug!(%error, "ignored a key of an unsupported type"),
                Err(error) => return Err(refusal(RefusalCode::Desync, ErrorChain(&error).to_string())),
            }
        }
        if let Err(refused) = self.check_opens(&query.user, client).await {
            // An obstacle of this server half is no failure of the client.
            unsigned.handle_refused();
            return Err(refused);
        }
        let grant = self
            .authority
            .authorize(&query.user, &keys, client, Proof::Unsigned)
            .await;
        // Whoever refused has counted the failure already.
        let grant = match grant {
            Ok(grant) => self.heard(grant),
            Err(refused) => {
                unsigned.handle_refused();
                return Err(refused);
            }
        };
        let key = grant.key.map(|index| keys[index].blob.clone()).unwrap_or_default();
        let position = query.keys.iter().position(|offered| *offered == key);
        *pending_key = Some(PendingKey {
            user: query.user,
            key,
            account: grant.account,
            greeting: grant.greeting,
            unsigned,
        });
        Ok(position.and_then(|position| u8::try_from(position).ok()))
    }

    /// Creates the session of `open` and connects it to sshd, unless it exists already. Returns the index of the
    /// accepted authorization.
    async fn admit(
        &self,
        info: &CarrierInfo,
        open: &Open,
        client: Client,
        pending_key: &mut Option<PendingKey>,
    ) -> Result<Option<u8>, Refusal> {
        let mut key = None;
        if !self.registry.is_owner(open.session, &info.peer_key) {
            let grant = self
                .authorize(
                    info,
                    (open.session, &open.user),
                    &open.authorizations,
                    client,
                    pending_key,
                )
                .await?;
            self.registry.open(open, &info.peer_key, client, grant.account)?;
            key = grant.key;
        }
        self.registry.connected(open.session, &info.peer_key).await?;
        Ok(key)
    }

    /// What an open by the same user would meet.
    async fn probe(
        &self,
        info: &CarrierInfo,
        probe: &Probe,
        client: Client,
        pending_key: &mut Option<PendingKey>,
    ) -> Result<Probed, Refusal> {
        let grant = self
            .authorize(
                info,
                (probe.session, &probe.user),
                &probe.authorizations,
                client,
                pending_key,
            )
            .await?;
        let OpenGrant { key, greeting, .. } = grant;
        self.prober.probe(&probe.user, key, greeting, client).await
    }

    /// Whose session it would be, and which authorization is accepted.
    async fn authorize(
        &self,
        info: &CarrierInfo,
        (session, user): (SessionId, &str),
        authorizations: &[Authorization],
        client: Client,
        pending_key: &mut Option<PendingKey>,
    ) -> Result<OpenGrant, Refusal> {
        let message = open_message(OpenFields {
            exporter: &info.exporter,
            server_spki: &self.server_key,
            client_spki: &info.peer_key,
            session,
            user,
            version: VERSION,
        });
        let keys = match self.authority.is_about_keys() {
            true => self.prove(user, authorizations, message, client).await?,
            false => Vec::new(),
        };
        // A client without a key is refused as always, and learns nothing else.
        if !keys.is_empty() || !self.authority.is_about_keys() {
            self.check_opens(user, client).await?;
        }
        if let [key] = &keys[..]
            && let Some(asked) = pending_key.take_if(|asked| *asked.user == *user && asked.key == key.blob)
        {
            asked.unsigned.handle_signed();
            self.authority.handle_signed(client);
            return Ok(OpenGrant {
                account: asked.account,
                key: position(authorizations, &key.blob),
                greeting: asked.greeting,
            });
        }
        let grant = self.heard(self.authority.authorize(user, &keys, client, Proof::Signed).await?);
        // Keys of unsupported types were left out above: the index must be that of the authorization.
        let blob = grant.key.map(|index| &keys[index].blob);
        Ok(OpenGrant {
            account: grant.account,
            key: blob.and_then(|blob| position(authorizations, blob)),
            greeting: grant.greeting,
        })
    }

    /// sshd may have greeted when it was asked: then sessions wait for its greeting too.
    fn heard(&self, grant: KeyGrant) -> KeyGrant {
        if grant.greeting.is_some() {
            self.registry.handle_greeted();
        }
        grant
    }

    /// Called before sshd is asked, because some obstacles concern the question itself. The answer is the same for
    /// everybody.
    async fn check_opens(&self, user: &str, client: Client) -> Result<(), Refusal> {
        let Some(check) = &self.open_check else { return Ok(()) };
        let (obstacle, refused) = match check.obstacle(self.sshd.shows(client)).await {
            None => return Ok(()),
            Some(OpenObstacle::Standing(cause)) => (cause, refusal(RefusalCode::OpensRefused, OPENS_REFUSED)),
            Some(OpenObstacle::Passing(refused)) => (refused.message.to_string(), refused),
        };
        info!(event = "refused", user, remote = %client.remote, obstacle, "no session may be opened now");
        Err(refused)
    }

    /// The keys that have signed. sshd is not asked about others.
    async fn prove(
        &self,
        user: &str,
        authorizations: &[Authorization],
        message: Vec<u8>,
        client: Client,
    ) -> Result<Vec<ProvenKey>, Refusal> {
        let remote = client.remote;
        let proven = self.verifier.prove(authorizations, message, remote.ip()).await;
        proven.map_err(|error| {
            info!(event = "refused", user, %remote, error = %ErrorChain(&error), "the keys' signatures were not accepted");
            // An invalid signature is a fault of the client half, which would repeat it: this carrier is closed.
            let code = match &error {
                ProofError::Invalid(_) => RefusalCode::Desync,
                ProofError::TooManyFailed(_) | ProofError::Fault => RefusalCode::RetryLater,
            };
            refusal(code, ErrorChain(&error).to_string())
        })
    }
}

fn position(authorizations: &[Authorization], key: &Bytes) -> Option<u8> {
    let position = authorizations.iter().position(|offered| offered.key == *key);
    position.and_then(|position| u8::try_from(position).ok())
}

/// The result of waiting for a hello.
enum ReadHello {
    Message(Bytes),
    Lost(CarrierError),
    /// The time limit has passed.
    TimedOut,
    /// Another carrier has taken its permit.
    Revoked,
}

async fn read_message(carrier: &mut Carrier, permit: &Permit, time_is_up: impl Future<Output = ()>) -> ReadHello {
    tokio::select! {
        message = carrier.read_message() => message.map_or_else(ReadHello::Lost, ReadHello::Message),
        () = permit.revoked() => ReadHello::Revoked,
        () = time_is_up => ReadHello::TimedOut,
    }
}

/// Runs `work`, which waits for the client, and stops if another carrier needs the permit.
async fn until_revoked(permit: &mut Permit, work: impl Future<Output = ()>) {
    permit.end_service(clock::now());
    tokio::select! {
        () = work => {}
        () = permit.revoked() => {}
    }
}

/// Sends the last answer and closes the carrier gracefully.
async fn answer_and_close(mut carrier: Carrier, answer: Answer, permit: &mut Permit) {
    let answered = carrier.send_message(answer.encode()).await;
    debug!(sent = answered.is_ok(), "probe or reap answered");
    until_revoked(permit, finish(carrier, CloseReason::Done)).await;
}

async fn finish(carrier: Carrier, reason: CloseReason) {
    carrier.finish(reason).await;
}

/// Tells a client to try again later.
fn turn_away(carrier: Carrier) {
    let refused = refusal(
        RefusalCode::RetryLater,
        "the server half has too many connections without a session for now",
    );
    carrier.turn_away(&Answer::Refused(refused).encode(), CloseReason::Busy);
}

fn decode(message: Bytes) -> Result<Hello, DecodeError> {
    let hello = Hello::decode(message)?;
    match hello {
        Hello::KeyQuery(_) if fault::lacks_key_queries() => Err(DecodeError::UnknownType {
            what: "message",
            value: 0x26,
        }),
        hello => Ok(hello),
    }
}

fn malformed(error: &DecodeError) -> Refusal {
    debug!(%error, "received a malformed hello");
    match error {
        DecodeError::Version { version } => {
            let message = format!("this server half speaks protocol version {VERSION}, the client {version}");
            refusal(RefusalCode::Version, message)
        }
        error => refusal(RefusalCode::Desync, error.to_string()),
    }
}
