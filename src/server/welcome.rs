//! What happens on a fresh carrier until it is known whose it is: handshake, hello, answer.

use super::authority::{Account, Authority, OpenCheck, chain, refusal};
use super::connect_sshd::Client;
use super::prober::Prober;
use super::registry::Registry;
use super::verifier::{Unproven, Verifier};
use crate::carrier::gate::{Admission, Gate, Place};
use crate::carrier::tls::TlsServer;
use crate::carrier::via::IncomingStream;
use crate::carrier::{self, Carrier, CarrierError, CarrierInfo, CloseReason, Rank, quic};
use crate::identity::statement::{OpenFacts, ProvenKey, open_message};
use crate::wire::{
    Answer, Authorization, DecodeError, Hello, Open, Probe, Probed, Refusal, RefusalCode, SessionId, VERSION,
};
use bytes::Bytes;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{debug, info};

/// From the first packet to the end of the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For each hello: the user may have to touch a key or to type a passphrase.
const HELLO: Duration = Duration::from_secs(60);
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
    pub(super) open_check: Option<Box<dyn OpenCheck>>,
    pub(super) registry: Arc<Registry>,
    pub(super) prober: Prober,
    /// Carriers that are not a session's yet.
    pub(super) undecided: Gate,
}

impl Welcome {
    /// Brings one incoming connection to its session.
    pub(super) async fn receive(&self, incoming: quinn::Incoming, place: Place) {
        let (source, local) = (incoming.remote_address(), incoming.local_ip());
        match timeout(HANDSHAKE, quic::shake_hands(incoming, self.host.clone())).await {
            Ok(Ok(client)) => {
                // Whoever takes time to think does so in another place than those who shake hands.
                drop(place);
                self.hear(Client::new(client.remote(), local), client.carrier()).await;
            }
            Ok(Err(error)) => debug!(%source, %error, "lost in the handshake"),
            Err(_) => debug!(%source, "no handshake in time"),
        }
    }

    /// The same over TCP.
    pub(super) async fn receive_tls(&self, stream: TcpStream, source: SocketAddr, tls: &TlsServer, place: Place) {
        if let Err(error) = carrier::tls::tune(&stream) {
            return debug!(%source, %error, "lost before the handshake");
        }
        let local = stream.local_addr().ok().map(|local| local.ip());
        match timeout(HANDSHAKE, tls.shake_hands(Box::new(stream), source, self.host.clone())).await {
            Ok(Ok(carrier)) => {
                drop(place);
                self.hear(Client::new(source, local), std::future::ready(Ok(carrier)))
                    .await;
            }
            Ok(Err(error)) => debug!(%source, %error, "lost in the handshake"),
            Err(_) => debug!(%source, "no handshake in time"),
        }
    }

    /// The same by way of a relay. To sshd's rules, and to whatever counts sources, the client is where the relay is:
    /// nobody else's word is known, and no direct client has to pay for what strangers do there.
    pub(super) async fn receive_relayed(&self, incoming: IncomingStream, tls: &TlsServer, place: Place) {
        let IncomingStream { stream, relay, source } = incoming;
        let at = stream.remote();
        debug!(%relay, %source, "a client comes by a relay");
        match timeout(HANDSHAKE, tls.shake_hands(Box::new(stream), at, self.host.clone())).await {
            Ok(Ok(carrier)) => {
                drop(place);
                self.hear(
                    Client::new(at, None),
                    std::future::ready(Ok(carrier.via(relay, Rank::Relayed))),
                )
                .await;
            }
            Ok(Err(error)) => debug!(%relay, %source, %error, "lost in the handshake"),
            Err(_) => debug!(%relay, %source, "no handshake in time"),
        }
    }

