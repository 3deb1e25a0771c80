//! Messages to and from a relay, before it splices bytes.
//!
//! A relay never sees what the halves send to each other; these are the only messages that it understands.

use super::codec::{DecodeError, Reader, peek_varint, put_varint};
use super::hello::{MAX_HELLO, MAX_STATEMENTS, Statement, framed, put_signed, read_signed};
use super::refusal::{Refusal, RelayRefusalCode};
use bytes::{BufMut, Bytes, BytesMut};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::fmt;

/// The ALPN protocol name of version 1 of the protocol with relays.
pub const RELAY_ALPN: &[u8] = b"bowline-relay/1";

/// Most fingerprints in a [`RelayMessage::Reach`].
pub const MAX_FINGERPRINTS: usize = 32;

const MAX_LEN: u64 = MAX_HELLO as u64;

const REGISTER: u64 = 0x40;
const REACH: u64 = 0x41;
const ANSWER: u64 = 0x42;
const REGISTERED: u64 = 0x50;
const REACHED: u64 = 0x51;
const INCOMING: u64 = 0x52;
const DIAL: u64 = 0x53;
const DRAINING: u64 = 0x54;
const REPLACED: u64 = 0x55;
const REFUSED: u64 = 0x56;
const PING: u64 = 0x57;
const PONG: u64 = 0x58;

/// SHA-256 of a public key: an SSH host key in its wire form, as `ssh-keygen -l` shows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// From its bytes.
    pub const fn new(bytes: [u8; 32]) -> KeyDigest {
        KeyDigest(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// As `ssh-keygen -l`: `SHA256:` and base64 without padding.
impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::with_capacity(43);
        for group in self.0.chunks(3) {
            let bits = (0..3).fold(0u32, |bits, at| bits << 8 | u32::from(*group.get(at).unwrap_or(&0)));
            let digits = (0..=group.len()).map(|at| ALPHABET[(bits >> (18 - 6 * at) & 0x3f) as usize]);
            text.extend(digits.map(char::from));
        }
        write!(f, "SHA256:{text}")
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Lets a server half that has no streams answer one [`RelayMessage::Dial`]. Random, and good for one use.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DialToken([u8; 32]);

impl DialToken {
    /// From 32 random bytes.
    pub const fn new(bytes: [u8; 32]) -> DialToken {
        DialToken(bytes)
    }
}

/// Does not show the value: whoever has it can take the server half's place.
impl fmt::Debug for DialToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DialToken(..)")
    }
}

/// A message between a relay and a half.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelayMessage {
    /// Server half: register under these host keys. They are those of [`Host`](super::Host), and prove the TLS key of
    /// this very connection.
    Register {
        /// At most [`MAX_STATEMENTS`].
        statements: Vec<Statement>,
    },
    /// Client half: connect to a server half that has proved one of these keys.
    Reach {
        /// At most [`MAX_FINGERPRINTS`], the most wanted first.
        fingerprints: Vec<KeyDigest>,
    },
    /// Server half, on a connection of its own: the other end for a [`RelayMessage::Dial`].
    Answer {
        /// As it was given.
        token: DialToken,
    },
    /// Relay: registered.
    Registered {
        /// Under how many keys.
        keys: u64,
    },
    /// Relay: from now on this stream is connected to a server half.
    Reached,
    /// Relay, first on a new stream to a server half: from now on it is connected to a client.
    Incoming {
        /// The client's address according to the relay.
        source: SocketAddr,
    },
    /// Relay, to a server half on whose connection it cannot open streams: dial the relay, and send
    /// [`RelayMessage::Answer`].
    Dial {
        /// Random, for one use, soon.
        token: DialToken,
        /// The client's address according to the relay.
        source: SocketAddr,
    },
    /// Relay: about to stop; register elsewhere.
    Draining,
    /// Relay: newer connections with the same TLS key are registered instead of this one.
    Replaced,
    /// Relay: refused.
    Refused(Refusal<RelayRefusalCode>),
    /// Either: keepalive.
    Ping,
    /// The answer to it.
    Pong,
}

