//! Flow-control windows of one QUIC connection of a relay: bytes that the peer sent and nobody read
//! yet (receive), and bytes that the peer has not acknowledged (send).
//!
//! Both windows begin small. A window that limits a transfer doubles if the memory budget allows. A
//! peer that stops acknowledging, or whose bytes nobody reads, transfers nothing, and therefore
//! gets no more. What was not needed for a while is released.

use super::memory::{MemoryBudget, Reservation};
use parking_lot::{Mutex, MutexGuard};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often windows are checked and shrunk.
pub(super) const TICK_INTERVAL: Duration = Duration::from_secs(2);

/// The windows of a connection.
pub(super) struct Windows {
    connection: quinn::Connection,
    budget: Arc<MemoryBudget>,
    state: Mutex<WindowState>,
}

struct WindowState {
    receive: Window,
    send: Window,
    /// Added to the receive window for blocked streams, so that they do not block the others.
    extra: u64,
}

/// One window, in bytes.
struct Window {
    size: u64,
    min: u64,
    max: u64,
    /// Bytes transferred since it last grew, or since the last tick.
    transferred: u64,
    /// Bytes beyond `size` that may still be in use, from before the window shrank.
    excess: u64,
    reserved: Reservation,
}

/// A stream on a shared connection. While it is blocked, the bytes that wait on it are covered by
/// an extra reservation.
pub(super) struct StalledStream {
    windows: Arc<Windows>,
    /// Size of that reservation.
    bytes: u64,
    state: Mutex<StalledState>,
}

#[derive(Default)]
struct StalledState {
    /// Blocked now.
    is_blocked: bool,
    /// Was blocked at some time since the last tick.
    was_blocked: bool,
    has_extra: bool,
}

impl Windows {
    /// Sets both windows of `connection` to `min`; they may grow to `max`. `None` if there is no
    /// memory left.
    pub(super) fn new(
        connection: quinn::Connection,
        budget: &Arc<MemoryBudget>,
        min: u64,
        max: u64,
    ) -> Option<Arc<Windows>> {
        let window = || {
            Some(Window {
                size: min,
                min,
                max: max.max(min),
                transferred: 0,
                excess: 0,
                reserved: budget.reserve(min)?,
            })
        };
        let windows = Windows {
            connection,
            budget: Arc::clone(budget),
            state: Mutex::new(WindowState {
                receive: window()?,
                send: window()?,
                extra: 0,
            }),
        };
        windows.apply_receive(&windows.state.lock());
        windows.connection.set_send_window(min);
        Some(Arc::new(windows))
    }

    /// Bytes from the peer were read.
    pub(super) fn handle_read(&self, bytes: u64) {
        let mut state = self.state.lock();
        let extra = state.extra;
        state.receive.release(bytes, extra);
        if state.receive.handle_transferred(bytes, &self.budget) {
            self.apply_receive(&state);
        }
    }

    /// The connection accepted bytes for the peer.
    pub(super) fn handle_written(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.send.release(u64::MAX, 0);
        if state.send.handle_transferred(bytes, &self.budget) {
            self.connection.set_send_window(state.send.size);
        }
    }

    /// Releases what was not needed since the last tick.
    fn tick(&self) {
        let mut state = self.state.lock();
        if state.receive.tick() {
            self.apply_receive(&state);
        }
        if state.send.tick() {
            self.connection.set_send_window(state.send.size);
        }
    }

    /// Reserves extra receive window; `false` if there is no memory left.
    fn reserve_extra(&self, bytes: u64) -> bool {
        let Some(reserved) = self.budget.reserve_growth(bytes) else {
            return false;
        };
        let mut state = self.state.lock();
        state.receive.reserved.join(reserved);
        state.extra += bytes;
        self.apply_receive(&state);
        true
    }

    /// QUIC cannot revoke credit: the peer may still use it until as many bytes were read.
    fn release_extra(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.extra -= bytes;
        state.receive.excess += bytes;
        self.apply_receive(&state);
    }

    fn apply_receive(&self, state: &WindowState) {
        let size = state.receive.size.saturating_add(state.extra);
        let size = quinn::VarInt::from_u64(size).unwrap_or(quinn::VarInt::MAX);
        self.connection.set_receive_window(size);
    }
}

