//! Asks the local sshd whether it would accept a key for a user.
//!
//! sshd is asked, not imitated: by the `publickey` query without a signature (RFC 4252 section 7), which it answers by
//! its whole policy. This module only decides how often it is asked, and for whom.

mod asker;
mod greeting;
mod inspect;
mod penalties;
mod query;
mod sources;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use russh::keys::ssh_key::PublicKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot};
use tokio::time::{timeout, timeout_at};

use super::connect_sshd::{Client, ConnectSshd, Purpose};
use super::failures::{FailureBudget, Failures, TooManyFailed};
use super::shared_read::SharedRead;
use super::startups::{RoomLimits, Startups};
use crate::clock;
use crate::identity::statement::ProvenKey;
use crate::tasks::Tasks;
use crate::wire::{PeerText, Quoting};
use asker::Asker;
use penalties::Penalties;
use sources::TooManyQueries;

pub use inspect::{INSPECT_TIMEOUT, INSPECT_USER, ServerInfo, inspect};
pub(in crate::server) use sources::Source;

/// How often a waiting caller checks whether another one got an answer about the same key.
const RECHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How long a question may be held back so that sshd does not penalize its client's address.
const PENALTY_WAIT: Duration = Duration::from_secs(8);

/// Limits on questions to sshd.
#[derive(Clone, Copy, Debug)]
pub struct AskLimits {
    /// The most questions at once, over all sources. Default 4: sshd's MaxStartups drops logins from 10 on. A quarter,
    /// but at least one if there is more than one, is reserved for known sources: those of which sshd has accepted a
    /// key in the last seven days. One source may have at most half.
    pub at_once: usize,
    /// The most questions at once and waiting, over all sources. Default 1024. A quarter is reserved for known sources;
    /// one source may have at most a third. Each belongs to a carrier, and carriers have limits too.
    pub queued: usize,
    /// How long a question may wait for its turn. Default 60 s. The client is told that it waits.
    pub wait: Duration,
    /// How long a question may wait after sshd said that it has too many unfinished logins. Default 60 s.
    pub room: Duration,
    /// How long sshd may take to greet and to exchange keys, once it is a question's turn. Default 5 s.
    pub time: Duration,
    /// How long sshd may take for all answers to one open. Default 120 s, as long as it waits for a login by default
    /// (LoginGraceTime): an AuthorizedKeysCommand may ask a slow directory.
    pub verdict: Duration,
    /// Failed opens that one source may cause at once: questions without an accepted key, for whatever reason, and
    /// invalid signatures. Default 10; four times as many for an IPv6 /56, sixteen times for a /48.
    pub failures: u32,
    /// After this time one more failure is allowed. Default 6 s, that is 10 a minute.
    pub failure_refill: Duration,
}

/// Asks one sshd for many clients.
#[derive(Debug)]
pub struct AskSshd {
    asker: Arc<Asker>,
    limits: AskLimits,
    /// Used for clients whose own address sshd sees.
    penalties: Penalties,
    /// Whether the SSH server has penalties, as far as is known.
    has_penalties: AtomicBool,
    startups: Startups,
    all: Capacity,
    /// The capacity for sources that are not known. They need a permit of both.
    strangers: Capacity,
    /// Questions that are being asked.
    open: Mutex<HashMap<Question, Arc<SharedRead<SshdVerdict>>>>,
    /// One for each question that sshd is asked.
    tasks: Tasks,
}

/// How many questions may run and wait.
#[derive(Debug)]
struct Capacity {
    queue: Semaphore,
    /// Fair: tokio's semaphore serves in order, and each source waits here with one question only.
    running: Arc<Semaphore>,
}

impl Capacity {
    fn new(queued: usize, at_once: usize) -> Capacity {
        Capacity {
            queue: Semaphore::new(queued),
            running: Arc::new(Semaphore::new(at_once)),
        }
    }

