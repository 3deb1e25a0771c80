//! Which terminal controls this process, and whether the process is in its background.
//!
//! Asked with libc: in a process id namespace (a container), the session and the process group may have their leader
//! outside of it. The kernel then says 0, which rustix takes for impossible.

use std::os::fd::{AsFd, AsRawFd};

/// Whether a descriptor is the controlling terminal of this process.
pub(crate) fn is_controlling(fd: impl AsFd) -> bool {
    // Of another terminal, the session cannot be asked.
    // SAFETY: the descriptor is open, and the call only returns a number.
    #[allow(unsafe_code)]
    let session = unsafe { libc::tcgetsid(fd.as_fd().as_raw_fd()) };
    session != -1
}

/// Whether the terminal would stop this process for reading from it or for changing it.
pub(crate) fn is_in_background(terminal: impl AsFd) -> bool {
    // SAFETY: the descriptor is open, and both calls only return a number.
    #[allow(unsafe_code)]
    let (foreground, own) = unsafe { (libc::tcgetpgrp(terminal.as_fd().as_raw_fd()), libc::getpgrp()) };
    foreground != -1 && foreground != own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_terminal_controls_nothing() {
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_controlling(&null));
        assert!(!is_in_background(&null));
    }
}
