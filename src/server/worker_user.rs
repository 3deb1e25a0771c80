//! The user that the worker runs as.
//!
//! Only `/etc/passwd` is read: system users are local, and NSS would load code into a root process.

use std::{fs, io};

use serde::{Deserialize, Serialize};

/// The file of users.
const PASSWD: &str = "/etc/passwd";

/// Tried in this order if no user is named.
const DEFAULT_USERS: [&str; 2] = ["bowline", "nobody"];

/// The user id of `nobody` on every Linux (the kernel's overflow id), for systems without `/etc/passwd`.
const OVERFLOW: u32 = 65534;

/// An unprivileged user of this system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerUser {
    name: String,
    uid: u32,
    gid: u32,
}

impl WorkerUser {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The user id, never 0.
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The id of the user's primary group.
    pub fn gid(&self) -> u32 {
        self.gid
    }
}

/// Why the worker cannot run as the named user.
#[derive(Debug, thiserror::Error)]
pub enum WorkerUserError {
    /// There is no such user.
    #[error("there is no user {name} in {PASSWD}")]
    Unknown {
        /// The name.
        name: String,
    },
    /// The user has user id 0 or group id 0.
    #[error("user {name} has the rights of root, which the worker must not have")]
    Privileged {
        /// The name.
        name: String,
    },
    /// Only root can run a process as another user.
    #[error("only root can start the worker as another user ({name})")]
    NotRoot {
        /// The name.
        name: String,
    },
    /// `/etc/passwd` cannot be read.
    #[error("cannot read {PASSWD}")]
    Read(#[source] io::Error),
}

/// The user that the worker should run as: the named one, otherwise `bowline` if it exists, otherwise `nobody`.
/// `None`: the keeper's own user, who is not root then.
///
/// # Errors
/// See [`WorkerUserError`].
pub fn choose_worker_user(name: Option<&str>) -> Result<Option<WorkerUser>, WorkerUserError> {
    let passwd = match fs::read(PASSWD) {
        Ok(passwd) => String::from_utf8_lossy(&passwd).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(WorkerUserError::Read(error)),
    };
    choose(name, &passwd, rustix::process::geteuid().as_raw())
}

fn choose(name: Option<&str>, passwd: &str, own_uid: u32) -> Result<Option<WorkerUser>, WorkerUserError> {
    let user = match name {
        Some(name) => find(passwd, name).ok_or_else(|| WorkerUserError::Unknown { name: name.to_owned() })?,
        None if own_uid != 0 => return Ok(None),
        None => DEFAULT_USERS
            .iter()
            .find_map(|name| find(passwd, name).filter(is_unprivileged))
            .unwrap_or_else(overflow_user),
    };
    match own_uid {
        0 if is_unprivileged(&user) => Ok(Some(user)),
        0 => Err(WorkerUserError::Privileged { name: user.name }),
        own if own == user.uid => Ok(None),
        _ => Err(WorkerUserError::NotRoot { name: user.name }),
    }
}

/// By passwd(5): name, password, user id, group id, ...
fn find(passwd: &str, name: &str) -> Option<WorkerUser> {
    let mut users = passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(WorkerUser {
            name: name.to_owned(),
            uid,
            gid,
        })
    });
    users.find(|user| user.name == name)
}

fn is_unprivileged(user: &WorkerUser) -> bool {
    user.uid != 0 && user.gid != 0
}

fn overflow_user() -> WorkerUser {
    WorkerUser {
        name: "nobody".to_owned(),
        uid: OVERFLOW,
        gid: OVERFLOW,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "root:x:0:0:root:/root:/bin/bash\n# damaged\nhalf:x\nodd:x:many:1::\n\
        nobody:x:65533:65532:nobody:/nonexistent:/usr/sbin/nologin\ntoor:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:\n\
        wheel:x:7:0:::";

    fn chosen(name: Option<&str>, passwd: &str) -> (String, u32, u32) {
        let user = choose(name, passwd, 0).unwrap().unwrap();
        (user.name, user.uid, user.gid)
    }

    #[test]
    fn root_picks_bowline_then_nobody_then_the_overflow_user() {
        let with_bowline = format!("{PLAIN}\nbowline:x:995:994::/var/lib/bowline:/bin/false");
        assert_eq!(chosen(None, &with_bowline), ("bowline".to_owned(), 995, 994));
        assert_eq!(chosen(None, PLAIN), ("nobody".to_owned(), 65533, 65532));
        assert_eq!(chosen(None, ""), ("nobody".to_owned(), 65534, 65534));
        assert_eq!(chosen(None, "bowline:x:0:0:::\n"), ("nobody".to_owned(), 65534, 65534));
        assert_eq!(chosen(Some("ann"), PLAIN), ("ann".to_owned(), 1000, 1000));
    }

    #[test]
    fn unknown_and_privileged_users_are_refused() {
        for name in ["ghost", "odd", "half", ""] {
            assert!(
                matches!(choose(Some(name), PLAIN, 0), Err(WorkerUserError::Unknown { .. })),
                "{name}"
            );
        }
        for name in ["root", "toor", "wheel"] {
            assert!(
                matches!(choose(Some(name), PLAIN, 0), Err(WorkerUserError::Privileged { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn others_than_root_keep_their_own_user_and_cannot_name_another() {
        assert_eq!(choose(None, PLAIN, 1000).unwrap(), None);
        assert_eq!(choose(Some("ann"), PLAIN, 1000).unwrap(), None);
        assert!(matches!(
            choose(Some("nobody"), PLAIN, 1000),
            Err(WorkerUserError::NotRoot { .. })
        ));
    }
}
