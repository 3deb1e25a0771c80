//! Two session cores joined in memory: without pipes, without a transport, and no time passes.

use bowline::clock;
use bowline::session::{Session, SessionConfig, SessionMemory};
use bowline::wire::{Epoch, Frame, MAX_DATA};
use bytes::BytesMut;
use std::hint::black_box;
use std::time::Instant;

/// How far a driver fills a lead's outbox in one go.
pub(crate) const FILL: usize = MAX_DATA + 64;
/// What a pipe of Linux holds, and so gives at once.
const PIPE: usize = 64 * 1024;

pub(crate) struct Cores {
    halves: [Session; 2],
    /// The lead: outbox of the one that sends and inbox of the other.
    wire: BytesMut,
    now: Instant,
}

impl Cores {
    pub(crate) fn joined() -> Cores {
        let mut halves = [0, 1].map(|_| Session::new(SessionMemory::heap(&SessionConfig::default())));
        let known = [&halves[1], &halves[0]].map(|peer| (peer.received(), peer.window()));
        for (half, (received, window)) in halves.iter_mut().zip(known) {
            half.attach(Epoch::new(1), received, window)
                .expect("nothing was sent, nothing received");
        }
        Cores {
            halves,
            wire: BytesMut::new(),
            now: clock::now(),
        }
    }

    /// Bytes from one half's pipe to the other's, and as many acknowledgements as that takes. Whatever lies in the
    /// memory is sent: the copies to and from the pipes are the system's.
    pub(crate) fn transfer(&mut self, from: usize, len: usize) {
        let mut left = len;
        while left > 0 {
            let half = &mut self.halves[from];
            let given = half.input().len().min(PIPE).min(left);
            half.commit_input(given);
            left -= given;
            self.carry(from);
            assert_eq!(self.deliver(1 - from), given, "what is given arrives");
            self.carry(1 - from);
        }
    }

    /// One byte, and one back.
    pub(crate) fn echo(&mut self) {
        self.transfer(0, 1);
        self.transfer(1, 1);
    }

    fn carry(&mut self, from: usize) {
        loop {
            self.halves[from].transmit(&mut self.wire, FILL, self.now);
            if self.wire.is_empty() {
                return;
            }
            while let Some(frame) = Frame::decode(&mut self.wire).expect("a frame") {
                self.halves[1 - from].handle_frame(frame).expect("in order");
            }
        }
    }

    fn deliver(&mut self, to: usize) -> usize {
        let mut delivered = 0;
        while let len @ 1.. = black_box(self.halves[to].output()).len() {
            self.halves[to].output_written(len, self.now);
            delivered += len;
        }
        delivered
    }
}
