//! The journal of live sessions: the next run ends sessions whose process died.
//!
//! One file per session in `<state>/sessions/`, locked by the session's process while it runs. The file lets its
//! reader end the session, but not attach to it. If it is lost, the server half keeps the session until its ttl ends.

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::carrier;
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};
use tracing::{debug, warn};

/// Most orphans returned per run: ending each takes a connection.
pub const MAX_ORPHANS: usize = 64;

/// Age at which an entry is removed: the server half's default ttl plus one hour.
pub const MAX_AGE: Duration = Duration::from_secs((7 * 24 + 1) * 3600);

/// Most files read per run.
const MAX_FILES: usize = 1024;

/// Most bytes read of one file. An entry with eight addresses has about 700.
const MAX_FILE_BYTES: u64 = 16 * 1024;

/// File name prefix of an entry that is being written. If such a file is older than [`UNFINISHED_AGE`], its writer is
/// gone.
const UNFINISHED: &str = ".new-";
const UNFINISHED_AGE: Duration = Duration::from_secs(3600);

/// What is needed to end a session.
#[derive(Clone, PartialEq, Eq)]
pub struct JournalEntry {
    /// The session's id.
    pub session: [u8; 16],
    /// Authorizes ending the session, and nothing else. The server half knows its hash.
    pub reap_token: [u8; 32],
    /// The host as given to ssh.
    pub host: String,
    /// Paths to the server half, the best first.
    pub paths: Vec<carrier::Path>,
    /// The server half's TLS key (SPKI DER).
    pub server_key: Vec<u8>,
    /// When the session was opened.
    pub started: SystemTime,
}

/// Omits the token.
impl fmt::Debug for JournalEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut entry = f.debug_struct("JournalEntry");
        entry
            .field("session", &stored::hex(&self.session))
            .field("host", &self.host);
        entry
            .field("paths", &self.paths)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

/// Why no entry was written. The session runs without one.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The folder does not exist and cannot be created.
    #[error("cannot make the folder {path}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The error of mkdir.
        source: io::Error,
    },
    /// The file cannot be created, locked or written.
    #[error("cannot write the journal entry {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
}

/// The folder that holds the entries.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
}

impl Journal {
    /// Opens the journal in a state folder, and creates it (mode 0700) if needed.
    ///
    /// # Errors
    /// `Folder` if it cannot be created.
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        let folder = state_dir.join("sessions");
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|source| JournalError::Folder {
            path: folder.clone(),
            source,
        })?;
        Ok(Self { folder })
    }

    /// Writes the entry of this process's session, and holds its lock.
    ///
    /// # Errors
    /// `Write` if the disk is full, the folder is not writable, or another process is writing this entry. Then no
    /// file is left.
    pub fn begin(&self, entry: &JournalEntry) -> Result<LiveEntry, JournalError> {
        let id = stored::hex(&entry.session);
        let unfinished = self.folder.join(format!("{UNFINISHED}{id}"));
        let path = self.folder.join(format!("{id}.json"));
        let failed = |source| JournalError::Write {
            path: path.clone(),
            source,
        };
        let mut file = create(&unfinished).map_err(failed)?;
        // Rename only after the file is complete and locked: another run that scans the folder takes an unlocked file
        // for an orphan, and an unreadable one for damaged.
        let written = lock(&file)
            .and_then(|()| file.write_all(&stored::encode(entry)))
            .and_then(|()| fs::rename(&unfinished, &path));
        if let Err(source) = written {
            remove(&unfinished);
            return Err(failed(source));
        }
        Ok(LiveEntry { path, _lock: file })
    }

    /// The sessions to this host whose process is gone, at most [`MAX_ORPHANS`]. Each is locked, so that no other run
    /// ends it too.
    ///
    /// Removes entries older than [`MAX_AGE`], and damaged entries with a warning.
    pub fn orphans(&self, host: &str, now: SystemTime) -> Vec<Orphan> {
        let files = match fs::read_dir(&self.folder) {
            Ok(files) => files,
            Err(error) => {
                debug!(folder = %self.folder.display(), %error, "cannot read the journal");
                return Vec::new();
            }
        };
        let paths = files.take(MAX_FILES).filter_map(|file| Some(file.ok()?.path()));
        paths
            .filter_map(|path| examine(path, now))
            .filter(|orphan| orphan.entry.host == host)
            .take(MAX_ORPHANS)
            .collect()
    }
}

