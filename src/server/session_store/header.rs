//! The header of a session's memory, before the replay ring: the session's owner and its progress.
//!
//! Layout and codec over plain bytes. The fixed part is written once. The progress has two slots, and a mark names the
//! valid one: the other slot is written in full, then a single store changes the mark. If a crash interrupts this, the
//! mark still names a complete record; a damaged record is never taken for an older one.

use super::fields::checksum;
use super::fields::{Reader, Writer};
use crate::fault;
use crate::server::authority::Account;
use crate::session::{SessionConfig, Snapshot};
use crate::wire::{CloseCode, Epoch, Offset, SessionId};
use bytes::Bytes;
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Offset of the ring: a multiple of every page size in use.
pub(super) const HEADER_LEN: usize = 64 * 1024;
/// Bytes of the header that are in use.
pub(super) const USED: usize = 4096;

const MAGIC: [u8; 8] = *b"bowline\0";
/// The layout version that this program writes and reads.
const VERSION: u32 = 1;

pub(super) const FIXED: Range<usize> = 0..2048;
const VERSION_AT: Range<usize> = 8..12;
pub(super) const BODY_AT: usize = 16;
const MARK: Range<usize> = 2048..2056;
pub(super) const SLOTS: [Range<usize>; 2] = [2112..2240, 2240..2368];

/// What never changes about a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The session's id.
    pub(crate) session: SessionId,
    /// The TLS key that opened it, SPKI DER; at most 512 bytes.
    pub(crate) owner: Bytes,
    /// The account that limits count by; at most 512 bytes.
    pub(crate) account: Account,
    /// The user name on the server; at most 256 bytes.
    pub(crate) user: String,
    /// SHA-256 of the token that ends the session.
    pub(crate) reap_hash: [u8; 32],
    /// The client half's address at the open.
    pub(crate) remote: SocketAddr,
    /// The time of the open, in milliseconds since boot.
    pub(crate) opened: u64,
}

/// The fixed part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    pub(super) identity: Identity,
    /// Size of the ring in bytes.
    pub(super) replay: u64,
    /// The receive window that was promised to the client half.
    pub(super) window: u64,
}

/// What changes about a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Offset up to which bytes from sshd were read into the ring, or are about to be.
    pub(super) intent: u64,
    pub(super) session: Snapshot,
    pub(super) confirmed: bool,
    /// Time in milliseconds since boot; `None` while a carrier leads.
    pub(super) detached_since: Option<u64>,
    /// The session is over: there is nothing to continue.
    pub(super) ended: bool,
}

/// Why a session's header cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// It has another format.
    #[error("the memory does not belong to a session")]
    Magic,
    /// It has another layout version.
    #[error("the session has layout version {found}, but this program reads version {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// A checksum is wrong.
    #[error("the {which} is damaged")]
    Damaged {
        /// The part.
        which: Part,
    },
    /// A part has the right checksum, but invalid contents.
    #[error("the {which} is invalid")]
    Nonsense {
        /// The part.
        which: Part,
    },
    /// The identity is too long.
    #[error("the session's identity has {bytes} bytes, which is too long")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// The window is larger than any that a worker promises. It would be mapped, and a client could fill it.
    #[error(
        "the session has a receive window of {found} bytes, but at most {} are promised",
        SessionConfig::MAX_RECEIVE_WINDOW
    )]
    Window {
        /// The window in the header.
        found: u64,
    },
    /// The file has another size.
    #[error("the session's memory has {found} bytes, but its header says {expected}")]
    Size {
        /// The file's size.
        found: u64,
        /// The expected size.
        expected: u64,
    },
}

/// Parts of a header, each with its own checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The session's identity.
    Fixed,
    /// The number of the valid record.
    Mark,
    /// The session's progress.
    Record,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Part::Fixed => "session's identity",
            Part::Mark => "mark of the latest record",
            Part::Record => "latest record",
        })
    }
}

