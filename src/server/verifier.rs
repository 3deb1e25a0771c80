//! Verifies the signatures of opens: outside the threads that carry sessions, one open at a time, and not for a
//! network that has failed too often.

use super::failures::{Failures, NotNow, TooManyFailed};
use crate::clock;
use crate::identity::statement::{ProvenKey, StatementError, verify_open};
use crate::tasks::off_thread;
use crate::wire::Authorization;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout_at;
use tracing::debug;

/// Opens that are verified at once. Up to eight signatures take a millisecond. With one at a time no source can exceed
/// its failure budget, however many carriers it has.
const MAX_CONCURRENT: usize = 1;

/// How long a question about keys may wait until others of its network are decided. The client is told that it waits.
const UNDECIDED_WAIT: Duration = Duration::from_secs(60);

/// How often such a question looks whether a failure was forgiven meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Verifier {
    failures: Arc<Failures>,
    turns: Arc<Semaphore>,
    /// Notified whenever a question about keys that have not signed is decided.
    decided: Arc<Notify>,
}

/// A question about keys that have not signed is not asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotAllowed {
    /// The network has used up its failures.
    #[error(transparent)]
    TooManyFailed(#[from] TooManyFailed),
    /// Others of the network may use them up, and have not signed in time.
    #[error("too many clients of this network have asked about keys and have not signed yet")]
    Undecided,
}

