//! Giving up root, for good.

use std::io;

/// Makes the whole process that of an unprivileged user. To be called before there are threads.
///
/// # Errors
/// As setgroups(2), setgid(2), setuid(2): not root.
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