    fn queue(&self) -> Result<SemaphorePermit<'_>, AskError> {
        self.queue.try_acquire().map_err(|_| AskError::Busy)
    }

    async fn turn(&self) -> OwnedSemaphorePermit {
        let turn = Arc::clone(&self.running).acquire_owned().await;
        turn.expect("the semaphore is never closed")
    }
}

/// Everything that sshd's answer depends on. Callers with the same question at the same time share the answer: a
/// monitor that checks every path of a host costs sshd one connection, not one for each path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    user: String,
    keys: Vec<Bytes>,
    /// The client's address, and the local address that it reached.
    remote: IpAddr,
    local: Option<IpAddr>,
    proof: Proof,
}

/// Whether the client has signed with the keys in question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// It has: an accepted key makes the client's network a known source.
    Signed,
    /// Not yet: an accepted key says nothing about the client.
    Unsigned,
}

/// A question as long as somebody waits for its answer.
struct SharedQuestion<'a> {
    ask: &'a AskSshd,
    question: Question,
    answers: Arc<SharedRead<SshdVerdict>>,
}

/// sshd's answer about the keys of one open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshdVerdict {
    /// Index of the first key that it would accept.
    pub accepted: Option<usize>,
    /// The server that answered.
    pub server: ServerIdentity,
    /// The address that it was asked from, as in sshd's log.
    pub asked_from: SocketAddr,
    /// When its identification line was read.
    pub greeted: Instant,
}

/// The SSH server at the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerIdentity {
    /// Its identification line, such as `SSH-2.0-OpenSSH_9.2p1`.
    pub identification: PeerText,
    /// The host key that it proved.
    pub host_key: Option<PublicKey>,
}

/// Why sshd's answer is not known.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nothing accepts connections at the target.
    #[error("no SSH server at {target}")]
    UpstreamDown {
        /// Where sshd should be.
        target: SocketAddr,
        /// The error of the connect.
        source: io::Error,
    },
    /// It closed the connection before its greeting: MaxStartups, or PerSourcePenalties against the asking address.
    #[error("the SSH server at {target} closed the connection before its greeting: {said:?}")]
    Dropped {
        /// Where sshd is.
        target: SocketAddr,
        /// What it sent before.
        said: PeerText,
    },
    /// Another protocol is spoken there.
    #[error("what answers at {target} does not speak SSH: {said:?}")]
    NotSsh {
        /// Where sshd should be.
        target: SocketAddr,
        /// Its first line.
        said: PeerText,
    },
    /// It and bowline have no algorithm in common.
    #[error("the SSH server at {target} and bowline have no {kind} algorithm in common; it offers {offered}")]
    NoCommonAlgorithm {
        /// Where sshd is.
        target: SocketAddr,
        /// The kind of algorithm.
        kind: &'static str,
        /// What it offers, separated by commas.
        offered: PeerText,
    },
    /// It closed the connection when it was asked.
    #[error("the SSH server at {target} closed the connection when it was asked about a key of this user: {said:?}")]
    HungUp {
        /// Where sshd is.
        target: SocketAddr,
        /// What it sent before.
        said: PeerText,
    },
    /// It did the same again on a new connection.
    #[error(
        "the SSH server at {target} closes every connection on which it is asked about a key of this user: {said:?}"
    )]
    HangsUp {
        /// Where sshd is.
        target: SocketAddr,
        /// What it sent before.
        said: PeerText,
    },
    /// The user's login must begin with another method than a key.
    #[error("sshd requires {first} before a key for this user")]
    OtherMethod {
        /// Methods, separated by commas.
        first: PeerText,
    },
    /// The SSH protocol failed.
    #[error("asking the SSH server at {target} failed")]
    Ssh {
        /// Where sshd is.
        target: SocketAddr,
        /// The cause.
        source: Quoting<russh::Error>,
    },
    /// It did not answer in time.
    #[error("the SSH server at {target} did not answer within {limit:?}")]
    TimedOut {
        /// Where sshd is.
        target: SocketAddr,
        /// [`AskLimits::time`] or [`AskLimits::verdict`].
        limit: Duration,
    },
    /// It accepts the key from loopback, but could not be asked whether also from elsewhere.
    #[error("the SSH server cannot be asked from an address that is not on loopback")]
    Elsewhere(#[source] Box<AskError>),
    /// This source has caused too many failures.
    #[error("too many failed attempts; try again in {retry_after:?}")]
    TooManyFailed {
        /// How long to wait.
        retry_after: Duration,
    },
    /// Another question would make sshd lock out this client's address.
    #[error("another question now would make sshd refuse this address for a while; try again in {retry_after:?}")]
    PenaltyDue {
        /// How long to wait.
        retry_after: Duration,
    },
    /// The server half stopped, or failed, while it asked.
    #[error("the question to sshd was stopped")]
    Stopped,
    /// Too many questions are waiting, for this source or in all.
    #[error("too many questions to sshd are waiting")]
    Busy,
}