impl RelayMessage {
    /// The message with its length.
    pub fn encode(&self) -> Bytes {
        match self {
            RelayMessage::Register { statements } => framed(REGISTER, |out| {
                put_signed(out, statements.iter().map(|s| (&s.key, &s.signature)))
            }),
            RelayMessage::Reach { fingerprints } => framed(REACH, |out| {
                put_varint(out, fingerprints.len() as u64);
                fingerprints.iter().for_each(|digest| out.put_slice(&digest.0));
            }),
            RelayMessage::Answer { token } => framed(ANSWER, |out| out.put_slice(&token.0)),
            RelayMessage::Registered { keys } => framed(REGISTERED, |out| put_varint(out, *keys)),
            RelayMessage::Reached => framed(REACHED, |_| {}),
            RelayMessage::Incoming { source } => framed(INCOMING, |out| put_address(out, *source)),
            RelayMessage::Dial { token, source } => framed(DIAL, |out| {
                out.put_slice(&token.0);
                put_address(out, *source);
            }),
            RelayMessage::Draining => framed(DRAINING, |_| {}),
            RelayMessage::Replaced => framed(REPLACED, |_| {}),
            RelayMessage::Refused(refusal) => framed(REFUSED, |out| refusal.put(out)),
            RelayMessage::Ping => framed(PING, |_| {}),
            RelayMessage::Pong => framed(PONG, |_| {}),
        }
    }

    /// Reads what [`next_message`](super::next_message) gave.
    ///
    /// # Errors
    /// Anything that is not exactly one message of version 1.
    pub fn decode(message: Bytes) -> Result<RelayMessage, DecodeError> {
        let mut reader = Reader::new(message);
        let message = match reader.varint("message type", u64::MAX)? {
            REGISTER => RelayMessage::Register {
                statements: read_statements(&mut reader)?,
            },
            REACH => RelayMessage::Reach {
                fingerprints: read_fingerprints(&mut reader)?,
            },
            ANSWER => RelayMessage::Answer {
                token: DialToken(reader.array("token")?),
            },
            REGISTERED => RelayMessage::Registered {
                keys: reader.varint("keys", MAX_STATEMENTS as u64 + 1)?,
            },
            REACHED => RelayMessage::Reached,
            INCOMING => RelayMessage::Incoming {
                source: read_address(&mut reader)?,
            },
            DIAL => RelayMessage::Dial {
                token: DialToken(reader.array("token")?),
                source: read_address(&mut reader)?,
            },
            DRAINING => RelayMessage::Draining,
            REPLACED => RelayMessage::Replaced,
            REFUSED => RelayMessage::Refused(Refusal::read(&mut reader)?),
            PING => RelayMessage::Ping,
            PONG => RelayMessage::Pong,
            value => return Err(DecodeError::UnknownType { what: "message", value }),
        };
        reader.finish()?;
        Ok(message)
    }
}

/// The least number of bytes that are missing until `input` is a whole message; 0 if none is missing.
///
/// A reader that reads no more than this never takes bytes that follow the message.
///
/// # Errors
/// [`DecodeError::TooLarge`] as soon as a length above [`MAX_HELLO`] is seen.
pub fn missing_bytes(input: &[u8]) -> Result<usize, DecodeError> {
    let Some(first) = input.first() else { return Ok(1) };
    let Some((length, prefix)) = peek_varint(input) else {
        return Ok((1 << (first >> 6)) - input.len());
    };
    match length {
        ..=MAX_LEN => Ok((prefix + length as usize).saturating_sub(input.len())),
        value => Err(DecodeError::TooLarge {
            field: "message length",
            value,
            limit: MAX_LEN,
        }),
    }
}

fn read_statements(reader: &mut Reader) -> Result<Vec<Statement>, DecodeError> {
    let pairs = read_signed(reader, "statements", MAX_STATEMENTS)?;
    let statements = pairs.into_iter().map(|(key, signature)| Statement { key, signature });
    Ok(statements.collect())
}

fn read_fingerprints(reader: &mut Reader) -> Result<Vec<KeyDigest>, DecodeError> {
    let count = reader.varint("fingerprints", MAX_FINGERPRINTS as u64)?;
    (0..count)
        .map(|_| Ok(KeyDigest(reader.array("fingerprint")?)))
        .collect()
}

