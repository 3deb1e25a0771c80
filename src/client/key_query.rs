//! Asks a server half which keys it would accept, before one of them signs.

use super::handshake::{AnswerDeadlines, NoAnswer, request};
use crate::carrier::{Carrier, CarrierError};
use crate::wire::{Answer, DecodeError, Hello, KeyQuery, Refusal, RefusalCode, UserName, VERSION};
use bytes::Bytes;
use std::time::Duration;

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
