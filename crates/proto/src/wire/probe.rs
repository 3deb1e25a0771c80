//! `Probe` and its answer: whether a path can carry a session, and which settings of sshd would end one.

use super::codec::{DecodeError, Reader, put_bytes, put_varint};
use super::hello::{Authorization, MAX_AUTHORIZATIONS, put_authorizations, read_authorizations};
use super::ids::{Offset, SessionId};
use super::text::{PeerText, UserName};
use bytes::{BufMut, BytesMut};

/// Most limits in a [`Probed`].
pub const MAX_LIMITS: usize = 16;

const MAX_SOFTWARE: usize = 64;
/// RFC 4253 section 4.2.
const MAX_BANNER: usize = 255;
const MAX_WORDS: usize = 512;

/// Asks what an `Open` over this carrier would find. Makes no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// [`super::VERSION`].
    pub version: u32,
    /// A random id, for the signatures only.
    pub session: SessionId,
    /// User name on the server's machine.
    pub user: UserName,
    /// At most [`MAX_AUTHORIZATIONS`].
    pub authorizations: Vec<Authorization>,
}

/// The server half's answer: what it knows about sshd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// What answers, for people: `bowline 0.1.0`. At most 64 bytes.
    pub software: PeerText,
    /// Which of the authorizations was accepted, from 0; `None` where none counted.
    pub key: Option<u8>,
    /// sshd's identification line. At most 255 bytes.
    pub banner: PeerText,
    /// Milliseconds since that line was read.
    pub banner_age: u64,
    /// Seconds for which a session without a carrier is kept.
    pub ttl: u64,
    /// Whether sshd sees the address of this client; otherwise one of the server's loopback.
    pub shows_client: bool,
    /// What in sshd's settings ends or hinders sessions, at most [`MAX_LIMITS`]; `None` where they are not known.
    pub limits: Option<Vec<SshdLimit>>,
}

/// A setting of sshd that ends or hinders sessions. Texts are for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshdLimit {
    /// What sshd does, and which setting says so. At most 512 bytes, as the other two.
    pub what: PeerText,
    /// Seconds of outage that a session survives; `None` where it is no matter of time.
    pub survives: Option<u64>,
    /// The line for sshd_config that mends it; empty where nothing needs to be mended.
    pub mend: PeerText,
    /// The file that has this line in bowline's packages; empty where none has.
    pub file: PeerText,
}

impl Probe {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_varint(out, self.version.into());
        out.put_slice(self.session.as_bytes());
        put_bytes(out, self.user.as_bytes());
        put_authorizations(out, &self.authorizations);
    }

    pub(super) fn read(reader: &mut Reader) -> Result<Probe, DecodeError> {
        let version = reader.version()?;
        Ok(Probe {
            version,
            session: SessionId::new(reader.array("session")?),
            user: reader.user_name()?,
            authorizations: read_authorizations(reader)?,
        })
    }
}

impl Probed {
    pub(super) fn put(&self, out: &mut BytesMut) {
        put_text(out, &self.software, MAX_SOFTWARE);
        put_varint(out, self.key.map_or(0, |index| u64::from(index) + 1));
        put_text(out, &self.banner, MAX_BANNER);
        put_varint(out, self.banner_age.min(Offset::MAX.get()));
        put_varint(out, self.ttl);
        put_varint(out, self.shows_client.into());
        let limits = self
            .limits
            .as_ref()
            .map(|limits| &limits[..limits.len().min(MAX_LIMITS)]);
        put_varint(out, limits.map_or(0, |limits| limits.len() as u64 + 1));
        for limit in limits.into_iter().flatten() {
            put_text(out, &limit.what, MAX_WORDS);
            put_varint(out, limit.survives.map_or(0, |seconds| seconds.saturating_add(1)));
            put_text(out, &limit.mend, MAX_WORDS);
            put_text(out, &limit.file, MAX_WORDS);
        }
    }

    pub(super) fn read(reader: &mut Reader) -> Result<Probed, DecodeError> {
        Ok(Probed {
            software: reader.text("software", MAX_SOFTWARE)?,
            key: (reader.varint("key", MAX_AUTHORIZATIONS as u64)? as u8).checked_sub(1),
            banner: reader.text("banner", MAX_BANNER)?,
            banner_age: reader.varint("banner age", Offset::MAX.get())?,
            ttl: reader.varint("ttl", Offset::MAX.get())?,
            shows_client: reader.varint("client address", 1)? == 1,
            limits: match reader.varint("limits", MAX_LIMITS as u64 + 1)? {
                0 => None,
                more => Some((1..more).map(|_| SshdLimit::read(reader)).collect::<Result<_, _>>()?),
            },
        })
    }
}

impl SshdLimit {
    fn read(reader: &mut Reader) -> Result<SshdLimit, DecodeError> {
        Ok(SshdLimit {
            what: reader.text("limit", MAX_WORDS)?,
            survives: reader.varint("survives", Offset::MAX.get())?.checked_sub(1),
            mend: reader.text("mending line", MAX_WORDS)?,
            file: reader.text("file", MAX_WORDS)?,
        })
    }
}

/// As much of `text` as fits.
fn put_text(out: &mut BytesMut, text: &str, most: usize) {
    put_bytes(out, &text.as_bytes()[..text.floor_char_boundary(most)]);
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, Hello, next_message};
    use super::*;

    fn read_back(mut encoded: BytesMut) -> bytes::Bytes {
        let message = next_message(&mut encoded).unwrap().unwrap();
        assert!(encoded.is_empty());
        message
    }

    fn probed(limits: Option<Vec<SshdLimit>>) -> Probed {
        Probed {
            software: "bowline 1".into(),
            key: Some(7),
            banner: "SSH-2.0-x".into(),
            banner_age: 12,
            ttl: 604_800,
            shows_client: true,
            limits,
        }
    }

    #[test]
    fn probes_and_their_answers_read_back() {
        let probe = Hello::Probe(Probe {
            version: 1,
            session: SessionId::new([7; 16]),
            user: UserName::new("ada").unwrap(),
            authorizations: vec![Authorization {
                key: vec![1; 30].into(),
                signature: vec![2; 50].into(),
            }],
        });
        let encoded = BytesMut::from(&probe.encode()[..]);
        assert_eq!(Hello::decode(read_back(encoded)).unwrap(), probe);
        let limit = |survives| SshdLimit {
            what: "w".into(),
            survives,
            mend: "m".into(),
            file: PeerText::default(),
        };
        for limits in [
            None,
            Some(vec![]),
            Some(vec![limit(None), limit(Some(0)), limit(Some(45))]),
        ] {
            let answer = Answer::Probed(Box::new(probed(limits)));
            let encoded = BytesMut::from(&answer.encode()[..]);
            assert_eq!(Answer::decode(read_back(encoded)).unwrap(), answer);
        }
    }

    #[test]
    fn what_is_too_long_is_cut_and_not_refused() {
        let limit = SshdLimit {
            what: "ä".repeat(600).into(),
            survives: None,
            mend: PeerText::default(),
            file: PeerText::default(),
        };
        let answer = Answer::Probed(Box::new(probed(Some(vec![limit; 40]))));
        let encoded = BytesMut::from(&answer.encode()[..]);
        let Answer::Probed(read) = Answer::decode(read_back(encoded)).unwrap() else {
            panic!("another answer")
        };
        let limits = read.limits.unwrap();
        assert_eq!((limits.len(), limits[0].what.len()), (MAX_LIMITS, 512));
    }
}
