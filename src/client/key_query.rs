//! Asks a server half about keys before one of them signs.

use super::waiting::{Unanswered, answer_to};
use crate::carrier::{Carrier, CarrierError};
use crate::wire::{Answer, DecodeError, Hello, KeyQuery, Refusal, RefusalCode, UserName, VERSION};
use bytes::Bytes;
use std::time::{Duration, Instant};

/// What a server half says to keys that have not signed.
pub(super) enum KeyVerdict {
    /// This one, by its place, would do.
    Signs(usize),
    /// None is needed.
    NoneNeeded,
    /// None would do, or nothing is opened now.
    Refused(Refusal),
    /// It is older than the question, and has closed the carrier.
    NotUnderstood,
}

/// Asks on a carrier whose host is the right one. The server half waits for what comes next as after `Wait`. While it asks sshd
/// it is waited for until `end`; gives also how long that took, as for an open.
pub(super) async fn ask_about(
    carrier: &mut Carrier,
    user: &UserName,
    keys: Vec<Bytes>,
    end: Instant,
) -> (Result<KeyVerdict, Unanswered>, Duration) {
    let count = keys.len();
    let query = KeyQuery {
        version: VERSION,
        user: user.clone(),
        keys,
    };
    let (answer, took) = answer_to(carrier, Hello::KeyQuery(query).encode(), end).await;
    let verdict = answer.and_then(|answer| match answer {
        Answer::KeyOk(None) => Ok(KeyVerdict::NoneNeeded),
        Answer::KeyOk(Some(key)) if usize::from(key) < count => Ok(KeyVerdict::Signs(key.into())),
        Answer::Refused(refusal) if refusal.code == RefusalCode::Desync => Ok(KeyVerdict::NotUnderstood),
        Answer::Refused(refusal) => Ok(KeyVerdict::Refused(refusal)),
        _ => Err(Unanswered::Lost(CarrierError::Protocol(DecodeError::UnknownType {
            what: "answer to a question about keys",
            value: 0,
        }))),
    });
    (verdict, took)
}
