//! Opens a session: races the paths, verifies the host, proves the user. Repeats until an `Accepted` arrives or the
//! deadline passes.

use super::dialer::{Dialer, race};
use super::failures::{AttemptError, Failed, Failures};
use super::handshake::{
    AnswerDeadlines, KeyAnswer, NoAnswer, answer_timeout, busy_refusal, keep_waiting, query_keys, request,
};
use super::paths::{LookupContext, Paths, ResolveError};
use super::{ClientConfig, Control, EarlyData, OpenSession};
use crate::carrier::{Carrier, CarrierError, Dialed, Path, Rank};
use crate::clock;
use crate::connection;
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::identity::statement::{OpenFields, ProvenKey, open_message, verify_host};
use crate::pump::{MAX_COMMANDS, NewLead, SessionStats};
use crate::random;
use crate::wire::{
    Accepted, Answer, Authorization, DecodeError, Epoch, Hello, MAX_HELLO, Open, Refusal, RefusalCode, SessionId,
    UserName, VERSION,
};
use bytes::Bytes;
use russh::keys::ssh_key::{Fingerprint, HashAlg};
use std::error::Error;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::time::{timeout, timeout_at};
use tracing::{debug, field, info, warn};

/// Delay before another attempt after a temporary failure.
const RETRY_DELAY: Duration = Duration::from_millis(300);
/// Most signatures whose duration extends the deadline. Users have fewer keys that ask; the limit ends an open that
/// would loop.
const MAX_EXTENSIONS: usize = 64;

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The host name cannot be resolved.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// No path led to a server half.
    #[error("no path led to the server half")]
    NoPath {
        /// The paths that were tried, with their failures.
        attempts: Vec<Failed>,
        /// How long it took.
        within: Duration,
    },
    /// The host's identity could not be verified.
    #[error(transparent)]
    Untrusted(Box<dyn Error + Send + Sync>),
    /// The server half accepted none of the keys.
    #[error("{refusal}")]
    NotAuthorized {
        /// The user on the server.
        user: UserName,
        /// The server half's refusal.
        refusal: Refusal,
        /// Keys that were offered, and keys that could not be.
        tried: Vec<String>,
        /// Whether ssh itself may be able to use a key that was not offered.
        ssh_has_more: bool,
    },
    /// The server half refused for another reason.
    #[error("{0}")]
    Refused(Refusal),
    /// The server half was still waiting for sshd when the time limit ended.
    #[error("sshd has not answered the server half for {:.1} s", within.as_secs_f64())]
    AwaitingSshd {
        /// How long it waited.
        within: Duration,
    },
    /// The peer violated the protocol.
    #[error("the server half violated the protocol")]
    Protocol(#[source] DecodeError),
}

// long: lists the fields of `Opener`
pub(super) async fn open<R>(config: ClientConfig, input: &mut EarlyData<R>) -> Result<OpenSession, OpenError>
where
    R: AsyncRead + Unpin,
{
    let context = LookupContext {
        state_dir: config.state_dir.clone(),
        host_keys: config.trust.known_keys(),
    };
    let host_keys = context.host_keys.clone();
    let paths = Paths::resolve(config.target.clone(), context).await?;
    let mut opener = Opener::new(config, paths, host_keys);
    // If the deadline cuts an attempt short, an earlier refusal tells more than a timeout.
    let mut refused = None;
    loop {
        match opener.attempt(input).await {
            Ok((carrier, accepted)) => return Ok(opener.opened(carrier, accepted, input.take())),
            // An earlier refusal tells more than the timeout.
            Err(AttemptFailure::Final(OpenError::AwaitingSshd { within })) => {
                return Err(refused.map_or(OpenError::AwaitingSshd { within }, OpenError::Refused));
            }
            Err(AttemptFailure::Final(error)) => return Err(error),
            Err(AttemptFailure::Again { failed, delay }) => {
                opener.failures.handle(failed);
                if clock::now() + delay >= opener.deadline.end() {
                    if let Some(refusal) = refused {
                        return Err(OpenError::Refused(refusal));
                    }
                    let attempts = std::mem::take(&mut opener.failures).of_each(opener.paths.all());
                    return Err(opener.no_path(attempts));
                }
                tokio::time::sleep(delay).await;
            }
            Err(AttemptFailure::Refused(refusal)) => {
                if clock::now() + RETRY_DELAY >= opener.deadline.at {
                    return Err(OpenError::Refused(refusal));
                }
                debug!(%refusal, "refused temporarily, trying again");
                refused = Some(refusal);
                tokio::time::sleep(RETRY_DELAY).await;
            }
        }
    }
}

