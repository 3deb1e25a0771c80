//! Sends the probe on a carrier whose host was verified: may this user open a session, and does sshd answer?
//!
//! Keys are tried on one path at a time, because sshd counts each refusal against the user. The other paths reuse the
//! result for the same server half.

use super::super::ClientConfig;
use super::super::handshake::{
    AnswerDeadlines, KeyAnswer, NoAnswer, answer_timeout, keep_waiting, query_keys, request,
};
use super::probe::ProbeFailure;
use crate::carrier::{Carrier, CarrierError};
use crate::clock;
use crate::identity::statement::{OpenFields, open_message};
use crate::random;
use crate::wire::{
    Answer, Authorization, DecodeError, Hello, PeerText, Probe, Probed, Refusal, RefusalCode, SessionId, VERSION,
};
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::timeout;

/// A path waits at most this fraction of its time for another path that tries the keys.
const KEYS_WAIT_DIVISOR: u32 = 3;

/// Shares the result of trying the keys among all paths.
pub(super) struct Authorizer {
    client: Arc<ClientConfig>,
    /// One entry per server half, identified by its TLS key. Locked by the path that tries the keys.
    tried: Mutex<Vec<(Vec<u8>, KeysTried)>>,
    /// Server halves that do not support key queries. There all keys sign.
    without_queries: parking_lot::Mutex<Vec<Vec<u8>>>,
    /// Signing may ask the user: one signature at a time.
    signing: Mutex<()>,
}

/// A server half's answer to the user's keys.
#[derive(Clone)]
enum KeysTried {
    Accepted { round: usize },
    Refused(Refusal),
}

/// The deadline of a path. It is extended by the time that the user or sshd takes.
pub(super) struct Deadline {
    begun: Instant,
    pub(super) at: Instant,
    /// Time that the user took.
    pub(super) user: Duration,
}

impl Deadline {
    pub(super) fn new(client: &ClientConfig) -> Deadline {
        let begun = clock::now();
        Deadline {
            begun,
            at: begun + client.connect_timeout,
            user: Duration::ZERO,
        }
    }

    /// Deadlines while the server half is asking sshd. If sshd has no room for another login, that is reported soon.
    fn for_answer(&self, client: &ClientConfig) -> AnswerDeadlines {
        AnswerDeadlines {
            answer: self.begun + client.answer_timeout + self.user,
            room: self.at,
            // The time of a check is short anyway.
            silence: answer_timeout(Duration::ZERO),
        }
    }
}

impl Authorizer {
    pub(super) fn new(client: Arc<ClientConfig>) -> Authorizer {
        Authorizer {
            client,
            tried: Mutex::default(),
            without_queries: parking_lot::Mutex::default(),
            signing: Mutex::default(),
        }
    }

    /// Whether all keys sign for the server half with this TLS key, because it does not support key queries.
    pub(super) fn all_keys_sign(&self, server: &[u8]) -> bool {
        self.without_queries.lock().iter().any(|key| key == server)
    }

    /// Probes on `carrier`; `spki` is the client's TLS key.
    pub(super) async fn ask(
        &self,
        carrier: &mut Carrier,
        spki: &[u8],
        deadline: &mut Deadline,
    ) -> Result<Probed, ProbeFailure> {
        let server = carrier.info().peer_key.to_vec();
        let session = SessionId::new(random::bytes());
        let message = open_message(OpenFields {
            exporter: &carrier.info().exporter,
            server_spki: &server,
            client_spki: spki,
            session,
            user: &self.client.user,
            version: VERSION,
        });
        let mut wait_sent = false;
        let turn = timeout(self.client.connect_timeout / KEYS_WAIT_DIVISOR, self.tried.lock());
        let turn = keep_waiting(carrier, &mut wait_sent, turn).await;
        let mut probe = CarrierProbe {
            authorizer: self,
            carrier,
            wait_sent,
            session,
            message,
            deadline,
        };
        let Ok(mut tried) = turn else {
            return probe.try_all().await.1;
        };
        let known = tried
            .iter()
            .find(|(key, _)| *key == server)
            .map(|(_, told)| told.clone());
        match known {
            Some(KeysTried::Accepted { round }) => {
                drop(tried);
                probe.try_round(round).await
            }
            Some(KeysTried::Refused(refusal)) => Err(ProbeFailure::NotAuthorized(refusal)),
            None => {
                let (told, outcome) = probe.try_all().await;
                tried.extend(told.map(|told| (server, told)));
                outcome
            }
        }
    }
}

/// The probe on one carrier.
struct CarrierProbe<'a> {
    authorizer: &'a Authorizer,
    carrier: &'a mut Carrier,
    /// Whether `Wait` was sent: the server half waits for the user.
    wait_sent: bool,
    session: SessionId,
    message: Vec<u8>,
    deadline: &'a mut Deadline,
}