/// The keys of an open were not proved, and another hello cannot change that.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProofError {
    /// The signatures were not verified.
    #[error(transparent)]
    TooManyFailed(#[from] TooManyFailed),
    /// A failure that counts against the source.
    #[error("an authorization is not valid")]
    Invalid(#[source] StatementError),
    /// The verifying thread panicked.
    #[error("the signatures could not be verified")]
    Fault,
}

impl Verifier {
    pub(super) fn new(failures: Arc<Failures>) -> Verifier {
        Verifier {
            failures,
            turns: Arc::new(Semaphore::new(MAX_CONCURRENT)),
            decided: Arc::default(),
        }
    }

    /// Lets a network ask about keys that have not signed. Waits while other such questions of the network could use up
    /// its failures: most clients sign in a moment.
    ///
    /// # Errors
    /// `NotAllowed`.
    pub(super) async fn allow_unsigned(&self, source: IpAddr) -> Result<UnsignedQuery, NotAllowed> {
        let until = clock::now() + UNDECIDED_WAIT;
        loop {
            let mut decided = pin!(self.decided.notified());
            // From now on, before looking.
            decided.as_mut().enable();
            match self.failures.begin(source, clock::now()) {
                Ok(()) => break,
                Err(NotNow::Failed(error)) => return Err(error.into()),
                Err(NotNow::Undecided) => {}
            }
            // Nothing tells when time forgives a failure.
            let look_again = until.min(clock::now() + LOOK_INTERVAL);
            if timeout_at(look_again.into(), decided).await.is_err() && clock::now() >= until {
                return Err(NotAllowed::Undecided);
            }
        }
        Ok(UnsignedQuery {
            failures: Arc::clone(&self.failures),
            decided: Arc::clone(&self.decided),
            source,
            has_failed: true,
        })
    }

    /// The keys that have signed `message`, in the order of their authorizations. Keys of unsupported types are left
    /// out.
    ///
    /// # Errors
    /// `ProofError`. The first invalid signature ends the verification and counts against `source`.
    pub(super) async fn prove(
        &self,
        authorizations: &[Authorization],
        message: Vec<u8>,
        source: IpAddr,
    ) -> Result<Vec<ProvenKey>, ProofError> {
        if authorizations.is_empty() {
            return Ok(Vec::new());
        }
        let turn = Arc::clone(&self.turns).acquire_owned().await;
        self.failures.check(source, clock::now())?;
        let (failures, authorizations) = (Arc::clone(&self.failures), authorizations.to_vec());
        let verified = off_thread("verify signatures", move || {
            let verified = verify_all(&authorizations, &message);
            // Counted here because the caller may have gone.
            if verified.is_err() {
                failures.count(source, clock::now());
            }
            drop(turn);
            verified
        });
        let verified = verified.await.ok_or(ProofError::Fault)?;
        verified.map_err(ProofError::Invalid)
    }
}

/// A question about keys that have not signed. It is undecided until dropped, and then a failure unless something else was
/// said.
#[must_use]
pub(super) struct UnsignedQuery {
    failures: Arc<Failures>,
    decided: Arc<Notify>,
    source: IpAddr,
    has_failed: bool,
}

impl UnsignedQuery {
    /// The refusal was counted elsewhere.
    pub(super) fn handle_refused(mut self) {
        self.has_failed = false;
    }

    /// The accepted key has signed. As at every accepted open, this takes back one failure of the network.
    pub(super) fn handle_signed(mut self) {
        self.has_failed = false;
        self.failures.take_back(self.source);
    }
}

impl Drop for UnsignedQuery {
    fn drop(&mut self) {
        self.failures.end(self.source, self.has_failed, clock::now());
        self.decided.notify_waiters();
    }
}

fn verify_all(authorizations: &[Authorization], message: &[u8]) -> Result<Vec<ProvenKey>, StatementError> {
    let mut keys = Vec::with_capacity(authorizations.len());
    for authorization in authorizations {
        match verify_open(authorization, message) {
            Ok(key) => keys.push(key),
            Err(error) if error.is_unsupported() => debug!(%error, "ignored an authorization of an unsupported type"),
            Err(error) => return Err(error),
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::super::ask_sshd::testing::keygen;
    use super::super::failures::FailureBudget;
    use super::*;
    use crate::identity::sshsig;
    use crate::identity::statement::OPEN_NAMESPACE;
    use russh::keys::ssh_key::PrivateKey;
    use std::future::{Future, poll_fn};
    use std::net::Ipv4Addr;
    use std::task::Poll;
    use std::time::Duration;

    const MESSAGE: &[u8] = b"message";
    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2));

    fn verifier(burst: u32) -> Verifier {
        let refill = Duration::from_secs(3600);
        Verifier::new(Arc::new(Failures::new(FailureBudget { burst, refill })))
    }

    fn signed(message: &[u8]) -> Authorization {
        let folder = tempfile::tempdir().unwrap();
        let key = PrivateKey::read_openssh_file(keygen(folder.path(), "user", "ed25519")).unwrap();
        Authorization {
            key: key.public_key().to_bytes().unwrap().into(),
            signature: sshsig::sign(&key, OPEN_NAMESPACE, message).unwrap().into(),
        }
    }

    /// A key type that does not exist yet.
    fn of_the_future() -> Authorization {
        let string = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
        let name = string(b"ssh-future@example.org");
        let (key, signature) = (
            [&name[..], &string(b"key")].concat(),
            [&name[..], &string(b"signature")].concat(),
        );
        let fields = [&key[..], OPEN_NAMESPACE.as_bytes(), b"", b"sha512", &signature].map(string);
        Authorization {
            key: key.into(),
            signature: [&b"SSHSIG\0\0\0\x01"[..], &fields.concat()].concat().into(),
        }
    }

    #[tokio::test]
    async fn the_first_invalid_signature_ends_it_and_counts_against_the_source_alone() {
        let verifier = verifier(2);
        let (good, bad) = (signed(MESSAGE), signed(b"other message"));
        let prove = async |authorizations: &[Authorization], source| {
            verifier.prove(authorizations, MESSAGE.to_vec(), source).await
        };
        assert_eq!(prove(&[good.clone(), good.clone()], CLIENT).await.unwrap().len(), 2);
        for _ in 0..2 {
            let verdict = prove(&[good.clone(), bad.clone()], CLIENT).await;
            assert!(matches!(verdict, Err(ProofError::Invalid(_))), "{verdict:?}");
        }
        let verdict = prove(std::slice::from_ref(&good), CLIENT).await;
        assert!(matches!(verdict, Err(ProofError::TooManyFailed(_))), "{verdict:?}");
        assert_eq!(prove(&[good], OTHER).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn questions_before_the_signature_wait_for_each_other_and_count_if_no_key_signs() {
        let verifier = verifier(2);
        let (first, second) = tokio::join!(verifier.allow_unsigned(CLIENT), verifier.allow_unsigned(CLIENT));
        let (first, second) = (first.unwrap(), second.unwrap());
        assert!(verifier.allow_unsigned(OTHER).await.is_ok());
        let mut third = pin!(verifier.allow_unsigned(CLIENT));
        let polled = poll_fn(|cx| Poll::Ready(third.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
        // Those who wait for their user may sign meanwhile.
        let good = [signed(MESSAGE)];
        assert_eq!(verifier.prove(&good, MESSAGE.to_vec(), CLIENT).await.unwrap().len(), 1);
        first.handle_signed();
        let third = third.await.unwrap();
        drop((second, third));
        assert!(verifier.allow_unsigned(CLIENT).await.is_err(), "two have not signed");
    }

    #[tokio::test]
    async fn keys_of_kinds_that_are_not_known_are_left_out_and_count_against_nobody() {
        let verifier = verifier(1);
        for _ in 0..3 {
            let offered = [of_the_future(), signed(MESSAGE)];
            let keys = verifier.prove(&offered, MESSAGE.to_vec(), CLIENT).await.unwrap();
            assert_eq!((keys.len(), &keys[0].blob), (1, &offered[1].key));
        }
    }

    #[tokio::test]
    async fn whoever_goes_while_it_is_verified_is_counted_too() {
        let verifier = verifier(1);
        let bad = [signed(b"other message")];
        // Polled once, until the work is on its thread.
        let mut prove = Box::pin(verifier.prove(&bad, MESSAGE.to_vec(), CLIENT));
        let _is_pending = poll_fn(|cx| Poll::Ready(prove.as_mut().poll(cx).is_pending())).await;
        drop(prove);
        // Runs after the first one.
        let verdict = verifier.prove(&bad, MESSAGE.to_vec(), CLIENT).await;
        assert!(matches!(verdict, Err(ProofError::TooManyFailed(_))), "{verdict:?}");
    }

    #[tokio::test]
    async fn many_carriers_of_one_source_have_no_more_verified_than_its_budget() {
        let verifier = Arc::new(verifier(3));
        let bad = Arc::new(vec![signed(b"other message")]);
        let mut asked = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (verifier, bad) = (Arc::clone(&verifier), Arc::clone(&bad));
            asked.spawn(async move { verifier.prove(&bad, MESSAGE.to_vec(), CLIENT).await });
        }
        let verdicts = asked.join_all().await;
        let verified = verdicts
            .iter()
            .filter(|verdict| matches!(verdict, Err(ProofError::Invalid(_))));
        assert_eq!(verified.count(), 3);
    }
}
