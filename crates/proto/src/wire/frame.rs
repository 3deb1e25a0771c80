//! Frames: what flows on a carrier once its hello was accepted.

use super::codec::{DecodeError, MAX_VARINT, Reader, peek_varint, put_bytes, put_varint};
use super::ids::{Epoch, Offset};
use super::text::PeerText;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Most bytes in one `DATA` frame.
pub const MAX_DATA: usize = 64 * 1024;

/// Most bytes that a `DATA` frame takes beside those that it carries.
pub const DATA_HEAD: usize = 1 + 2 * MAX_VARINT;

/// Most bytes of text in a `CLOSE` frame.
const MAX_CLOSE_MESSAGE: usize = 1024;

const DATA: u64 = 0x00;
const ACK: u64 = 0x01;
const FIN: u64 = 0x02;
const PING: u64 = 0x03;
const PONG: u64 = 0x04;
const DRAIN: u64 = 0x05;
const CLOSE: u64 = 0x06;
const RESUME: u64 = 0x07;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Bytes of the stream, from `offset` on.
    Data {
        /// Position of the first byte.
        offset: Offset,
        /// At most [`MAX_DATA`] bytes.
        bytes: Bytes,
    },
    /// Everything before `delivered` was written to its destination; the peer may send up to `delivered + window`.
    Ack {
        /// First position that was not yet written.
        delivered: Offset,
        /// Bytes beyond `delivered` that there is room for.
        window: u64,
    },
    /// The direction ends at `offset`. The end itself takes that one position.
    Fin {
        /// Position after the last byte.
        offset: Offset,
    },
    /// Asks for a [`Frame::Pong`] at once.
    Ping {
        /// Comes back in the answer.
        token: u64,
    },
    /// Answers a [`Frame::Ping`].
    Pong {
        /// The token of the question.
        token: u64,
    },
    /// The sender is about to be replaced: redial now.
    Drain,
    /// The session ends once everything sent before was delivered; nothing more is taken in the other direction.
    Close {
        /// Why.
        code: CloseCode,
        /// For people, at most 1 KiB.
        message: PeerText,
    },
    /// The carrier that brings it leads from now on. Said by the half that dials, on a carrier that stands by.
    Resume {
        /// Above every epoch that this client half ever sent for the session.
        epoch: Epoch,
        /// First position that the client half has not received.
        received: Offset,
        /// Bytes beyond `received` that it has room for.
        window: u64,
    },
}

/// Why a session was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// The upstream connection (sshd) ended and took no more bytes.
    UpstreamClosed,
    /// The local pipe (ssh) ended and took no more bytes.
    PipeClosed,
    /// The peer broke the protocol; offsets can no longer be trusted.
    Desync,
    /// Ended on purpose: by its owner, an operator or a limit.
    Ended,
}

impl CloseCode {
    const ALL: [(CloseCode, u64); 4] = [
        (CloseCode::UpstreamClosed, 1),
        (CloseCode::PipeClosed, 2),
        (CloseCode::Desync, 3),
        (CloseCode::Ended, 4),
    ];

    fn number(self) -> u64 {
        Self::ALL
            .iter()
            .find(|(code, _)| *code == self)
            .map_or(0, |(_, number)| *number)
    }

    fn from_number(number: u64) -> Result<CloseCode, DecodeError> {
        let known = Self::ALL.iter().find(|(_, known)| *known == number);
        known.map(|(code, _)| *code).ok_or(DecodeError::UnknownType {
            what: "close code",
            value: number,
        })
    }
}

impl Frame {
    /// Appends the frame to `out`.
    pub fn encode(&self, out: &mut impl BufMut) {
        match self {
            Frame::Data { offset, bytes } => Self::encode_data(*offset, bytes, out),
            Frame::Ack { delivered, window } => {
                put_varint(out, ACK);
                put_varint(out, delivered.get());
                put_varint(out, *window);
            }
            Frame::Fin { offset } => {
                put_varint(out, FIN);
                put_varint(out, offset.get());
            }
            Frame::Ping { token } => {
                put_varint(out, PING);
                out.put_u64(*token);
            }
            Frame::Pong { token } => {
                put_varint(out, PONG);
                out.put_u64(*token);
            }
            Frame::Drain => put_varint(out, DRAIN),
            Frame::Close { code, message } => {
                put_varint(out, CLOSE);
                put_varint(out, code.number());
                put_bytes(
                    out,
                    &message.as_bytes()[..message.floor_char_boundary(MAX_CLOSE_MESSAGE)],
                );
            }
            Frame::Resume {
                epoch,
                received,
                window,
            } => {
                put_varint(out, RESUME);
                put_varint(out, epoch.get().into());
                put_varint(out, received.get());
                put_varint(out, *window);
            }
        }
    }

    /// Appends a `DATA` frame whose bytes lie elsewhere, at most [`MAX_DATA`] of them.
    pub fn encode_data(offset: Offset, bytes: &[u8], out: &mut impl BufMut) {
        debug_assert!(bytes.len() <= MAX_DATA);
        put_varint(out, DATA);
        put_varint(out, offset.get());
        put_bytes(out, bytes);
    }