/// Family, 4 or 6; the address; the port in two bytes, big-endian.
fn put_address(out: &mut BytesMut, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(v4) => {
            put_varint(out, 4);
            out.put_slice(&v4.octets());
        }
        IpAddr::V6(v6) => {
            put_varint(out, 6);
            out.put_slice(&v6.octets());
        }
    }
    out.put_u16(address.port());
}

fn read_address(reader: &mut Reader) -> Result<SocketAddr, DecodeError> {
    let ip = match reader.varint("address family", u64::MAX)? {
        4 => IpAddr::V4(Ipv4Addr::from(reader.array::<4>("address")?)),
        6 => IpAddr::V6(Ipv6Addr::from(reader.array::<16>("address")?)),
        value => {
            return Err(DecodeError::UnknownType {
                what: "address family",
                value,
            });
        }
    };
    let port = u16::from_be_bytes(reader.array("port")?);
    Ok(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::super::codec::put_bytes;
    use super::super::hello::next_message;
    use super::super::refusal::Code;
    use super::*;
    use proptest::prelude::*;

    fn words() -> Vec<RelayMessage> {
        let source = "[2001:db8::1]:4022".parse().unwrap();
        let token = DialToken::new([3; 32]);
        let mut words = vec![
            RelayMessage::Register {
                statements: vec![Statement {
                    key: vec![1; 30].into(),
                    signature: vec![2; 50].into(),
                }],
            },
            RelayMessage::Reach {
                fingerprints: vec![KeyDigest::new([7; 32]); MAX_FINGERPRINTS],
            },
            RelayMessage::Answer { token },
            RelayMessage::Registered { keys: 3 },
            RelayMessage::Reached,
            RelayMessage::Incoming { source },
            RelayMessage::Dial {
                token,
                source: "192.0.2.1:1".parse().unwrap(),
            },
            RelayMessage::Draining,
            RelayMessage::Replaced,
            RelayMessage::Ping,
            RelayMessage::Pong,
        ];
        words.extend(RelayRefusalCode::ALL.iter().map(|(code, _)| {
            RelayMessage::Refused(Refusal {
                code: *code,
                message: "why".into(),
            })
        }));
        words
    }

    fn whole(encoded: &Bytes) -> Bytes {
        next_message(&mut BytesMut::from(&encoded[..])).unwrap().unwrap()
    }

    #[test]
    fn every_word_reads_back_and_none_that_is_cut_does() {
        for word in words() {
            let message = whole(&word.encode());
            for cut in 0..message.len() {
                assert!(
                    RelayMessage::decode(message.slice(..cut)).is_err(),
                    "{word:?} cut at {cut}"
                );
            }
            assert_eq!(RelayMessage::decode(message), Ok(word));
        }
    }

    #[test]
    fn more_fingerprints_than_allowed_are_refused() {
        let fingerprints = vec![KeyDigest::new([7; 32]); MAX_FINGERPRINTS + 1];
        let message = whole(&RelayMessage::Reach { fingerprints }.encode());
        assert!(matches!(
            RelayMessage::decode(message),
            Err(DecodeError::TooLarge { .. })
        ));
    }

    #[test]
    fn a_message_read_by_what_is_missing_is_taken_exactly() {
        for length in [0, 1, 63, 64, 5_000, MAX_HELLO] {
            let mut stream = BytesMut::new();
            put_bytes(&mut stream, &vec![5; length]);
            let whole = stream.len();
            stream.extend_from_slice(b"what follows");
            let mut taken = 0;
            while let missing @ 1.. = missing_bytes(&stream[..taken]).unwrap() {
                taken += missing;
            }
            assert_eq!(taken, whole, "{length}");
        }
        let mut too_long = BytesMut::new();
        put_varint(&mut too_long, MAX_LEN + 1);
        assert!(missing_bytes(&too_long).is_err());
    }

    #[test]
    fn a_digest_is_shown_as_ssh_keygen_shows_it() {
        // printf '' | sha256sum, in base64.
        let digest = KeyDigest::new([
            0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae,
            0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
        ]);
        assert_eq!(digest.to_string(), "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU");
    }

    #[test]
    fn a_token_is_shown_to_nobody() {
        assert_eq!(format!("{:?}", DialToken::new([3; 32])), "DialToken(..)");
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = RelayMessage::decode(Bytes::from(bytes));
        }
    }
}