impl Fixed {
    /// Writes it, once, to `header`, which has at least [`USED`] bytes.
    pub(super) fn write(&self, header: &mut [u8]) -> Result<(), HeaderError> {
        let place = &mut header[FIXED];
        let (body, sum) = place.split_at_mut(FIXED.end - 8);
        let mut writer = Writer::new(body);
        writer.raw(&MAGIC);
        writer.raw(&VERSION.to_le_bytes());
        writer.raw(&[0; BODY_AT - VERSION_AT.end]);
        let Identity { session, owner, .. } = &self.identity;
        writer.raw(session.as_bytes());
        writer.raw(&self.identity.reap_hash);
        writer.u64(self.identity.opened);
        writer.u64(self.replay);
        writer.u64(self.window);
        writer.bytes(owner);
        writer.bytes(self.identity.account.0.as_bytes());
        writer.bytes(self.identity.user.as_bytes());
        writer.bytes(self.identity.remote.to_string().as_bytes());
        let bytes = writer.len();
        if bytes > body.len() {
            return Err(HeaderError::TooLong { bytes });
        }
        sum.copy_from_slice(&checksum(body).to_le_bytes());
        Ok(())
    }

    pub(super) fn read(header: &[u8]) -> Result<Fixed, HeaderError> {
        let (body, sum) = header[FIXED].split_at(FIXED.end - 8);
        if body[..MAGIC.len()] != MAGIC {
            return Err(HeaderError::Magic);
        }
        // Checked before the checksum, which another version may have elsewhere.
        let found = u32::from_le_bytes(body[VERSION_AT].try_into().expect("four bytes"));
        if found != VERSION {
            return Err(HeaderError::Version { found });
        }
        let which = Part::Fixed;
        if sum != checksum(body).to_le_bytes() {
            return Err(HeaderError::Damaged { which });
        }
        let fixed = Fixed::parse(&body[BODY_AT..]).ok_or(HeaderError::Nonsense { which })?;
        // A checksum detects accidents, not an attacker: the worker that wrote this may have been compromised.
        match fixed.window {
            found if found > SessionConfig::MAX_RECEIVE_WINDOW as u64 => Err(HeaderError::Window { found }),
            _ => Ok(fixed),
        }
    }

    fn parse(body: &[u8]) -> Option<Fixed> {
        let mut reader = Reader::new(body);
        let session = SessionId::new(reader.array()?);
        let reap_hash = reader.array()?;
        let [opened, replay, window] = [reader.u64()?, reader.u64()?, reader.u64()?];
        Some(Fixed {
            identity: Identity {
                session,
                owner: Bytes::copy_from_slice(reader.bytes()?),
                account: Account(reader.text()?.to_owned()),
                user: reader.text()?.to_owned(),
                reap_hash,
                remote: reader.text()?.parse().ok()?,
                opened,
            },
            replay,
            window,
        })
    }
}

const CONFIRMED: u8 = 1;
const ENDED: u8 = 1 << 1;
const FIN: u8 = 1 << 2;
const PEER_CLOSE_AFTER_FIN: u8 = 1 << 3;

impl Progress {
    /// Makes this the latest record of `header`. `number` is higher than all before. If a crash interrupts this, the
    /// latest record is the previous one or this one.
    pub(super) fn publish(&self, header: &mut [u8], number: u64) {
        fault::pass("publish-before");
        let (body, sum) = slot(number, header).split_at_mut(RECORD_LEN);
        self.write(body, number);
        sum[..8].copy_from_slice(&checksum(body).to_le_bytes());
        fault::pass("publish-half");
        // Ordered after the record: a process that is killed has done everything before this store, or not the store.
        mark(header).store(mark_of(number), Ordering::Release);
        fault::pass("publish-after");
    }

    /// Reads the latest record and its number.
    pub(super) fn read(header: &mut [u8]) -> Result<(Progress, u64), HeaderError> {
        let mark = mark(header).load(Ordering::Acquire);
        if mark != mark_of(mark) {
            return Err(HeaderError::Damaged { which: Part::Mark });
        }
        let which = Part::Record;
        let (body, sum) = slot(mark, header).split_at(RECORD_LEN);
        if sum[..8] != checksum(body).to_le_bytes() {
            return Err(HeaderError::Damaged { which });
        }
        let (progress, number) = Progress::parse(body).ok_or(HeaderError::Nonsense { which })?;
        if mark_of(number) != mark {
            return Err(HeaderError::Nonsense { which });
        }
        Ok((progress, number))
    }

