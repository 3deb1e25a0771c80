//! What happens on a fresh carrier until it is known whose it is: handshake, hello, answer.

use super::ask_sshd::Proof;
use super::authority::{Account, Authority, Greeting, OpenCheck, chain, refusal};
use super::connect_sshd::{Client, ConnectSshd};
use super::prober::Prober;
use super::registry::Registry;
use super::verifier::{Unproven, Unsigned, Verifier};
use crate::carrier::handshake_limiter::{Admission, HandshakeLimiter, Origin, Permit};
use crate::carrier::tls::TlsServer;
use crate::carrier::via::IncomingStream;
use crate::carrier::{self, Carrier, CarrierError, CarrierInfo, CloseReason, Duplex, Rank, quic};
use crate::clock;
use crate::identity::statement::{OpenFacts, ProvenKey, open_message};
use crate::wire::{
    Answer, Authorization, DecodeError, Hello, KeyQuery, Open, Probe, Probed, Refusal, RefusalCode, SessionId,
    UserName, VERSION,
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

/// From the first packet to the end of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the first hello: the client half says it at once, or asks for more time.
const FIRST_HELLO: Duration = Duration::from_secs(5);
/// For each further hello: the user may have to touch a key, to type a passphrase or to tell an agent that it may sign. As long
/// as sshd waits for a login by default (LoginGraceTime).
const HELLO: Duration = Duration::from_secs(120);
/// How often a client hears that sshd is still being asked: it takes three of these for silence.
const ASKING_INTERVAL: Duration = Duration::from_secs(1);
/// Rounds of keys on one carrier.
const MOST_HELLOS: usize = 8;

/// What clients are told while nothing may be opened: no more than that, strangers hear it too.
const OPENS_REFUSED: &str = "no session is opened until an administrator has seen to it: the log of bowline serve says why, \
                             and what is to be done";

/// What every carrier meets first.
pub(super) struct Welcome {
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
    /// Carriers that are not a session's yet.
    pub(super) undecided: HandshakeLimiter,
    /// Those among them that have proved the TLS key of a session: they do not compete with strangers.
    pub(super) owners: HandshakeLimiter,
}

/// Somebody who may open a session.
struct Permitted {
    account: Account,
    /// Which of the authorizations counted.
    key: Option<u8>,
    /// What sshd said of itself when it was asked about the key.
    greeting: Option<Greeting>,
}

/// A key that would be accepted, of a client that has not signed with it.
struct Awaited {
    user: UserName,
    key: Bytes,
    account: Account,
    greeting: Option<Greeting>,
    unsigned: Unsigned,
}

impl Welcome {
    /// Brings one incoming connection to its session.
    pub(super) async fn receive(&self, incoming: quinn::Incoming, permit: Permit) {
        let (source, local) = (incoming.remote_address(), incoming.local_ip());
        let handshake = timeout(HANDSHAKE, quic::shake_hands(incoming, self.host.clone()));
        let client = tokio::select! {
            () = permit.revoked() => return debug!(%source, "gave way to another handshake"),
            shaken = handshake => match shaken {
                Ok(Ok(client)) => client,
                Ok(Err(error)) => return debug!(%source, %error, "lost in the handshake"),
                Err(_) => return debug!(%source, "no handshake in time"),
            },
        };
        // Whoever takes time to think does so by another permit than those who shake hands.
        drop(permit);
        let at = Client::new(client.remote(), local);
        let Some(permit) = self.permit(client.tls_key(), Origin::direct(at.remote.ip())) else {
            debug!(%source, "too many carriers without a session");
            return client.turn_away(CloseReason::Busy);
        };
        let mut time_is_up = pin!(sleep(FIRST_HELLO));
        tokio::select! {
            () = permit.revoked() => client.turn_away(CloseReason::Busy),
            () = &mut time_is_up => client.turn_away(CloseReason::Refused),
            carrier = client.carrier() => match carrier {
                Ok(carrier) => self.hear(carrier, at, permit, time_is_up).await,
                Err(error) => debug!(%source, %error, "lost before its hello"),
            },
        }
    }

    /// The same over TCP.
    pub(super) async fn receive_tls(&self, stream: TcpStream, source: SocketAddr, tls: &TlsServer, permit: Permit) {
        if let Err(error) = carrier::tls::tune(&stream) {
            return debug!(%source, %error, "lost before the handshake");
        }
        let client = Client::new(source, stream.local_addr().ok().map(|local| local.ip()));
        if let Some(carrier) = self.shake_hands(Box::new(stream), source, tls, permit).await {
            self.admit_carrier(carrier, client, Origin::direct(source.ip())).await;
        }
    }

    /// The same by way of a relay. To sshd's rules, and to whatever counts sources, the client is where the relay is:
    /// nobody else's word is known, and no direct client has to pay for what strangers do there.
    pub(super) async fn receive_relayed(&self, incoming: IncomingStream, tls: &TlsServer, permit: Permit) {
        let IncomingStream { stream, relay, source } = incoming;
        let at = stream.remote();
        debug!(%relay, %source, "a client comes by a relay");
        if let Some(carrier) = self.shake_hands(Box::new(stream), at, tls, permit).await {
            let origin = Origin::relayed(&relay, source.ip());
            let client = Client::new(at, None);
            self.admit_carrier(carrier.via(relay, Rank::Relayed), client, origin)
                .await;
        }
    }

    /// A handshake of TLS on a byte stream.
    async fn shake_hands(
        &self,
        stream: Box<dyn Duplex>,
        source: SocketAddr,
        tls: &TlsServer,
        permit: Permit,
    ) -> Option<Carrier> {
        let handshake = timeout(HANDSHAKE, tls.shake_hands(stream, source, self.host.clone()));
        tokio::select! {
            () = permit.revoked() => debug!(%source, "gave way to another handshake"),
            shaken = handshake => match shaken {
                Ok(Ok(carrier)) => return Some(carrier),
                Ok(Err(error)) => debug!(%source, %error, "lost in the handshake"),
                Err(_) => debug!(%source, "no handshake in time"),
            },
        }
        None
    }

    /// Takes a carrier whose client has proved its TLS key, and has not said whose it is.
    pub(super) async fn admit_carrier(&self, carrier: Carrier, client: Client, origin: Origin) {
        match self.permit(&carrier.info().peer_key, origin) {
            Some(permit) => self.hear(carrier, client, permit, sleep(FIRST_HELLO)).await,
            None => {
                debug!(source = %client.remote, "too many carriers without a session");
                turn_away(carrier);
            }
        }
    }

    fn permit(&self, tls_key: &Bytes, origin: Origin) -> Option<Permit> {
        let admission = match self.registry.owns_session(tls_key) {
            true => self.owners.admit(Origin::owner(tls_key), true, clock::now()),
            false => self.undecided.admit(origin, true, clock::now()),
        };
        match admission {
            Admission::Admitted(permit) => Some(permit),
            Admission::ProveAddress | Admission::Refused => None,
        }
    }

    /// Waits for the first hello on what is to be a carrier.
    async fn hear(&self, mut carrier: Carrier, client: Client, permit: Permit, time_is_up: impl Future<Output = ()>) {
        let asked_to_wait = Hello::Wait.encode().slice(1..);
        let mut heard = hear_next(&mut carrier, &permit, time_is_up).await;
        if matches!(&heard, Heard::Message(message) if *message == asked_to_wait) {
            heard = hear_next(&mut carrier, &permit, sleep(HELLO)).await;
        }
        self.converse(carrier, heard, client, permit).await;
    }

    /// Answers hellos until one is accepted or no more may come.
    // long: an arm for each hello
    async fn converse(&self, mut carrier: Carrier, mut heard: Heard, client: Client, mut permit: Permit) {
        let source = client.remote;
        let mut awaited = None;
        for _ in 0..MOST_HELLOS {
            let message = match heard {
                Heard::Message(message) if permit.handle_heard() => message,
                Heard::Message(_) | Heard::Revoked => return turn_away(carrier),
                Heard::Lost(error) => return debug!(%source, %error, "lost before its hello"),
                Heard::Nothing => {
                    debug!(%source, "no hello in time");
                    return carrier.close(CloseReason::Refused);
                }
            };
            let info = carrier.info().clone();
            let refused = match Hello::decode(message) {
                Ok(Hello::Open(open)) => {
                    match asking(&mut carrier, self.admit(&info, &open, client, &mut awaited)).await {
                        Ok(Ok(key)) => return self.registry.attach_open(carrier, &open, key).await,
                        Ok(Err(refused)) => refused,
                        Err(error) => return debug!(%source, %error, "lost while sshd was asked"),
                    }
                }
                Ok(Hello::Resume(resume)) => {
                    return unless_revoked(&mut permit, self.registry.attach_resume(carrier, &resume)).await;
                }
                Ok(Hello::Standby { session }) => {
                    return unless_revoked(&mut permit, self.registry.attach_standby(carrier, session)).await;
                }
                Ok(Hello::Probe(probe)) => {
                    match asking(&mut carrier, self.probe(&info, &probe, client, &mut awaited)).await {
                        Ok(Ok(probed)) => {
                            return say_last(carrier, Answer::Probed(Box::new(probed)), &mut permit).await;
                        }
                        Ok(Err(refused)) => refused,
                        Err(error) => return debug!(%source, %error, "lost while sshd was asked"),
                    }
                }
                Ok(Hello::Reap(reap)) => {
                    self.registry.reap(&reap);
                    return say_last(carrier, Answer::Reaped, &mut permit).await;
                }
                Ok(Hello::KeyQuery(query)) => {
                    match asking(&mut carrier, self.answer_query(query, client, &mut awaited)).await {
                        Ok(Ok(key)) => {
                            if carrier.send_message(Answer::KeyOk(key).encode()).await.is_err() {
                                return;
                            }
                            permit.handle_answered(clock::now());
                            heard = hear_next(&mut carrier, &permit, sleep(HELLO)).await;
                            continue;
                        }
                        Ok(Err(refused)) => refused,
                        Err(error) => return debug!(%source, %error, "lost while sshd was asked"),
                    }
                }
                Ok(Hello::Wait) => refusal(RefusalCode::Desync, "Wait comes once, before the first hello"),
                Err(error) => malformed(&error),
            };
            let last = refused.code != RefusalCode::NotAuthorized;
            if carrier.send_message(Answer::Refused(refused).encode()).await.is_err() {
                return;
            }
            if last {
                break;
            }
            permit.handle_answered(clock::now());
            heard = hear_next(&mut carrier, &permit, sleep(HELLO)).await;
        }
        unless_revoked(&mut permit, finish(carrier, CloseReason::Refused)).await;
    }

    /// Which of the keys would do once it signs; `None` if none is needed.
    async fn answer_query(
        &self,
        query: KeyQuery,
        client: Client,
        awaited: &mut Option<Awaited>,
    ) -> Result<Option<u8>, Refusal> {
        if !self.authority.is_about_keys() {
            return Ok(None);
        }
        let source = client.remote.ip();
        let unsigned = self.verifier.allow_unsigned(source);
        let unsigned = unsigned.map_err(|error| refusal(RefusalCode::RetryLater, chain(&error)))?;
        let mut keys = Vec::new();
        for blob in &query.keys {
            match ProvenKey::unsigned(blob) {
                Ok(key) => keys.push(key),
                Err(error) if error.is_unsupported() => debug!(%error, "a key is left out"),
                Err(error) => return Err(refusal(RefusalCode::Desync, chain(&error))),
            }
        }
        self.check_opens(&query.user, client).await?;
        let judged = self.authority.judge(&query.user, &keys, client, Proof::Unsigned).await;
        // What was refused is counted by whoever refused it.
        let judged = match judged {
            Ok(judged) => judged,
            Err(refused) => {
                unsigned.take_back();
                return Err(refused);
            }
        };
        let key = judged.key.map(|index| keys[index].blob.clone()).unwrap_or_default();
        let position = query.keys.iter().position(|offered| *offered == key);
        *awaited = Some(Awaited {
            user: query.user,
            key,
            account: judged.account,
            greeting: judged.greeting,
            unsigned,
        });
        Ok(position.and_then(|position| u8::try_from(position).ok()))
    }

    /// Makes the session of `open` and connects it to sshd, unless it is there already. Gives which of its authorizations
    /// counted.
    async fn admit(
        &self,
        info: &CarrierInfo,
        open: &Open,
        client: Client,
        awaited: &mut Option<Awaited>,
    ) -> Result<Option<u8>, Refusal> {
        let mut key = None;
        if !self.registry.is_owner(open.session, &info.peer_key) {
            let permitted = self
                .judge(info, (open.session, &open.user), &open.authorizations, client, awaited)
                .await?;
            self.registry.open(open, &info.peer_key, client, permitted.account)?;
            key = permitted.key;
        }
        self.registry.connected(open.session, &info.peer_key).await?;
        Ok(key)
    }

    /// What an open by the same user would find.
    async fn probe(
        &self,
        info: &CarrierInfo,
        probe: &Probe,
        client: Client,
        awaited: &mut Option<Awaited>,
    ) -> Result<Probed, Refusal> {
        let permitted = self
            .judge(
                info,
                (probe.session, &probe.user),
                &probe.authorizations,
                client,
                awaited,
            )
            .await?;
        let Permitted { key, greeting, .. } = permitted;
        self.prober.look(&probe.user, key, greeting, client).await
    }

    /// Whose session it would be, and which of the authorizations counted.
    async fn judge(
        &self,
        info: &CarrierInfo,
        (session, user): (SessionId, &str),
        authorizations: &[Authorization],
        client: Client,
        awaited: &mut Option<Awaited>,
    ) -> Result<Permitted, Refusal> {
        let message = open_message(OpenFacts {
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
        // Whoever has no key is refused as ever, and learns nothing else.
        if !keys.is_empty() || !self.authority.is_about_keys() {
            self.check_opens(user, client).await?;
        }
        if let [key] = &keys[..]
            && let Some(asked) = awaited.take_if(|asked| *asked.user == *user && asked.key == key.blob)
        {
            asked.unsigned.take_back();
            self.authority.handle_signed(client);
            return Ok(Permitted {
                account: asked.account,
                key: position(authorizations, &key.blob),
                greeting: asked.greeting,
            });
        }
        let judged = self.authority.judge(user, &keys, client, Proof::Signed).await?;
        // Keys of unknown kinds were left out: the index is to be that of the authorization.
        let blob = judged.key.map(|index| &keys[index].blob);
        Ok(Permitted {
            account: judged.account,
            key: blob.and_then(|blob| position(authorizations, blob)),
            greeting: judged.greeting,
        })
    }

    /// Asked before sshd is: some obstacles are about asking. The answer is the same for everybody.
    async fn check_opens(&self, user: &str, client: Client) -> Result<(), Refusal> {
        // Its own rules decide then.
        if self.sshd.shows(client) {
            return Ok(());
        }
        let Some(check) = &self.open_check else { return Ok(()) };
        let Some(obstacle) = check.obstacle().await else {
            return Ok(());
        };
        info!(event = "refused", user, remote = %client.remote, obstacle, "nothing is opened now");
        Err(refusal(RefusalCode::OpensRefused, OPENS_REFUSED))
    }

    /// The keys that signed; sshd never hears of others.
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
            info!(event = "refused", user, %remote, error = %chain(&error), "the keys are not proved");
            // What is not valid can only become so by another client half: nothing more is heard on this carrier.
            let code = match &error {
                Unproven::Invalid(_) => RefusalCode::Desync,
                Unproven::TooManyFailed(_) | Unproven::Fault => RefusalCode::RetryLater,
            };
            refusal(code, chain(&error))
        })
    }
}