    /// Waits for the first hello on what is to be a carrier.
    pub(super) async fn hear(&self, client: Client, carrier: impl Future<Output = Result<Carrier, CarrierError>>) {
        let source = client.remote;
        let Admission::Enter(place) = self.undecided.admit(source.ip(), true) else {
            return debug!(%source, "too many carriers without a session");
        };
        let heard = timeout(HELLO, async {
            let mut carrier = carrier.await?;
            let hello = carrier.read_message().await?;
            Ok::<_, CarrierError>((carrier, hello))
        });
        match heard.await {
            Ok(Ok((carrier, hello))) => self.converse(carrier, hello, client, place).await,
            Ok(Err(error)) => debug!(%source, %error, "lost before its hello"),
            Err(_) => debug!(%source, "no hello in time"),
        }
    }

    /// Answers hellos until one is accepted or no more may come.
    async fn converse(&self, mut carrier: Carrier, mut message: Bytes, client: Client, place: Place) {
        let _place = place;
        for _ in 0..MOST_HELLOS {
            let refused = match Hello::decode(message) {
                Ok(Hello::Open(open)) => match self.admit(&carrier.info().clone(), &open, client).await {
                    Ok(key) => return self.registry.attach_open(carrier, &open, key).await,
                    Err(refused) => refused,
                },
                Ok(Hello::Resume(resume)) => return self.registry.attach_resume(carrier, &resume).await,
                Ok(Hello::Standby { session }) => return self.registry.attach_standby(carrier, session).await,
                Ok(Hello::Probe(probe)) => match self.probe(&carrier.info().clone(), &probe, client).await {
                    Ok(probed) => {
                        let answered = carrier.send_message(Answer::Probed(Box::new(probed)).encode()).await;
                        debug!(user = probe.user.as_str(), sent = answered.is_ok(), "probe answered");
                        carrier.finish(CloseReason::Done).await;
                        return;
                    }
                    Err(refused) => refused,
                },
                Ok(Hello::Reap(reap)) => {
                    self.registry.reap(&reap);
                    let answered = carrier.send_message(Answer::Reaped.encode()).await;
                    debug!(session = %reap.session, sent = answered.is_ok(), "reap answered");
                    carrier.finish(CloseReason::Done).await;
                    return;
                }
                Err(error) => malformed(&error),
            };
            let last = refused.code != RefusalCode::NotAuthorized;
            if carrier.send_message(Answer::Refused(refused).encode()).await.is_err() {
                return;
            }
            if last {
                break;
            }
            match timeout(HELLO, carrier.read_message()).await {
                Ok(Ok(next)) => message = next,
                _ => return,
            }
        }
        carrier.finish(CloseReason::Refused).await;
    }

    /// Makes the session of `open`, unless it is there already. Gives which of its authorizations counted.
    async fn admit(&self, info: &CarrierInfo, open: &Open, client: Client) -> Result<Option<u8>, Refusal> {
        if self.registry.is_owner(open.session, &info.peer_key) {
            return Ok(None);
        }
        let (account, key) = self
            .judge(info, open.session, &open.user, &open.authorizations, client)
            .await?;
        self.registry.open(open, &info.peer_key, client, account)?;
        Ok(key)
    }

    /// What an open by the same user would find.
    async fn probe(&self, info: &CarrierInfo, probe: &Probe, client: Client) -> Result<Probed, Refusal> {
        let (_, key) = self
            .judge(info, probe.session, &probe.user, &probe.authorizations, client)
            .await?;
        self.prober.look(&probe.user, key).await
    }

    /// Whose session it would be, and which of the authorizations counted.
    async fn judge(
        &self,
        info: &CarrierInfo,
        session: SessionId,
        user: &str,
        authorizations: &[Authorization],
        client: Client,
    ) -> Result<(Account, Option<u8>), Refusal> {
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
        let (account, accepted) = self.authority.judge(user, &keys, client).await?;
        // Keys of unknown kinds were left out: the index is to be that of the authorization.
        let blob = accepted.map(|index| &keys[index].blob);
        let position = blob.and_then(|blob| authorizations.iter().position(|offered| offered.key == *blob));
        let key = position.and_then(|position| u8::try_from(position).ok());
        Ok((account, key))
    }

    /// Asked before sshd is: some obstacles are about asking. The answer is the same for everybody.
    async fn check_opens(&self, user: &str, client: Client) -> Result<(), Refusal> {
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
