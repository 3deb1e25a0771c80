//! Refusals by a server half and by a relay: a code for programs, and a message for people.

use super::codec::{DecodeError, Reader, put_bytes, put_varint};
use super::text::PeerText;
use bytes::BytesMut;
use std::fmt;

/// Largest message for people.
const MAX_REASON: usize = 1024;

/// A refusal, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal<C = RefusalCode> {
    /// For programs.
    pub code: C,
    /// For people; at most 1 KiB.
    pub message: PeerText,
}

impl<C: Code> fmt::Display for Refusal<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl<C: Code> std::error::Error for Refusal<C> {}

/// The kinds of refusal in one protocol.
pub trait Code: Copy + PartialEq + fmt::Debug + 'static {
    /// All codes, with their names in `PROTOCOL.md` and in logs. Their numbers on the wire are their
    /// positions here, from 1.
    const ALL: &'static [(Self, &'static str)];

    /// The code's name.
    fn name(self) -> &'static str {
        Self::ALL[self.index()].1
    }

    /// The code's position in [`Code::ALL`].
    fn index(self) -> usize {
        let at = Self::ALL.iter().position(|(code, _)| *code == self);
        at.expect("every code has a row")
    }
}

impl<C: Code> Refusal<C> {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_varint(out, self.code.index() as u64 + 1);
        put_reason(out, &self.message);
    }

    pub(super) fn read(reader: &mut Reader) -> Result<Refusal<C>, DecodeError> {
        let value = reader.varint("refusal code", u64::MAX)?;
        let index = usize::try_from(value).ok().and_then(|number| number.checked_sub(1));
        let row = index.and_then(|index| C::ALL.get(index));
        let (code, _) = row.ok_or(DecodeError::UnknownType { what: "refusal", value })?;
        Ok(Refusal {
            code: *code,
            message: read_reason(reader, "refusal message")?,
        })
    }
}

pub(super) fn put_reason(out: &mut BytesMut, reason: &PeerText) {
    put_bytes(out, &reason.as_bytes()[..reason.floor_char_boundary(MAX_REASON)]);
}

pub(super) fn read_reason(reader: &mut Reader, field: &'static str) -> Result<PeerText, DecodeError> {
    reader.text(field, MAX_REASON)
}

/// Kinds of refusal by a server half.
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

impl Code for RefusalCode {
    const ALL: &'static [(RefusalCode, &'static str)] = &[
        (RefusalCode::Gone, "gone"),
        (RefusalCode::Stale, "stale"),
        (RefusalCode::Busy, "busy"),
        (RefusalCode::NotAuthorized, "not-authorized"),
        (RefusalCode::Version, "version"),
        (RefusalCode::UpstreamDown, "upstream-down"),
        (RefusalCode::RetryLater, "retry-later"),
        (RefusalCode::Desync, "desync"),
        (RefusalCode::OpensRefused, "opens-refused"),
        (RefusalCode::UpstreamUnfit, "upstream-unfit"),
        (RefusalCode::OtherMethod, "other-method"),
    ];
}

impl RefusalCode {
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

/// Kinds of refusal by a relay. None is final: a relay is asked again, or another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelayRefusalCode {
    /// No server half with such a key is here.
    NotRegistered,
    /// A limit of the relay as a whole is reached.
    Busy,
    /// A limit for this source or this key is reached.
    Quota,
    /// None of the keys may register here.
    NotAllowed,
    /// No statement proves the TLS key of the connection.
    NotProven,
    /// The server half did not answer in time.
    NoAnswer,
    /// The relay is about to stop.
    Stopping,
    /// The message is not valid.
    Malformed,
}

impl Code for RelayRefusalCode {
    const ALL: &'static [(RelayRefusalCode, &'static str)] = &[
        (RelayRefusalCode::NotRegistered, "not-registered"),
        (RelayRefusalCode::Busy, "busy"),
        (RelayRefusalCode::Quota, "quota"),
        (RelayRefusalCode::NotAllowed, "not-allowed"),
        (RelayRefusalCode::NotProven, "not-proven"),
        (RelayRefusalCode::NoAnswer, "no-answer"),
        (RelayRefusalCode::Stopping, "stopping"),
        (RelayRefusalCode::Malformed, "malformed"),
    ];
}