/// The authorization of one round.
enum Offer {
    /// Signatures; empty if no key could sign.
    Sign(Vec<Authorization>),
    /// The server half needs no key.
    NoneNeeded,
    /// The server half would accept none of the queried keys.
    Refused(Refusal),
    /// The server half would accept the key at this index, but it could not sign.
    Unsigned(usize),
}

/// A server half of which only handshakes arrive is waited for longer, by so many times the limit for finding it. Many
/// clients at once may slow it down, but there are also paths on which nothing else arrives.
const MAX_UNANSWERED: u32 = 3;

/// The deadlines of an open.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    begun: Instant,
    /// For finding the server half.
    at: Instant,
    /// For its answer while it reports that it is asking sshd, or answers at all.
    answer_by: Instant,
    /// After this silence the server half counts as lost.
    silence: Duration,
    /// When something of a handshake arrived.
    heard: Option<Instant>,
    /// When an answer arrived.
    answered: Option<Instant>,
    /// How long the last handshake took.
    handshake: Duration,
}

impl Deadline {
    fn new(config: &ClientConfig, begun: Instant) -> Deadline {
        Deadline {
            begun,
            at: begun + config.connect_timeout,
            answer_by: begun + config.answer_timeout,
            silence: config.connect_timeout,
            heard: None,
            answered: None,
            handshake: Duration::ZERO,
        }
    }

    fn handle_heard(&mut self) {
        self.heard = Some(clock::now());
    }

    /// The server half is there, however long it takes if many clients come at once.
    fn handle_answer(&mut self) {
        self.answered = Some(clock::now());
    }

    fn end(&self) -> Instant {
        let heard = self.heard.map(|heard| {
            let end = heard + self.silence;
            end.min(self.at + MAX_UNANSWERED * self.silence)
        });
        let answered = self.answered.map(|answered| answered + self.silence);
        let extended = heard.max(answered).unwrap_or(self.at);
        extended.min(self.answer_by).max(self.at)
    }

    fn for_answer(&self) -> AnswerDeadlines {
        AnswerDeadlines {
            answer: self.answer_by,
            room: self.answer_by,
            silence: answer_timeout(self.handshake),
        }
    }

    /// This time does not count against the path.
    fn stand_still(&mut self, time: Duration) {
        self.at += time;
    }
}

struct Opener {
    /// The current round of keys. All rounds before it were refused, on this carrier or an earlier one.
    round: usize,
    /// How many keys of this round were rejected or could not sign.
    keys_tried: usize,
    refusal: Option<Refusal>,
    /// Whether the server half supports key queries. Assumed until it rejects one.
    queries_keys: bool,
    /// How often the duration of a signature was added to the deadline.
    extensions: usize,
    config: ClientConfig,
    paths: Paths,
    id: SessionId,
    key: Arc<TlsKey>,
    dialer: Dialer,
    reap_token: [u8; 32],
    /// Early data from the local program.
    first: Bytes,
    epoch: Epoch,
    deadline: Deadline,
    /// Relayed, proxied and command paths that led to another host. The intermediary may be malicious, so the other
    /// paths are still tried.
    misdirected: Vec<(Path, OpenError)>,
    failures: Failures,
}

/// Why an attempt opened no session.
enum AttemptFailure {
    Final(OpenError),
    /// A temporary refusal.
    Refused(Refusal),
    Again {
        failed: Vec<Failed>,
        delay: Duration,
    },
}

impl From<OpenError> for AttemptFailure {
    fn from(error: OpenError) -> AttemptFailure {
        AttemptFailure::Final(error)
    }
}

