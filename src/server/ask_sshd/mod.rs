//! Asks the local sshd whether it would accept a key for a user.
//!
//! sshd is asked, not imitated: the `publickey` query without a signature (RFC 4252 section 7), which it answers
//! by its whole policy. Nothing is decided here beyond how often and for whom it may be asked.

mod confirmed;
mod greeting;
mod look;
mod penalties;
mod query;
mod sources;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use russh::MethodSet;
use russh::keys::ssh_key::PublicKey;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::info;

use super::connect_sshd::{Client, ConnectSshd, Purpose};
use super::failures::{FailureBudget, Failures, TooManyFailed};
use super::shared_read::SharedRead;
use crate::clock;
use crate::identity::authorized_keys::is_for_address;
use crate::identity::statement::ProvenKey;
use crate::wire::{PeerText, Quoting};
use confirmed::Confirmed;
use penalties::Penalties;
use query::{Answer, MAX_QUERIES, Query};
use sources::{Crowded, Sources};

pub use look::{Look, look};
pub(in crate::server) use sources::Source;

/// How often whoever waits looks whether another was answered about the same key.
const RECHECK_INTERVAL: Duration = Duration::from_millis(100);

/// How much sshd may be asked.
#[derive(Clone, Copy, Debug)]
pub struct AskLimits {
    /// Asks that run at once, over all sources. Default 4: sshd's MaxStartups drops logins from 10 on. A quarter, but at least
    /// one if there is more than one, is for sources that sshd has accepted a key of in the last seven days. Half is the most
    /// of one source.
    pub at_once: usize,
    /// Asks that run or wait, over all sources. Default 256; a quarter for the same sources, and a third is
    /// the most of one source.
    pub queued: usize,
    /// How long one ask may wait for its turn. Default 8 s.
    pub wait: Duration,
    /// How long sshd may take to greet and to exchange keys, once it is an ask's turn. Default 5 s.
    pub time: Duration,
    /// How long sshd may take for all that it says in one ask. Default 120 s, as long as it waits for a login by default
    /// (LoginGraceTime): an AuthorizedKeysCommand may ask a directory that is slow.
    pub verdict: Duration,
    /// Failed opens that one source may cause at once: asks that are not accepted, for whatever reason, and signatures that are
    /// not valid. Default 10; four times as many for an IPv6 /56, sixteen times for a /48.
    pub failures: u32,
    /// After this time one more failure is allowed. Default 6 s, so 10 a minute.
    pub failure_refill: Duration,
}

/// Asks one sshd, for many clients at once.
#[derive(Debug)]
pub struct AskSshd {
    sshd: Arc<dyn ConnectSshd>,
    limits: AskLimits,
    sources: Sources,
    confirmed: Confirmed,
    /// For clients whose own address sshd sees.
    penalties: Penalties,
    /// Whether the SSH server has penalties, as far as is known.
    has_penalties: AtomicBool,
    failures: Arc<Failures>,
    all: Places,
    /// Those of sources that are not known also take one of these, of which there are fewer.
    strangers: Places,
    /// Questions that somebody waits for an answer to.
    open: Mutex<HashMap<Question, Arc<SharedRead<Verdict>>>>,
}

/// How many may ask.
#[derive(Debug)]
struct Places {
    queue: Semaphore,
    /// Fair: tokio's semaphore serves in order, and a source waits here with one ask only.
    running: Semaphore,
}

impl Places {
    fn new(queued: usize, at_once: usize) -> Places {
        Places {
            queue: Semaphore::new(queued),
            running: Semaphore::new(at_once),
        }
    }

    fn queue(&self) -> Result<SemaphorePermit<'_>, AskError> {
        self.queue.try_acquire().map_err(|_| AskError::Busy)
    }

    async fn turn(&self) -> SemaphorePermit<'_> {
        self.running.acquire().await.expect("the semaphore is never closed")
    }
}

