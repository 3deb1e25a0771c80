//! Reading and writing the primitive forms: varints, fixed arrays, strings with a length.

use super::ids::Offset;
use super::text::{InvalidUserName, MAX_USER, PeerText, UserName};
use bytes::{Buf, BufMut, Bytes};

/// Bytes that are not what the protocol allows.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// A message ended inside a field.
    #[error("message ends inside {field}")]
    Truncated {
        /// The field's name in `PROTOCOL.md`.
        field: &'static str,
    },
    /// A length or number is above its limit.
    #[error("{field} is {value}, the limit is {limit}")]
    TooLarge {
        /// The field's name in `PROTOCOL.md`.
        field: &'static str,
        /// What was sent.
        value: u64,
        /// The most that is allowed.
        limit: u64,
    },
    /// A message or frame type that version 1 does not have.
    #[error("unknown {what} type {value}")]
    UnknownType {
        /// Which family of types.
        what: &'static str,
        /// What was sent.
        value: u64,
    },
    /// A valid message that is not allowed at this point.
    #[error("{what} is another kind of message than expected")]
    Unexpected {
        /// What it should have been.
        what: &'static str,
    },
    /// An `Open` of another protocol version, whose further fields mean nothing to us.
    #[error("the peer speaks protocol version {version}, we speak {}", super::VERSION)]
    Version {
        /// The peer's version.
        version: u32,
    },
    /// A text field that is not UTF-8.
    #[error("{field} is not UTF-8")]
    NotUtf8 {
        /// The field's name in `PROTOCOL.md`.
        field: &'static str,
    },
    /// A user name that no program should be given.
    #[error(transparent)]
    UserName(#[from] InvalidUserName),
    /// A message with bytes after its last field.
    #[error("{extra} bytes after the end of the message")]
    Trailing {
        /// How many.
        extra: usize,
    },
}

/// Most bytes that a varint takes.
pub(super) const MAX_VARINT: usize = 8;

/// Appends `value` as a QUIC varint in its shortest form.
///
/// Values above 2^62 - 1 do not occur: ids and offsets are bounded by their types.
pub(super) fn put_varint(out: &mut impl BufMut, value: u64) {
    match value {
        0..=0x3f => out.put_u8(value as u8),
        0x40..=0x3fff => out.put_u16(value as u16 | 0x4000),
        0x4000..=0x3fff_ffff => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value | 0xc000_0000_0000_0000),
    }
}

/// Appends a length and the bytes.
pub(super) fn put_bytes(out: &mut impl BufMut, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.put_slice(bytes);
}

/// Reads the varint at the front of `bytes`; gives it with its length, or `None` while it is incomplete.
pub(super) fn peek_varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = 1usize << (first >> 6);
    let rest = bytes.get(1..len)?;
    let value = rest
        .iter()
        .fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    Some((value, len))
}

/// Takes the fields of one whole message from its front.
pub(super) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(super) fn new(message: Bytes) -> Reader {
        Reader { rest: message }
    }

    pub(super) fn varint(&mut self, field: &'static str, limit: u64) -> Result<u64, DecodeError> {
        let (value, len) = peek_varint(&self.rest).ok_or(DecodeError::Truncated { field })?;
        if value > limit {
            return Err(DecodeError::TooLarge { field, value, limit });
        }
        self.rest.advance(len);
        Ok(value)
    }

    /// Ours; with another, nothing that follows is looked at.
    pub(super) fn version(&mut self) -> Result<u32, DecodeError> {
        match self.varint("version", u32::MAX.into())? as u32 {
            super::VERSION => Ok(super::VERSION),
            version => Err(DecodeError::Version { version }),
        }
    }

    pub(super) fn offset(&mut self, field: &'static str) -> Result<Offset, DecodeError> {
        let value = self.varint(field, Offset::MAX.get())?;
        Ok(Offset::new(value).expect("a varint is at most Offset::MAX"))
    }

    pub(super) fn bytes(&mut self, field: &'static str, limit: usize) -> Result<Bytes, DecodeError> {
        let len = self.varint(field, limit as u64)? as usize;
        if len > self.rest.len() {
            return Err(DecodeError::Truncated { field });
        }
        Ok(self.rest.split_to(len))
    }

    fn utf8(&mut self, field: &'static str, limit: usize) -> Result<String, DecodeError> {
        let bytes = self.bytes(field, limit)?;
        String::from_utf8(bytes.into()).map_err(|_| DecodeError::NotUtf8 { field })
    }

    /// Text for people.
    pub(super) fn text(&mut self, field: &'static str, limit: usize) -> Result<PeerText, DecodeError> {
        self.utf8(field, limit).map(PeerText::new)
    }

    pub(super) fn user_name(&mut self) -> Result<UserName, DecodeError> {
        Ok(UserName::new(self.utf8("user", MAX_USER)?)?)
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let array = self
            .rest
            .first_chunk::<N>()
            .copied()
            .ok_or(DecodeError::Truncated { field })?;
        self.rest.advance(N);
        Ok(array)
    }

    pub(super) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            extra => Err(DecodeError::Trailing { extra }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_those_of_rfc_9000_appendix_a() {
        for (bytes, value) in [
            (
                &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c][..],
                151_288_809_941_952_652,
            ),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ] {
            assert_eq!(peek_varint(bytes), Some((value, bytes.len())));
            let mut written = Vec::new();
            put_varint(&mut written, value);
            assert_eq!(written, bytes);
            assert_eq!(peek_varint(&bytes[..bytes.len() - 1]), None);
        }
    }
}
