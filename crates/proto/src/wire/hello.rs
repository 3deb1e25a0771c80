//! Hello messages: the first messages on a carrier, before frames.
//!
//! Each message is a length, a type and its fields. A message is whole before any of it is used.

use super::codec::{DecodeError, Reader, peek_varint, put_bytes, put_varint};
use super::ids::{Epoch, Offset, SessionId};
use super::probe::Probe;
use super::text::UserName;
use bytes::{BufMut, Bytes, BytesMut};

/// Most bytes of one hello message, in either direction.
pub const MAX_HELLO: usize = 16 * 1024;
/// Most statements in a [`Host`].
pub const MAX_STATEMENTS: usize = 16;
/// Most bytes of the stream in an [`Open`].
pub const MAX_FIRST: usize = 1024;

/// Most authorizations in an [`Open`].
pub const MAX_AUTHORIZATIONS: usize = 8;

/// Most bytes of one key or certificate.
pub const MAX_KEY: usize = 8 * 1024;
/// Most bytes of one signature.
pub const MAX_SIGNATURE: usize = 4 * 1024;

const HOST: u64 = 0x10;
const OPEN: u64 = 0x20;
const RESUME: u64 = 0x21;
const STANDBY: u64 = 0x22;
const PROBE: u64 = 0x23;
const REAP: u64 = 0x24;
const WAIT: u64 = 0x25;
const KEY_QUERY: u64 = 0x26;

/// The server half's first message: its SSH host keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// One for each host key and host certificate, at most [`MAX_STATEMENTS`].
    pub statements: Vec<Statement>,
}

/// An SSH host key's signature over the server half's TLS key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Host key or host certificate (RFC 4253 section 6.6, PROTOCOL.certkeys).
    pub key: Bytes,
    /// SSHSIG blob, namespace `bowline-host`.
    pub signature: Bytes,
}

/// A user key's signature over one `Open`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// User key or user certificate.
    pub key: Bytes,
    /// SSHSIG blob, namespace `bowline-open`.
    pub signature: Bytes,
}

/// The client half's hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// Open a session, or attach to the one that the same message opened before.
    Open(Open),
    /// Make this carrier the lead of a session.
    Resume(Resume),
    /// Use this carrier as a standby carrier of an open session.
    Standby {
        /// The session.
        session: SessionId,
    },
    /// Ask what an `Open` would find.
    Probe(Probe),
    /// End a session whose client process died.
    Reap(Reap),
    /// Wait longer for the next hello, because the user or an agent is being asked. Not answered.
    Wait,
    /// Ask which of these keys would be accepted, before one of them signs.
    KeyQuery(KeyQuery),
}

/// Asks which of these keys would open a session. None has signed anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyQuery {
    /// [`super::VERSION`].
    pub version: u32,
    /// User name on the server's machine.
    pub user: UserName,
    /// User keys and user certificates, the best first; at most [`MAX_AUTHORIZATIONS`].
    pub keys: Vec<Bytes>,
}

/// Asks for a session. Idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// [`super::VERSION`].
    pub version: u32,
    /// Chosen by the client half at random.
    pub session: SessionId,
    /// Epoch of this carrier as lead.
    pub epoch: Epoch,
    /// User name on the server's machine.
    pub user: UserName,
    /// At most [`MAX_AUTHORIZATIONS`].
    pub authorizations: Vec<Authorization>,
    /// Bytes that the server half may send before the first `ACK`.
    pub window: u64,
    /// SHA-256 of the token that can end this session (and cannot attach to it).
    pub reap_hash: [u8; 32],
    /// The first bytes of the stream, as if they came in a `DATA` frame right after the answer. At most [`MAX_FIRST`].
    pub first: Bytes,
}

/// Makes a carrier the lead of an open session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The session.
    pub session: SessionId,
    /// Above every epoch that this client half ever sent for the session.
    pub epoch: Epoch,
    /// First position that the client half has not received.
    pub received: Offset,
    /// Bytes beyond `received` that it has room for.
    pub window: u64,
}

/// Ends a session whose client process died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reap {
    /// The session.
    pub session: SessionId,
    /// The token whose hash is `reap_hash`.
    pub token: [u8; 32],
}

/// Takes one whole message (without its length) from the front of `input`, or `None` while it is incomplete.
///
/// # Errors
/// [`DecodeError::TooLarge`] as soon as a length above [`MAX_HELLO`] is seen.
pub fn next_message(input: &mut BytesMut) -> Result<Option<Bytes>, DecodeError> {
    let Some((len, prefix)) = peek_varint(input) else {
        return Ok(None);
    };
    if len > MAX_HELLO as u64 {
        return Err(DecodeError::TooLarge {
            field: "hello length",
            value: len,
            limit: MAX_HELLO as u64,
        });
    }
    if input.len() < prefix + len as usize {
        return Ok(None);
    }
    let _ = input.split_to(prefix);
    Ok(Some(input.split_to(len as usize).freeze()))
}

