//! Keeps a server half listed at one relay, for as long as it runs.
//!
//! A doubtful connection is not dropped but raced by a fresh one, over QUIC or, where UDP is blocked, TLS. The relay
//! keeps all of them listed and uses the newest.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::backoff::Backoff;
use super::listing::{Ending, Listing, Serving, Sign};
use super::registrar::{RegisterError, Registrar, RegistrationSettings};
use super::way::Way;
use super::{IncomingStream, RelayTransport};
use crate::clock::{self, Timer};
use crate::wire::{KeyDigest, RelayRefusalCode};

/// How often QUIC is tried again while TLS has to do.
const QUIC_AGAIN: Duration = Duration::from_secs(60);
/// A relay that ends a registration sooner than this is no better than one that cannot be reached.
const STEADY: Duration = Duration::from_secs(5);

/// How it stands with one relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistrationState {
    /// Being dialled. `failure` says what came of the last attempt, or of the last connection.
    Trying {
        /// In words, for people.
        failure: Option<String>,
    },
    /// Listed.
    Registered {
        /// Over which transport.
        transport: RelayTransport,
        /// Under how many keys.
        keys: u64,
        /// Since when.
        since: Instant,
    },
}

/// A server half's place at one relay.
pub struct Registration {
    registrar: Arc<Registrar>,
    state: watch::Sender<RegistrationState>,
}

impl Registration {
    /// A place at the relay that people call `name`, not yet asked for. `relay_key` is as in
    /// [`RelayAddress`](super::RelayAddress).
    pub fn new(
        name: impl Into<Arc<str>>,
        way: Arc<dyn Way>,
        relay_key: Option<KeyDigest>,
        settings: RegistrationSettings,
    ) -> Registration {
        Registration {
            registrar: Arc::new(Registrar::new(name.into(), way, relay_key, settings)),
            state: watch::Sender::new(RegistrationState::Trying { failure: None }),
        }
    }

    /// How it stands, now and whenever that changes.
    pub fn state(&self) -> watch::Receiver<RegistrationState> {
        self.state.subscribe()
    }

    /// Keeps the place until `stop`, and hands on whoever comes by way of the relay. Streams that `incoming` has no room
    /// for are broken off.
    pub async fn run(self, incoming: mpsc::Sender<IncomingStream>, stop: CancellationToken) {
        let (signs, heard) = mpsc::channel(16);
        let mut keeping = Keeping {
            backoff: Backoff::new(seed()),
            registrar: self.registrar,
            state: self.state,
            incoming,
            signs,
            serving: JoinSet::new(),
            current: None,
            generation: 0,
            attempt: None,
            due: Some(clock::now()),
        };
        stop.run_until_cancelled(keeping.run(heard)).await;
        keeping.say_goodbye().await;
    }
}

fn seed() -> u64 {
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).expect("the system gives random bytes");
    u64::from_le_bytes(seed)
}

type Attempt = Pin<Box<dyn Future<Output = Result<Listing, RegisterError>> + Send>>;

/// The listing that clients come by, if all is well.
struct Current {
    generation: u64,
    transport: RelayTransport,
    since: Instant,
    leave: CancellationToken,
    is_suspect: bool,
}

struct Keeping {
    registrar: Arc<Registrar>,
    state: watch::Sender<RegistrationState>,
    incoming: mpsc::Sender<IncomingStream>,
    signs: mpsc::Sender<(u64, Sign)>,
    serving: JoinSet<(u64, Ending)>,
    current: Option<Current>,
    generation: u64,
    attempt: Option<Attempt>,
    backoff: Backoff,
    /// When to make the next attempt.
    due: Option<Instant>,
}

impl Keeping {
    async fn run(&mut self, mut heard: mpsc::Receiver<(u64, Sign)>) {
        let mut timer = Timer::new();
        loop {
            timer.set(self.due.filter(|_| self.attempt.is_none()));
            tokio::select! {
                listing = progress(&mut self.attempt) => {
                    self.attempt = None;
                    self.handle_attempt(listing);
                }
                Some(ended) = self.serving.join_next() => {
                    // A panic in one listing is as good as its end.
                    if let Ok((generation, ending)) = ended {
                        self.handle_ending(generation, &ending);
                    }
                }
                Some((generation, sign)) = heard.recv() => self.handle_sign(generation, sign),
                () = std::future::poll_fn(|cx| timer.poll(cx)) => self.begin(),
            }
        }
    }