fn position(authorizations: &[Authorization], key: &Bytes) -> Option<u8> {
    let position = authorizations.iter().position(|offered| offered.key == *key);
    position.and_then(|position| u8::try_from(position).ok())
}

/// What came of waiting for a hello.
enum Heard {
    Message(Bytes),
    Lost(CarrierError),
    /// Nothing came in time.
    Nothing,
    /// Another carrier has taken its place.
    Revoked,
}

async fn hear_next(carrier: &mut Carrier, permit: &Permit, time_is_up: impl Future<Output = ()>) -> Heard {
    tokio::select! {
        message = carrier.read_message() => message.map_or_else(Heard::Lost, Heard::Message),
        () = permit.revoked() => Heard::Revoked,
        () = time_is_up => Heard::Nothing,
    }
}

/// Does what sshd may hold up. Meanwhile the client hears that it is not forgotten; once it is gone, nothing is done for it.
async fn asking<T>(carrier: &mut Carrier, work: impl Future<Output = T>) -> Result<T, CarrierError> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            error = carrier.lost() => return Err(error),
            done = &mut work => return Ok(done),
            () = sleep(ASKING_INTERVAL) => {}
        }
        carrier.send_message(Answer::Asking.encode()).await?;
    }
}

/// Does what waits for the client's own doing, and stops if another carrier needs the permit.
async fn unless_revoked(permit: &mut Permit, work: impl Future<Output = ()>) {
    permit.handle_answered(clock::now());
    tokio::select! {
        () = work => {}
        () = permit.revoked() => {}
    }
}

/// Says what ends the conversation in good order.
async fn say_last(mut carrier: Carrier, answer: Answer, permit: &mut Permit) {
    let answered = carrier.send_message(answer.encode()).await;
    debug!(sent = answered.is_ok(), "probe or reap answered");
    unless_revoked(permit, finish(carrier, CloseReason::Done)).await;
}

async fn finish(carrier: Carrier, reason: CloseReason) {
    carrier.finish(reason).await;
}

/// Has a client come back later.
fn turn_away(carrier: Carrier) {
    let refused = refusal(
        RefusalCode::RetryLater,
        "the server half has too many connections without a session for now",
    );
    carrier.turn_away(&Answer::Refused(refused).encode(), CloseReason::Busy);
}

fn malformed(error: &DecodeError) -> Refusal {
    debug!(%error, "hello is malformed");
    match error {
        DecodeError::Version { version } => {
            let message = format!("this server half speaks protocol version {VERSION}, the client {version}");
            refusal(RefusalCode::Version, message)
        }
        error => refusal(RefusalCode::Desync, error.to_string()),
    }
}
