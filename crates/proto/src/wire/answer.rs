//! The server half's answers to hello messages.

use super::codec::{DecodeError, Reader, put_bytes, put_varint};
use super::hello::{MAX_AUTHORIZATIONS, framed};
use super::ids::Offset;
use super::probe::Probed;
use super::text::PeerText;
use bytes::{Bytes, BytesMut};

const MAX_REASON: usize = 1024;

const ACCEPTED: u64 = 0x30;
const STANDING: u64 = 0x31;
const PROBED: u64 = 0x32;
const REAPED: u64 = 0x33;
const REFUSED: u64 = 0x34;
const ASKING: u64 = 0x35;
const KEY_OK: u64 = 0x36;

/// What a server half answers to a [`Hello`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The carrier leads; frames follow.
    Accepted(Accepted),
    /// The carrier is a standby carrier; frames follow.
    Standing,
    /// What an open would find.
    Probed(Box<Probed>),
    /// The session was ended, or had ended before.
    Reaped,
    /// Index of the key of a `KeyQuery` that would open a session with a signature; `None` if no key is needed.
    KeyOk(Option<u8>),
    /// The request was refused.
    Refused(Refusal),
    /// sshd is still being asked, or has no room yet; the answer to the `Open`, `KeyQuery` or `Probe` follows. What people read if
    /// sshd has no room, at most 1 KiB; empty otherwise.
    Asking(PeerText),
}

/// The carrier leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// First position that the server half has not received.
    pub received: Offset,
    /// Receive window beyond `received`.
    pub window: u64,
    /// Seconds for which a session without a carrier is kept.
    pub ttl: u64,
    /// Which of the authorizations of the `Open` was accepted, from 0; `None` after a `Resume`, or where none counted.
    pub key: Option<u8>,
}

/// A refusal, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people; at most 1 KiB.
    pub message: PeerText,
}

/// Kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    /// No such session under this key. Final.
    Gone,
    /// There is a lead with a later epoch.
    Stale,
    /// A limit is reached.
    Busy,
    /// None of the keys is accepted for this user. Final once all were offered.
    NotAuthorized,
    /// Another protocol version. Final.
    Version,
    /// sshd cannot be reached.
    UpstreamDown,
    /// Try again later.
    RetryLater,
    /// Offsets contradict each other. Final.
    Desync,
    /// No session is opened until an administrator acts. Final.
    OpensRefused,
    /// sshd cannot be asked with its present settings or bowline's. Final.
    UpstreamUnfit,
    /// sshd requires another method than a key first for this user. Final.
    OtherMethod,
}

impl RefusalCode {
    const ALL: [(RefusalCode, u64, &'static str); 11] = [
        (RefusalCode::Gone, 1, "gone"),
        (RefusalCode::Stale, 2, "stale"),
        (RefusalCode::Busy, 3, "busy"),
        (RefusalCode::NotAuthorized, 4, "not-authorized"),
        (RefusalCode::Version, 5, "version"),
        (RefusalCode::UpstreamDown, 6, "upstream-down"),
        (RefusalCode::RetryLater, 7, "retry-later"),
        (RefusalCode::Desync, 8, "desync"),
        (RefusalCode::OpensRefused, 9, "opens-refused"),
        (RefusalCode::UpstreamUnfit, 10, "upstream-unfit"),
        (RefusalCode::OtherMethod, 11, "other-method"),
    ];

    fn row(self) -> (RefusalCode, u64, &'static str) {
        *Self::ALL
            .iter()
            .find(|(code, ..)| *code == self)
            .expect("every code has a row")
    }

    /// The code's name in `PROTOCOL.md` and in logs.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Whether asking again cannot help. `not-authorized` is final only once all keys were offered.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            RefusalCode::Gone
                | RefusalCode::Version
                | RefusalCode::Desync
                | RefusalCode::OpensRefused
                | RefusalCode::UpstreamUnfit
                | RefusalCode::OtherMethod
        )
    }
}

