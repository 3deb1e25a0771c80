//! A carrier of the simulated network as a path of one half's connection.

use crate::line::LineState;
use bowline::connection::{PathClose, PathIndex, PathTransport, Paths};
use bowline::wire::Frame;
use bytes::{Bytes, BytesMut};
use std::rc::Rc;
use std::time::Duration;

/// What is sent waits here until the simulation moves it onto the line.
pub(crate) struct LinePath {
    pub(crate) id: usize,
    pub(crate) state: Rc<LineState>,
    pub(crate) outbox: BytesMut,
    pub(crate) urgent: Vec<Frame>,
}

impl LinePath {
    pub(crate) fn new(id: usize, state: Rc<LineState>) -> LinePath {
        LinePath {
            id,
            state,
            outbox: BytesMut::new(),
            urgent: Vec::new(),
        }
    }
}

impl PathTransport for LinePath {
    fn rtt(&self) -> Option<Duration> {
        self.state.rtt.get()
    }

    fn received(&self) -> u64 {
        self.state.reads.get()
    }

    fn counts_acks(&self) -> bool {
        false
    }

    fn ack_mark(&self) -> Option<u64> {
        None
    }

    fn rebindings(&self) -> u64 {
        0
    }

    fn losses(&self) -> Option<(u64, u64)> {
        None
    }

    fn is_black_hole(&self) -> bool {
        false
    }

    fn outbox(&mut self) -> &mut BytesMut {
        &mut self.outbox
    }

    fn send_now(&mut self, frame: &Frame) {
        self.urgent.push(frame.clone());
    }

    fn send_keepalive(&mut self, token: u64) {
        self.urgent.push(Frame::Ping { token });
    }

    fn send_copy(&mut self, _copy: Bytes) {}

    fn close(&mut self, _reason: PathClose) {}
}

/// Where the carrier with this number is among the paths.
pub(crate) fn index_of(paths: &mut Paths<LinePath>, id: usize) -> Option<PathIndex> {
    let mut indices = paths.indices();
    indices.find(|index| paths.get_mut(*index).is_some_and(|path| path.id == id))
}