impl Default for AskLimits {
    fn default() -> Self {
        Self {
            at_once: 4,
            queued: 1024,
            wait: Duration::from_secs(60),
            room: RoomLimits::default().time,
            time: Duration::from_secs(5),
            verdict: Duration::from_secs(120),
            failures: 10,
            failure_refill: Duration::from_secs(6),
        }
    }
}

impl AskLimits {
    pub(super) fn budget(&self) -> FailureBudget {
        FailureBudget {
            burst: self.failures,
            refill: self.failure_refill,
        }
    }
}

impl AskError {
    /// Whether sshd said that it has too many unfinished logins (MaxStartups, PerSourceMaxStartups).
    pub(super) fn is_full(&self) -> bool {
        matches!(self, AskError::Dropped { said, .. } if said.starts_with(greeting::FULL))
    }

    /// Whether a client may have caused it. If sshd is down, no client is to be blamed.
    fn is_brought_about(&self) -> bool {
        match self {
            AskError::Dropped { .. }
            | AskError::HungUp { .. }
            | AskError::HangsUp { .. }
            | AskError::OtherMethod { .. }
            | AskError::Ssh { .. }
            | AskError::TimedOut { .. } => true,
            AskError::UpstreamDown { .. }
            | AskError::NoCommonAlgorithm { .. }
            | AskError::NotSsh { .. }
            | AskError::Elsewhere(_)
            | AskError::TooManyFailed { .. }
            | AskError::PenaltyDue { .. }
            | AskError::Stopped
            | AskError::Busy => false,
        }
    }
}

impl AskSshd {
    /// Asks the SSH server that `sshd` connects to, within `limits`.
    #[must_use]
    pub fn new(sshd: Arc<dyn ConnectSshd>, limits: AskLimits) -> Self {
        // The rest is reserved for known sources.
        let most = |all: usize| all - (all / 4).max(1).min(all.saturating_sub(1));
        Self {
            asker: Arc::new(Asker::new(sshd, limits)),
            limits,
            startups: Startups::within(RoomLimits {
                time: limits.room,
                ..RoomLimits::default()
            }),
            all: Capacity::new(limits.queued, limits.at_once),
            strangers: Capacity::new(most(limits.queued), most(limits.at_once)),
            open: Mutex::default(),
            penalties: Penalties::default(),
            has_penalties: AtomicBool::new(true),
            tasks: Tasks::new(),
        }
    }

    /// Counts failures by network.
    pub(super) fn failures(&self) -> Arc<Failures> {
        Arc::clone(&self.asker.failures)
    }

    /// Why questions for clients at `source` wait for room in sshd, if any does.
    pub(super) fn why_full(&self, source: IpAddr) -> Option<PeerText> {
        self.startups.why(source)
    }