impl Window {
    /// Whether the window has grown. It takes two windows' worth since the last growth: the first
    /// window's worth may still be waiting, the second shows that bytes were read or acknowledged.
    fn handle_transferred(&mut self, bytes: u64, budget: &Arc<MemoryBudget>) -> bool {
        self.transferred = self.transferred.saturating_add(bytes);
        if self.transferred < 2 * self.size || self.size >= self.max {
            return false;
        }
        self.transferred = 0;
        let more = self.size.min(self.max - self.size);
        let Some(reserved) = budget.reserve_growth(more) else {
            return false;
        };
        self.reserved.join(reserved);
        self.size += more;
        true
    }

    /// Whether the window has shrunk.
    fn tick(&mut self) -> bool {
        let is_needed = self.transferred >= self.size / 4;
        self.transferred = 0;
        if is_needed || self.size <= self.min {
            return false;
        }
        let smaller = (self.size / 2).max(self.min);
        self.excess += self.size - smaller;
        self.size = smaller;
        true
    }

    /// Releases `bytes` of what was in use beyond the window. The reservation includes `extra`.
    fn release(&mut self, bytes: u64, extra: u64) {
        if self.excess > 0 {
            self.excess = self.excess.saturating_sub(bytes);
            self.reserved.shrink_to(self.size + self.excess + extra);
        }
    }
}

impl StalledStream {
    /// For a stream on which `max` bytes can wait.
    pub(super) fn new(windows: Arc<Windows>, max: u64) -> StalledStream {
        StalledStream {
            windows,
            // quinn announces new credit when it amounts to an eighth of the window. Unless a
            // larger part than that keeps moving, a blocked stream would block all others.
            bytes: max + max / 2,
            state: Mutex::default(),
        }
    }

    /// Nobody reads the stream's bytes. They could fill the connection's window and block the other
    /// streams.
    pub(super) fn handle_blocked(&self) {
        let mut state = self.state.lock();
        (state.is_blocked, state.was_blocked) = (true, true);
        if !state.has_extra {
            state.has_extra = self.windows.reserve_extra(self.bytes);
        }
    }

    /// Some bytes were read.
    pub(super) fn handle_transferred(&self) {
        self.state.lock().is_blocked = false;
    }

    pub(super) fn tick(&self) {
        let mut state = self.state.lock();
        let was_blocked = std::mem::take(&mut state.was_blocked);
        if !was_blocked && !state.is_blocked {
            self.end(&mut state);
        }
    }

    fn end(&self, state: &mut StalledState) {
        if std::mem::take(&mut state.has_extra) {
            self.windows.release_extra(self.bytes);
        }
    }
}

impl Drop for StalledStream {
    fn drop(&mut self) {
        let mut state = std::mem::take(&mut *self.state.lock());
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
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(budget: &Arc<MemoryBudget>) -> Window {
        Window {
            size: 32,
            min: 32,
            max: 1000,
            transferred: 0,
            excess: 0,
            reserved: budget.reserve(32).unwrap(),
        }
    }

    #[test]
    fn window_grows_with_transferred_bytes_and_not_without_acknowledgements() {
        let budget = MemoryBudget::new(1 << 20);
        let mut window = window(&budget);
        // One window's worth, which proves nothing, and again after a tick.
        for _ in 0..3 {
            assert!(!window.handle_transferred(32, &budget));
            assert!(!window.tick());
        }
        let mut grown = 0;
        for _ in 0..1000 {
            grown += u32::from(window.handle_transferred(32, &budget));
        }
        assert_eq!((grown, window.size, budget.used()), (5, 1000, 1000));
    }

    #[test]
    fn memory_of_a_shrunk_window_is_released_once_it_cannot_be_in_use() {
        let budget = MemoryBudget::new(1 << 20);
        let mut window = window(&budget);
        while window.size < 1000 {
            window.handle_transferred(1000, &budget);
        }
        window.transferred = 0;
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
    fn without_memory_a_window_does_not_grow() {
        let budget = MemoryBudget::new(100);
        let mut window = window(&budget);
        assert!(!window.handle_transferred(1_000_000, &budget));
        assert_eq!((window.size, budget.used()), (32, 32));
    }
}
