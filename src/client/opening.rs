//! Opening a session: race, host check, proof of user; repeated until one `Accepted` was seen.

use super::dialer::{Dialer, race};
use super::failures::{AttemptError, Failed, Failures};
use super::key_query::{self, KeyVerdict};
use super::paths::{Knowledge, Paths, ResolveError};
use super::waiting::{Unanswered, answer_to, refused_by_close, while_it_waits};
use super::{ClientConfig, Control, FirstWords, OpenSession};
use crate::carrier::{Carrier, CarrierError, Dialed, Path, Rank};
use crate::clock;
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::identity::statement::{OpenFacts, ProvenKey, open_message, verify_host};
use crate::pump::{Arrival, Facts, ORDERS};
use crate::wire::{
    Accepted, Answer, Authorization, DecodeError, Epoch, Hello, MAX_HELLO, Open, Refusal, RefusalCode, SessionId,
    UserName, VERSION,
};
use bytes::Bytes;
use russh::keys::ssh_key::HashAlg;
use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, field, info, warn};

/// Pause before asking again what may be granted in a moment.
const RETRY: Duration = Duration::from_millis(300);
/// Signatures whose time is not the path's. A user has no more keys that ask; beyond it an open that goes round in circles ends.
const MOST_EXTENSIONS: usize = 64;

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The name has no address.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// No path led to a server half.
    #[error("no path led to the server half")]
    NoPath {
        /// What was tried, and how it failed.
        attempts: Vec<Failed>,
        /// How long it was tried.
        within: Duration,
    },
    /// The host is not the one it should be.
    #[error(transparent)]
    Untrusted(Box<dyn Error + Send + Sync>),
    /// The server half accepted none of the keys.
    #[error("{refusal}")]
    NotAuthorized {
        /// Whom to be there.
        user: UserName,
        /// The server half's words.
        refusal: Refusal,
        /// Keys that were offered, and those that could not be.
        tried: Vec<String>,
        /// Whether ssh itself may be able to use one that was not offered.
        ssh_has_more: bool,
    },
    /// The server half refused for another reason.
    #[error("{0}")]
    Refused(Refusal),
    /// The server half asks sshd, and has no answer yet.
    #[error("the server half has asked sshd for {:.1} s whether it takes a key, and has no answer yet", within.as_secs_f64())]
    StillAsking {
        /// How long it was waited for.
        within: Duration,
    },
    /// What answers there broke the protocol.
    #[error("the server half broke the protocol")]
    Protocol(#[source] DecodeError),
}

