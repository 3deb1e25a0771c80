//! The numbers that name things in the protocol.

use std::fmt;

/// A position in one direction of a session: the count of bytes before it, from the session's beginning.
///
/// The end of a direction (FIN or CLOSE) takes one position of its own, so that it can be acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(u64);

impl Offset {
    /// The beginning of a direction.
    pub const ZERO: Offset = Offset(0);
    /// The greatest position that the wire can carry (QUIC varint, RFC 9000 section 16).
    pub const MAX: Offset = Offset((1 << 62) - 1);

    /// The position after `bytes` bytes; `None` beyond [`Offset::MAX`].
    pub const fn new(bytes: u64) -> Option<Offset> {
        if bytes <= Self::MAX.0 {
            Some(Offset(bytes))
        } else {
            None
        }
    }

    /// Bytes before this position.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// This position moved on by `bytes`; stays at [`Offset::MAX`], which no session reaches in its life.
    pub fn saturating_add(self, bytes: u64) -> Offset {
        Offset(self.0.saturating_add(bytes).min(Self::MAX.0))
    }

    /// Bytes from `earlier` to here; `None` if `earlier` is later.
    pub fn since(self, earlier: Offset) -> Option<u64> {
        self.0.checked_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Names a session. Public: knowing it gives no right to anything.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// The id with these bytes, which should be random.
    pub const fn new(bytes: [u8; 16]) -> SessionId {
        SessionId(bytes)
    }

    /// The bytes of the id.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The id that [`SessionId`]'s long form (`{:#}`, 32 hex digits) names.
    pub fn from_hex(hex: &str) -> Option<SessionId> {
        let digits = hex.as_bytes();
        if digits.len() != 32 {
            return None;
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = u8::try_from(high * 16 + low).ok()?;
        }
        Some(SessionId(bytes))
    }
}

impl fmt::Display for SessionId {
    /// Eight hex digits, enough for a log line; all 32 with `{:#}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = if f.alternate() { 16 } else { 4 };
        self.0[..shown].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self:#})")
    }
}

/// Counts the leads of a session; of two carriers the one with the higher epoch leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u32);

impl Epoch {
    /// The epoch with this number.
    pub const fn new(number: u32) -> Epoch {
        Epoch(number)
    }

    /// The number of the epoch.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The epoch after this one; stays at the last, which a redial every 150 ms reaches after 20 years.
    pub fn next(self) -> Epoch {
        Epoch(self.0.saturating_add(1))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_form_of_a_session_id_reads_back() {
        let id = SessionId::new(*b"0123456789abcdef");
        assert_eq!(SessionId::from_hex(&format!("{id:#}")), Some(id));
        assert_eq!(SessionId::from_hex("xyz"), None);
        assert_eq!(SessionId::from_hex(&"g".repeat(32)), None);
    }

    #[test]
    fn offsets_end_at_what_a_varint_holds() {
        assert_eq!(Offset::new(1 << 62), None);
        assert_eq!(Offset::MAX.saturating_add(9), Offset::MAX);
        assert_eq!(Offset::ZERO.since(Offset::MAX), None);
    }
}