    /// Takes the frame at the front of `input`, or gives `None` while it is incomplete.
    ///
    /// Needs no more room than the largest frame: a length above its limit is an error at once.
    ///
    /// # Errors
    /// [`DecodeError`] for anything version 1 does not allow; the carrier is then useless.
    pub fn decode(input: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        let Some(len) = frame_len(input)? else { return Ok(None) };
        if input.len() < len {
            return Ok(None);
        }
        let mut reader = Reader::new(input.split_to(len).freeze());
        let frame = Frame::read(&mut reader)?;
        reader.finish()?;
        Ok(Some(frame))
    }

    fn read(reader: &mut Reader) -> Result<Frame, DecodeError> {
        match reader.varint("frame type", u64::MAX)? {
            DATA => {
                let offset = reader.offset("data offset")?;
                Ok(Frame::Data {
                    offset,
                    bytes: reader.bytes("data length", MAX_DATA)?,
                })
            }
            ACK => {
                let delivered = reader.offset("ack offset")?;
                Ok(Frame::Ack {
                    delivered,
                    window: reader.varint("ack window", Offset::MAX.get())?,
                })
            }
            FIN => Ok(Frame::Fin {
                offset: reader.offset("fin offset")?,
            }),
            PING => Ok(Frame::Ping {
                token: u64::from_be_bytes(reader.array("ping token")?),
            }),
            PONG => Ok(Frame::Pong {
                token: u64::from_be_bytes(reader.array("pong token")?),
            }),
            DRAIN => Ok(Frame::Drain),
            CLOSE => {
                let code = CloseCode::from_number(reader.varint("close code", u64::MAX)?)?;
                Ok(Frame::Close {
                    code,
                    message: reader.text("close message", MAX_CLOSE_MESSAGE)?,
                })
            }
            RESUME => Ok(Frame::Resume {
                epoch: Epoch::new(reader.varint("resume epoch", u32::MAX.into())? as u32),
                received: reader.offset("resume offset")?,
                window: reader.varint("resume window", Offset::MAX.get())?,
            }),
            value => Err(DecodeError::UnknownType { what: "frame", value }),
        }
    }
}

/// Takes frames from what arrives. A `DATA` frame is given in as many pieces as it arrives in, each a frame of its own: its
/// first bytes need not wait for the last ones, on a slow path for long.
#[derive(Debug, Default)]
pub struct FrameReader {
    /// Where the rest of a frame begins, and how much of it is still to come.
    rest: Option<(Offset, usize)>,
}

impl FrameReader {
    /// Takes the frame, or what is there of it, at the front of `input`; gives `None` while that is nothing.
    ///
    /// # Errors
    /// As [`Frame::decode`].
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, DecodeError> {
        if self.rest.is_none() {
            if let Some(frame) = Frame::decode(input)? {
                return Ok(Some(frame));
            }
            let Some((head, offset, len)) = data_head(input)? else {
                return Ok(None);
            };
            input.advance(head);
            self.rest = Some((offset, len));
        }
        let Some((offset, len)) = self.rest.filter(|_| !input.is_empty()) else {
            return Ok(None);
        };
        let bytes = input.split_to(len.min(input.len())).freeze();
        let left = len - bytes.len();
        self.rest = Some((offset.saturating_add(bytes.len() as u64), left)).filter(|_| left > 0);
        Ok(Some(Frame::Data { offset, bytes }))
    }
}

/// Length of the head of the `DATA` frame at the front of `input`, its offset, and how many bytes it carries.
fn data_head(input: &[u8]) -> Result<Option<(usize, Offset, usize)>, DecodeError> {
    let Some((DATA, at)) = peek_varint(input) else {
        return Ok(None);
    };
    let Some((offset, len)) = peek_varint(&input[at..]) else {
        return Ok(None);
    };
    let Some((carried, more)) = peek_varint(&input[at + len..]) else {
        return Ok(None);
    };
    if carried > MAX_DATA as u64 {
        return Err(DecodeError::TooLarge {
            field: "data length",
            value: carried,
            limit: MAX_DATA as u64,
        });
    }
    let offset = Offset::new(offset).expect("a varint is at most Offset::MAX");
    Ok(Some((at + len + more, offset, carried as usize)))
}

/// Length of the frame at the front of `input`, as soon as it can be told.
fn frame_len(input: &[u8]) -> Result<Option<usize>, DecodeError> {
    let Some((kind, type_len)) = peek_varint(input) else {
        return Ok(None);
    };
    let tail = &input[type_len..];
    let body = match kind {
        DATA => varint_len(tail, 0).and_then(|offset| sized_len(tail, offset)),
        ACK => varint_len(tail, 0).and_then(|delivered| varint_len(tail, delivered)),
        FIN => varint_len(tail, 0),
        PING | PONG => Some(size_of::<u64>()),
        DRAIN => Some(0),
        CLOSE => varint_len(tail, 0).and_then(|code| sized_len(tail, code)),
        RESUME => varint_len(tail, 0)
            .and_then(|epoch| varint_len(tail, epoch))
            .and_then(|received| varint_len(tail, received)),
        value => return Err(DecodeError::UnknownType { what: "frame", value }),
    };
    let Some(body) = body else { return Ok(None) };
    let limit = if kind == CLOSE { MAX_CLOSE_MESSAGE } else { MAX_DATA } + 2 * MAX_VARINT;
    if body > limit {
        return Err(DecodeError::TooLarge {
            field: "frame length",
            value: body as u64,
            limit: limit as u64,
        });
    }
    Ok(Some(type_len + body))
}