/// Writes one message with its length in front.
pub(super) fn framed(kind: u64, body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut message = BytesMut::new();
    put_varint(&mut message, kind);
    body(&mut message);
    let mut out = BytesMut::with_capacity(message.len() + 4);
    put_bytes(&mut out, &message);
    out.freeze()
}

/// Takes the list of (key, signature) pairs that [`Host`] and [`Open`] share.
pub(super) fn read_signed(
    reader: &mut Reader,
    field: &'static str,
    limit: usize,
) -> Result<Vec<(Bytes, Bytes)>, DecodeError> {
    let count = reader.varint(field, limit as u64)?;
    (0..count)
        .map(|_| Ok((reader.bytes("key", MAX_KEY)?, reader.bytes("signature", MAX_SIGNATURE)?)))
        .collect()
}

pub(super) fn put_signed<'a>(out: &mut BytesMut, pairs: impl ExactSizeIterator<Item = (&'a Bytes, &'a Bytes)>) {
    put_varint(out, pairs.len() as u64);
    for (key, signature) in pairs {
        put_bytes(out, key);
        put_bytes(out, signature);
    }
}

pub(super) fn read_authorizations(reader: &mut Reader) -> Result<Vec<Authorization>, DecodeError> {
    let pairs = read_signed(reader, "authorizations", MAX_AUTHORIZATIONS)?;
    let authorizations = pairs
        .into_iter()
        .map(|(key, signature)| Authorization { key, signature });
    Ok(authorizations.collect())
}

pub(super) fn put_authorizations(out: &mut BytesMut, authorizations: &[Authorization]) {
    put_signed(out, authorizations.iter().map(|a| (&a.key, &a.signature)));
}

fn read_u32(reader: &mut Reader, field: &'static str) -> Result<u32, DecodeError> {
    Ok(reader.varint(field, u32::MAX.into())? as u32)
}

impl Host {
    /// The message with its length.
    pub fn encode(&self) -> Bytes {
        framed(HOST, |out| {
            put_signed(out, self.statements.iter().map(|s| (&s.key, &s.signature)))
        })
    }

    /// Reads what [`next_message`] gave.
    ///
    /// # Errors
    /// Anything that is not exactly one `Host`.
    pub fn decode(message: Bytes) -> Result<Host, DecodeError> {
        let mut reader = Reader::new(message);
        match reader.varint("message type", u64::MAX)? {
            HOST => {}
            value => return Err(DecodeError::UnknownType { what: "message", value }),
        }
        let pairs = read_signed(&mut reader, "statements", MAX_STATEMENTS)?;
        reader.finish()?;
        let statements = pairs
            .into_iter()
            .map(|(key, signature)| Statement { key, signature })
            .collect();
        Ok(Host { statements })
    }
}

impl Hello {
    /// The message with its length.
    pub fn encode(&self) -> Bytes {
        match self {
            Hello::Open(open) => framed(OPEN, |out| open.put(out)),
            Hello::Resume(resume) => framed(RESUME, |out| resume.put(out)),
            Hello::Standby { session } => framed(STANDBY, |out| out.put_slice(session.as_bytes())),
            Hello::Probe(probe) => framed(PROBE, |out| probe.put(out)),
            Hello::Reap(reap) => framed(REAP, |out| {
                out.put_slice(reap.session.as_bytes());
                out.put_slice(&reap.token);
            }),
            Hello::Wait => framed(WAIT, |_| {}),
            Hello::KeyQuery(query) => framed(KEY_QUERY, |out| query.put(out)),
        }
    }

    /// Reads what [`next_message`] gave.
    ///
    /// # Errors
    /// Anything that is not exactly one hello of version 1.
    pub fn decode(message: Bytes) -> Result<Hello, DecodeError> {
        let mut reader = Reader::new(message);
        let hello = match reader.varint("message type", u64::MAX)? {
            OPEN => Hello::Open(Open::read(&mut reader)?),
            RESUME => Hello::Resume(Resume::read(&mut reader)?),
            STANDBY => Hello::Standby {
                session: SessionId::new(reader.array("session")?),
            },
            PROBE => Hello::Probe(Probe::read(&mut reader)?),
            REAP => {
                let session = SessionId::new(reader.array("session")?);
                Hello::Reap(Reap {
                    session,
                    token: reader.array("token")?,
                })
            }
            WAIT => Hello::Wait,
            KEY_QUERY => Hello::KeyQuery(KeyQuery::read(&mut reader)?),
            value => return Err(DecodeError::UnknownType { what: "message", value }),
        };
        reader.finish()?;
        Ok(hello)
    }
}

impl Open {
    fn put(&self, out: &mut BytesMut) {
        put_varint(out, self.version.into());
        out.put_slice(self.session.as_bytes());
        put_varint(out, self.epoch.get().into());
        put_bytes(out, self.user.as_bytes());
        put_authorizations(out, &self.authorizations);
        put_varint(out, self.window);
        out.put_slice(&self.reap_hash);
        put_bytes(out, &self.first);
    }