/// All that sshd's verdict depends on. Whoever asks the same at the same time gets the same answer: a monitor that
/// looks at every path of a host costs sshd one connection, not one a path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Question {
    user: String,
    keys: Vec<Bytes>,
    /// Where the client is, and the address of this machine that it reached.
    remote: IpAddr,
    local: Option<IpAddr>,
    proof: Proof,
}

/// Whether the client has signed with the keys that are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Proof {
    /// It has: an accepted key speaks for the client's network.
    Signed,
    /// Not yet: an accepted key says nothing of who asks.
    Unsigned,
}

/// A question for as long as somebody waits for its answer.
struct Asked<'a> {
    ask: &'a AskSshd,
    question: Question,
    answers: Arc<SharedRead<Verdict>>,
}

/// What sshd said about the keys of one open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Index of the first key that it would accept.
    pub accepted: Option<usize>,
    /// Who said so.
    pub upstream: Upstream,
    /// The address that it was asked from, as it stands in sshd's log.
    pub asked_from: SocketAddr,
    /// When its identification line was read.
    pub greeted: Instant,
}

/// Who answers at the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Its identification line, such as `SSH-2.0-OpenSSH_9.2p1`.
    pub identification: PeerText,
    /// The host key that it proved.
    pub host_key: Option<PublicKey>,
}

/// sshd gave no verdict.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nothing accepts connections there.
    #[error("no SSH server at {target}")]
    UpstreamDown {
        /// Where sshd should be.
        target: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// It hung up before it greeted: MaxStartups, or PerSourcePenalties against the asking source.
    #[error("the SSH server at {target} hung up before its greeting: {said:?}")]
    Dropped {
        /// Where sshd is.
        target: SocketAddr,
        /// What it said before, if anything.
        said: PeerText,
    },
    /// Something else answers there.
    #[error("what answers at {target} does not speak SSH: {said:?}")]
    NotSsh {
        /// Where sshd should be.
        target: SocketAddr,
        /// Its first line.
        said: PeerText,
    },
    /// It and bowline know no algorithm in common.
    #[error("the SSH server at {target} and bowline have no {kind} algorithm in common; it offers {offered}")]
    NoCommonAlgorithm {
        /// Where sshd is.
        target: SocketAddr,
        /// What the algorithm is for.
        kind: &'static str,
        /// What it offers, with commas in between.
        offered: PeerText,
    },
    /// It hung up on the question.
    #[error("the SSH server at {target} hung up when it was asked about a key of this user: {said:?}")]
    HungUp {
        /// Where sshd is.
        target: SocketAddr,
        /// What it said before, if anything.
        said: PeerText,
    },
    /// The same, and again on a new connection.
    #[error("the SSH server at {target} ends each connection on which it is asked about a key of this user: {said:?}")]
    HangsUp {
        /// Where sshd is.
        target: SocketAddr,
        /// What it said before, if anything.
        said: PeerText,
    },
    /// The user's login begins with something else than a key.
    #[error("sshd begins the login of this user with {first}, and takes no key before")]
    OtherMethod {
        /// Methods, with commas in between.
        first: PeerText,
    },
    /// The SSH protocol failed under way.
    #[error("asking the SSH server at {target} failed")]
    Ssh {
        /// Where sshd is.
        target: SocketAddr,
        /// What went wrong.
        source: Quoting<russh::Error>,
    },
    /// It did not answer in time.
    #[error("the SSH server at {target} gave no answer within {limit:?}")]
    TimedOut {
        /// Where sshd is.
        target: SocketAddr,
        /// [`AskLimits::time`] or [`AskLimits::verdict`].
        limit: Duration,
    },
    /// It accepts the key from loopback; whether also from elsewhere could not be asked.
    #[error("the SSH server cannot be asked from another address than loopback")]
    Elsewhere(#[source] Box<AskError>),
    /// This source has caused too many refusals.
    #[error("too many failed asks; the next one is allowed in {retry_after:?}")]
    TooManyFailed {
        /// When to come again.
        retry_after: Duration,
    },
    /// sshd would lock this client's address out.
    #[error(
        "one more question now, and sshd would not let this address in for a while; the next one is due in {retry_after:?}"
    )]
    PenaltyDue {
        /// When to come again.
        retry_after: Duration,
    },
    /// Too many asks are waiting, for this source or in all.
    #[error("too many asks are waiting")]
    Busy,
}

