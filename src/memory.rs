//! Mapped memory: anonymous, or of a memory file that outlives the process.
//!
//! Only the mapping; the layout is up to the caller.

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::io;
use std::ops::{Deref, DerefMut, Range};
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::{self, NonNull};

/// Creates a zeroed memory file of `len` bytes that can neither shrink nor grow. Pages use no memory until they are
/// written.
///
/// `name` appears in /proc and need not be unique.
///
/// # Errors
/// There is no free descriptor, or not enough memory.
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
    release_advice: Advice,
}

// SAFETY: the mapping owns the memory, which is accessed through borrows of the mapping only.
#[allow(unsafe_code)]
unsafe impl Send for Mapping {}
// SAFETY: shared borrows only read.
#[allow(unsafe_code)]
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Private zeroed memory.
    ///
    /// # Errors
    /// `len` is 0, or there is not enough address space.
    pub(crate) fn anonymous(len: usize) -> io::Result<Mapping> {
        // SAFETY: the kernel chooses an unused address.
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

    /// Maps `len` bytes of a [`memory_file`] from `offset`, a multiple of the page size. Writes are in the file at
    /// once, which exists as long as any process has a descriptor of it.
    ///
    /// Only one process may map a file at a time; the caller ensures that.
    ///
    /// # Errors
    /// `InvalidInput` if the file is too short, or could shrink (which would cause SIGBUS); other errors of mmap.
    pub(crate) fn of_file(file: impl AsFd, offset: u64, len: usize) -> io::Result<Mapping> {
        let size = rustix::fs::fstat(&file)?.st_size as u64;
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        let is_whole = offset.checked_add(len as u64).is_some_and(|end| end <= size);
        if !is_whole || !seals.contains(SealFlags::SHRINK) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: the kernel chooses an unused address; all of it is backed by a file that cannot shrink.
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

    /// Frees the whole pages within `range`, in the file too; they read as zero afterwards.
    ///
    /// # Errors
    /// As madvise(2); the bytes may be unchanged then.
    ///
    /// # Panics
    /// `range` is out of bounds.
    pub(crate) fn release(&mut self, range: Range<usize>) -> io::Result<()> {
        let page = rustix::param::page_size();
        let bytes = &mut self[range.clone()];
        let start = bytes.as_mut_ptr();
        // A mapping starts at a page boundary.
        let skipped = range.start.next_multiple_of(page) - range.start;
        let whole = bytes.len().saturating_sub(skipped) / page * page;
        if whole == 0 {
            return Ok(());
        }
        // SAFETY: these pages belong to this mapping, which is borrowed mutably, and any content is valid.
        #[allow(unsafe_code)]
        unsafe {
            rustix::mm::madvise(start.add(skipped).cast(), whole, self.release_advice)?;
        }
        Ok(())
    }

    fn new(start: *mut c_void, len: usize, release_advice: Advice) -> io::Result<Mapping> {
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping {
            start,
            len,
            release_advice,
        })
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `len` readable, initialized bytes, valid as long as `self`.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts(self.start.as_ptr(), self.len)
        }
    }
}

impl DerefMut for Mapping {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: `len` writable bytes, valid as long as `self`, and borrowed exclusively.
        #[allow(unsafe_code)]
        unsafe {
            std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len)
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapped range, and no borrow of it is left. It can only fail for other ranges.
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
