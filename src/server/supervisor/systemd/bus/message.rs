//! Messages of the D-Bus protocol, as far as they are needed for short questions and their answers.

use super::{BusError, not_understood};

/// The longest message. Answers have a few hundred bytes; signals about other units, which may come in between, a few
/// thousand.
pub(super) const MAX_MESSAGE: usize = 64 * 1024;

/// Message types of the D-Bus specification.
const METHOD_CALL: u8 = 1;
pub(super) const METHOD_RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// Header field codes of the D-Bus specification.
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const SIGNATURE: u8 = 8;

pub(super) const VERSION: u8 = 1;
pub(super) const OWN_ENDIANNESS: u8 = if cfg!(target_endian = "little") { b'l' } else { b'B' };

/// A call of an object's method, by path, interface and name.
pub(super) fn call(
    serial: u32,
    (object, interface, member): (&str, &str, &str),
    signature: &str,
    body: &[u8],
) -> Vec<u8> {
    let mut fields = Writer::default();
    for (code, kind, value) in [(PATH, "o", object), (INTERFACE, "s", interface), (MEMBER, "s", member)] {
        fields.align(8);
        fields.bytes.push(code);
        fields.signature(kind);
        fields.text(value);
    }
    fields.align(8);
    fields.bytes.push(SIGNATURE);
    fields.signature("g");
    fields.signature(signature);
    let mut message = Writer::default();
    message.bytes.extend([OWN_ENDIANNESS, METHOD_CALL, 0, VERSION]);
    message.length(body.len());
    message.bytes.extend(serial.to_ne_bytes());
    message.length(fields.bytes.len());
    message.bytes.extend(fields.bytes);
    message.align(8);
    message.bytes.extend(body);
    message.bytes
}

/// A message that was received.
#[derive(Debug, Default)]
pub(super) struct Message {
    pub(super) kind: u8,
    pub(super) reply_to: Option<u32>,
    pub(super) error: Option<String>,
    pub(super) signature: String,
    pub(super) body: Vec<u8>,
}

impl Message {
    pub(super) fn read_fields(bytes: &[u8]) -> Result<Self, BusError> {
        let mut message = Self::default();
        let mut fields = Reader::new(bytes);
        while !fields.rest.is_empty() {
            fields.align(8)?;
            let code = fields.byte()?;
            match (code, &*fields.signature()?) {
                (REPLY_SERIAL, "u") => message.reply_to = Some(fields.number()?),
                (ERROR_NAME, "s") => message.error = Some(fields.text()?),
                (SIGNATURE, "g") => message.signature = fields.signature()?,
                (_, "u") => drop(fields.number()?),
                (_, "s" | "o") => drop(fields.text()?),
                _ => return Err(not_understood("a field of a message")),
            }
        }
        Ok(message)
    }

    pub(super) fn body(&self, signature: &str) -> Result<Reader<'_>, BusError> {
        match self.signature == signature {
            true => Ok(Reader::new(&self.body)),
            false => Err(not_understood("the type of an answer")),
        }
    }
}

/// Reads values. Missing bytes are an error.
pub(super) struct Reader<'a> {
    /// Needed for alignment.
    position: usize,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { position: 0, rest }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], BusError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(not_understood("a message that ends too early"))?;
        self.position += count;
        self.rest = rest;
        Ok(taken)
    }

    pub(super) fn align(&mut self, to: usize) -> Result<(), BusError> {
        let gap = self.position.next_multiple_of(to) - self.position;
        match self.take(gap)?.iter().all(|&byte| byte == 0) {
            true => Ok(()),
            false => Err(not_understood("the padding of a message")),
        }
    }

    fn byte(&mut self) -> Result<u8, BusError> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> Result<u32, BusError> {
        self.align(4)?;
        let bytes = self.take(4)?.try_into().expect("4 bytes");
        Ok(u32::from_ne_bytes(bytes))
    }

    pub(super) fn length(&mut self) -> Result<usize, BusError> {
        let length = self.number()? as usize;
        match length <= MAX_MESSAGE {
            true => Ok(length),
            false => Err(not_understood("a message that is too long")),
        }
    }

    /// A string, or the path of an object.
    pub(super) fn text(&mut self) -> Result<String, BusError> {
        let length = self.length()?;
        self.terminated(length)
    }

    pub(super) fn signature(&mut self) -> Result<String, BusError> {
        let length = self.byte()?;
        self.terminated(length.into())
    }

    fn terminated(&mut self, length: usize) -> Result<String, BusError> {
        let text = self.take(length)?;
        let text = std::str::from_utf8(text).map_err(|_| not_understood("text that is not UTF-8"))?;
        match self.byte()? {
            0 if !text.contains('\0') => Ok(text.to_owned()),
            _ => Err(not_understood("text that does not end")),
        }
    }

    pub(super) fn end(&self) -> Result<(), BusError> {
        match self.rest.is_empty() {
            true => Ok(()),
            false => Err(not_understood("more than was asked for")),
        }
    }
}

/// Writes values.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn align(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    fn length(&mut self, length: usize) {
        self.align(4);
        let length = u32::try_from(length).expect("questions are short");
        self.bytes.extend(length.to_ne_bytes());
    }

    pub(super) fn text(&mut self, text: &str) {
        self.length(text.len());
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }

    pub(super) fn signature(&mut self, text: &str) {
        self.bytes.push(text.len() as u8);
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
    }
}
