//! How much may wait on one QUIC connection of a relay: bytes that its peer sent and nobody took yet, and bytes that its
//! peer has not acknowledged.
//!
//! Both windows begin small and double when they hold a path back that moves, if the memory budget gives the rest. A
//! peer that stops acknowledging, or whose bytes nobody takes, moves nothing, and so gets no more than it had. What was
//! not needed for a while is given back.

use super::memory::{MemoryBudget, Part};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// How often it is looked for windows that are larger than need be.
pub(super) const TICK: Duration = Duration::from_secs(2);

/// A connection's windows.
pub(super) struct Windows {
    connection: quinn::Connection,
    budget: Arc<MemoryBudget>,
    both: Mutex<Both>,
}

struct Both {
    receive: Window,
    send: Window,
    /// Room beside the receive window for streams that stand still, so that they are in nobody's way.
    aside: u64,
}

/// One of both, in bytes.
struct Window {
    size: u64,
    least: u64,
    most: u64,
    /// Moved since it last grew, or since the last tick.
    moved: u64,
    /// What may be in use beyond `size`, of a time when that was larger.
    beyond: u64,
    part: Part,
}

/// A stream of a connection that others use as well: where it stands still, what waits on it is counted aside.
pub(super) struct Stalled {
    windows: Arc<Windows>,
    /// What is to be aside then.
    bytes: u64,
    state: Mutex<StalledState>,
}

#[derive(Default)]
struct StalledState {
    /// Now, until something is taken.
    stands_still: bool,
    /// Since the last tick.
    stood_still: bool,
    is_aside: bool,
}

impl Windows {
    /// Sets both windows of `connection` to `least`; they may grow to `most`. `None` without memory for that.
    pub(super) fn new(
        connection: quinn::Connection,
        budget: &Arc<MemoryBudget>,
        least: u64,
        most: u64,
    ) -> Option<Arc<Windows>> {
        let window = || {
            Some(Window {
                size: least,
                least,
                most: most.max(least),
                moved: 0,
                beyond: 0,
                part: budget.take(least)?,
            })
        };
        let windows = Windows {
            connection,
            budget: Arc::clone(budget),
            both: Mutex::new(Both {
                receive: window()?,
                send: window()?,
                aside: 0,
            }),
        };
        windows.apply_receive(&windows.both());
        windows.connection.set_send_window(least);
        Some(Arc::new(windows))
    }

    /// So many of the peer's bytes were taken.
    pub(super) fn handle_read(&self, bytes: u64) {
        let mut both = self.both();
        let aside = both.aside;
        both.receive.release(bytes, aside);
        if both.receive.handle_moved(bytes, &self.budget) {
            self.apply_receive(&both);
        }
    }

    /// The connection took so many bytes for the peer, and so there was room for them.
    pub(super) fn handle_written(&self, bytes: u64) {
        let mut both = self.both();
        both.send.release(u64::MAX, 0);
        if both.send.handle_moved(bytes, &self.budget) {
            self.connection.set_send_window(both.send.size);
        }
    }

    /// Time has passed: gives back what nobody needed.
    fn tick(&self) {
        let mut both = self.both();
        if both.receive.tick() {
            self.apply_receive(&both);
        }
        if both.send.tick() {
            self.connection.set_send_window(both.send.size);
        }
    }

    /// Whether there is room for so much more aside.
    fn take_aside(&self, bytes: u64) -> bool {
        let Some(part) = self.budget.take_more(bytes) else {
            return false;
        };
        let mut both = self.both();
        both.receive.part.join(part);
        both.aside += bytes;
        self.apply_receive(&both);
        true
    }

    /// The peer may still send as much until as much was taken: that is how QUIC takes a promise back.
    fn give_aside_back(&self, bytes: u64) {
        let mut both = self.both();
        both.aside -= bytes;
        both.receive.beyond += bytes;
        self.apply_receive(&both);
    }

    fn apply_receive(&self, both: &Both) {
        let size = both.receive.size.saturating_add(both.aside);
        let size = quinn::VarInt::from_u64(size).unwrap_or(quinn::VarInt::MAX);
        self.connection.set_receive_window(size);
    }

