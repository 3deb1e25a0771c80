//! Passes a permission from the congestion controller to the socket: whether the packets of the
//! next transmit may be sent as one batch (UDP generic segmentation offload, GSO).
//!
//! Only the controller sees whether batches arrive, only the socket sends them, and quinn has no
//! channel in between. But quinn informs the controller of each transmit just before it passes it
//! to the socket, on the same thread. So the permission is kept in a thread-local variable,
//! together with the length of the transmit. It can be overwritten in between, if quinn keeps a
//! transmit that did not fit and another connection sends meanwhile. Then the transmit is sent as a
//! batch and may be lost.

use std::cell::Cell;

thread_local! {
    static ANNOUNCED: Cell<(u64, bool)> = const { Cell::new((0, true)) };
}

/// Sets the permission for the next transmit, which has this length.
pub(super) fn set_allowed(bytes: u64, may_join: bool) {
    ANNOUNCED.set((bytes, may_join));
}

/// Whether a transmit of this length may be sent as a batch.
pub(super) fn is_allowed(bytes: usize) -> bool {
    let (announced, may_join) = ANNOUNCED.get();
    may_join || announced != bytes as u64
}
