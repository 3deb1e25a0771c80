//! Runs one target function on each input, and watches how much memory that takes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

pub use libfuzzer_sys;

/// Most memory for each byte of input.
const PER_BYTE: usize = 512;

/// The allocator of the system, which knows how much is allocated.
pub struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Relaxed) + layout.size();
        PEAK.fetch_max(live, Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let live = LIVE.fetch_add(size, Relaxed) + size;
        // Both may exist for a moment.
        PEAK.fetch_max(live, Relaxed);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(place, layout, size) }
    }
}

/// Runs the target, which may use `memory` bytes at once and [`PER_BYTE`] for each byte of input.
///
/// # Panics
/// If the target does, or if it uses more memory.
pub fn run(input: &[u8], target: fn(&[u8]), memory: usize) {
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    target(input);
    let used = PEAK.load(Relaxed).saturating_sub(before);
    let most = memory + PER_BYTE * input.len();
    assert!(
        used <= most,
        "{} bytes of input took {used} bytes of memory, at most {most}",
        input.len()
    );
}

/// The program of one target.
#[macro_export]
macro_rules! target {
    ($target:expr, memory = $memory:expr) => {
        #[global_allocator]
        static ALLOCATOR: $crate::Counting = $crate::Counting;

        use $crate::libfuzzer_sys;
        libfuzzer_sys::fuzz_target!(|input: &[u8]| { $crate::run(input, $target, $memory) });
    };
}
