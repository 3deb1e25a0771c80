//! Keeps a server half registered at one relay for as long as it runs.
//!
//! If a connection is in doubt, another one is opened, over QUIC or, if UDP is blocked, TLS, and
//! the first that works is used. The relay keeps all of them registered and uses the newest.

use super::control::{ControlClosed, ControlConnection, ControlContext, ControlEvent};
use super::register::AddressSource;
use super::register::{RegisterError, RegistrationDialer, RegistrationSettings};
use super::{IncomingStream, RelayTransport};
use crate::clock::{self, Timer};
use crate::random;
use crate::wire::{KeyDigest, RelayRefusalCode};
use fastrand::Rng;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How often QUIC is tried while the registration uses TLS.
const QUIC_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// If a registration ends sooner than this, it counts as a failed attempt.
const MIN_STABLE_TIME: Duration = Duration::from_secs(5);

/// State of a registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistrationState {
    /// Not registered; the relay is being dialled.
    Trying {
        /// Why the last attempt or connection failed.
        failure: Option<String>,
    },
    /// Registered.
    Registered {
        /// The transport of the connection.
        transport: RelayTransport,
        /// Number of registered keys.
        keys: u64,
        /// Time of the registration.
        since: Instant,
    },
}

/// Keeps a server half registered at one relay.
pub struct Registration {
    dialer: Arc<RegistrationDialer>,
    state: watch::Sender<RegistrationState>,
}

impl Registration {
    /// Prepares a registration at the relay called `name`. `relay_key` is as in
    /// [`RelayAddress`](super::RelayAddress).
    pub fn new(
        name: impl Into<Arc<str>>,
        source: Arc<dyn AddressSource>,
        relay_key: Option<KeyDigest>,
        settings: RegistrationSettings,
    ) -> Registration {
        Registration {
            dialer: Arc::new(RegistrationDialer::new(name.into(), source, relay_key, settings)),
            state: watch::Sender::new(RegistrationState::Trying { failure: None }),
        }
    }

    /// The state, and its changes.
    pub fn state(&self) -> watch::Receiver<RegistrationState> {
        self.state.subscribe()
    }

    /// Stays registered until `stop` and forwards the streams of clients to `incoming`. If
    /// `incoming` is full, streams are aborted.
    pub async fn run(self, incoming: mpsc::Sender<IncomingStream>, stop: CancellationToken) {
        let (events, received) = mpsc::channel(16);
        let mut task = RegistrationTask {
            backoff: Backoff::new(u64::from_ne_bytes(random::bytes())),
            dialer: self.dialer,
            state: self.state,
            incoming,
            events,
            serving: JoinSet::new(),
            current: None,
            generation: 0,
            attempt: None,
            due: Some(clock::now()),
        };
        stop.run_until_cancelled(task.run(received)).await;
        task.unregister().await;
    }
}

type Attempt = Pin<Box<dyn Future<Output = Result<ControlConnection, RegisterError>> + Send>>;

/// The control connection in use.
struct ActiveControl {
    generation: u64,
    transport: RelayTransport,
    since: Instant,
    leave: CancellationToken,
    is_suspect: bool,
}

struct RegistrationTask {
    dialer: Arc<RegistrationDialer>,
    state: watch::Sender<RegistrationState>,
    incoming: mpsc::Sender<IncomingStream>,
    events: mpsc::Sender<(u64, ControlEvent)>,
    serving: JoinSet<(u64, ControlClosed)>,
    current: Option<ActiveControl>,
    generation: u64,
    attempt: Option<Attempt>,
    backoff: Backoff,
    /// When to make the next attempt.
    due: Option<Instant>,
}

impl RegistrationTask {
    async fn run(&mut self, mut received: mpsc::Receiver<(u64, ControlEvent)>) {
        let mut timer = Timer::new();
        loop {
            timer.set(self.due.filter(|_| self.attempt.is_none()));
            tokio::select! {
                control = poll_attempt(&mut self.attempt) => {
                    self.attempt = None;
                    self.handle_attempt(control);
                }
                Some(ended) = self.serving.join_next() => {
                    // A panic in the task of a connection ends that connection.
                    if let Ok((generation, closed)) = ended {
                        self.handle_closed(generation, &closed);
                    }
                }
                Some((generation, event)) = received.recv() => self.handle_control_event(generation, event),
                () = std::future::poll_fn(|cx| timer.poll(cx)) => self.begin(),
            }
        }
    }

    fn begin(&mut self) {
        self.due = None;
        let dialer = Arc::clone(&self.dialer);
        // Over a working TLS connection only QUIC is an improvement.
        let only_quic = self.current.as_ref().is_some_and(|current| !current.is_suspect);
        self.attempt = Some(Box::pin(async move { dialer.attempt(only_quic).await }));
    }

    fn handle_attempt(&mut self, attempt: Result<ControlConnection, RegisterError>) {
        match attempt {
            Ok(control) => self.activate(control),
            Err(error) => {
                let is_final = matches!(&error, RegisterError::Refused(refusal) if is_lasting(refusal.code));
                self.fail(&error.to_string());
                let wait = match &self.current {
                    Some(current) if !current.is_suspect => QUIC_RETRY_INTERVAL,
                    _ if is_final => self.backoff.max_delay(),
                    _ => self.backoff.next_delay(self.dialer.is_needed()),
                };
                self.due = Some(clock::now() + wait);
            }
        }
    }