    fn write(&self, body: &mut [u8], number: u64) {
        let session = &self.session;
        let flags = [
            (self.confirmed, CONFIRMED),
            (self.ended, ENDED),
            (session.fin, FIN),
            (session.peer_close_after_fin, PEER_CLOSE_AFTER_FIN),
        ];
        let flags = flags.iter().fold(0, |all, (set, flag)| all | (u8::from(*set) * flag));
        let mut writer = Writer::new(body);
        writer.u64(number);
        writer.u64(self.intent);
        writer.u64(session.acked.get());
        writer.u64(session.front);
        writer.u64(session.output_end.map_or(NONE, Offset::get));
        writer.u64(self.detached_since.unwrap_or(NONE));
        writer.raw(&session.epoch.get().to_le_bytes());
        writer.raw(&[flags, code(session.close), code(session.peer_close)]);
    }

    fn parse(body: &[u8]) -> Option<(Progress, u64)> {
        let mut reader = Reader::new(body);
        let [number, intent] = [reader.u64()?, reader.u64()?];
        let acked = Offset::new(reader.u64()?)?;
        let front = reader.u64()?;
        let output_end = match reader.u64()? {
            NONE => None,
            end => Some(Offset::new(end)?),
        };
        let detached_since = Some(reader.u64()?).filter(|since| *since != NONE);
        let epoch = Epoch::new(u32::from_le_bytes(reader.array()?));
        let [flags, close, peer_close] = reader.array()?;
        let session = Snapshot {
            epoch,
            acked,
            front,
            fin: flags & FIN != 0,
            close: uncode(close)?,
            output_end,
            peer_close: uncode(peer_close)?,
            peer_close_after_fin: flags & PEER_CLOSE_AFTER_FIN != 0,
        };
        let progress = Progress {
            intent,
            session,
            confirmed: flags & CONFIRMED != 0,
            detached_since,
            ended: flags & ENDED != 0,
        };
        Some((progress, number))
    }
}

/// Bytes of a slot, without its checksum.
const RECORD_LEN: usize = 64;
/// Stands for `None`: no offset and no time reaches it.
const NONE: u64 = u64::MAX;

/// Consecutive numbers use different slots.
fn slot(number: u64, header: &mut [u8]) -> &mut [u8] {
    &mut header[SLOTS[(number % 2) as usize].clone()]
}

/// The mark for a record: the low half of its number, and a check value for that.
pub(super) fn mark_of(number: u64) -> u64 {
    let low = number as u32;
    u64::from(low) | u64::from(!low.wrapping_mul(0x9e37_79b1)) << 32
}

fn mark(header: &mut [u8]) -> &AtomicU64 {
    let place: &mut [u8; 8] = (&mut header[MARK]).try_into().expect("eight bytes");
    let place = place.as_mut_ptr().cast::<u64>();
    assert!(place.is_aligned(), "a header begins at a page");
    // SAFETY: eight bytes that are ours alone for as long as the result is borrowed, and aligned.
    #[allow(unsafe_code)]
    unsafe {
        AtomicU64::from_ptr(place)
    }
}

const CODES: [CloseCode; 4] = [
    CloseCode::UpstreamClosed,
    CloseCode::PipeClosed,
    CloseCode::Desync,
    CloseCode::Ended,
];

fn code(close: Option<CloseCode>) -> u8 {
    let place = close.and_then(|close| CODES.iter().position(|code| *code == close));
    place.map_or(0, |place| place as u8 + 1)
}