// long: the fields of an open under way
pub(super) async fn open<R>(config: ClientConfig, input: &mut FirstWords<R>) -> Result<OpenSession, OpenError>
where
    R: AsyncRead + Unpin,
{
    let knowledge = Knowledge {
        state_dir: config.state_dir.clone(),
        host_keys: config.trust.known_keys(),
    };
    let host_keys = knowledge.host_keys.clone();
    let paths = Paths::resolve(config.place.clone(), knowledge).await?;
    let begun = clock::now();
    let key = Arc::new(TlsKey::generate());
    let mut dialer = Dialer::new(Arc::clone(&key), config.mtu_cap);
    dialer.know(host_keys);
    let mut opening = Opening {
        id: SessionId::new(random()),
        dialer,
        key,
        reap_token: random(),
        first: Bytes::new(),
        epoch: Epoch::default(),
        deadline: begun + config.connect_timeout,
        answer_by: begun + config.answer_timeout,
        astray: Vec::new(),
        round: 0,
        behind: 0,
        refusal: None,
        asks_first: true,
        given: 0,
        failures: Failures::default(),
        config,
        paths,
    };
    // An attempt that the deadline cut short says nothing against a path that has answered before.
    let mut refused = None;
    loop {
        match opening.attempt(input).await {
            Ok((carrier, accepted)) => return Ok(opening.opened(carrier, accepted, input.take())),
            // What was said of the question before says more than that it goes on.
            Err(Setback::Final(OpenError::StillAsking { within })) => {
                return Err(refused.map_or(OpenError::StillAsking { within }, OpenError::Refused));
            }
            Err(Setback::Final(error)) => return Err(error),
            Err(Setback::Again { failed, pause }) => {
                opening.failures.handle(failed);
                if clock::now() + pause >= opening.deadline {
                    if let Some(refusal) = refused {
                        return Err(OpenError::Refused(refusal));
                    }
                    let attempts = std::mem::take(&mut opening.failures).of_each(opening.paths.all());
                    return Err(opening.no_path(attempts));
                }
                tokio::time::sleep(pause).await;
            }
            Err(Setback::Refused(refusal)) => {
                if clock::now() + RETRY >= opening.deadline {
                    return Err(OpenError::Refused(refusal));
                }
                debug!(%refusal, "refused for now, asking again");
                refused = Some(refusal);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// What is offered in a round.
enum Offer {
    /// Keys that have signed; none if none could.
    Sign(Vec<Authorization>),
    /// Nothing: the server half wants no key.
    NoneNeeded,
    /// The keys that it was asked about would not do.
    Refused(Refusal),
    /// This one of the keys that it was asked about would do, and does not sign.
    Unsigned(usize),
}

struct Opening {
    /// Rounds of keys before it were refused, whatever became of the carriers.
    round: usize,
    /// So many keys of that round would do or not, and do not sign.
    behind: usize,
    refusal: Option<Refusal>,
    /// Whether the server half knows questions about keys, as far as is known.
    asks_first: bool,
    /// How often the time for a signature was added to the deadline.
    given: usize,
    config: ClientConfig,
    paths: Paths,
    id: SessionId,
    key: Arc<TlsKey>,
    dialer: Dialer,
    reap_token: [u8; 32],
    /// What the local program has said so far.
    first: Bytes,
    epoch: Epoch,
    /// For finding the server half.
    deadline: Instant,
    /// For its answer, as long as it says that sshd is being asked.
    answer_by: Instant,
    /// Paths by way of others, relays and programs, that led to somebody else. They may lie about whom they lead to: that is
    /// no reason to give up while there are other paths.
    astray: Vec<(Path, OpenError)>,
    failures: Failures,
}

/// What an attempt came to, other than a session.
enum Setback {
    Final(OpenError),
    /// A refusal that may not last.
    Refused(Refusal),
    Again {
        failed: Vec<Failed>,
        pause: Duration,
    },
}

impl From<OpenError> for Setback {
    fn from(error: OpenError) -> Setback {
        Setback::Final(error)
    }
}

impl Opening {
    async fn attempt<R>(&mut self, input: &mut FirstWords<R>) -> Result<(Carrier, Accepted), Setback>
    where
        R: AsyncRead + Unpin,
    {
        let (dialed, path) = tokio::select! {
            won = self.race() => won?,
            never = input.listen() => never,
        };
        self.first = input.so_far();
        let (mut carrier, proven) = match self.meet(dialed, &path).await {
            Err(Setback::Final(error)) if path.rank() >= Rank::Relayed => {
                warn!(%path, %error, "this path leads to somebody else");
                self.astray.push((path, error));
                return Err(Setback::Again {
                    failed: Vec::new(),
                    pause: Duration::ZERO,
                });
            }
            met => met?,
        };
        // The session is bound to this server half from now on, also where nobody knew its host.
        let keys = || proven.iter().map(|proven| proven.key.fingerprint(HashAlg::Sha256));
        self.dialer.know(keys());
        self.paths.know(keys());
        match self.converse(&mut carrier).await {
            Ok(accepted) => {
                self.paths.remember(path);
                Ok((carrier, accepted))
            }
            Err(Talk::Setback(setback)) => Err(setback),
            Err(Talk::Lost(error)) => Err(broken(&path, error)),
        }
    }

    /// Who is at the end of a path, if that is the right one.
    async fn meet(&mut self, dialed: Dialed, path: &Path) -> Result<(Carrier, Vec<ProvenKey>), Setback> {
        let (carrier, host) = match timeout(self.left(), dialed.host()).await {
            Ok(Ok(introduced)) => introduced,
            Ok(Err(CarrierError::Protocol(error))) => return Err(OpenError::Protocol(error).into()),
            Ok(Err(error)) => return Err(broken(path, AttemptError::Carrier(error))),
            Err(_) => return Err(broken(path, AttemptError::Silent)),
        };
        let server_key = carrier.info().peer_key.clone();
        let proven: Vec<ProvenKey> = host
            .statements
            .iter()
            .filter_map(|s| verify_host(s, &server_key).ok())
            .collect();
        let judged = self.config.trust.judge(&proven, &server_key).await;
        judged.map_err(OpenError::Untrusted)?;
        Ok((carrier, proven))
    }

    async fn race(&mut self) -> Result<(Dialed, Path), Setback> {
        let (mut paths, at_once) = self.paths.line_up();
        paths.retain(|path| self.astray.iter().all(|(known, _)| known != path));
        let left = self.left();
        // Another open may have been given up over these sockets.
        self.dialer.renew();
        let mut failed = Vec::new();
        let racing = race(&mut self.dialer, &paths, at_once, &ServerKey::Any, &mut failed);
        match timeout(left, racing).await {
            Ok(Some(won)) => Ok(won),
            // Every path answered that it leads nowhere: waiting would not change it.
            Ok(None) if failed.iter().all(Failed::is_definite) => Err(self.no_path(failed).into()),
            Ok(None) | Err(_) => Err(Setback::Again { failed, pause: RETRY }),
        }
    }

    /// Why there is no path: whom the last one led to says more than how the others failed.
    fn no_path(&mut self, attempts: Vec<Failed>) -> OpenError {
        match self.astray.pop() {
            Some((_, error)) => error,
            None => OpenError::NoPath {
                attempts,
                within: self.config.connect_timeout.saturating_sub(self.left()),
            },
        }
    }

    /// Offers the user's keys, from the first round on that was not refused yet.
    async fn converse(&mut self, carrier: &mut Carrier) -> Result<Accepted, Talk> {
        let message = open_message(OpenFacts {
            exporter: &carrier.info().exporter,
            server_spki: &carrier.info().peer_key,
            client_spki: self.key.spki(),
            session: self.id,
            user: &self.config.user,
            version: VERSION,
        });
        let credentials = Arc::clone(&self.config.credentials);
        let mut is_told = false;
        while let Some(offer) = self.offer(carrier, &message, &mut is_told).await? {
            let outcome = match offer {
                Offer::Refused(refusal) => Some(Err(refusal)),
                Offer::Unsigned(index) => {
                    // The keys behind it in this round may do too.
                    self.behind += index + 1;
                    continue;
                }
                Offer::Sign(signed) if signed.is_empty() => None,
                Offer::Sign(signed) => {
                    // From the first hello on it waits long enough.
                    is_told = true;
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
            (self.round, self.behind) = (self.round + 1, 0);
        }
        let refusal = match self.refusal.take() {
            Some(refusal) => refusal,
            // Without any key: a server half that leaves all to the login takes it.
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
        Err(Talk::Setback(refused.into()))
    }

    /// What is to be offered in this round; `None` if there are no more.
    async fn offer(
        &mut self,
        carrier: &mut Carrier,
        message: &[u8],
        is_told: &mut bool,
    ) -> Result<Option<Offer>, Talk> {
        let credentials = Arc::clone(&self.config.credentials);
        let round = self.round;
        let keys = match self.asks_first {
            true => credentials.to_ask(round),
            false => Vec::new(),
        };
        let keys = keys.get(self.behind..).unwrap_or_default();
        if keys.is_empty() && self.behind > 0 {
            return Ok(Some(Offer::Sign(Vec::new())));
        }
        if keys.is_empty() {
            let signing = credentials.sign(round, message);
            let signed = self.wait_for_user(carrier, is_told, signing).await;
            return Ok(signed.map(Offer::Sign));
        }
        *is_told = true;
        match self.ask_about(carrier, keys.to_vec()).await? {
            KeyVerdict::Signs(index) => {
                let signing = credentials.sign_with(round, &keys[index], message);
                let signed = self.wait_for_user(carrier, is_told, signing).await;
                Ok(Some(
                    signed.map_or(Offer::Unsigned(index), |signed| Offer::Sign(vec![signed])),
                ))
            }
            KeyVerdict::NoneNeeded => Ok(Some(Offer::NoneNeeded)),
            KeyVerdict::Refused(refusal) => match refusal.code {
                RefusalCode::NotAuthorized => Ok(Some(Offer::Refused(refusal))),
                code if code.is_final() => Err(Talk::Setback(OpenError::Refused(refusal).into())),
                _ => Err(Talk::Setback(Setback::Refused(refusal))),
            },
            KeyVerdict::NotUnderstood => {
                debug!("the server half is older than questions about keys: all of them sign");
                self.asks_first = false;
                Err(Talk::Setback(Setback::Again {
                    failed: Vec::new(),
                    pause: Duration::ZERO,
                }))
            }
        }
    }

    async fn ask_about(&mut self, carrier: &mut Carrier, keys: Vec<Bytes>) -> Result<KeyVerdict, Talk> {
        let asked = clock::now();
        let (verdict, took) = key_query::ask_about(carrier, &self.config.user, keys, self.answer_by).await;
        // Time that sshd took is not the path's.
        self.deadline += took;
        verdict.map_err(|unanswered| self.unanswered(unanswered, asked))
    }

    /// Waits for a signature. Time that the user took is not the path's.
    async fn wait_for_user<T>(
        &mut self,
        carrier: &mut Carrier,
        is_told: &mut bool,
        work: impl Future<Output = T>,
    ) -> T {
        let asked = clock::now();
        let done = while_it_waits(carrier, is_told, work).await;
        if self.given < MOST_EXTENSIONS {
            self.given += 1;
            let took = clock::now().saturating_duration_since(asked);
            self.deadline += took;
            self.answer_by += took;
        }
        done
    }

    /// One `Open` and its answer. The inner `Err` is "not with these keys".
    async fn ask(
        &mut self,
        carrier: &mut Carrier,
        authorizations: Vec<Authorization>,
    ) -> Result<Result<Accepted, Refusal>, Talk> {
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
            // Many large keys: the bytes come behind the answer, as any others.
            let first = Bytes::new();
            encoded = Hello::Open(Open { first, ..open }).encode();
        }
        let asked = clock::now();
        let (answer, took) = answer_to(carrier, encoded, self.answer_by).await;
        // Nor is time that sshd took.
        self.deadline += took;
        let answer = answer.map_err(|unanswered| self.unanswered(unanswered, asked))?;
        match answer {
            Answer::Accepted(accepted) => Ok(Ok(accepted)),
            Answer::Refused(refusal) => match refusal.code {
                RefusalCode::NotAuthorized => Ok(Err(refusal)),
                code if code.is_final() => Err(Talk::Setback(OpenError::Refused(refusal).into())),
                _ => Err(Talk::Setback(Setback::Refused(refusal))),
            },
            Answer::Standing | Answer::Probed(_) | Answer::Reaped | Answer::Asking | Answer::KeyOk(_) => {
                let odd = DecodeError::UnknownType {
                    what: "answer to an open",
                    value: 0,
                };
                Err(Talk::Setback(OpenError::Protocol(odd).into()))
            }
        }
    }

    fn unanswered(&self, unanswered: Unanswered, asked: Instant) -> Talk {
        match unanswered {
            Unanswered::Silent => Talk::Lost(AttemptError::Silent),
            Unanswered::Lost(CarrierError::Protocol(error)) => Talk::Setback(OpenError::Protocol(error).into()),
            Unanswered::Lost(error) => Talk::Lost(AttemptError::Carrier(error)),
            Unanswered::StillAsking => {
                let within = clock::now().saturating_duration_since(asked);
                Talk::Setback(OpenError::StillAsking { within }.into())
            }
        }
    }

    fn opened(self, carrier: Carrier, accepted: Accepted, said: Bytes) -> OpenSession {
        let info = carrier.info().clone();
        info!(event = "opened", session = %self.id, remote = info.remote.map(field::display), carrier = %info.kind,
            via = info.via.as_deref(),
            rtt_ms = carrier.rtt().map(|rtt| rtt.as_millis()), "session opened");
        let (orders, ordered) = mpsc::channel(ORDERS);
        let facts = Arc::new(Facts::new(self.config.session.receive_window as u64));
        OpenSession {
            id: self.id,
            dialer: self.dialer,
            server_key: info.peer_key.to_vec(),
            reap_token: self.reap_token,
            paths: self.paths,
            epoch: self.epoch,
            first: Arrival {
                carrier,
                epoch: self.epoch,
                peer_received: accepted.received,
                peer_window: accepted.window,
                first: Bytes::new(),
            },
            ttl: Duration::from_secs(accepted.ttl),
            said,
            control: Control { orders, facts },
            orders: ordered,
            config: self.config,
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(clock::now())
    }
}

fn broken(path: &Path, error: AttemptError) -> Setback {
    if let AttemptError::Carrier(error @ CarrierError::Busy) = &error {
        return Setback::Refused(refused_by_close(error));
    }
    Setback::Again {
        failed: vec![Failed {
            path: path.clone(),
            error,
        }],
        pause: Duration::ZERO,
    }
}

/// How a conversation on one carrier ended, other than well.
enum Talk {
    Setback(Setback),
    Lost(AttemptError),
}

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system gives random bytes");
    bytes
}
