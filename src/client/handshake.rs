//! Hello messages and their answers: asks a slow server half to wait for this client, and waits while the server half
//! asks sshd. Also asks which keys it would accept, before one of them signs.

use super::dialer::{Dialer, race};
use super::failures::Failed;
use crate::carrier::{Carrier, CarrierError, CloseReason, Path};
use crate::clock;
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::transport::quic::MtuCap;
use crate::wire::{
    Answer, DecodeError, Hello, KeyQuery, PeerText, Reap, Refusal, RefusalCode, SessionId, UserName, VERSION,
};
use bytes::Bytes;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{timeout, timeout_at};

/// Longest silence of a server half after an open or a probe. While it is asking sshd it sends `Asking` every second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// The same for a server half whose handshake took longer than that. Server halves limit handshakes to this.
const MAX_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// For reading an answer that has arrived.
const READ_TIMEOUT: Duration = Duration::from_millis(100);

/// How long to wait before sending `Wait`. A server half waits five times as long for the first hello.
const WAIT_DELAY: Duration = Duration::from_secs(1);

/// Runs `work`, which may wait for an agent or the user. If it takes long and `wait_sent` is false, sends `Wait`, so
/// that the server half keeps the carrier.
pub(super) async fn keep_waiting<T>(carrier: &mut Carrier, wait_sent: &mut bool, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    if !*wait_sent {
        if let Ok(done) = timeout(WAIT_DELAY, &mut work).await {
            return done;
        }
        *wait_sent = true;
        // If the carrier is lost, the next hello fails with the same error.
        let _ = carrier.send_message(Hello::Wait.encode()).await;
    }
    work.await
}

/// Why an open or a probe got no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// Nothing was received.
    Silent,
    /// The server half is still waiting for sshd. With its explanation if sshd has no room for another login.
    AwaitingSshd(Option<PeerText>),
    /// The carrier was lost, or sent an invalid answer.
    Lost(CarrierError),
}

/// How long a server half is waited for that is asking sshd.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerDeadlines {
    pub(super) answer: Instant,
    /// While sshd has no room for another login.
    pub(super) room: Instant,
    /// Longest silence of the server half, from [`answer_timeout`].
    pub(super) silence: Duration,
}

/// Longest silence of a server half whose handshake took this time. If many clients keep it busy, its answers take as long as
/// its handshakes; a client that leaves and dials again would only add to that.
pub(super) fn answer_timeout(handshake: Duration) -> Duration {
    handshake.clamp(ANSWER_TIMEOUT, MAX_ANSWER_TIMEOUT)
}

/// Sends a hello and reads the answer. Waits until `deadlines` while the server half is asking sshd. Also returns how
/// long it reported to be asking.
pub(super) async fn request(
    carrier: &mut Carrier,
    hello: Bytes,
    deadlines: AnswerDeadlines,
) -> (Result<Answer, NoAnswer>, Duration) {
    let begun = clock::now();
    let (mut unsent, mut asked, mut why) = (Some(hello), None, PeerText::default());
    loop {
        let hearing = async {
            if let Some(hello) = unsent.take() {
                carrier.send_message(hello).await?;
            }
            Ok::<_, CarrierError>(Answer::decode(carrier.read_message().await?)?)
        };
        let silence = clock::now() + deadlines.silence;
        let end = if why.is_empty() {
            deadlines.answer
        } else {
            deadlines.room
        };
        let mut hearing = pin!(hearing);
        let heard = match timeout_at(end.min(silence).into(), &mut hearing).await {
            // On a machine with too few processors an answer may have arrived and not been read.
            Err(_) => timeout(READ_TIMEOUT, hearing).await,
            heard => heard,
        };
        let heard = match heard {
            Ok(Ok(Answer::Asking(said))) => {
                asked = Some(clock::now().saturating_duration_since(begun));
                why = said;
                continue;
            }
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(NoAnswer::Lost(error)),
            Err(_) if asked.is_some() && end <= silence => {
                Err(NoAnswer::AwaitingSshd((!why.is_empty()).then(|| why.clone())))
            }
            Err(_) => Err(NoAnswer::Silent),
        };
        // A temporary refusal does not extend the deadline: the next attempt may take as long.
        let asked = asked.filter(|_| !heard.as_ref().is_ok_and(is_for_now));
        return (heard, asked.unwrap_or_default());
    }
}

