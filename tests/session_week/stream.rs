//! One end of a session, with a pipe whose bytes tell where they belong.

use bowline::session::{Session, SessionConfig, SessionMemory};
use std::time::Instant;

/// The least that a session has.
const CONFIG: SessionConfig = SessionConfig {
    replay_buffer: SessionConfig::MIN_BUFFER,
    receive_window: SessionConfig::MIN_BUFFER,
};

pub(crate) struct End {
    pub(crate) session: Session,
    seed: u64,
    me: usize,
    /// Given by the pipe, and not yet taken by the session: it is full.
    waiting: u64,
    written: u64,
    taken: u64,
}

impl End {
    pub(crate) fn new(seed: u64, me: usize) -> End {
        End {
            session: Session::new(SessionMemory::heap(&CONFIG)),
            seed,
            me,
            waiting: 0,
            written: 0,
            taken: 0,
        }
    }

    /// The pipe gives so many bytes more.
    pub(crate) fn write(&mut self, len: u64) {
        self.waiting += len;
        let room = self.session.input();
        let fits = room.len().min(usize::try_from(self.waiting).expect("little"));
        for (place, byte) in room[..fits].iter_mut().enumerate() {
            *byte = byte_at(self.seed, self.me, self.written + place as u64);
        }
        self.session.commit_input(fits);
        self.written += fits as u64;
        self.waiting -= fits as u64;
    }

    /// The pipe takes what there is, and what waited to be given goes in; how much was taken.
    pub(crate) fn take(&mut self, now: Instant) -> u64 {
        let output = self.session.output();
        let len = output.len();
        for (place, byte) in output.iter().enumerate() {
            let expected = byte_at(self.seed, 1 - self.me, self.taken + place as u64);
            assert_eq!(
                *byte,
                expected,
                "byte {} of half {}",
                self.taken + place as u64,
                1 - self.me
            );
        }
        if len > 0 {
            self.session.output_written(len, now);
        }
        self.taken += len as u64;
        self.write(0);
        len as u64
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Everything that this pipe gave was taken by the other.
    pub(crate) fn check_equal(&self, peer: &End) {
        assert_eq!((self.waiting, peer.taken), (0, self.written), "of half {}", self.me);
        assert!(!self.session.is_outstanding(), "half {} waits for more", self.me);
    }

    pub(crate) fn check_memory(&self) {
        assert!(
            self.session.buffered() <= CONFIG.replay_buffer + CONFIG.receive_window,
            "the session grew"
        );
    }
}

fn byte_at(seed: u64, half: usize, place: u64) -> u8 {
    let mixed = (seed + 7 * half as u64 + place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}