/// The entry of this process's session. If dropped, the file stays, and the next run ends the session.
#[derive(Debug)]
pub struct LiveEntry {
    path: PathBuf,
    _lock: File,
}

impl LiveEntry {
    /// Removes the file after the session has ended.
    pub fn finish(self) {
        remove(&self.path);
    }
}

/// A session whose process is gone. If dropped, the file stays for a later run.
#[derive(Debug)]
pub struct Orphan {
    entry: JournalEntry,
    path: PathBuf,
    _lock: File,
}

impl Orphan {
    /// The entry.
    pub fn entry(&self) -> &JournalEntry {
        &self.entry
    }

    /// Removes the file after the session was ended.
    pub fn remove(self) {
        remove(&self.path);
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Fails with `WouldBlock` if another process holds the lock. The kernel releases it with the last descriptor.
fn lock(file: &File) -> io::Result<()> {
    Ok(rustix::io::retry_on_intr(|| {
        flock(file, FlockOperation::NonBlockingLockExclusive)
    })?)
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        debug!(path = %path.display(), %error, "cannot remove a journal entry");
    }
}

/// Locks and reads the file if no process holds it. Removes it if it is too old or damaged.
fn examine(path: PathBuf, now: SystemTime) -> Option<Orphan> {
    let mut file = open_entry(&path)
        .inspect_err(|error| debug!(path = %path.display(), %error, "skipped"))
        .ok()?;
    lock(&file).ok()?;
    let metadata = file.metadata().ok()?;
    // Another run ended the session and removed the file while we opened it.
    if metadata.nlink() == 0 {
        return None;
    }
    let age = metadata
        .modified()
        .ok()
        .and_then(|modified| now.duration_since(modified).ok())
        .unwrap_or_default();
    if path.file_name()?.to_string_lossy().starts_with(UNFINISHED) {
        if age > UNFINISHED_AGE {
            remove(&path);
        }
        return None;
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut file)
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)
        .ok()?;
    match stored::decode(&bytes) {
        _ if age > MAX_AGE => remove(&path),
        Ok(entry) if now.duration_since(entry.started).is_ok_and(|age| age > MAX_AGE) => remove(&path),
        Ok(entry) => {
            return Some(Orphan {
                entry,
                path,
                _lock: file,
            });
        }
        Err(error) => {
            warn!(path = %path.display(), %error, "removed a damaged journal entry");
            remove(&path);
        }
    }
    None
}

/// Opens regular files only; does not follow symbolic links, does not block on FIFOs.
fn open_entry(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(Errno::INVAL.into()),
    }
}

/// The format on disk.
mod stored {
    use std::time::{Duration, SystemTime};

    use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
    use serde::{Deserialize, Serialize};

    use super::JournalEntry;

    const VERSION: u32 = 1;

    #[derive(Serialize, Deserialize)]
    struct Stored {
        version: u32,
        session: String,
        reap_token: String,
        host: String,
        /// Paths in an unknown notation are ignored.
        paths: Vec<String>,
        server_key: String,
        /// Seconds since 1970.
        started: u64,
    }