/// Whether the refusal is temporary.
fn is_for_now(answer: &Answer) -> bool {
    let is_for_now = |code: RefusalCode| code != RefusalCode::NotAuthorized && !code.is_final();
    matches!(answer, Answer::Refused(refusal) if is_for_now(refusal.code))
}

/// The refusal that a server half means if it closes a carrier because it has too many of them.
pub(super) fn busy_refusal(error: &CarrierError) -> Refusal {
    Refusal {
        code: RefusalCode::RetryLater,
        message: PeerText::new(error),
    }
}

/// The server half's answer to a key query.
pub(super) enum KeyAnswer {
    /// The key at this index would be accepted.
    Signs(usize),
    /// No key is needed.
    NoneNeeded,
    /// No key would be accepted, or sessions are refused for now.
    Refused(Refusal),
    /// The server half does not know this message, refuses it, and has closed the carrier.
    Unsupported(Refusal),
}

/// Queries keys on a carrier whose host was verified. Afterwards the server half waits for the next hello as after
/// `Wait`. Waits until `deadlines` while it is asking sshd. Also returns how long sshd took, as [`request`] does.
pub(super) async fn query_keys(
    carrier: &mut Carrier,
    user: &UserName,
    keys: Vec<Bytes>,
    deadlines: AnswerDeadlines,
) -> (Result<KeyAnswer, NoAnswer>, Duration) {
    let count = keys.len();
    let query = KeyQuery {
        version: VERSION,
        user: user.clone(),
        keys,
    };
    let (answer, took) = request(carrier, Hello::KeyQuery(query).encode(), deadlines).await;
    let verdict = answer.and_then(|answer| match answer {
        Answer::KeyOk(None) => Ok(KeyAnswer::NoneNeeded),
        Answer::KeyOk(Some(key)) if usize::from(key) < count => Ok(KeyAnswer::Signs(key.into())),
        Answer::Refused(refusal) if refusal.code == RefusalCode::Desync => Ok(KeyAnswer::Unsupported(refusal)),
        Answer::Refused(refusal) => Ok(KeyAnswer::Refused(refusal)),
        _ => Err(NoAnswer::Lost(CarrierError::Protocol(DecodeError::Unexpected {
            what: "answer to a question about keys",
        }))),
    });
    (verdict, took)
}

/// Runs in the background; nobody waits for it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a session could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum ReapError {
    /// No path led to the server half.
    #[error("the server half cannot be reached")]
    NoPath(Vec<Failed>),
    /// The carrier was lost before the answer.
    #[error("lost before the answer")]
    Carrier(#[from] CarrierError),
    /// The server half rejected the token.
    #[error("refused")]
    Refused,
    /// No answer within [`TIMEOUT`].
    #[error("no answer in time")]
    Silent,
}

/// Ends `session` at the server half that has the TLS key `server_key`. The token authorizes this; the user needs no
/// key.
///
/// # Errors
/// See [`ReapError`]; the session may still exist.
pub async fn reap(paths: &[Path], server_key: &[u8], session: SessionId, token: [u8; 32]) -> Result<(), ReapError> {
    let cleanup = async {
        let (key, accept) = (Arc::new(TlsKey::generate()), ServerKey::Exactly(server_key.to_vec()));
        let (mut dialer, mut failed) = (Dialer::new(key, MtuCap::default()), Vec::new());
        let won = race(&mut dialer, paths, 1, &accept, &mut failed).await;
        let (dialed, ..) = won.ok_or(ReapError::NoPath(failed))?;
        let (carrier, answer) = dialed.ask(&Hello::Reap(Reap { session, token })).await?;
        carrier.finish(CloseReason::Done).await;
        if answer == Answer::Reaped {
            Ok(())
        } else {
            Err(ReapError::Refused)
        }
    };
    timeout(TIMEOUT, cleanup).await.unwrap_or(Err(ReapError::Silent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_half_that_was_slow_already_is_waited_for_as_long_again() {
        let times = [0, 2, 7, 30].map(Duration::from_secs);
        assert_eq!(times.map(|took| answer_timeout(took).as_secs()), [3, 3, 7, 10]);
    }
}
