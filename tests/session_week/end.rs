//! One end of a session: the connection that ships, a pipe whose bytes tell where they belong, and memory that outlives
//! its process.

use crate::line_path::LinePath;
use crate::memory_store::{MemoryStore, nothing};
use crate::network::CLIENT;
use bowline::connection::{Connection, ConnectionConfig, Epochs, Role};
use bowline::session::{PipeCounts, Session, SessionConfig, SessionMemory, Snapshot};
use bowline::wire::{Epoch, Offset};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Small, so that a burst fills it.
const CONFIG: SessionConfig = SessionConfig {
    replay_buffer: 128 * 1024,
    receive_window: SessionConfig::MIN_BUFFER,
};

/// How long a session without a carrier is kept (`ServerLimits`).
pub(crate) const TTL: Duration = Duration::from_secs(7 * 86_400);

/// Memory goes back so long after the last byte (`pump/memory.rs`).
const QUIET: Duration = Duration::from_secs(5);

pub(crate) struct End {
    pub(crate) connection: Connection<LinePath>,
    pub(crate) epochs: Arc<Epochs>,
    seed: u64,
    me: usize,
    /// Bytes from the pipe that the session has not taken yet, because it is full or its process is down.
    waiting: u64,
    written: u64,
    taken: u64,
    output_ended: bool,
    memory: [MemoryStore; 2],
    kept: Snapshot,
    transferred: u64,
    rests_since: Duration,
}

impl End {
    pub(crate) fn new(seed: u64, me: usize, now: Duration, instant: Instant) -> End {
        let memory = [CONFIG.replay_buffer, CONFIG.receive_window].map(MemoryStore::new);
        let session = Session::new(lend(&memory));
        let epochs = Arc::new(Epochs::after(Epoch::new(1)));
        End {
            kept: session.snapshot(),
            connection: connect(me, session, &epochs, instant),
            epochs,
            seed,
            me,
            waiting: 0,
            written: 0,
            taken: 0,
            output_ended: false,
            memory,
            transferred: 0,
            rests_since: now,
        }
    }

    pub(crate) fn session(&self) -> &Session {
        self.connection.session()
    }

    /// The pipe gives so many bytes more, whether anybody is there or not.
    pub(crate) fn give(&mut self, len: u64) {
        self.waiting += len;
    }

    /// Writes pending bytes to the session as far as they fit; returns whether any did.
    pub(crate) fn write(&mut self) -> bool {
        self.record();
        let room = self.connection.session_mut().input();
        let fits = room.len().min(usize::try_from(self.waiting).expect("little"));
        for (place, byte) in room[..fits].iter_mut().enumerate() {
            *byte = byte_at(self.seed, self.me, self.written + place as u64);
        }
        self.connection.session_mut().commit_input(fits);
        self.written += fits as u64;
        self.waiting -= fits as u64;
        fits > 0
    }

    /// The pipe takes all received bytes; returns how many.
    pub(crate) fn take(&mut self, now: Instant) -> u64 {
        self.record();
        let output = self.connection.session().output();
        let len = output.len();
        for (place, byte) in output.iter().enumerate() {
            let place = self.taken + place as u64;
            let expected = byte_at(self.seed, 1 - self.me, place);
            assert_eq!(*byte, expected, "byte {place} of half {}", 1 - self.me);
        }
        if len > 0 {
            self.connection.session_mut().output_written(len, now);
        }
        self.taken += len as u64;
        if self.session().is_output_end_due() {
            assert!(!self.output_ended, "ended twice");
            self.output_ended = true;
            self.connection.session_mut().output_ended();
        }
        len as u64
    }

    /// Ends the pipe after its last byte.
    pub(crate) fn finish(&mut self) {
        if self.waiting == 0 && !self.session().is_input_ended() {
            self.connection.session_mut().finish_input();
        }
    }

    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Records what a successor needs.
    pub(crate) fn record(&mut self) {
        self.kept = self.session().snapshot();
    }

    /// The process died, and a successor goes on with what is left.
    pub(crate) fn restart(&mut self, now: Instant) {
        let detached_since = self.connection.detached_since().unwrap_or(now);
        // The memory comes back with the end of the session in it.
        self.connection = connect(self.me, Session::new(nothing()), &self.epochs, now);
        let offset = |count: u64| Offset::new(count).expect("a small number");
        let counts = PipeCounts {
            read: offset(self.written),
            written: offset(self.taken),
            output_shut: self.output_ended,
        };
        let session = Session::restore(lend(&self.memory), &self.kept, counts).expect("what belongs together");
        self.transferred = session.transferred();
        self.epochs = Arc::new(Epochs::after(self.kept.epoch));
        self.connection = connect(self.me, session, &self.epochs, detached_since);
    }

    /// When [`End::rest`] has to be called next.
    pub(crate) fn poll_rest(&self) -> Option<Duration> {
        self.session().is_memory_idle().then(|| self.rests_since + QUIET)
    }

    /// Releases the memory that an idle session does not need.
    pub(crate) fn rest(&mut self, now: Duration) {
        let transferred = self.session().transferred();
        if transferred != self.transferred {
            (self.transferred, self.rests_since) = (transferred, now);
        } else if self.poll_rest().is_some_and(|due| due <= now) {
            self.record();
            self.connection.session_mut().release_idle_memory();
        }
        let most = CONFIG.replay_buffer + CONFIG.receive_window;
        assert!(self.session().memory_held() <= most, "the session grew");
        let rests = now >= self.rests_since + QUIET && self.session().buffered() == 0;
        assert!(
            !rests || self.session().memory_held() == 0,
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
        assert!(self.session().is_input_done(), "half {} waits for more", self.me);
        assert!(self.output_ended, "half {} knows of no end", self.me);
    }
}

fn connect(me: usize, session: Session, epochs: &Arc<Epochs>, detached_since: Instant) -> Connection<LinePath> {
    let config = ConnectionConfig {
        role: if me == CLIENT { Role::Client } else { Role::Server },
        epochs: Arc::clone(epochs),
        detached_since,
        confirmed: true,
        detach_timeout: TTL,
        unconfirmed_timeout: TTL,
    };
    Connection::new(session, config, detached_since)
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