    fn begin(&mut self) {
        self.due = None;
        let registrar = Arc::clone(&self.registrar);
        // Over TLS all is well already: only QUIC is better.
        let only_quic = self.current.as_ref().is_some_and(|current| !current.is_suspect);
        self.attempt = Some(Box::pin(async move { registrar.attempt(only_quic).await }));
    }

    fn handle_attempt(&mut self, attempt: Result<Listing, RegisterError>) {
        match attempt {
            Ok(listing) => self.adopt(listing),
            Err(error) => {
                let is_final = matches!(&error, RegisterError::Refused(refusal) if is_lasting(refusal.code));
                self.fail(&error.to_string());
                let wait = match &self.current {
                    Some(current) if !current.is_suspect => QUIC_AGAIN,
                    _ if is_final => self.backoff.longest(),
                    _ => self.backoff.wait(self.registrar.is_needed()),
                };
                self.due = Some(clock::now() + wait);
            }
        }
    }

    fn adopt(&mut self, listing: Listing) {
        let now = clock::now();
        self.generation += 1;
        let (transport, keys) = (listing.transport(), listing.keys);
        let leave = CancellationToken::new();
        let serving = Serving {
            registrar: Arc::clone(&self.registrar),
            incoming: self.incoming.clone(),
            signs: self.signs.clone(),
            generation: self.generation,
            leave: leave.clone(),
        };
        let generation = self.generation;
        self.serving
            .spawn(async move { (generation, listing.serve(serving).await) });
        let current = Current {
            generation,
            transport,
            since: now,
            leave,
            is_suspect: false,
        };
        if let Some(older) = self.current.replace(current) {
            older.leave.cancel();
        }
        self.due = (transport == RelayTransport::Tls).then_some(now + QUIC_AGAIN);
        info!(event = "registered", relay = %self.registrar.name, %transport, keys, "listed at the relay");
        let state = RegistrationState::Registered {
            transport,
            keys,
            since: now,
        };
        self.state.send_replace(state);
    }

    fn handle_ending(&mut self, generation: u64, ending: &Ending) {
        let Some(current) = self.current.take_if(|current| current.generation == generation) else {
            return;
        };
        let now = clock::now();
        let wait = match ending {
            // Another process has our key; whoever it is, it is listed.
            Ending::Replaced => self.backoff.longest(),
            _ if now.saturating_duration_since(current.since) >= STEADY => {
                self.backoff.reset();
                Duration::ZERO
            }
            _ => self.backoff.wait(self.registrar.is_needed()),
        };
        self.fail(&ending.to_string());
        self.due = Some(self.due.unwrap_or(now + wait).min(now + wait));
    }

    fn handle_sign(&mut self, generation: u64, sign: Sign) {
        let Some(current) = self.current.as_mut().filter(|current| current.generation == generation) else {
            return;
        };
        current.is_suspect = sign != Sign::Clear;
        debug!(relay = %self.registrar.name, ?sign, "the relay");
        match sign {
            // Raced, and called off when it answers after all.
            Sign::Suspect | Sign::Draining => {
                self.attempt = None;
                self.due = Some(clock::now());
            }
            Sign::Clear => {
                self.attempt = None;
                self.due = (current.transport == RelayTransport::Tls).then(|| clock::now() + QUIC_AGAIN);
                self.backoff.reset();
            }
        }
    }

    /// One line for each change, not for each attempt.
    fn fail(&self, failure: &str) {
        if self.current.is_some() {
            return debug!(relay = %self.registrar.name, failure, "no second connection to the relay");
        }
        let state = RegistrationState::Trying {
            failure: Some(failure.to_owned()),
        };
        let before = self.state.send_replace(state.clone());
        if before != state {
            warn!(event = "unregistered", relay = %self.registrar.name, failure, "not listed at the relay");
        }
    }

    /// Takes this server half off the list; streams that run go on.
    async fn say_goodbye(mut self) {
        self.attempt = None;
        match self.current.take() {
            Some(current) => current.leave.cancel(),
            None => self.serving.abort_all(),
        }
        // The farewell takes what it takes to say one word; what comes in late is of no use to anybody.
        let _ = tokio::time::timeout(Duration::from_millis(200), self.serving.join_next()).await;
    }
}

async fn progress(attempt: &mut Option<Attempt>) -> Result<Listing, RegisterError> {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

/// Whether asking again soon is of no use.
fn is_lasting(code: RelayRefusalCode) -> bool {
    matches!(
        code,
        RelayRefusalCode::NotAllowed
            | RelayRefusalCode::NotProven
            | RelayRefusalCode::Quota
            | RelayRefusalCode::Malformed
    )
}