impl Opener {
    fn new(config: ClientConfig, paths: Paths, host_keys: Vec<Fingerprint>) -> Opener {
        let key = Arc::new(TlsKey::generate());
        let mut dialer = Dialer::new(Arc::clone(&key), config.mtu_cap);
        dialer.add_host_keys(host_keys);
        Opener {
            id: SessionId::new(random::bytes()),
            dialer,
            key,
            reap_token: random::bytes(),
            first: Bytes::new(),
            epoch: Epoch::default(),
            deadline: Deadline::new(&config, clock::now()),
            misdirected: Vec::new(),
            round: 0,
            keys_tried: 0,
            refusal: None,
            queries_keys: true,
            extensions: 0,
            failures: Failures::default(),
            config,
            paths,
        }
    }

    async fn attempt<R>(&mut self, input: &mut EarlyData<R>) -> Result<(Carrier, Accepted), AttemptFailure>
    where
        R: AsyncRead + Unpin,
    {
        let (dialed, path) = tokio::select! {
            won = self.race() => won?,
            never = input.read_ahead() => never,
        };
        self.first = input.peek();
        let (mut carrier, proven) = match self.verify_host(dialed, &path).await {
            Err(AttemptFailure::Final(error)) if path.rank() >= Rank::Relayed => {
                warn!(%path, %error, "this path leads to another host");
                self.misdirected.push((path, error));
                return Err(AttemptFailure::Again {
                    failed: Vec::new(),
                    delay: Duration::ZERO,
                });
            }
            met => met?,
        };
        // From now on the session is bound to this server half, even if the host was unknown.
        let keys = || proven.iter().map(|proven| proven.key.fingerprint(HashAlg::Sha256));
        self.dialer.add_host_keys(keys());
        self.paths.add_host_keys(keys());
        match self.authorize(&mut carrier).await {
            Ok(accepted) => {
                self.paths.remember(path);
                Ok((carrier, accepted))
            }
            Err(ConnectionFailure::Attempt(failure)) => Err(failure),
            Err(ConnectionFailure::Lost(error)) => Err(attempt_failed(&path, error)),
        }
    }

    /// Reads and verifies the host keys of the peer.
    async fn verify_host(&mut self, dialed: Dialed, path: &Path) -> Result<(Carrier, Vec<ProvenKey>), AttemptFailure> {
        let (carrier, host) = match timeout(self.time_left(), dialed.host()).await {
            Ok(Ok(introduced)) => introduced,
            Ok(Err(CarrierError::Protocol(error))) => return Err(OpenError::Protocol(error).into()),
            Ok(Err(error)) => return Err(attempt_failed(path, AttemptError::Carrier(error))),
            Err(_) => return Err(attempt_failed(path, AttemptError::Silent)),
        };
        let server_key = carrier.info().peer_key.clone();
        let proven: Vec<ProvenKey> = host
            .statements
            .iter()
            .filter_map(|s| verify_host(s, &server_key).ok())
            .collect();
        let verified = self.config.trust.verify(&proven, &server_key).await;
        verified.map_err(OpenError::Untrusted)?;
        Ok((carrier, proven))
    }

    async fn race(&mut self) -> Result<(Dialed, Path), AttemptFailure> {
        let (mut paths, concurrent) = self.paths.race_order();
        paths.retain(|path| self.misdirected.iter().all(|(known, _)| known != path));
        // Another attempt on these sockets may have been abandoned.
        self.dialer.renew_sockets();
        let (heard, mut failed) = (self.dialer.heard(), Vec::new());
        heard.store(false, Relaxed);
        let won = {
            let mut racing = pin!(race(&mut self.dialer, &paths, concurrent, &ServerKey::Any, &mut failed));
            loop {
                match timeout_at(self.deadline.end().into(), &mut racing).await {
                    Ok(won) => break Ok(won),
                    Err(late) => {
                        if heard.swap(false, Relaxed) {
                            self.deadline.handle_heard();
                        }
                        if self.deadline.end() <= clock::now() {
                            break Err(late);
                        }
                    }
                }
            }
        };
        if heard.swap(false, Relaxed) || matches!(won, Ok(Some(_))) || failed.iter().any(Failed::is_busy) {
            self.deadline.handle_heard();
        }
        match won {
            Ok(Some((dialed, path, took))) => {
                self.deadline.handshake = took;
                Ok((dialed, path))
            }
            // Every path failed with a definite error, so waiting cannot help.
            Ok(None) if failed.iter().all(Failed::is_definite) => Err(self.no_path(failed).into()),
            Ok(None) | Err(_) => Err(AttemptFailure::Again {
                failed,
                delay: RETRY_DELAY,
            }),
        }
    }

