//! The server half's answers to hello messages.

use super::codec::{DecodeError, Reader, put_varint};
use super::hello::{MAX_AUTHORIZATIONS, framed};
use super::ids::Offset;
use super::probe::Probed;
use super::refusal::{Refusal, put_reason, read_reason};
use super::text::PeerText;
use bytes::Bytes;

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
            Answer::Refused(refusal) => framed(REFUSED, |out| refusal.put(out)),
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
            ASKING => Answer::Asking(read_reason(&mut reader, "what sshd said")?),
            KEY_OK => Answer::KeyOk((reader.varint("key", MAX_AUTHORIZATIONS as u64)? as u8).checked_sub(1)),
            REFUSED => Answer::Refused(Refusal::read(&mut reader)?),
            value => return Err(DecodeError::UnknownType { what: "message", value }),
        };
        reader.finish()?;
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::super::hello::next_message;
    use super::super::refusal::{Code, RefusalCode};
    use super::*;
    use bytes::BytesMut;

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
        answers.extend(RefusalCode::ALL.iter().map(|(code, _)| {
            Answer::Refused(Refusal {
                code: *code,
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