    fn read(reader: &mut Reader) -> Result<Open, DecodeError> {
        let version = reader.version()?;
        let session = SessionId::new(reader.array("session")?);
        let epoch = Epoch::new(read_u32(reader, "epoch")?);
        let user = reader.user_name()?;
        let authorizations = read_authorizations(reader)?;
        let window = reader.varint("window", Offset::MAX.get())?;
        let reap_hash = reader.array("reap hash")?;
        let first = reader.bytes("first bytes", MAX_FIRST)?;
        Ok(Open {
            version,
            session,
            epoch,
            user,
            authorizations,
            window,
            reap_hash,
            first,
        })
    }
}

impl KeyQuery {
    fn put(&self, out: &mut BytesMut) {
        put_varint(out, self.version.into());
        put_bytes(out, self.user.as_bytes());
        put_varint(out, self.keys.len() as u64);
        for key in &self.keys {
            put_bytes(out, key);
        }
    }

    fn read(reader: &mut Reader) -> Result<KeyQuery, DecodeError> {
        let version = reader.version()?;
        let user = reader.user_name()?;
        let count = reader.varint("keys", MAX_AUTHORIZATIONS as u64)?;
        let keys = (0..count).map(|_| reader.bytes("key", MAX_KEY));
        Ok(KeyQuery {
            version,
            user,
            keys: keys.collect::<Result<_, _>>()?,
        })
    }
}

impl Resume {
    fn put(&self, out: &mut BytesMut) {
        out.put_slice(self.session.as_bytes());
        put_varint(out, self.epoch.get().into());
        put_varint(out, self.received.get());
        put_varint(out, self.window);
    }

    fn read(reader: &mut Reader) -> Result<Resume, DecodeError> {
        Ok(Resume {
            session: SessionId::new(reader.array("session")?),
            epoch: Epoch::new(read_u32(reader, "epoch")?),
            received: reader.offset("received")?,
            window: reader.varint("window", Offset::MAX.get())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn an_open() -> Open {
        Open {
            version: 1,
            session: SessionId::new([7; 16]),
            epoch: Epoch::new(300),
            user: UserName::new("ada").unwrap(),
            authorizations: vec![
                Authorization {
                    key: vec![1; 300].into(),
                    signature: vec![2; 500].into()
                };
                8
            ],
            window: 1 << 23,
            reap_hash: [9; 32],
            first: vec![4; MAX_FIRST].into(),
        }
    }

    fn whole(encoded: Bytes) -> Bytes {
        let mut input = BytesMut::from(&encoded[..]);
        let message = next_message(&mut input).unwrap().unwrap();
        assert!(input.is_empty());
        message
    }

    #[test]
    fn every_message_reads_back() {
        let (session, received) = (SessionId::new([7; 16]), Offset::new(1 << 40).unwrap());
        for hello in [
            Hello::Open(an_open()),
            Hello::Resume(Resume {
                session,
                epoch: Epoch::new(2),
                received,
                window: 9,
            }),
            Hello::Standby { session },
            Hello::Reap(Reap {
                session,
                token: [3; 32],
            }),
            Hello::KeyQuery(KeyQuery {
                version: 1,
                user: UserName::new("ada").unwrap(),
                keys: vec![vec![1; 300].into(), Bytes::new()],
            }),
        ] {
            assert_eq!(Hello::decode(whole(hello.encode())).unwrap(), hello);
        }
        let host = Host {
            statements: vec![Statement {
                key: vec![1; 30].into(),
                signature: vec![2; 50].into(),
            }],
        };
        assert_eq!(Host::decode(whole(host.encode())).unwrap(), host);
    }

    #[test]
    fn an_open_cut_anywhere_is_incomplete_or_an_error() {
        let encoded = Hello::Open(an_open()).encode();
        for cut in 0..encoded.len() {
            assert_eq!(next_message(&mut BytesMut::from(&encoded[..cut])), Ok(None));
        }
        let message = whole(encoded);
        for cut in 0..message.len() {
            assert!(Hello::decode(message.slice(..cut)).is_err());
        }
    }

    #[test]
    fn an_open_of_another_version_is_told_apart_whatever_follows() {
        let encoded = framed(OPEN, |out| out.put_slice(&[2, 0xff, 0xff]));
        assert_eq!(Hello::decode(whole(encoded)), Err(DecodeError::Version { version: 2 }));
    }

    #[test]
    fn an_oversized_hello_is_refused_at_its_length() {
        let mut input = BytesMut::new();
        put_varint(&mut input, MAX_HELLO as u64 + 1);
        assert!(matches!(next_message(&mut input), Err(DecodeError::TooLarge { .. })));
    }

    #[test]
    fn more_authorizations_than_allowed_are_refused() {
        let mut open = an_open();
        open.authorizations.push(open.authorizations[0].clone());
        let decoded = Hello::decode(whole(Hello::Open(open).encode()));
        assert!(matches!(
            decoded,
            Err(DecodeError::TooLarge {
                field: "authorizations",
                value: 9,
                limit: 8
            })
        ));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let bytes = Bytes::from(bytes);
            let _ = (Hello::decode(bytes.clone()), crate::wire::Answer::decode(bytes.clone()), Host::decode(bytes));
        }
    }
}