impl Default for AskLimits {
    fn default() -> Self {
        Self {
            at_once: 4,
            queued: 256,
            wait: Duration::from_secs(8),
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
    /// Whether a client may be able to bring it about. If sshd is down nobody is to pay for it.
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
            | AskError::Busy => false,
        }
    }
}

/// Counts a query against its source, also if nobody waits for the answer any more.
struct Charge<'a> {
    failures: &'a Failures,
    source: IpAddr,
}

impl Charge<'_> {
    fn waive(self) {
        std::mem::forget(self);
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.failures.count(self.source, clock::now());
    }
}

impl AskSshd {
    /// Asks the SSH server that `sshd` connects to, within `limits`.
    #[must_use]
    pub fn new(sshd: Arc<dyn ConnectSshd>, limits: AskLimits) -> Self {
        // What is left is for those who are known.
        let most = |all: usize| all - (all / 4).max(1).min(all.saturating_sub(1));
        Self {
            sshd,
            limits,
            sources: Sources::sharing(limits.at_once, limits.queued),
            confirmed: Confirmed::default(),
            failures: Arc::new(Failures::new(limits.budget())),
            all: Places::new(limits.queued, limits.at_once),
            strangers: Places::new(most(limits.queued), most(limits.at_once)),
            open: Mutex::default(),
            penalties: Penalties::default(),
            has_penalties: AtomicBool::new(true),
        }
    }

    /// What counts the failures.
    pub(super) fn failures(&self) -> Arc<Failures> {
        Arc::clone(&self.failures)
    }

    /// Whether sshd would accept one of `keys`, in this order, for a login as `user`.
    ///
    /// The client has signed with these keys. Unless one is accepted, or sshd is down, that counts as one failure of the
    /// client's network.
    ///
    /// Those who ask the same at the same time share the answer, which sshd gave after each of them asked.
    ///
    /// # Errors
    /// `AskError`, and the client is to be told nothing but that it may try again.
    pub async fn would_accept_any(&self, user: &str, keys: &[ProvenKey], client: Client) -> Result<Verdict, AskError> {
        self.would_accept(user, keys, client, Proof::Signed).await
    }

    async fn would_accept(
        &self,
        user: &str,
        keys: &[ProvenKey],
        client: Client,
        proof: Proof,
    ) -> Result<Verdict, AskError> {
        let asked = self.join(Question {
            user: user.to_owned(),
            keys: keys.iter().map(|key| key.blob.clone()).collect(),
            remote: client.remote.ip(),
            local: client.local,
            proof,
        });
        // Boxed: those who wait for somebody else's answer need no room for it.
        let answer = asked.answers.get(Box::pin(self.ask_once(user, keys, client, proof)));
        // Behind one that runs already, and then in turn.
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
    ) -> Result<Verdict, AskError> {
        let source = client.remote.ip();
        let strangers = (!self.sources.is_known(source, clock::now())).then_some(&self.strangers);
        let _place = (strangers.map(Places::queue).transpose()?, self.all.queue()?);
        self.failures.check(source, clock::now())?;
        let turnstile = self.sources.admit(source)?;
        let waiting = async {
            let own = turnstile.turn().await;
            let stranger = match strangers {
                Some(strangers) => Some(strangers.turn().await),
                None => None,
            };
            (own, stranger, self.all.turn().await)
        };
        let _turns = timeout(self.limits.wait, waiting).await.map_err(|_| AskError::Busy)?;
        // Those before it may have used them up.
        self.failures.check(source, clock::now())?;
        self.ask_charged(user, keys, client, proof).await
    }

