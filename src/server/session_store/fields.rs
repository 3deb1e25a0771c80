//! A binary format of consecutive fields: little-endian numbers, and bytes with a length.

/// Writes into a buffer of fixed size.
pub(super) struct Writer<'a> {
    place: &'a mut [u8],
    at: usize,
}

/// Reads what a [`Writer`] wrote; `None` if it did not write that.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Writer<'a> {
    /// Clears `place` and writes from its start.
    pub(super) fn new(place: &'a mut [u8]) -> Writer<'a> {
        place.fill(0);
        Writer { place, at: 0 }
    }

    /// Writes bytes without a length. Bytes that do not fit are left out, but counted.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        if let Some(room) = self.place.get_mut(self.at..end) {
            room.copy_from_slice(bytes);
        }
        self.at = end;
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.raw(&value.to_le_bytes());
    }

    /// Writes a length of two bytes, then the bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.raw(&len.to_le_bytes());
        self.raw(bytes);
    }

    /// How many bytes were written, including those that did not fit.
    pub(super) fn len(&self) -> usize {
        self.at
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader(bytes)
    }

    pub(super) fn raw(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.raw(N)?.try_into().ok()
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = u16::from_le_bytes(self.array()?);
        self.raw(len.into())
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

/// The checksum of `bytes`, against what a crash or a fault may have left behind. It is no protection against an attacker,
/// but only the worker can write to the session store. A change within one aligned word of eight bytes always changes it.
///
/// By hand: it is ten lines, and has 64 bits where crc32fast has 32. Each step is a bijection of the state for a given word, and of the word for a given state: xor, multiplication by
/// an odd number and rotation are invertible. Other changes go unnoticed once in 2^64.
pub(super) fn checksum(bytes: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut state = ODD ^ bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = (state ^ u64::from_le_bytes(word)).wrapping_mul(ODD).rotate_left(29);
    }
    state ^ (state >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_matters() {
        let mut bytes = *b"twenty-one bytes long";
        let sum = checksum(&bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(checksum(&bytes), sum);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_ne!(checksum(&[0; 8]), checksum(&[0; 16]));
        assert_ne!(checksum(b"abcdefgh12345678"), checksum(b"12345678abcdefgh"));
    }
}
