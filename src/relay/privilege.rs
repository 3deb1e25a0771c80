//! Drops root privileges for good.

use std::io;

/// Changes the user and group of the whole process and clears its groups. Call it before the
/// process has threads.
///
/// # Errors
/// As setgroups(2), setgid(2), setuid(2): the process is not root.
pub fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: no groups are given, so nothing is read; the other two take plain numbers.
    #[allow(unsafe_code)]
    let outcomes = unsafe {
        [
            libc::setgroups(0, std::ptr::null()),
            libc::setgid(gid),
            libc::setuid(uid),
        ]
    };
    match outcomes {
        [0, 0, 0] => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