    /// The error if no path works. A path to a wrong host tells more than the failures of the others.
    fn no_path(&mut self, attempts: Vec<Failed>) -> OpenError {
        match self.misdirected.pop() {
            Some((_, error)) => error,
            None => OpenError::NoPath {
                attempts,
                within: clock::now().saturating_duration_since(self.deadline.begun),
            },
        }
    }

    /// Offers the user's keys, starting with the first round that was not refused yet.
    async fn authorize(&mut self, carrier: &mut Carrier) -> Result<Accepted, ConnectionFailure> {
        let message = open_message(OpenFields {
            exporter: &carrier.info().exporter,
            server_spki: &carrier.info().peer_key,
            client_spki: self.key.spki(),
            session: self.id,
            user: &self.config.user,
            version: VERSION,
        });
        let credentials = Arc::clone(&self.config.credentials);
        let mut wait_sent = false;
        while let Some(offer) = self.offer(carrier, &message, &mut wait_sent).await? {
            let outcome = match offer {
                Offer::Refused(refusal) => Some(Err(refusal)),
                Offer::Unsigned(index) => {
                    // Later keys of this round may be accepted.
                    self.keys_tried += index + 1;
                    continue;
                }
                Offer::Sign(signed) if signed.is_empty() => None,
                Offer::Sign(signed) => {
                    // After the first hello the server half waits long enough.
                    wait_sent = true;
                    let outcome = self.ask(carrier, signed.clone()).await?;
                    if let Ok(Accepted { key: Some(index), .. }) = &outcome
                        && let Some(key) = signed.get(usize::from(*index))
                    {
                        credentials.handle_accepted(&key.key);
                    }
                    Some(outcome)
                }
                Offer::NoneNeeded => Some(self.ask(carrier, Vec::new()).await?),
            };
            match outcome {
                Some(Ok(accepted)) => return Ok(accepted),
                Some(Err(refusal)) => self.refusal = Some(refusal),
                None => {}
            }
            (self.round, self.keys_tried) = (self.round + 1, 0);
        }
        let refusal = match self.refusal.take() {
            Some(refusal) => refusal,
            // An open without keys: a server half that leaves authentication to sshd accepts it.
            None => match self.ask(carrier, Vec::new()).await? {
                Ok(accepted) => return Ok(accepted),
                Err(refusal) => refusal,
            },
        };
        let refused = OpenError::NotAuthorized {
            user: self.config.user.clone(),
            refusal,
            tried: credentials.describe(),
            ssh_has_more: credentials.ssh_has_more(),
        };
        Err(ConnectionFailure::Attempt(refused.into()))
    }