    fn both(&self) -> MutexGuard<'_, Both> {
        // Plain values: a panic elsewhere cannot have left them half written.
        self.both.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Window {
    /// Whether it has grown. Two windows' worth since it last did so show that one was taken or acknowledged: the first
    /// may still wait.
    fn handle_moved(&mut self, bytes: u64, budget: &Arc<MemoryBudget>) -> bool {
        self.moved = self.moved.saturating_add(bytes);
        if self.moved < 2 * self.size || self.size >= self.most {
            return false;
        }
        self.moved = 0;
        let more = self.size.min(self.most - self.size);
        let Some(part) = budget.take_more(more) else {
            return false;
        };
        self.part.join(part);
        self.size += more;
        true
    }

    /// Whether it has become smaller.
    fn tick(&mut self) -> bool {
        let is_needed = self.moved >= self.size / 4;
        self.moved = 0;
        if is_needed || self.size <= self.least {
            return false;
        }
        let smaller = (self.size / 2).max(self.least);
        self.beyond += self.size - smaller;
        self.size = smaller;
        true
    }

    /// So much of what was beyond the window is not there any more. `aside` is counted here as well.
    fn release(&mut self, bytes: u64, aside: u64) {
        if self.beyond > 0 {
            self.beyond = self.beyond.saturating_sub(bytes);
            self.part.shrink_to(self.size + self.beyond + aside);
        }
    }
}

impl Stalled {
    /// For a stream on which `most` bytes can wait.
    pub(super) fn new(windows: Arc<Windows>, most: u64) -> Stalled {
        Stalled {
            windows,
            // quinn tells a peer of room when that is an eighth of the window. Without a part that keeps moving and is
            // larger than that, what stands still would silence all the others.
            bytes: most + most / 2,
            state: Mutex::default(),
        }
    }

    /// Nobody takes what comes on the stream: what waits there may fill the connection's window, and is not to stop the
    /// other streams.
    pub(super) fn handle_blocked(&self) {
        let mut state = self.state();
        (state.stands_still, state.stood_still) = (true, true);
        if !state.is_aside {
            state.is_aside = self.windows.take_aside(self.bytes);
        }
    }

    /// Something was taken.
    pub(super) fn handle_moved(&self) {
        self.state().stands_still = false;
    }

    pub(super) fn tick(&self) {
        let mut state = self.state();
        let stood_still = std::mem::take(&mut state.stood_still);
        if !stood_still && !state.stands_still {
            self.end(&mut state);
        }
    }

    fn end(&self, state: &mut StalledState) {
        if std::mem::take(&mut state.is_aside) {
            self.windows.give_aside_back(self.bytes);
        }
    }

    fn state(&self) -> MutexGuard<'_, StalledState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stalled {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut *self.state());
        self.end(&mut state);
    }
}

/// All windows of a relay, for [`Windows::tick`].
#[derive(Default)]
pub(super) struct AllWindows(Mutex<Vec<Weak<Windows>>>);

impl AllWindows {
    pub(super) fn add(&self, windows: &Arc<Windows>) {
        self.all().push(Arc::downgrade(windows));
    }

    pub(super) fn tick(&self) {
        self.all().retain(|windows| match windows.upgrade() {
            Some(windows) => {
                windows.tick();
                true
            }
            None => false,
        });
    }

    fn all(&self) -> MutexGuard<'_, Vec<Weak<Windows>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(budget: &Arc<MemoryBudget>) -> Window {
        Window {
            size: 32,
            least: 32,
            most: 1000,
            moved: 0,
            beyond: 0,
            part: budget.take(32).unwrap(),
        }
    }

    #[test]
    fn a_window_grows_with_what_moves_and_a_peer_that_acknowledges_nothing_gets_no_more() {
        let budget = MemoryBudget::new(1 << 20);
        let mut window = window(&budget);
        // As much as fits, which shows nothing yet, and again after a rest.
        for _ in 0..3 {
            assert!(!window.handle_moved(32, &budget));
            assert!(!window.tick());
        }
        let mut grown = 0;
        for _ in 0..1000 {
            grown += u32::from(window.handle_moved(32, &budget));
        }
        assert_eq!((grown, window.size, budget.used()), (5, 1000, 1000));
    }

    #[test]
    fn memory_of_a_window_that_shrinks_is_free_once_nothing_can_be_in_it() {
        let budget = MemoryBudget::new(1 << 20);
        let mut window = window(&budget);
        while window.size < 1000 {
            window.handle_moved(1000, &budget);
        }
        window.moved = 0;
        assert!(window.tick() && window.tick());
        assert_eq!((window.size, budget.used()), (250, 1000));
        window.release(700, 0);
        assert_eq!(budget.used(), 300);
        window.release(u64::MAX, 0);
        assert_eq!(budget.used(), 250);
        while window.tick() {}
        window.release(u64::MAX, 0);
        assert_eq!((window.size, budget.used()), (32, 32));
    }

    #[test]
    fn without_memory_a_window_stays_as_it_is() {
        let budget = MemoryBudget::new(100);
        let mut window = window(&budget);
        assert!(!window.handle_moved(1_000_000, &budget));
        assert_eq!((window.size, budget.used()), (32, 32));
    }
}