    /// Whether sshd would accept one of `keys`, in this order, for a login as `user`.
    ///
    /// The client has signed with these keys. Unless one is accepted or sshd is down, this counts as one failure of
    /// the client's network.
    ///
    /// Concurrent callers with the same question share the answer, which sshd gave after each of them had asked.
    ///
    /// # Errors
    /// `AskError`. The client is to be told nothing but that it may try again.
    pub async fn would_accept_any(
        &self,
        user: &str,
        keys: &[ProvenKey],
        client: Client,
    ) -> Result<SshdVerdict, AskError> {
        self.would_accept(user, keys, client, Proof::Signed).await
    }

    async fn would_accept(
        &self,
        user: &str,
        keys: &[ProvenKey],
        client: Client,
        proof: Proof,
    ) -> Result<SshdVerdict, AskError> {
        let asked = self.join(Question {
            user: user.to_owned(),
            keys: keys.iter().map(|key| key.blob.clone()).collect(),
            remote: client.remote.ip(),
            local: client.local,
            proof,
        });
        // Boxed, so that callers who share another's answer need no memory for it.
        let answer = asked.answers.get(Box::pin(self.ask_once(user, keys, client, proof)));
        // First behind a question that runs already, then in turn.
        let limit = 2 * (self.limits.wait + self.limits.verdict);
        let reading = timeout(limit, answer).await.map_err(|_| AskError::Busy)??;
        Ok(reading.what)
    }

    async fn ask_once(
        &self,
        user: &str,
        keys: &[ProvenKey],
        client: Client,
        proof: Proof,
    ) -> Result<SshdVerdict, AskError> {
        let source = client.remote.ip();
        let strangers = (!self.asker.sources.is_known(source, clock::now())).then_some(&self.strangers);
        let _place = (strangers.map(Capacity::queue).transpose()?, self.all.queue()?);
        self.asker.failures.check(source, clock::now())?;
        let queue = self.asker.sources.admit(source)?;
        let mut until = clock::now() + self.limits.wait;
        let own = timeout_at(until.into(), queue.turn()).await;
        let own = Arc::new(own.map_err(|_| AskError::Busy)?);
        let mut startup = self.startups.begin(source);
        loop {
            startup.turn().await;
            let turns = async {
                let stranger = match strangers {
                    Some(strangers) => Some(strangers.turn().await),
                    None => None,
                };
                (stranger, self.all.turn().await)
            };
            let turns = timeout_at(until.into(), turns).await.map_err(|_| AskError::Busy)?;
            // Those before it may have used up the failures.
            self.asker.failures.check(source, clock::now())?;
            // Other sources do not wait for room that only this one lacks (PerSourceMaxStartups): the turns end with the answer.
            match self
                .ask_to_the_end((Arc::clone(&own), turns), user, keys, client, proof)
                .await
            {
                Err(error) if startup.waits_after(&error).await => until = clock::now() + self.limits.wait,
                Err(error) if error.is_full() => {
                    self.asker.failures.count(source, clock::now());
                    return Err(error);
                }
                asked => return asked,
            }
        }
    }

    /// The same, with a cache for clients whose own address sshd sees: a key that sshd accepted some minutes ago for
    /// this user and client counts as accepted. Otherwise sshd would penalize a client for the questions of several
    /// sessions. An accepted key that has signed takes back one failure of the client's network. Returns the key's index,
    /// and the answer if sshd was asked.
    ///
    /// # Errors
    /// As above, and `PenaltyDue`.
    pub async fn accepts_any(
        &self,
        user: &str,
        keys: &[ProvenKey],
        client: Client,
        proof: Proof,
    ) -> Result<(Option<usize>, Option<SshdVerdict>), AskError> {
        let asked = self.accepts_now(user, keys, client, proof).await?;
        if proof == Proof::Signed && asked.0.is_some() {
            // If many clients come at once, some abandon a question and ask again.
            self.asker.failures.take_back(client.remote.ip());
        }
        Ok(asked)
    }