impl CarrierProbe<'_> {
    /// Offers the keys, one round after the other.
    async fn try_all(&mut self) -> (Option<KeysTried>, Result<Probed, ProbeFailure>) {
        let mut last = None;
        for round in 0.. {
            let signed = match self.offer(round).await {
                Ok(Some(signed)) => signed,
                Ok(None) => break,
                Err(ProbeFailure::NotAuthorized(refusal)) => {
                    last = Some(refusal);
                    continue;
                }
                Err(failure) => return (None, Err(failure)),
            };
            if signed.is_empty() {
                continue;
            }
            match self.ask(signed).await {
                Err(ProbeFailure::NotAuthorized(refusal)) => last = Some(refusal),
                Ok(probed) => return (Some(KeysTried::Accepted { round }), Ok(probed)),
                Err(failure) => return (None, Err(failure)),
            }
        }
        let outcome = match last {
            Some(refusal) => Err(ProbeFailure::NotAuthorized(refusal)),
            // A probe without keys: a server half that leaves authentication to sshd accepts it.
            None => self.ask(Vec::new()).await,
        };
        let told = match &outcome {
            Err(ProbeFailure::NotAuthorized(refusal)) => Some(KeysTried::Refused(refusal.clone())),
            _ => None,
        };
        (told, outcome)
    }

    async fn try_round(&mut self, round: usize) -> Result<Probed, ProbeFailure> {
        let signed = self.offer(round).await?.unwrap_or_default();
        self.ask(signed).await
    }

    /// The signatures of a round, after a key query if the round needs one; `None` if there are no more rounds.
    async fn offer(&mut self, round: usize) -> Result<Option<Vec<Authorization>>, ProbeFailure> {
        let credentials = Arc::clone(&self.authorizer.client.credentials);
        let keys = match self.authorizer.all_keys_sign(&self.carrier.info().peer_key) {
            true => Vec::new(),
            false => credentials.keys_to_query(round),
        };
        if keys.is_empty() {
            let message = self.message.clone();
            return Ok(self.sign(credentials.sign(round, &message)).await);
        }
        let mut rest = &keys[..];
        while !rest.is_empty() {
            match self.query_keys(rest).await? {
                None => break,
                Some(index) => {
                    let message = self.message.clone();
                    let signed = self.sign(credentials.sign_with(round, &rest[index], &message)).await;
                    if let Some(signed) = signed {
                        return Ok(Some(vec![signed]));
                    }
                    // Later keys may be accepted.
                    rest = &rest[index + 1..];
                }
            }
        }
        Ok(Some(Vec::new()))
    }

    /// The index of the key that would be accepted; `None` if no key is needed.
    async fn query_keys(&mut self, keys: &[Bytes]) -> Result<Option<usize>, ProbeFailure> {
        self.wait_sent = true;
        let deadlines = self.deadline.for_answer(&self.authorizer.client);
        let asked = query_keys(self.carrier, &self.authorizer.client.user, keys.to_vec(), deadlines);
        let (answer, took) = asked.await;
        self.deadline.at += took;
        match answer {
            Err(NoAnswer::Silent) => Err(ProbeFailure::Silent),
            Err(NoAnswer::AwaitingSshd(why)) => Err(awaiting_sshd(why)),
            Err(NoAnswer::Lost(CarrierError::Protocol(error))) => Err(ProbeFailure::Protocol(error)),
            Err(NoAnswer::Lost(error)) => Err(ProbeFailure::Lost(error)),
            Ok(KeyAnswer::NoneNeeded) => Ok(None),
            Ok(KeyAnswer::Signs(index)) => Ok(Some(index)),
            Ok(KeyAnswer::Refused(refusal)) if refusal.code == RefusalCode::NotAuthorized => {
                Err(ProbeFailure::NotAuthorized(refusal))
            }
            Ok(KeyAnswer::Refused(refusal)) => Err(ProbeFailure::Refused(refusal)),
            Ok(KeyAnswer::Unsupported(refusal)) => {
                let server = self.carrier.info().peer_key.to_vec();
                self.authorizer.without_queries.lock().push(server);
                Err(ProbeFailure::NoKeyQueries(refusal))
            }
        }
    }

    /// Waits for a signature; one path at a time.
    async fn sign<T>(&mut self, signing: impl Future<Output = T>) -> T {
        let begun = clock::now();
        let signing = async {
            let _turn = self.authorizer.signing.lock().await;
            signing.await
        };
        let signed = keep_waiting(self.carrier, &mut self.wait_sent, signing).await;
        let took = clock::now().saturating_duration_since(begun);
        self.deadline.at += took;
        self.deadline.user += took;
        signed
    }

    async fn ask(&mut self, authorizations: Vec<Authorization>) -> Result<Probed, ProbeFailure> {
        let probe = Probe {
            version: VERSION,
            session: self.session,
            user: self.authorizer.client.user.clone(),
            authorizations,
        };
        self.wait_sent = true;
        let deadlines = self.deadline.for_answer(&self.authorizer.client);
        let (answer, took) = request(self.carrier, Hello::Probe(probe).encode(), deadlines).await;
        self.deadline.at += took;
        match answer {
            Err(NoAnswer::Silent) => Err(ProbeFailure::Silent),
            Err(NoAnswer::AwaitingSshd(why)) => Err(awaiting_sshd(why)),
            Err(NoAnswer::Lost(CarrierError::Protocol(error))) => Err(ProbeFailure::Protocol(error)),
            Err(NoAnswer::Lost(error)) => Err(ProbeFailure::Lost(error)),
            Ok(Answer::Probed(probed)) => Ok(*probed),
            Ok(Answer::Refused(refusal)) if refusal.code == RefusalCode::NotAuthorized => {
                Err(ProbeFailure::NotAuthorized(refusal))
            }
            Ok(Answer::Refused(refusal)) => Err(ProbeFailure::Refused(refusal)),
            Ok(Answer::Accepted(_) | Answer::Standing | Answer::Reaped | Answer::Asking(_) | Answer::KeyOk(_)) => {
                Err(ProbeFailure::Protocol(DecodeError::Unexpected {
                    what: "answer to a probe",
                }))
            }
        }
    }
}

/// What it means that the server half is still waiting: sshd is slow, or has no room for another login.
fn awaiting_sshd(why: Option<PeerText>) -> ProbeFailure {
    why.map_or(ProbeFailure::AwaitingSshd, |message| {
        ProbeFailure::Refused(Refusal {
            code: RefusalCode::RetryLater,
            message,
        })
    })
}