    /// The offer of the current round; `None` if there are no more rounds.
    async fn offer(
        &mut self,
        carrier: &mut Carrier,
        message: &[u8],
        wait_sent: &mut bool,
    ) -> Result<Option<Offer>, ConnectionFailure> {
        let credentials = Arc::clone(&self.config.credentials);
        let round = self.round;
        let keys = match self.queries_keys {
            true => credentials.keys_to_query(round),
            false => Vec::new(),
        };
        let keys = keys.get(self.keys_tried..).unwrap_or_default();
        if keys.is_empty() && self.keys_tried > 0 {
            return Ok(Some(Offer::Sign(Vec::new())));
        }
        if keys.is_empty() {
            let signing = credentials.sign(round, message);
            let signed = self.wait_for_user(carrier, wait_sent, signing).await;
            return Ok(signed.map(Offer::Sign));
        }
        *wait_sent = true;
        match self.query_keys(carrier, keys.to_vec()).await? {
            KeyAnswer::Signs(index) => {
                let signing = credentials.sign_with(round, &keys[index], message);
                let signed = self.wait_for_user(carrier, wait_sent, signing).await;
                Ok(Some(
                    signed.map_or(Offer::Unsigned(index), |signed| Offer::Sign(vec![signed])),
                ))
            }
            KeyAnswer::NoneNeeded => Ok(Some(Offer::NoneNeeded)),
            KeyAnswer::Refused(refusal) => match refusal.code {
                RefusalCode::NotAuthorized => Ok(Some(Offer::Refused(refusal))),
                code if code.is_final() => Err(ConnectionFailure::Attempt(OpenError::Refused(refusal).into())),
                _ => Err(ConnectionFailure::Attempt(AttemptFailure::Refused(refusal))),
            },
            KeyAnswer::Unsupported(_) => {
                debug!("the server half does not support key queries, so all keys sign");
                self.queries_keys = false;
                Err(ConnectionFailure::Attempt(AttemptFailure::Again {
                    failed: Vec::new(),
                    delay: Duration::ZERO,
                }))
            }
        }
    }

    async fn query_keys(&mut self, carrier: &mut Carrier, keys: Vec<Bytes>) -> Result<KeyAnswer, ConnectionFailure> {
        let asked = clock::now();
        let (answer, took) = query_keys(carrier, &self.config.user, keys, self.deadline.for_answer()).await;
        // Time that sshd took does not count against the deadline.
        self.deadline.stand_still(took);
        if answer.is_ok() {
            self.deadline.handle_answer();
        }
        answer.map_err(|no_answer| self.no_answer(no_answer, asked))
    }

    /// Waits for a signature. Time that the user took does not count against the deadlines.
    async fn wait_for_user<T>(
        &mut self,
        carrier: &mut Carrier,
        wait_sent: &mut bool,
        work: impl Future<Output = T>,
    ) -> T {
        let asked = clock::now();
        let done = keep_waiting(carrier, wait_sent, work).await;
        if self.extensions < MAX_EXTENSIONS {
            self.extensions += 1;
            let took = clock::now().saturating_duration_since(asked);
            self.deadline.stand_still(took);
            self.deadline.answer_by += took;
        }
        done
    }

