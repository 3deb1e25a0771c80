//! One question to sshd, from the first packet to its answer.

use super::super::connect_sshd::{Client, ConnectSshd, Purpose};
use super::super::failures::Failures;
use super::query::{KeyAnswer, MAX_QUERIES, Query};
use super::sources::Sources;
use super::{AskError, AskLimits, Proof, SshdVerdict};
use crate::clock;
use crate::identity::authorized_keys::is_for_address;
use crate::identity::statement::ProvenKey;
use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::Mutex;
use russh::MethodSet;
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;
use tracing::info;

/// Asks sshd, and knows who was accepted and who failed.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) sshd: Arc<dyn ConnectSshd>,
    limits: AskLimits,
    pub(super) sources: Sources,
    confirmed: Confirmed,
    pub(super) failures: Arc<Failures>,
}

/// Counts a failure of a source when dropped, also if asking panics.
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

impl Asker {
    pub(super) fn new(sshd: Arc<dyn ConnectSshd>, limits: AskLimits) -> Asker {
        Asker {
            sshd,
            limits,
            sources: Sources::sharing(limits.at_once, limits.queued),
            confirmed: Confirmed::default(),
            failures: Arc::new(Failures::new(limits.budget())),
        }
    }

    /// Asks, and counts a failure unless a key is accepted.
    pub(super) async fn ask_charged(
        &self,
        user: &str,
        keys: &[ProvenKey],
        client: Client,
        proof: Proof,
    ) -> Result<SshdVerdict, AskError> {
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
            // No question was asked, and there may be room in a moment: whoever gives up counts it.
            Err(error) if error.is_full() || !error.is_brought_about() => charge.waive(),
            Ok(_) | Err(_) => drop(charge),
        }
        asked
    }

    /// The client has signed with a key that sshd accepts.
    pub(super) fn handle_signed(&self, client: Client) {
        self.sources.handle_accepted(client.remote.ip(), clock::now());
        self.sshd.handle_accepted(client);
    }

    /// A connection on which sshd can be asked. Opening it costs sshd nothing that is slow: a server that does not
    /// answer now hangs.
    async fn open_query(&self, purpose: Purpose) -> Result<Query, AskError> {
        let (target, limit) = (self.sshd.target(), self.limits.time);
        let opened = timeout(limit, Query::open(&*self.sshd, purpose, self.limits.verdict)).await;
        opened.unwrap_or(Err(AskError::TimedOut { target, limit }))
    }

    async fn ask(&self, user: &str, keys: &[ProvenKey], client: Client) -> Result<SshdVerdict, AskError> {
        let (mut next, mut is_hung_up) = (0, false);
        loop {
            let mut query = self.open_query(Purpose::Query(client)).await?;
            let greeted = clock::now();
            let before = next;
            let mut accepted = match ask_some(&mut query, user, keys, &mut next).await {
                // Once may be an accident. Twice at the first question is sshd's answer.
                Err(AskError::HungUp { .. }) if next == before && !is_hung_up => {
                    is_hung_up = true;
                    continue;
                }
                Err(AskError::HungUp { target, said }) if next == before => {
                    return Err(AskError::HangsUp { target, said });
                }
                asked => asked?,
            };
            let (server, asked_from) = (query.server(), query.asked_from());
            query.close().await;
            if let Some(key) = accepted.and_then(|index| keys.get(index))
                && !self.accepts_elsewhere(user, key, client).await?
            {
                accepted = None;
                next += 1;
            }
            if accepted.is_some() || next == keys.len() {
                return Ok(SshdVerdict {
                    accepted,
                    server,
                    asked_from,
                    greeted,
                });
            }
        }
    }

    /// Whether sshd accepts the key from an address that is not on loopback too. A key for this machine only
    /// (`from="127.0.0.0/8"`) must not admit everybody whom sshd sees on loopback.
    async fn accepts_elsewhere(&self, user: &str, key: &ProvenKey, client: Client) -> Result<bool, AskError> {
        if !self.sshd.hides(client) {
            return Ok(true);
        }
        let certificate = key.certificate.as_deref();
        if certificate.is_some_and(|certificate| !is_for_address(certificate, client.remote.ip())) {
            let key = key.fingerprint();
            info!(event = "refused", user, key, remote = %client.remote, "refused: the certificate is valid for other addresses only");
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
            info!(event = "refused", user, key, remote = %client.remote, "refused: sshd accepts this key from loopback only");
        }
        Ok(is_accepted)
    }

    async fn ask_elsewhere(&self, user: &str, key: &ProvenKey, client: Client) -> Result<bool, AskError> {
        let mut query = self.open_query(Purpose::SecondQuery(client)).await?;
        let answer = query.ask(user, key).await?;
        query.close().await;
        Ok(answer == KeyAnswer::Accepted)
    }
}

/// Asks about keys from index `next` on, as many as one connection allows, and moves `next` past those that were
/// refused.
async fn ask_some(
    query: &mut Query,
    user: &str,
    keys: &[ProvenKey],
    next: &mut usize,
) -> Result<Option<usize>, AskError> {
    for key in keys.iter().skip(*next).take(MAX_QUERIES) {
        match query.ask(user, key).await? {
            KeyAnswer::Accepted => return Ok(Some(*next)),
            KeyAnswer::Refused => *next += 1,
            KeyAnswer::RefusedAndClosed => {
                *next += 1;
                break;
            }
            KeyAnswer::OtherMethod(methods) => return Err(other_method(&methods)),
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

/// How long such an answer is valid. sshd is asked about the key itself at each open; only a new `from=` option on it
/// may go unnoticed for this long. An sshd with penalties counts each question against one address of this machine.
const CONFIRMED_TTL: Duration = Duration::from_secs(600);

/// The most answers, about 100 bytes each. Beyond it the oldest is removed.
const MAX_CONFIRMED: usize = 4096;

/// Keys that sshd accepted from an address that is not on loopback.
#[derive(Debug, Default)]
pub(super) struct Confirmed(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    until: HashMap<[u8; 32], Instant>,
    /// Oldest first.
    order: VecDeque<[u8; 32]>,
}

impl Confirmed {
    pub(super) fn contains(&self, user: &str, key: &ProvenKey, now: Instant) -> bool {
        let entries = self.0.lock();
        entries.until.get(&name(user, key)).is_some_and(|until| now < *until)
    }

    pub(super) fn insert(&self, user: &str, key: &ProvenKey, now: Instant) {
        let mut entries = self.0.lock();
        let name = name(user, key);
        if entries.until.insert(name, now + CONFIRMED_TTL).is_none() {
            entries.order.push_back(name);
        }
        while entries.order.len() > MAX_CONFIRMED {
            let Some(oldest) = entries.order.pop_front() else { break };
            entries.until.remove(&oldest);
        }
    }
}

fn name(user: &str, key: &ProvenKey) -> [u8; 32] {
    let length = u64::try_from(user.len()).unwrap_or(u64::MAX).to_be_bytes();
    let all = [&length, user.as_bytes(), &key.blob].concat();
    let digest = digest(&SHA256, &all);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}
