//! What a fuzzer feeds to the wire format: one function for each kind of input. It panics if a promise is broken.
//!
//! Compiled for the unit tests, which replay the inputs of `fuzz/`, and with `--cfg fuzzing`; never for users.

use std::error::Error;

use bytes::{Bytes, BytesMut};

use crate::wire::{
    Answer, DATA_HEAD, DecodeError, ErrorChain, Frame, FrameReader, Hello, Host, MAX_HELLO, RelayMessage, is_active,
    missing_bytes, next_message,
};

/// Most bytes of a frame other than `DATA`, whose bytes wait for nothing: the head and the message of a `CLOSE`.
const MAX_WAITING: usize = DATA_HEAD + 1024;

/// Frames as they arrive on a carrier. The first four bytes are the lengths of the pieces.
///
/// # Panics
/// If the pieces say something else than the whole, or a frame does not read back.
pub fn frames(input: &[u8]) {
    let Some((lengths, stream)) = input.split_first_chunk::<4>() else {
        return;
    };
    let whole = read_whole(stream);
    let pieces = read_pieces(stream, lengths);
    let complete = pieces.frames.iter().zip(&whole.frames).all(|(piece, frame)| {
        let is_begun = |(one, other): (&Frame, &Frame)| match (one, other) {
            (Frame::Data { offset, bytes }, Frame::Data { offset: at, bytes: all }) => {
                offset == at && bytes.starts_with(all)
            }
            _ => one == other,
        };
        is_begun((piece, frame))
    });
    assert!(complete, "{:?} in pieces, {:?} at once", pieces.frames, whole.frames);
    // The pieces of an incomplete frame are there before its end.
    assert!((whole.frames.len()..=whole.frames.len() + 1).contains(&pieces.frames.len()));
    // A length that no frame has is an error before its end, which the whole may be waiting for.
    assert!(pieces.is_broken || !whole.is_broken);
}

/// What was read until the end or an error.
#[derive(Default)]
struct Read {
    /// Neighbouring pieces of the stream are one frame.
    frames: Vec<Frame>,
    is_broken: bool,
}

impl Read {
    /// Takes one result; returns whether to go on.
    fn take(&mut self, result: Result<Option<Frame>, DecodeError>) -> bool {
        match result {
            Ok(Some(frame)) => {
                check_frame(&frame);
                self.join(frame);
                true
            }
            Ok(None) => false,
            Err(error) => {
                check_error(&error);
                self.is_broken = true;
                false
            }
        }
    }

    fn join(&mut self, frame: Frame) {
        match (self.frames.last_mut(), &frame) {
            (
                Some(Frame::Data { offset, bytes }),
                Frame::Data {
                    offset: next,
                    bytes: more,
                },
            ) if offset.saturating_add(bytes.len() as u64) == *next => *bytes = [&bytes[..], more].concat().into(),
            _ => self.frames.push(frame),
        }
    }
}

fn read_whole(stream: &[u8]) -> Read {
    let (mut input, mut read) = (BytesMut::from(stream), Read::default());
    while read.take(Frame::decode(&mut input)) {}
    read
}

fn read_pieces(stream: &[u8], lengths: &[u8; 4]) -> Read {
    let (mut input, mut reader, mut read) = (BytesMut::new(), FrameReader::default(), Read::default());
    let (mut rest, mut lengths) = (stream, lengths.iter().cycle());
    while !rest.is_empty() && !read.is_broken {
        let length = lengths.next().map_or(1, |length| usize::from(*length).max(1));
        let (piece, more) = rest.split_at(length.min(rest.len()));
        rest = more;
        input.extend_from_slice(piece);
        while read.take(reader.next(&mut input)) {}
        assert!(read.is_broken || input.len() <= MAX_WAITING, "bytes of the stream wait");
    }
    read
}

fn check_frame(frame: &Frame) {
    if let Frame::Close { message, .. } = frame {
        check_text(message);
    }
    let mut encoded = BytesMut::new();
    frame.encode(&mut encoded);
    assert_eq!(Frame::decode(&mut encoded).as_ref(), Ok(&Some(frame.clone())));
    assert!(encoded.is_empty());
}

/// The first messages on a carrier, of both halves.
///
/// # Panics
/// If a message does not read back, or an error shows what a terminal would obey.
pub fn hello(input: &[u8]) {
    messages(input, |message| {
        read_back(message.clone(), Host::decode, Host::encode);
        read_back(message.clone(), Hello::decode, Hello::encode);
        if let Some(answer) = read_back(message, Answer::decode, Answer::encode) {
            check_text(&format!("{answer:?}"));
        }
    });
}

/// Messages between a relay and a half.
///
/// # Panics
/// As [`hello`].
pub fn relay(input: &[u8]) {
    messages(input, |message| {
        if let Some(message) = read_back(message, RelayMessage::decode, RelayMessage::encode) {
            check_text(&format!("{message:?}"));
        }
    });
}

/// Gives the messages of a stream, and checks that both ways to find their ends agree.
fn messages(stream: &[u8], mut read: impl FnMut(Bytes)) {
    let mut input = BytesMut::from(stream);
    loop {
        let missing = missing_bytes(&input);
        match next_message(&mut input) {
            Ok(Some(message)) => {
                assert_eq!(missing, Ok(0));
                assert!(message.len() <= MAX_HELLO);
                read(message);
            }
            Ok(None) => {
                assert!(matches!(missing, Ok(1..)), "{missing:?}");
                return;
            }
            Err(error) => {
                check_error(&error);
                assert!(missing.is_err());
                return;
            }
        }
    }
}

/// Decodes a message. What it says must be the same after it was encoded.
fn read_back<T: PartialEq + std::fmt::Debug>(
    message: Bytes,
    decode: impl Fn(Bytes) -> Result<T, DecodeError>,
    encode: impl Fn(&T) -> Bytes,
) -> Option<T> {
    match decode(message) {
        Ok(value) => {
            let mut encoded = BytesMut::from(&encode(&value)[..]);
            let again = next_message(&mut encoded).expect("our own length");
            let again = again.expect("a whole message");
            assert_eq!(decode(again).as_ref(), Ok(&value));
            Some(value)
        }
        Err(error) => {
            check_error(&error);
            None
        }
    }
}

/// Checks what is shown of an error.
fn check_error(error: &(dyn Error + 'static)) {
    check_text(&ErrorChain(error).to_string());
}

/// Checks that no terminal obeys a text that is shown.
fn check_text(text: &str) {
    assert!(!text.contains(is_active), "{text:?}");
}

#[cfg(test)]
mod tests;
