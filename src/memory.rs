//! Memory by the page: anonymous, or of a file that only lives in memory and outlives the process.
//!
//! Only the mapping; what lies where is the caller's.

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};

/// A file in memory of `len` bytes, zeroed, which can neither shrink nor grow. A page costs nothing until it is written.
///
/// `name` shows up in /proc, and need not be unique.
///
/// # Errors
/// No descriptor is left, or no memory.
pub(crate) fn memory_file(name: &str, len: u64) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&file, len)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

/// Mapped memory, readable and writable.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    give_back: Advice,
}

// SAFETY: the memory belongs to the mapping alone, and is reached by its borrows only.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}
// SAFETY: shared borrows only read.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed memory of this process alone.
    ///
    /// # Errors
    /// `len` is 0, or there is no room for it.
    pub(crate) fn anonymous(len: usize) -> io::Result<Mapping> {
        // SAFETY: the system chooses the place, where nothing else is.
        #[allow(unsafe_code)]
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        };
        Mapping::new(start?, len, Advice::LinuxDontNeed)
    }

    /// `len` bytes of a [`memory_file`] from `offset` on, a multiple of the page size. What is written lies in the file at
    /// once, and survives the process as long as anyone holds a descriptor of it.
    ///
    /// Only one process may have a file mapped at a time; to see to that is the caller's.
    ///
    /// # Errors
    /// `InvalidInput` for a file that ends before, or that may shrink below our feet (SIGBUS); else as the system says.
    pub(crate) fn of_file(file: impl AsFd, offset: u64, len: usize) -> io::Result<Mapping> {
        let size = rustix::fs::fstat(&file)?.st_size as u64;
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let is_whole = offset.checked_add(len as u64).is_some_and(|end| end <= size);
        if !is_whole || !seals.contains(SealFlags::SHRINK) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the system chooses the place, where nothing else is; all of it is backed by a file that cannot shrink.
        #[allow(unsafe_code)]
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &file,
                offset,
            )
        };
        Mapping::new(start?, len, Advice::LinuxRemove)
    }

    /// Gives the whole pages of `range` back to the system, in a file too; they are zero afterwards.
    ///
    /// # Errors
    /// As the system says; the bytes may be as they were then.
    ///
    /// # Panics
    /// `range` lies outside.
    pub(crate) fn release(&mut self, range: Range<usize>) -> io::Result<()> {
        let page = rustix::param::page_size();
        let bytes = &mut self[range.clone()];
        let start = bytes.as_mut_ptr();
        // The start of a mapping is also the start of a page.
        let skipped = range.start.next_multiple_of(page) - range.start;
        let whole = bytes.len().saturating_sub(skipped) / page * page;
        if whole == 0 {
            return Ok(());
        }
        // SAFETY: these pages lie in our own mapping, which is borrowed mutably, and any byte is as good as another.
        #[allow(unsafe_code)]
        unsafe {
            rustix::mm::madvise(start.add(skipped).cast(), whole, self.give_back)?;
        }
        Ok(())
    }

    fn new(start: *mut c_void, len: usize, give_back: Advice) -> io::Result<Mapping> {
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { start, len, give_back })
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: mapped readable for `len` bytes as long as `self` lives, and zeroed at first.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.len)
        }
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: mapped writable for `len` bytes as long as `self` lives, and borrowed by nobody else.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len)
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly what was mapped, and no borrow of it is left. It fails only for what was not mapped.
        #[allow(unsafe_code)]
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 65536;

    fn blocks(file: &OwnedFd) -> usize {
        rustix::fs::fstat(file).unwrap().st_blocks as usize * 512
    }

    #[test]
    fn what_is_written_is_there_for_the_next_mapping() {
        let file = memory_file("test", 3 * PAGE as u64).unwrap();
        let mut mapping = Mapping::of_file(&file, PAGE as u64, 2 * PAGE - 7).unwrap();
        mapping[5..8].copy_from_slice(b"abc");
        drop(mapping);
        let mapping = Mapping::of_file(&file, 0, 3 * PAGE).unwrap();
        assert_eq!(&mapping[PAGE + 4..PAGE + 9], b"\0abc\0");
    }

    #[test]
    fn released_pages_cost_nothing_and_the_others_stay() {
        let file = memory_file("test", 4 * PAGE as u64).unwrap();
        assert_eq!(blocks(&file), 0);
        let mut mapping = Mapping::of_file(&file, 0, 4 * PAGE).unwrap();
        mapping.fill(7);
        assert_eq!(blocks(&file), 4 * PAGE);
        mapping.release(PAGE - 1..3 * PAGE + 1).unwrap();
        assert_eq!(blocks(&file), 2 * PAGE);
        assert!(
            mapping[..PAGE]
                .iter()
                .chain(&mapping[3 * PAGE..])
                .all(|byte| *byte == 7)
        );
        assert!(mapping[PAGE..3 * PAGE].iter().all(|byte| *byte == 0));
        mapping.release(9..9).unwrap();
        mapping[PAGE] = 1;
        assert_eq!(mapping[PAGE], 1);
    }

    #[test]
    fn anonymous_memory_is_released_too() {
        let mut mapping = Mapping::anonymous(4 * PAGE).unwrap();
        mapping.fill(7);
        mapping.release(0..2 * PAGE).unwrap();
        assert!(mapping[..2 * PAGE].iter().all(|byte| *byte == 0));
        assert!(mapping[2 * PAGE..].iter().all(|byte| *byte == 7));
    }

    #[test]
    fn files_that_end_before_or_may_shrink_are_refused() {
        let file = memory_file("test", PAGE as u64).unwrap();
        for (offset, len) in [(0, PAGE + 1), (PAGE as u64, 1), (u64::MAX, 2)] {
            let refused = Mapping::of_file(&file, offset, len).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
        }
        assert!(rustix::fs::ftruncate(&file, 0).is_err() && rustix::fs::ftruncate(&file, 1 << 20).is_err());
        let soft = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&soft, PAGE as u64).unwrap();
        let refused = Mapping::of_file(&soft, 0, PAGE).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
