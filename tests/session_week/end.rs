//! One end of a session, with a pipe whose bytes encode their offset, and memory that survives its process.

use crate::memory_store::{MemoryStore, nothing};
use bowline::session::{PipeCounts, Session, SessionConfig, SessionMemory, Snapshot};
use bowline::wire::Offset;
use std::time::{Duration, Instant};

/// Small, so that a burst fills it.
const CONFIG: SessionConfig = SessionConfig {
    replay_buffer: 128 * 1024,
    receive_window: SessionConfig::MIN_BUFFER,
};

/// Memory is released this long after the last byte (`pump/memory.rs`).
const QUIET: Duration = Duration::from_secs(5);

pub(crate) struct End {
    pub(crate) session: Session,
    seed: u64,
    me: usize,
    /// Bytes from the pipe that the session has not taken yet, because it is full or its process is down.
    waiting: u64,
    written: u64,
    taken: u64,
    output_ended: bool,
    memory: [MemoryStore; 2],
    kept: Snapshot,
    carried: u64,
    rests_since: Duration,
}

impl End {
    pub(crate) fn new(seed: u64, me: usize, now: Duration) -> End {
        let memory = [CONFIG.replay_buffer, CONFIG.receive_window].map(MemoryStore::new);
        let session = Session::new(lend(&memory));
        End {
            kept: session.snapshot(),
            session,
            seed,
            me,
            waiting: 0,
            written: 0,
            taken: 0,
            output_ended: false,
            memory,
            carried: 0,
            rests_since: now,
        }
    }

    /// The pipe produces more bytes, whether or not a process reads them.
    pub(crate) fn give(&mut self, len: u64) {
        self.waiting += len;
    }

    /// Writes pending bytes to the session as far as they fit; returns whether any did.
    pub(crate) fn write(&mut self) -> bool {
        self.record();
        let room = self.session.input();
        let fits = room.len().min(usize::try_from(self.waiting).expect("little"));
        for (place, byte) in room[..fits].iter_mut().enumerate() {
            *byte = byte_at(self.seed, self.me, self.written + place as u64);
        }
        self.session.commit_input(fits);
        self.written += fits as u64;
        self.waiting -= fits as u64;
        fits > 0
    }

    /// The pipe takes all received bytes; returns how many.
    pub(crate) fn take(&mut self, now: Instant) -> u64 {
        self.record();
        let output = self.session.output();
        let len = output.len();
        for (place, byte) in output.iter().enumerate() {
            let place = self.taken + place as u64;
            let expected = byte_at(self.seed, 1 - self.me, place);
            assert_eq!(*byte, expected, "byte {place} of half {}", 1 - self.me);
        }
        if len > 0 {
            self.session.output_written(len, now);
        }
        self.taken += len as u64;
        if self.session.is_output_end_due() {
            assert!(!self.output_ended, "ended twice");
            self.output_ended = true;
            self.session.output_ended();
        }
        len as u64
    }

    /// Ends the pipe after its last byte.
    pub(crate) fn finish(&mut self) {
        if self.waiting == 0 && !self.session.is_input_ended() {
            self.session.finish_input();
        }
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Records what a successor needs.
    pub(crate) fn record(&mut self) {
        self.kept = self.session.snapshot();
    }

    /// The process died; a successor continues from the recorded state.
    pub(crate) fn restart(&mut self) -> Snapshot {
        // The memory is returned when the session is dropped.
        self.session = Session::new(nothing());
        let offset = |count: u64| Offset::new(count).expect("a small number");
        let counts = PipeCounts {
            read: offset(self.written),
            written: offset(self.taken),
            output_shut: self.output_ended,
        };
        self.session = Session::restore(lend(&self.memory), &self.kept, counts).expect("what belongs together");
        self.carried = self.session.carried();
        self.kept
    }

    /// When [`End::rest`] has to be called next.
    pub(crate) fn poll_rest(&self) -> Option<Duration> {
        self.session.is_memory_idle().then(|| self.rests_since + QUIET)
    }

    /// Releases the memory that an idle session does not need.
    pub(crate) fn rest(&mut self, now: Duration) {
        let carried = self.session.carried();
        if carried != self.carried {
            (self.carried, self.rests_since) = (carried, now);
        } else if self.poll_rest().is_some_and(|due| due <= now) {
            self.record();
            self.session.release_idle_memory();
        }
        let most = CONFIG.replay_buffer + CONFIG.receive_window;
        assert!(self.session.memory_held() <= most, "the session grew");
        let rests = now >= self.rests_since + QUIET && self.session.buffered() == 0;
        assert!(
            !rests || self.session.memory_held() == 0,
            "a session at rest holds memory"
        );
    }

    /// Checks that the received bytes are the peer's bytes so far.
    pub(crate) fn check_prefix(&self, peer: &End) {
        assert!(self.taken <= peer.written, "half {} took more than was given", self.me);
    }

    /// Checks that the other end received every byte, and that both know it.
    pub(crate) fn check_equal(&self, peer: &End) {
        assert_eq!((self.waiting, peer.taken), (0, self.written), "of half {}", self.me);
        assert!(self.session.is_input_done(), "half {} waits for more", self.me);
        assert!(self.output_ended, "half {} knows of no end", self.me);
    }
}

fn lend([replay, receive]: &[MemoryStore; 2]) -> SessionMemory {
    SessionMemory {
        replay: replay.lend(),
        receive: receive.lend(),
    }
}

fn byte_at(seed: u64, half: usize, place: u64) -> u8 {
    let mixed = (seed + 7 * half as u64 + place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}