    /// Sends one `Open` and returns the answer. The inner `Err` means that these keys were not accepted.
    async fn ask(
        &mut self,
        carrier: &mut Carrier,
        authorizations: Vec<Authorization>,
    ) -> Result<Result<Accepted, Refusal>, ConnectionFailure> {
        self.epoch = self.epoch.next();
        let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.reap_token);
        let open = Open {
            version: VERSION,
            session: self.id,
            epoch: self.epoch,
            user: self.config.user.clone(),
            authorizations,
            window: self.config.session.receive_window as u64,
            reap_hash: hash.as_ref().try_into().expect("SHA-256 has 32 bytes"),
            first: self.first.clone(),
        };
        let mut encoded = Hello::Open(open.clone()).encode();
        if encoded.len() > MAX_HELLO {
            // With many large keys the early data does not fit, and is sent as ordinary data later.
            let first = Bytes::new();
            encoded = Hello::Open(Open { first, ..open }).encode();
        }
        let asked = clock::now();
        let (answer, took) = request(carrier, encoded, self.deadline.for_answer()).await;
        // Time that sshd took does not count against the deadline.
        self.deadline.stand_still(took);
        if answer.is_ok() {
            self.deadline.handle_answer();
        }
        let answer = answer.map_err(|no_answer| self.no_answer(no_answer, asked))?;
        match answer {
            Answer::Accepted(accepted) => Ok(Ok(accepted)),
            Answer::Refused(refusal) => match refusal.code {
                RefusalCode::NotAuthorized => Ok(Err(refusal)),
                code if code.is_final() => Err(ConnectionFailure::Attempt(OpenError::Refused(refusal).into())),
                _ => Err(ConnectionFailure::Attempt(AttemptFailure::Refused(refusal))),
            },
            Answer::Standing | Answer::Probed(_) | Answer::Reaped | Answer::Asking(_) | Answer::KeyOk(_) => {
                let unexpected = DecodeError::Unexpected {
                    what: "answer to an open",
                };
                Err(ConnectionFailure::Attempt(OpenError::Protocol(unexpected).into()))
            }
        }
    }

    fn no_answer(&self, no_answer: NoAnswer, asked: Instant) -> ConnectionFailure {
        match no_answer {
            NoAnswer::Silent => ConnectionFailure::Lost(AttemptError::Silent),
            NoAnswer::Lost(CarrierError::Protocol(error)) => {
                ConnectionFailure::Attempt(OpenError::Protocol(error).into())
            }
            NoAnswer::Lost(error) => ConnectionFailure::Lost(AttemptError::Carrier(error)),
            NoAnswer::AwaitingSshd(Some(message)) => {
                let code = RefusalCode::RetryLater;
                ConnectionFailure::Attempt(OpenError::Refused(Refusal { code, message }).into())
            }
            NoAnswer::AwaitingSshd(None) => {
                let within = clock::now().saturating_duration_since(asked);
                ConnectionFailure::Attempt(OpenError::AwaitingSshd { within }.into())
            }
        }
    }

    fn opened(self, carrier: Carrier, accepted: Accepted, early_data: Bytes) -> OpenSession {
        let info = carrier.info().clone();
        info!(event = "opened", session = %self.id, remote = info.remote.map(field::display), carrier = %info.kind,
            via = info.via.as_deref(),
            rtt_ms = carrier.rtt().map(|rtt| rtt.as_millis()), "session opened");
        let (commands, ordered) = mpsc::channel(MAX_COMMANDS);
        let stats = Arc::new(SessionStats::new(self.config.session.receive_window as u64));
        OpenSession {
            id: self.id,
            dialer: self.dialer,
            server_key: info.peer_key.to_vec(),
            reap_token: self.reap_token,
            paths: self.paths,
            first: NewLead {
                carrier,
                accepted: connection::Accepted {
                    epoch: self.epoch,
                    received: accepted.received,
                    window: accepted.window,
                },
                first: Bytes::new(),
            },
            ttl: Duration::from_secs(accepted.ttl),
            early_data,
            control: Control { commands, stats },
            commands: ordered,
            config: self.config,
        }
    }

    fn time_left(&self) -> Duration {
        self.deadline.end().saturating_duration_since(clock::now())
    }
}

fn attempt_failed(path: &Path, error: AttemptError) -> AttemptFailure {
    if let AttemptError::Carrier(error @ CarrierError::Busy) = &error {
        return AttemptFailure::Refused(busy_refusal(error));
    }
    AttemptFailure::Again {
        failed: vec![Failed {
            path: path.clone(),
            error,
        }],
        delay: Duration::ZERO,
    }
}

/// Why an exchange on one carrier failed.
enum ConnectionFailure {
    Attempt(AttemptFailure),
    Lost(AttemptError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_half_that_is_heard_is_waited_for_longer_but_not_beyond_the_users_limit() {
        let (begun, second) = (clock::now(), Duration::from_secs(1));
        let mut deadline = Deadline {
            begun,
            at: begun + 10 * second,
            answer_by: begun + 120 * second,
            silence: 10 * second,
            heard: None,
            answered: None,
            handshake: Duration::ZERO,
        };
        assert_eq!(deadline.end(), deadline.at);
        for (heard, end) in [(0, 10), (9, 19), (35, 40)] {
            deadline.heard = Some(begun + heard * second);
            assert_eq!(deadline.end(), begun + end * second, "heard after {heard} s");
        }
        for (answered, end) in [(9, 40), (50, 60), (115, 120)] {
            deadline.answered = Some(begun + answered * second);
            assert_eq!(deadline.end(), begun + end * second, "answered after {answered} s");
        }
        // ConnectTimeout bounds both.
        deadline.answer_by = deadline.at;
        assert_eq!(deadline.end(), deadline.at);
    }
}
