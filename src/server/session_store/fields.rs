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