    /// The same, but that a key which sshd accepted some minutes ago, for this user and client, still counts if sshd sees
    /// the client's own address: its penalties for questions would otherwise meet whoever opens several sessions. Gives the
    /// index, and the verdict if sshd was asked.
    ///
    /// # Errors
    /// As above; `PenaltyDue` too.
    pub async fn accepts_any(
        &self,
        user: &str,
        keys: &[ProvenKey],
        client: Client,
        proof: Proof,
    ) -> Result<(Option<usize>, Option<Verdict>), AskError> {
        if !self.sshd.shows(client) {
            let verdict = self.would_accept(user, keys, client, proof).await?;
            return Ok((verdict.accepted, Some(verdict)));
        }
        let source = client.remote.ip();
        let end = clock::now() + self.limits.wait;
        loop {
            // Somebody with the same key may be answered meanwhile.
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
        let has_penalties = penalties::are_given_by(verdict.upstream.identification.as_str());
        self.has_penalties.store(has_penalties, Relaxed);
        if let Some(index) = verdict.accepted {
            self.penalties.handle_accepted(user, &keys[index], source, clock::now());
        }
        Ok((verdict.accepted, Some(verdict)))
    }

    /// Asks, and counts it unless a key is accepted.
    async fn ask_charged(
        &self,
        user: &str,
        keys: &[ProvenKey],
        client: Client,
        proof: Proof,
    ) -> Result<Verdict, AskError> {
        let (source, limit) = (client.remote.ip(), self.limits.verdict);
        let charge = Charge {
            failures: &self.failures,
            source,
        };
        let asked = timeout(limit, self.ask(user, keys, client)).await;
        let target = self.sshd.target();
        let asked = asked.unwrap_or(Err(AskError::TimedOut { target, limit }));
        match &asked {
            Ok(verdict) if verdict.accepted.is_some() => {
                charge.waive();
                if proof == Proof::Signed {
                    self.handle_signed(client);
                }
            }
            Err(error) if !error.is_brought_about() => charge.waive(),
            Ok(_) | Err(_) => drop(charge),
        }
        asked
    }

    /// The client has signed with a key that sshd accepts.
    pub(super) fn handle_signed(&self, client: Client) {
        self.sources.handle_accepted(client.remote.ip(), clock::now());
        self.sshd.handle_accepted(client);
    }

    fn join(&self, question: Question) -> Asked<'_> {
        let mut open = self.open();
        let answers = open.entry(question.clone());
        let answers = answers.or_insert_with(|| Arc::new(SharedRead::new(Duration::ZERO)));
        Asked {
            ask: self,
            question,
            answers: Arc::clone(answers),
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Question, Arc<SharedRead<Verdict>>>> {
        // Whole entries come and go: a panic elsewhere cannot have left one half written.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection on which sshd can be asked. Nothing slow is done for it yet: a server that does not answer now hangs.
    async fn open_query(&self, purpose: Purpose) -> Result<Query, AskError> {
        let (target, limit) = (self.sshd.target(), self.limits.time);
        let opened = timeout(limit, Query::open(&*self.sshd, purpose, self.limits.verdict)).await;
        opened.unwrap_or(Err(AskError::TimedOut { target, limit }))
    }

    async fn ask(&self, user: &str, keys: &[ProvenKey], client: Client) -> Result<Verdict, AskError> {
        let (mut next, mut is_hung_up) = (0, false);
        loop {
            let mut query = self.open_query(Purpose::Query(client)).await?;
            let greeted = clock::now();
            let before = next;
            let mut accepted = match ask_some(&mut query, user, keys, &mut next).await {
                // Once may be a mishap. Twice on the first question is sshd's answer.
                Err(AskError::HungUp { .. }) if next == before && !is_hung_up => {
                    is_hung_up = true;
                    continue;
                }
                Err(AskError::HungUp { target, said }) if next == before => {
                    return Err(AskError::HangsUp { target, said });
                }
                asked => asked?,
            };
            let (upstream, asked_from) = (query.upstream(), query.asked_from());
            query.close().await;
            if let Some(key) = accepted.and_then(|index| keys.get(index))
                && !self.accepts_elsewhere(user, key, client).await?
            {
                accepted = None;
                next += 1;
            }
            if accepted.is_some() || next == keys.len() {
                return Ok(Verdict {
                    accepted,
                    upstream,
                    asked_from,
                    greeted,
                });
            }
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let mut open = self.ask.open();
        // The map's and this one.
        if Arc::strong_count(&self.answers) <= 2 {
            open.remove(&self.question);
        }
    }
}

impl AskSshd {
    /// Whether sshd accepts the key from an address that is not on loopback too. One that is for this machine alone
    /// (`from="127.0.0.0/8"`) must not open for everybody whom sshd sees there.
    async fn accepts_elsewhere(&self, user: &str, key: &ProvenKey, client: Client) -> Result<bool, AskError> {
        if !self.sshd.hides(client) {
            return Ok(true);
        }
        let certificate = key.certificate.as_deref();
        if certificate.is_some_and(|certificate| !is_for_address(certificate, client.remote.ip())) {
            let key = key.fingerprint();
            info!(event = "refused", user, key, remote = %client.remote, "the certificate is for other addresses");
            return Ok(false);
        }
        if self.confirmed.contains(user, key, clock::now()) {
            return Ok(true);
        }
        let asked = self.ask_elsewhere(user, key, client).await;
        let is_accepted = asked.map_err(|source| AskError::Elsewhere(Box::new(source)))?;
        if is_accepted {
            self.confirmed.insert(user, key, clock::now());
        } else {
            let key = key.fingerprint();
            info!(event = "refused", user, key, remote = %client.remote, "sshd accepts this key from loopback alone");
        }
        Ok(is_accepted)
    }

    async fn ask_elsewhere(&self, user: &str, key: &ProvenKey, client: Client) -> Result<bool, AskError> {
        let mut query = self.open_query(Purpose::SecondQuery(client)).await?;
        let answer = query.ask(user, key).await?;
        query.close().await;
        Ok(answer == Answer::Accepted)
    }
}

impl From<TooManyFailed> for AskError {
    fn from(error: TooManyFailed) -> Self {
        Self::TooManyFailed {
            retry_after: error.retry_after,
        }
    }
}

impl From<Crowded> for AskError {
    fn from(_: Crowded) -> Self {
        Self::Busy
    }
}

/// Reads the greeting of the SSH server on a connection for this purpose, such as `SSH-2.0-OpenSSH_9.2p1`, within `limit`. sshd may count it as a
/// connection without login.
///
/// # Errors
/// `AskError`: down, dropped, not SSH or timed out.
pub async fn read_banner(sshd: &dyn ConnectSshd, purpose: Purpose, limit: Duration) -> Result<PeerText, AskError> {
    let target = sshd.target();
    let greeted = timeout(limit, greeting::greet(sshd, purpose)).await;
    let greeted = greeted.map_err(|_| AskError::TimedOut { target, limit })??;
    Ok(greeted.identification)
}

/// Asks about keys from `next` on, as many as one connection allows, and moves `next` past those refused.
async fn ask_some(
    query: &mut Query,
    user: &str,
    keys: &[ProvenKey],
    next: &mut usize,
) -> Result<Option<usize>, AskError> {
    for key in keys.iter().skip(*next).take(MAX_QUERIES) {
        match query.ask(user, key).await? {
            Answer::Accepted => return Ok(Some(*next)),
            Answer::Refused => *next += 1,
            Answer::RefusedAndClosed => {
                *next += 1;
                break;
            }
            Answer::OtherMethod(methods) => return Err(other_method(&methods)),
        }
    }
    Ok(None)
}

fn other_method(methods: &MethodSet) -> AskError {
    let names: Vec<&'static str> = methods.iter().map(Into::into).collect();
    AskError::OtherMethod {
        first: names.join(",").into(),
    }
}

#[cfg(test)]
pub(super) mod testing;
#[cfg(test)]
mod tests;
