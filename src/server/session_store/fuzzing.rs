//! What a fuzzer feeds to the memory that a worker leaves behind: the worker may have been compromised.

use std::ops::Range;

use super::fields::checksum;
use super::header::{BODY_AT, FIXED, Fixed, HeaderError, Progress, SLOTS, USED, mark_of};
use crate::fuzzing::check_error;
use crate::session::{PipeCounts, RingMemory, Session, SessionConfig, SessionMemory};
use crate::wire::Offset;

/// Where the input lies: the identity, then the mark and a record.
const RECORD: usize = 64;

/// The session record in shared memory, with checksums that are right: they are no protection. The first 25 bytes are what
/// the kernel counts, and what of the checksums is left as it is.
pub fn session_record(input: &[u8]) {
    let Some((outside, rest)) = input.split_first_chunk::<25>() else {
        return;
    };
    let number = |at: usize| u64::from_le_bytes(outside[at..at + 8].try_into().expect("eight bytes"));
    let (record, identity) = rest.split_at(rest.len().min(RECORD));
    let mut header = Aligned([0; USED]);
    let header = &mut header.0;
    let length = identity.len().min(FIXED.end - 8 - BODY_AT);
    header[..12].copy_from_slice(b"bowline\0\x01\0\0\0");
    header[BODY_AT..BODY_AT + length].copy_from_slice(&identity[..length]);
    if outside[24] & 1 == 0 {
        seal(header, FIXED.start..FIXED.end - 8);
    }
    let latest = record.first_chunk().map_or(0, |number| u64::from_le_bytes(*number));
    let slot = SLOTS[(latest % 2) as usize].clone();
    header[slot.start..slot.start + record.len()].copy_from_slice(record);
    if outside[24] & 2 == 0 {
        seal(header, slot.start..slot.start + RECORD);
    }
    header[2048..2056].copy_from_slice(&mark_of(latest).to_ne_bytes());

    if let Some(fixed) = checked(Fixed::read(header)) {
        assert!(fixed.window <= SessionConfig::MAX_RECEIVE_WINDOW as u64);
        let mut again = Aligned([0; USED]);
        if fixed.write(&mut again.0).is_ok() {
            assert_eq!(Fixed::read(&again.0), Ok(fixed));
        }
    }
    if let Some((progress, latest)) = checked(Progress::read(header)) {
        let mut again = Aligned([0; USED]);
        progress.publish(&mut again.0, latest);
        assert_eq!(Progress::read(&mut again.0), Ok((progress, latest)));
        restore(&progress, [number(0), number(8), number(16)]);
    }
}

/// The session in plain memory. Any values are safe to try.
fn restore(progress: &Progress, [read, written, shut]: [u64; 3]) {
    let offset = |number: u64| Offset::new(number).unwrap_or(Offset::MAX);
    let counts = PipeCounts {
        read: offset(read),
        written: offset(written),
        output_shut: shut % 2 == 1,
    };
    let memory = SessionMemory {
        replay: Box::new(Plain(vec![0; SessionConfig::MIN_BUFFER])),
        receive: Box::new(Plain(vec![0; SessionConfig::MIN_BUFFER])),
    };
    match Session::restore(memory, &progress.session, counts) {
        Ok(session) => {
            assert!(session.replay_len() <= SessionConfig::MIN_BUFFER);
            session.snapshot();
        }
        Err(error) => check_error(&error),
    }
}

fn checked<T>(result: Result<T, HeaderError>) -> Option<T> {
    result.map_err(|error| check_error(&error)).ok()
}

fn seal(header: &mut [u8], body: Range<usize>) {
    let sum = checksum(&header[body.clone()]);
    header[body.end..body.end + 8].copy_from_slice(&sum.to_le_bytes());
}

/// As a mapping, the header begins at a multiple of eight bytes.
#[repr(align(8))]
struct Aligned([u8; USED]);

struct Plain(Vec<u8>);

impl RingMemory for Plain {
    fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    fn release(&mut self, _: Range<usize>) {}
}