    async fn accepts_now(
        &self,
        user: &str,
        keys: &[ProvenKey],
        client: Client,
        proof: Proof,
    ) -> Result<(Option<usize>, Option<SshdVerdict>), AskError> {
        if !self.asker.sshd.shows(client) {
            let verdict = self.would_accept(user, keys, client, proof).await?;
            return Ok((verdict.accepted, Some(verdict)));
        }
        let source = client.remote.ip();
        let end = clock::now() + PENALTY_WAIT;
        loop {
            // Meanwhile another session may have got an answer about the same key.
            if let Some(index) = self.penalties.accepted(user, keys, source, clock::now()) {
                return Ok((Some(index), None));
            }
            if !self.has_penalties.load(Relaxed) {
                break;
            }
            match self.penalties.wait(source, clock::now()) {
                Duration::ZERO => break,
                wait if clock::now() + wait > end => return Err(AskError::PenaltyDue { retry_after: wait }),
                wait => tokio::time::sleep(wait.min(RECHECK_INTERVAL)).await,
            }
        }
        let verdict = self.would_accept(user, keys, client, proof).await?;
        let has_penalties = penalties::are_given_by(verdict.server.identification.as_str());
        self.has_penalties.store(has_penalties, Relaxed);
        if let Some(index) = verdict.accepted {
            self.penalties.handle_accepted(user, &keys[index], source, clock::now());
        }
        Ok((verdict.accepted, Some(verdict)))
    }

    /// Asks. If the client leaves meanwhile, sshd's answer still decides whether that is a failure: many clients at once may
    /// leave a question and ask again. `turns` are held until sshd has answered.
    async fn ask_to_the_end(
        &self,
        turns: impl Send + 'static,
        user: &str,
        keys: &[ProvenKey],
        client: Client,
        proof: Proof,
    ) -> Result<SshdVerdict, AskError> {
        let (answered, answer) = oneshot::channel();
        let (asker, user, keys) = (Arc::clone(&self.asker), user.to_owned(), keys.to_vec());
        self.tasks.spawn("ask sshd", async move {
            let asked = asker.ask_charged(&user, &keys, client, proof).await;
            drop(turns);
            // Nobody waits any more if the client has left.
            let _ = answered.send(asked);
        });
        answer.await.unwrap_or(Err(AskError::Stopped))
    }

    /// The client has signed with a key that sshd accepts.
    pub(super) fn handle_signed(&self, client: Client) {
        self.asker.handle_signed(client);
    }

    fn join(&self, question: Question) -> SharedQuestion<'_> {
        let mut open = self.open.lock();
        let answers = open.entry(question.clone());
        let answers = answers.or_insert_with(|| Arc::new(SharedRead::new(Duration::ZERO)));
        SharedQuestion {
            ask: self,
            question,
            answers: Arc::clone(answers),
        }
    }
}

impl Drop for SharedQuestion<'_> {
    fn drop(&mut self) {
        let mut open = self.ask.open.lock();
        // The map's reference and this one.
        if Arc::strong_count(&self.answers) <= 2 {
            open.remove(&self.question);
        }
    }
}

impl From<TooManyFailed> for AskError {
    fn from(error: TooManyFailed) -> Self {
        Self::TooManyFailed {
            retry_after: error.retry_after,
        }
    }
}

impl From<TooManyQueries> for AskError {
    fn from(_: TooManyQueries) -> Self {
        Self::Busy
    }
}

/// Reads the greeting of the SSH server, such as `SSH-2.0-OpenSSH_9.2p1`, on a connection for this purpose, within
/// `limit`. sshd may count it as a connection without a login.
///
/// # Errors
/// `AskError`: down, dropped, not SSH or timed out.
pub async fn read_banner(sshd: &dyn ConnectSshd, purpose: Purpose, limit: Duration) -> Result<PeerText, AskError> {
    let target = sshd.target();
    let greeted = timeout(limit, greeting::greet(sshd, purpose)).await;
    let greeted = greeted.map_err(|_| AskError::TimedOut { target, limit })??;
    Ok(greeted.identification)
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