impl std::fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Answer {
    /// The message with its length.
    pub fn encode(&self) -> Bytes {
        match self {
            Answer::Accepted(accepted) => framed(ACCEPTED, |out| {
                put_varint(out, accepted.received.get());
                put_varint(out, accepted.window);
                put_varint(out, accepted.ttl);
                put_varint(out, accepted.key.map_or(0, |index| u64::from(index) + 1));
            }),
            Answer::Standing => framed(STANDING, |_| {}),
            Answer::Probed(probed) => framed(PROBED, |out| probed.put(out)),
            Answer::Reaped => framed(REAPED, |_| {}),
            Answer::Asking(why) => framed(ASKING, |out| put_reason(out, why)),
            Answer::KeyOk(key) => framed(KEY_OK, |out| {
                put_varint(out, key.map_or(0, |index| u64::from(index) + 1))
            }),
            Answer::Refused(refusal) => framed(REFUSED, |out| {
                put_varint(out, refusal.code.row().1);
                put_reason(out, &refusal.message);
            }),
        }
    }

    /// Reads what [`next_message`] gave.
    ///
    /// # Errors
    /// Anything that is not exactly one answer of version 1.
    pub fn decode(message: Bytes) -> Result<Answer, DecodeError> {
        let mut reader = Reader::new(message);
        let answer = match reader.varint("message type", u64::MAX)? {
            ACCEPTED => Answer::Accepted(Accepted {
                received: reader.offset("received")?,
                window: reader.varint("window", Offset::MAX.get())?,
                ttl: reader.varint("ttl", Offset::MAX.get())?,
                key: (reader.varint("key", MAX_AUTHORIZATIONS as u64)? as u8).checked_sub(1),
            }),
            STANDING => Answer::Standing,
            PROBED => Answer::Probed(Box::new(Probed::read(&mut reader)?)),
            REAPED => Answer::Reaped,
            ASKING => Answer::Asking(reader.text("what sshd said", MAX_REASON)?),
            KEY_OK => Answer::KeyOk((reader.varint("key", MAX_AUTHORIZATIONS as u64)? as u8).checked_sub(1)),
            REFUSED => Answer::Refused(read_refusal(&mut reader)?),
            value => return Err(DecodeError::UnknownType { what: "message", value }),
        };
        reader.finish()?;
        Ok(answer)
    }
}

fn put_reason(out: &mut BytesMut, reason: &PeerText) {
    put_bytes(out, &reason.as_bytes()[..reason.floor_char_boundary(MAX_REASON)]);
}

fn read_refusal(reader: &mut Reader) -> Result<Refusal, DecodeError> {
    let number = reader.varint("refusal code", u64::MAX)?;
    let known = RefusalCode::ALL.iter().find(|(_, known, _)| *known == number);
    let (code, ..) = known.ok_or(DecodeError::UnknownType {
        what: "refusal",
        value: number,
    })?;
    Ok(Refusal {
        code: *code,
        message: reader.text("refusal message", MAX_REASON)?,
    })
}

#[cfg(test)]
mod tests {
    use super::super::hello::next_message;
    use super::*;

    #[test]
    fn every_answer_reads_back() {
        let received = Offset::new(1 << 40).unwrap();
        let accepted = Accepted {
            received,
            window: 5,
            ttl: 604_800,
            key: Some(7),
        };
        let mut answers = vec![
            Answer::Accepted(accepted),
            Answer::Standing,
            Answer::Reaped,
            Answer::Asking(PeerText::default()),
            Answer::Asking("Exceeded MaxStartups".into()),
            Answer::KeyOk(Some(7)),
            Answer::KeyOk(None),
        ];
        answers.extend(RefusalCode::ALL.map(|(code, ..)| {
            Answer::Refused(Refusal {
                code,
                message: "why".into(),
            })
        }));
        for answer in answers {
            let message = next_message(&mut BytesMut::from(&answer.encode()[..]))
                .unwrap()
                .unwrap();
            assert_eq!(Answer::decode(message).unwrap(), answer);
        }
    }
}