    fn activate(&mut self, control: ControlConnection) {
        let now = clock::now();
        self.generation += 1;
        let (transport, keys) = (control.transport(), control.keys);
        let leave = CancellationToken::new();
        let context = ControlContext {
            dialer: Arc::clone(&self.dialer),
            incoming: self.incoming.clone(),
            events: self.events.clone(),
            generation: self.generation,
            leave: leave.clone(),
        };
        let generation = self.generation;
        self.serving
            .spawn(async move { (generation, control.serve(context).await) });
        let current = ActiveControl {
            generation,
            transport,
            since: now,
            leave,
            is_suspect: false,
        };
        if let Some(older) = self.current.replace(current) {
            older.leave.cancel();
        }
        self.due = (transport == RelayTransport::Tls).then_some(now + QUIC_RETRY_INTERVAL);
        info!(event = "registered", relay = %self.dialer.name, %transport, keys, "registered at the relay");
        let state = RegistrationState::Registered {
            transport,
            keys,
            since: now,
        };
        self.state.send_replace(state);
    }

    fn handle_closed(&mut self, generation: u64, closed: &ControlClosed) {
        let Some(current) = self.current.take_if(|current| current.generation == generation) else {
            return;
        };
        let now = clock::now();
        let wait = match closed {
            // Another process uses this TLS key and is registered.
            ControlClosed::Replaced => self.backoff.max_delay(),
            _ if now.saturating_duration_since(current.since) >= MIN_STABLE_TIME => {
                self.backoff.reset();
                Duration::ZERO
            }
            _ => self.backoff.next_delay(self.dialer.is_needed()),
        };
        self.fail(&closed.to_string());
        self.due = Some(self.due.unwrap_or(now + wait).min(now + wait));
    }

    fn handle_control_event(&mut self, generation: u64, event: ControlEvent) {
        let Some(current) = self.current.as_mut().filter(|current| current.generation == generation) else {
            return;
        };
        current.is_suspect = event != ControlEvent::Recovered;
        debug!(relay = %self.dialer.name, control_event = ?event, "relay state changed");
        match event {
            // Dials another connection, which is cancelled if this one recovers.
            ControlEvent::Suspect | ControlEvent::Draining => {
                self.attempt = None;
                self.due = Some(clock::now());
            }
            ControlEvent::Recovered => {
                self.attempt = None;
                self.due = (current.transport == RelayTransport::Tls).then(|| clock::now() + QUIC_RETRY_INTERVAL);
                self.backoff.reset();
            }
        }
    }

    /// Logs changes of state only, not every attempt.
    fn fail(&self, failure: &str) {
        if self.current.is_some() {
            return debug!(relay = %self.dialer.name, failure, "second connection to the relay failed");
        }
        let state = RegistrationState::Trying {
            failure: Some(failure.to_owned()),
        };
        let before = self.state.send_replace(state.clone());
        if before != state {
            warn!(event = "unregistered", relay = %self.dialer.name, failure, "not registered at the relay");
        }
    }

    /// Unregisters. Open streams continue.
    async fn unregister(mut self) {
        self.attempt = None;
        match self.current.take() {
            Some(current) => current.leave.cancel(),
            None => self.serving.abort_all(),
        }
        // Enough to send one message. Streams that arrive meanwhile are not needed.
        let _ = tokio::time::timeout(Duration::from_millis(200), self.serving.join_next()).await;
    }
}

async fn poll_attempt(attempt: &mut Option<Attempt>) -> Result<ControlConnection, RegisterError> {
    match attempt {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

/// Whether a retry will soon get the same answer.
fn is_lasting(code: RelayRefusalCode) -> bool {
    matches!(
        code,
        RelayRefusalCode::NotAllowed
            | RelayRefusalCode::NotProven
            | RelayRefusalCode::Quota
            | RelayRefusalCode::Malformed
    )
}

const MIN_DELAY: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_secs(30);
/// While sessions run over relays, any relay may be needed at any moment.
const MAX_DELAY_WHILE_NEEDED: Duration = Duration::from_secs(4);

/// Exponential backoff with jitter: each delay is drawn from the upper half of its range, so that a
/// thousand server halves do not all return at once to a relay that was restarted.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    random: Rng,
}

impl Backoff {
    /// Starts with the shortest delay.
    pub fn new(seed: u64) -> Backoff {
        Backoff {
            next: MIN_DELAY,
            random: Rng::with_seed(seed),
        }
    }

    /// After a success: the next failure starts with the shortest delay again.
    pub fn reset(&mut self) {
        self.next = MIN_DELAY;
    }

    /// The delay after one more failure.
    pub fn next_delay(&mut self, is_needed: bool) -> Duration {
        let most = if is_needed { MAX_DELAY_WHILE_NEEDED } else { MAX_DELAY };
        let wait = self.next.min(most);
        self.next = (self.next * 2).min(MAX_DELAY);
        wait / 2 + wait.mul_f64(self.random.f64() / 2.0)
    }

    /// The longest delay, for refusals that are not likely to change soon.
    pub fn max_delay(&mut self) -> Duration {
        self.next = MAX_DELAY;
        self.next_delay(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_half_a_minute_and_restart_after_a_success() {
        let mut backoff = Backoff::new(7);
        let mut range = MIN_DELAY;
        for _ in 0..12 {
            let wait = backoff.next_delay(false);
            assert!(wait >= range / 2 && wait <= range, "{wait:?} of {range:?}");
            range = (range * 2).min(MAX_DELAY);
        }
        assert!(backoff.next_delay(true) <= MAX_DELAY_WHILE_NEEDED);
        backoff.reset();
        assert!(backoff.next_delay(false) <= MIN_DELAY);
    }

    #[test]
    fn delays_of_two_halves_differ() {
        // As different from each other as random seeds.
        let seeds = (1..=100u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut waits: Vec<Duration> = seeds.map(|seed| Backoff::new(seed).next_delay(false)).collect();
        waits.sort();
        waits.dedup();
        assert!(waits.len() > 90, "{} of 100 differ", waits.len());
    }
}