    /// Why a file is not a valid entry.
    #[derive(Debug, thiserror::Error)]
    pub(super) enum Damaged {
        #[error("not an entry: {0}")]
        Json(#[from] serde_json::Error),
        #[error("version {found}, expected {VERSION}")]
        Version { found: u32 },
        #[error("{field} is not hexadecimal of the right length")]
        Hex { field: &'static str },
        #[error("start time {0} s after 1970 is out of range")]
        Started(u64),
    }

    pub(super) fn encode(entry: &JournalEntry) -> Vec<u8> {
        let started = entry
            .started
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs();
        let stored = Stored {
            version: VERSION,
            session: hex(&entry.session),
            reap_token: hex(&entry.reap_token),
            host: entry.host.clone(),
            paths: entry.paths.iter().map(ToString::to_string).collect(),
            server_key: hex(&entry.server_key),
            started,
        };
        serde_json::to_vec(&stored).expect("strings and numbers always encode")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<JournalEntry, Damaged> {
        let stored: Stored = serde_json::from_slice(bytes)?;
        if stored.version != VERSION {
            return Err(Damaged::Version { found: stored.version });
        }
        let started = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(stored.started));
        Ok(JournalEntry {
            session: array("session", &stored.session)?,
            reap_token: array("reap_token", &stored.reap_token)?,
            host: stored.host,
            paths: stored.paths.iter().filter_map(|path| path.parse().ok()).collect(),
            server_key: unhex("server_key", &stored.server_key)?,
            started: started.ok_or(Damaged::Started(stored.started))?,
        })
    }

    pub(super) fn hex(bytes: &[u8]) -> String {
        HEXLOWER.encode(bytes)
    }

    fn unhex(field: &'static str, text: &str) -> Result<Vec<u8>, Damaged> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes());
        bytes.map_err(|_| Damaged::Hex { field })
    }

    fn array<const N: usize>(field: &'static str, text: &str) -> Result<[u8; N], Damaged> {
        let bytes = unhex(field, text)?;
        bytes.try_into().map_err(|_| Damaged::Hex { field })
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, process::Command};

    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    fn now() -> SystemTime {
        SystemTime::now()
    }

    fn entry(id: u8) -> JournalEntry {
        JournalEntry {
            session: [id; 16],
            reap_token: [id ^ 0xff; 32],
            host: "build".to_owned(),
            paths: vec![
                "quic 192.0.2.1:22".parse().unwrap(),
                "tls [2001:db8::1]:443".parse().unwrap(),
            ],
            server_key: vec![0x30, 0x2a, 0x00, 0xff],
            started: NOW + Duration::from_secs(now().duration_since(NOW).unwrap().as_secs()),
        }
    }

    fn journal() -> (tempfile::TempDir, Journal) {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::open(&state.path().join("deep/state")).unwrap();
        (state, journal)
    }

    fn names(journal: &Journal) -> Vec<String> {
        let files = fs::read_dir(&journal.folder).unwrap();
        files
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn entry_whose_owner_died_is_found_whole() {
        let (_state, journal) = journal();
        drop(journal.begin(&entry(1)).unwrap());
        let orphans = journal.orphans("build", now());
        assert_eq!(orphans.len(), 1);
        assert_eq!(orphans[0].entry(), &entry(1));
    }

    #[test]
    fn entry_of_a_live_owner_is_no_orphan() {
        let (_state, journal) = journal();
        let live = journal.begin(&entry(1)).unwrap();
        assert!(journal.orphans("build", now()).is_empty());
        drop(live);
        assert_eq!(journal.orphans("build", now()).len(), 1);
    }

    #[test]
    fn finished_session_leaves_nothing() {
        let (_state, journal) = journal();
        journal.begin(&entry(1)).unwrap().finish();
        assert!(names(&journal).is_empty());
    }

    #[test]
    fn two_runs_never_reap_the_same_orphan() {
        let (_state, journal) = journal();
        drop(journal.begin(&entry(1)).unwrap());
        let first = journal.orphans("build", now());
        assert!(journal.orphans("build", now()).is_empty());
        // The first run could not reach the server half; a later one may try again.
        drop(first);
        let mut second = journal.orphans("build", now());
        second.pop().unwrap().remove();
        assert!(journal.orphans("build", now()).is_empty());
        assert!(names(&journal).is_empty());
    }

    #[test]
    fn orphans_of_other_hosts_are_left_alone() {
        let (_state, journal) = journal();
        drop(journal.begin(&entry(1)).unwrap());
        assert!(journal.orphans("other", now()).is_empty());
        assert_eq!(journal.orphans("build", now()).len(), 1);
    }

    #[test]
    fn entries_older_than_the_ttl_are_removed() {
        let (_state, journal) = journal();
        drop(journal.begin(&entry(1)).unwrap());
        let old = JournalEntry {
            started: now() - MAX_AGE - Duration::from_secs(60),
            ..entry(2)
        };
        drop(journal.begin(&old).unwrap());
        let orphans = journal.orphans("build", now());
        assert_eq!(orphans.len(), 1);
        assert_eq!(orphans[0].entry(), &entry(1));
        assert_eq!(names(&journal).len(), 1);
    }

    #[test]
    fn damaged_entries_are_removed_and_do_not_hide_the_others() {
        let (_state, journal) = journal();
        drop(journal.begin(&entry(1)).unwrap());
        let whole = fs::read_to_string(journal.folder.join(format!("{}.json", "01".repeat(16)))).unwrap();
        let damaged = [
            String::new(),
            "\0".repeat(100),
            whole[..whole.len() / 2].to_owned(),
            whole.replace("\"version\":1", "\"version\":99"),
            whole.replace("0101", "01"),
            whole.replace("302a", "30é"),
        ];
        for (index, text) in damaged.iter().enumerate() {
            fs::write(journal.folder.join(format!("damaged{index}.json")), text).unwrap();
        }
        assert_eq!(journal.orphans("build", now()).len(), 1);
        assert_eq!(names(&journal).len(), 1);
    }

    #[test]
    fn unfinished_entries_are_left_alone_until_they_are_old() {
        let (_state, journal) = journal();
        fs::write(journal.folder.join(".new-abc"), "half").unwrap();
        assert!(journal.orphans("build", now()).is_empty());
        assert_eq!(names(&journal).len(), 1);
        assert!(journal.orphans("build", now() + 2 * UNFINISHED_AGE).is_empty());
        assert!(names(&journal).is_empty());
    }

    #[test]
    fn folders_pipes_and_links_in_the_journal_are_skipped() {
        let (state, journal) = journal();
        fs::create_dir(journal.folder.join("folder.json")).unwrap();
        std::os::unix::fs::symlink(state.path(), journal.folder.join("link.json")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, journal.folder.join("pipe.json"), 0o600.into()).unwrap();
        assert!(journal.orphans("build", now()).is_empty());
        assert_eq!(names(&journal).len(), 3);
    }

    #[test]
    fn no_more_orphans_are_given_out_than_one_run_should_reap() {
        let (_state, journal) = journal();
        for id in 0..=MAX_ORPHANS as u8 {
            drop(journal.begin(&entry(id)).unwrap());
        }
        assert_eq!(journal.orphans("build", now()).len(), MAX_ORPHANS);
    }

    #[test]
    fn nobody_else_can_read_the_tokens() {
        let (_state, journal) = journal();
        let live = journal.begin(&entry(1)).unwrap();
        assert_eq!(fs::metadata(&live.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::metadata(&journal.folder).unwrap().permissions().mode() & 0o777,
            0o700
        );
        // Twice, because the time of day may contain these digits.
        assert!(!format!("{:?}", entry(1)).contains("254, 254"));
    }

    #[test]
    fn folder_that_cannot_be_made_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Journal::open(file.path()).unwrap_err();
        assert!(error.to_string().contains("sessions"), "{error}");
    }

    #[test]
    fn full_disk_is_an_error_and_leaves_nothing_behind() {
        let (_state, journal) = journal();
        let full = Journal {
            folder: journal.folder.join("full"),
        };
        fs::create_dir(&full.folder).unwrap();
        let arguments = ["-t", "tmpfs", "-o", "size=4096", "none"];
        if !Command::new("mount")
            .args(arguments)
            .arg(&full.folder)
            .status()
            .unwrap()
            .success()
        {
            #[allow(clippy::print_stderr)]
            return eprintln!("skipped: only root can make a small file system");
        }
        fs::write(full.folder.join("filler"), [0; 4096]).unwrap();
        let result = full.begin(&entry(1));
        let left = names(&full);
        assert!(Command::new("umount").arg(&full.folder).status().unwrap().success());
        let JournalError::Write { source, .. } = result.unwrap_err() else {
            panic!("another error")
        };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
        assert_eq!(left, ["filler"]);
    }
}
