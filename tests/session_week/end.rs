//! One end of a session, with a pipe whose bytes tell where they belong, and memory that outlives its process.

use crate::shelf::{Shelf, nothing};
use bowline::session::{PipeCounts, Session, SessionConfig, SessionMemory, Snapshot};
use bowline::wire::Offset;
use std::time::{Duration, Instant};

/// Little, so that a burst fills it.
const CONFIG: SessionConfig = SessionConfig {
    replay_buffer: 128 * 1024,
    receive_window: SessionConfig::MIN_BUFFER,
};

/// Memory goes back so long after the last byte (`pump/memory.rs`).
const QUIET: Duration = Duration::from_secs(5);

pub(crate) struct End {
    pub(crate) session: Session,
    seed: u64,
    me: usize,
    /// Given by the pipe, and not yet taken by the session: it is full, or nobody is there.
    waiting: u64,
    written: u64,
    taken: u64,
    output_ended: bool,
    memory: [Shelf; 2],
    kept: Snapshot,
    carried: u64,
    rests_since: Duration,
}

impl End {
    pub(crate) fn new(seed: u64, me: usize, now: Duration) -> End {
        let memory = [CONFIG.replay_buffer, CONFIG.receive_window].map(Shelf::new);
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

    /// The pipe gives so many bytes more, whether anybody is there or not.
    pub(crate) fn give(&mut self, len: u64) {
        self.waiting += len;
    }

    /// What the pipe gave goes in, as far as there is room; whether any did.
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

    /// The pipe takes what there is; how much it was.
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

    /// Everything was given, and the pipe ends.
    pub(crate) fn finish(&mut self) {
        if self.waiting == 0 && !self.session.is_input_ended() {
            self.session.finish_input();
        }
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Keeps what a successor has to know.
    pub(crate) fn record(&mut self) {
        self.kept = self.session.snapshot();
    }

    /// The process died, and a successor goes on with what is left.
    pub(crate) fn restart(&mut self) -> Snapshot {
        // The memory comes back with the end of the session in it.
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

    /// When [`End::rest`] has something to do.
    pub(crate) fn poll_rest(&self) -> Option<Duration> {
        self.session.is_memory_idle().then(|| self.rests_since + QUIET)
    }

    /// Gives memory back that a session at rest does not need, and has none of it then.
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

    /// What was taken here is what the peer gave, up to now.
    pub(crate) fn check_prefix(&self, peer: &End) {
        assert!(self.taken <= peer.written, "half {} took more than was given", self.me);
    }

    /// Everything that this pipe gave was taken by the other, and both know.
    pub(crate) fn check_equal(&self, peer: &End) {
        assert_eq!((self.waiting, peer.taken), (0, self.written), "of half {}", self.me);
        assert!(self.session.is_input_done(), "half {} waits for more", self.me);
        assert!(self.output_ended, "half {} knows of no end", self.me);
    }
}

fn lend([replay, receive]: &[Shelf; 2]) -> SessionMemory {
    SessionMemory {
        replay: replay.lend(),
        receive: receive.lend(),
    }
}

fn byte_at(seed: u64, half: usize, place: u64) -> u8 {
    let mixed = (seed + 7 * half as u64 + place).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56) as u8
}
