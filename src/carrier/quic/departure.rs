//! What the congestion controller tells the socket of the packets that are about to leave: whether they may be joined.
//!
//! Only the controller knows what becomes of joined packets, and only the socket joins them; quinn has nothing in between that could
//! carry a word. But it asks the controller about each transmit just before it hands it to the socket, on the same thread. So the
//! word waits here, with the length of what it is about. One that is lost (quinn keeps a transmit for which there was no room, and
//! another connection sends meanwhile) costs the packets of that transmit, if they are lost when joined.

use std::cell::Cell;

thread_local! {
    static ANNOUNCED: Cell<(u64, bool)> = const { Cell::new((0, true)) };
}

/// So many bytes leave next.
pub(super) fn announce(bytes: u64, may_join: bool) {
    ANNOUNCED.set((bytes, may_join));
}

/// Whether a transmit of so many bytes may be given to the kernel at once.
pub(super) fn may_join(bytes: usize) -> bool {
    let (announced, may_join) = ANNOUNCED.get();
    may_join || announced != bytes as u64
}