fn uncode(byte: u8) -> Option<Option<CloseCode>> {
    match byte.checked_sub(1) {
        None => Some(None),
        Some(place) => CODES.get(usize::from(place)).copied().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Aligned like a page, as far as it matters.
    #[repr(align(64))]
    struct Page([u8; USED]);

    fn fixed() -> Fixed {
        Fixed {
            identity: Identity {
                session: SessionId::new([7; 16]),
                owner: Bytes::from_static(b"a TLS key of forty-four bytes, SPKI DER here"),
                account: Account("SHA256:abcdef".into()),
                user: "björn".into(),
                reap_hash: [9; 32],
                remote: "[fe80::1%3]:4022".parse().unwrap(),
                opened: 123_456,
            },
            replay: 16 << 20,
            window: 8 << 20,
        }
    }

    fn progress(number: u64) -> Progress {
        let at = |bytes| Offset::new(bytes).unwrap();
        Progress {
            intent: number * 1000,
            session: Snapshot {
                epoch: Epoch::new(number as u32),
                acked: at(number * 999),
                front: number,
                fin: number % 2 == 1,
                close: Some(CODES[number as usize % 4]),
                output_end: (number > 1).then(|| at(number * 7)),
                peer_close: None,
                peer_close_after_fin: number > 2,
            },
            confirmed: number > 0,
            detached_since: number.is_multiple_of(2).then_some(number),
            ended: number % 3 == 2,
        }
    }

    fn page(records: std::ops::RangeInclusive<u64>) -> Page {
        let mut page = Page([0; USED]);
        fixed().write(&mut page.0).unwrap();
        records.for_each(|number| progress(number).publish(&mut page.0, number));
        page
    }

    type Read = (Result<Fixed, HeaderError>, Result<(Progress, u64), HeaderError>);

    fn read(page: &mut Page) -> Read {
        (Fixed::read(&page.0), Progress::read(&mut page.0))
    }

    #[test]
    fn what_is_written_is_read() {
        for last in 1..9 {
            let mut page = page(1..=last);
            assert_eq!(read(&mut page), (Ok(fixed()), Ok((progress(last), last))));
        }
    }

    #[test]
    fn no_changed_bit_is_ever_taken_for_the_truth() {
        for last in [1, 2, 5] {
            let mut page = page(1..=last);
            let truth = read(&mut page);
            let (mut noticed, used) = (0, FIXED.len() + MARK.len() + RECORD_LEN + 8);
            for bit in 0..USED * 8 {
                page.0[bit / 8] ^= 1 << (bit % 8);
                let damaged = read(&mut page);
                let errors = usize::from(damaged.0.is_err()) + usize::from(damaged.1.is_err());
                assert!(errors == 1 || damaged == truth, "bit {bit}: {damaged:?}");
                noticed += errors;
                page.0[bit / 8] ^= 1 << (bit % 8);
            }
            assert_eq!(noticed, used * 8, "all that is in use is protected");
        }
    }

    #[test]
    fn no_garbage_upsets_the_reader() {
        let mut state = 1_u64;
        for _ in 0..2000 {
            let mut page = page(1..=3);
            for _ in 0..20 {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                page.0[(state >> 20) as usize % 2400] = (state >> 40) as u8;
            }
            if let Ok(found) = Fixed::read(&page.0) {
                assert_eq!(found, fixed());
            }
            if let Ok(found) = Progress::read(&mut page.0) {
                assert_eq!(found, (progress(3), 3));
            }
        }
    }

    #[test]
    fn a_torn_record_is_one_that_never_was() {
        let (mut before, mut after) = (page(1..=6), page(1..=7));
        for written in 0..=SLOTS[1].len() {
            let mut torn = page(1..=6);
            let place = SLOTS[1].start..SLOTS[1].start + written;
            torn.0[place.clone()].copy_from_slice(&after.0[place]);
            assert_eq!(read(&mut torn), read(&mut before), "{written} bytes");
        }
        assert_eq!(read(&mut after).1, Ok((progress(7), 7)));
    }

    #[test]
    fn other_layouts_and_other_files_are_told_apart() {
        let mut page = page(1..=1);
        page.0[VERSION_AT].copy_from_slice(&2_u32.to_le_bytes());
        assert_eq!(Fixed::read(&page.0), Err(HeaderError::Version { found: 2 }));
        let mut empty = Page([0; USED]);
        let mark = HeaderError::Damaged { which: Part::Mark };
        assert_eq!(read(&mut empty), (Err(HeaderError::Magic), Err(mark)));
    }

    #[test]
    fn a_window_that_no_worker_promises_is_refused() {
        let read = |window| {
            let mut page = Page([0; USED]);
            Fixed { window, ..fixed() }.write(&mut page.0).unwrap();
            Fixed::read(&page.0).map(|fixed| fixed.window)
        };
        let most = SessionConfig::MAX_RECEIVE_WINDOW as u64;
        assert_eq!(read(most), Ok(most));
        for found in [most + 1, 100 << 30, u64::MAX] {
            assert_eq!(read(found), Err(HeaderError::Window { found }));
        }
    }

    #[test]
    fn a_user_name_without_end_is_refused() {
        let mut fixed = fixed();
        fixed.identity.user = "x".repeat(3000);
        let refused = fixed.write(&mut [0; USED]);
        assert!(matches!(refused, Err(HeaderError::TooLong { bytes: 3000.. })));
        fixed.identity.user = "x".repeat(100_000);
        assert!(fixed.write(&mut [0; USED]).is_err());
    }
}