/// End of the varint that starts at `at`.
fn varint_len(bytes: &[u8], at: usize) -> Option<usize> {
    let (_, len) = peek_varint(bytes.get(at..)?)?;
    Some(at + len)
}

/// End of the length-prefixed bytes that start at `at`.
fn sized_len(bytes: &[u8], at: usize) -> Option<usize> {
    let (len, prefix) = peek_varint(bytes.get(at..)?)?;
    Some((at + prefix).saturating_add(usize::try_from(len).unwrap_or(usize::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let offset = (0..=Offset::MAX.get()).prop_map(|n| Offset::new(n).unwrap());
        prop_oneof![
            (offset.clone(), proptest::collection::vec(any::<u8>(), 0..3000)).prop_map(|(offset, bytes)| Frame::Data {
                offset,
                bytes: bytes.into()
            }),
            (offset.clone(), 0..1u64 << 62).prop_map(|(delivered, window)| Frame::Ack { delivered, window }),
            offset.clone().prop_map(|offset| Frame::Fin { offset }),
            any::<u64>().prop_map(|token| Frame::Ping { token }),
            any::<u64>().prop_map(|token| Frame::Pong { token }),
            Just(Frame::Drain),
            (any::<u32>(), offset.clone(), 0..1u64 << 62).prop_map(|(epoch, received, window)| Frame::Resume {
                epoch: Epoch::new(epoch),
                received,
                window
            }),
            (0usize..4, ".{0,40}").prop_map(|(n, message)| Frame::Close {
                code: CloseCode::ALL[n].0,
                message: PeerText::new(message)
            }),
        ]
    }

    /// Adds `frame`, to the last one if that ends where it begins.
    fn join(frames: &mut Vec<Frame>, frame: Frame) {
        match (frames.last_mut(), &frame) {
            (
                Some(Frame::Data { offset, bytes }),
                Frame::Data {
                    offset: next,
                    bytes: more,
                },
            ) if offset.saturating_add(bytes.len() as u64) == *next => {
                *bytes = [&bytes[..], more].concat().into();
            }
            _ => frames.push(frame),
        }
    }

    proptest! {
        #[test]
        fn frames_read_back_however_they_are_cut(frames in proptest::collection::vec(any_frame(), 1..8), cut in 1usize..700) {
            let mut wire = Vec::new();
            frames.iter().for_each(|frame| frame.encode(&mut wire));
            let (mut input, mut seen) = (BytesMut::new(), Vec::new());
            for piece in wire.chunks(cut) {
                input.extend_from_slice(piece);
                while let Some(frame) = Frame::decode(&mut input).unwrap() {
                    seen.push(frame);
                }
            }
            prop_assert_eq!(seen, frames);
        }

        #[test]
        fn frames_are_read_piece_by_piece_and_lack_nothing(frames in proptest::collection::vec(any_frame(), 1..8), cut in 1usize..700) {
            let mut wire = Vec::new();
            frames.iter().for_each(|frame| frame.encode(&mut wire));
            let (mut input, mut reader, mut seen) = (BytesMut::new(), FrameReader::default(), Vec::new());
            for piece in wire.chunks(cut) {
                input.extend_from_slice(piece);
                while let Some(frame) = reader.next(&mut input).unwrap() {
                    join(&mut seen, frame);
                }
                prop_assert!(input.len() <= MAX_CLOSE_MESSAGE + DATA_HEAD, "bytes of the stream wait for nothing");
            }
            let mut joined = Vec::new();
            frames.into_iter().for_each(|frame| join(&mut joined, frame));
            prop_assert_eq!(seen, joined);
        }

        #[test]
        fn garbage_never_panics_and_never_makes_us_wait_for_more_than_a_frame(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut input = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::decode(&mut input) {}
            if let Ok(Some(len)) = frame_len(&input) {
                prop_assert!(len <= MAX_DATA + 3 * MAX_VARINT);
            }
        }
    }

    #[test]
    fn a_data_frame_above_the_limit_is_refused_before_its_bytes_arrive() {
        let mut input = BytesMut::new();
        put_varint(&mut input, DATA);
        put_varint(&mut input, 0);
        put_varint(&mut input, 1 << 40);
        assert!(matches!(Frame::decode(&mut input), Err(DecodeError::TooLarge { .. })));
        let mut input = BytesMut::new();
        put_varint(&mut input, DATA);
        put_varint(&mut input, 0);
        put_varint(&mut input, MAX_DATA as u64 + 1);
        let read = FrameReader::default().next(&mut input);
        assert!(matches!(read, Err(DecodeError::TooLarge { .. })));
    }
}
