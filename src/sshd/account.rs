//! The calling user: name, home, shell. Nobody else is ever looked up.

use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Room for one passwd entry; getpwuid_r(3) asks for 1024 by default, directories give longer ones.
const ENTRY_BYTES: usize = 64 * 1024;

/// The calling user cannot be looked up.
#[derive(Debug, Error)]
pub enum AccountError {
    /// The user database has no such user.
    #[error("user {uid} has no passwd entry")]
    Unknown {
        /// The real user id.
        uid: u32,
    },
    /// The user database cannot be read.
    #[error("cannot look up user {uid}")]
    Lookup {
        /// The real user id.
        uid: u32,
        /// What the system said.
        source: io::Error,
    },
}

/// A passwd entry.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) name: String,
    pub(super) home: PathBuf,
    pub(super) shell: PathBuf,
}

impl Account {
    pub(super) fn of_calling_user() -> Result<Account, AccountError> {
        let uid = rustix::process::getuid().as_raw();
        passwd_entry(uid)
    }

    /// The shell's name as a login shell is told it: `-bash`.
    pub(super) fn login_name_of_shell(&self) -> OsString {
        let name = self.shell.file_name().unwrap_or(OsStr::new("sh"));
        let mut login = OsString::from("-");
        login.push(name);
        login
    }
}

#[allow(unsafe_code)]
fn passwd_entry(uid: u32) -> Result<Account, AccountError> {
    let mut strings = vec![0; ENTRY_BYTES];
    let mut found = std::ptr::null_mut();
    let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
    // SAFETY: `entry` and `strings` are valid for writes of the sizes given, and outlive `found`, which points into them.
    let code = unsafe {
        libc::getpwuid_r(
            uid,
            entry.as_mut_ptr(),
            strings.as_mut_ptr(),
            strings.len(),
            &raw mut found,
        )
    };
    if code != 0 {
        return Err(AccountError::Lookup {
            uid,
            source: io::Error::from_raw_os_error(code),
        });
    }
    // SAFETY: null, or a pointer to `entry`, which getpwuid_r has filled.
    let entry = unsafe { found.as_ref() }.ok_or(AccountError::Unknown { uid })?;
    let field = |text: *const libc::c_char| {
        // SAFETY: getpwuid_r gives every field as a string within `strings`, ended by NUL.
        let text = unsafe { CStr::from_ptr(text) };
        text.to_bytes().to_vec()
    };
    Ok(Account {
        name: String::from_utf8_lossy(&field(entry.pw_name)).into_owned(),
        home: path_or(&field(entry.pw_dir), "/"),
        shell: path_or(&field(entry.pw_shell), "/bin/sh"),
    })
}

fn path_or(path: &[u8], default: &str) -> PathBuf {
    let path = if path.is_empty() {
        OsStr::new(default)
    } else {
        OsStr::from_bytes(path)
    };
    Path::new(path).to_path_buf()
}
