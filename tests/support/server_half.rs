//! The processes of one server half, whoever they are by now: keepers and workers die and are started anew.
//!
//! They are told by what the first of them was given and all the others inherit: a variable of the environment, the
//! folders among the arguments, the log as standard error.

use super::process::pid_of;
use super::{now, wait_for};
use rustix::process::{Signal, kill_process};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The variable of the environment.
pub const MARK: &str = "TEST_SERVER_HALF";

/// A process that was killed has its successor by then, or there is none.
const LIMIT: Duration = Duration::from_secs(10);

/// What a process of a server half is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Keeper,
    Worker,
    /// A program that a keeper runs: the built-in SSH server, `sshd -T`.
    Other,
}

/// One server half; all its processes end with this.
#[derive(Debug)]
pub struct ServerHalf {
    mark: PathBuf,
}

impl ServerHalf {
    /// The one that was started with this folder as [`MARK`].
    pub fn of(mark: &Path) -> ServerHalf {
        ServerHalf { mark: mark.to_owned() }
    }

    /// All that run now. A process that is just being started may still show its parent's role.
    pub fn processes(&self) -> Vec<(u32, Role)> {
        let pids = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter_map(|pid| Some((pid, self.role(pid)?))).collect()
    }

    /// `None`: it is none of ours, or has ended (a zombie has neither arguments nor environment).
    fn role(&self, pid: u32) -> Option<Role> {
        let file = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let arguments = file("cmdline");
        let mark = self.mark.as_os_str().as_bytes();
        let holds = |bytes: &[u8]| bytes.windows(mark.len()).any(|part| part == mark);
        let inherits = || {
            let named = |variable: &[u8]| variable.strip_prefix(MARK.as_bytes()).is_some_and(&holds);
            file("environ").split(|byte| *byte == 0).any(named)
        };
        let logs = || fs::read_link(format!("/proc/{pid}/fd/2")).is_ok_and(|path| path.starts_with(&self.mark));
        let is_ours = !arguments.is_empty() && (holds(&arguments) || inherits() || logs());
        let has = |word: &str| {
            arguments
                .split(|byte| *byte == 0)
                .any(|argument| argument == word.as_bytes())
        };
        is_ours.then(|| match () {
            () if has("serve-worker") => Role::Worker,
            // A keeper tries out a program by asking it for help.
            () if has("--help") => Role::Other,
            () if has("serve") || has("serve-keeper") => Role::Keeper,
            () => Role::Other,
        })
    }

    /// The present keeper's process id.
    ///
    /// # Panics
    /// When there is not exactly one within seconds.
    #[track_caller]
    pub fn keeper(&self) -> u32 {
        self.only(Role::Keeper, None)
    }

    /// The present worker's process id.
    ///
    /// # Panics
    /// When there is not exactly one within seconds.
    #[track_caller]
    pub fn worker(&self) -> u32 {
        self.only(Role::Worker, None)
    }

    /// The keeper that has taken another's place.
    ///
    /// # Panics
    /// When there is none within seconds.
    #[track_caller]
    pub fn keeper_after(&self, old: u32) -> u32 {
        self.only(Role::Keeper, Some(old))
    }

    /// The worker that has taken another's place.
    ///
    /// # Panics
    /// When there is none within seconds.
    #[track_caller]
    pub fn worker_after(&self, old: u32) -> u32 {
        self.only(Role::Worker, Some(old))
    }

    #[track_caller]
    fn only(&self, role: Role, not: Option<u32>) -> u32 {
        let found = wait_for(LIMIT, || match self.of_role(role)[..] {
            [pid] if Some(pid) != not => Some(pid),
            _ => None,
        });
        found.unwrap_or_else(|| {
            panic!(
                "no single {role:?} other than {not:?} within {LIMIT:?}: {:?}",
                self.processes()
            )
        })
    }

    fn of_role(&self, role: Role) -> Vec<u32> {
        let all = self.processes().into_iter();
        all.filter(|(_, is)| *is == role).map(|(pid, _)| pid).collect()
    }

    /// Kills the present worker (`kill -9`); who it was.
    #[track_caller]
    pub fn kill_worker(&self) -> u32 {
        let worker = self.worker();
        signal(worker, Signal::KILL);
        worker
    }

    /// Kills the present keeper (`kill -9`); who it was.
    #[track_caller]
    pub fn kill_keeper(&self) -> u32 {
        let keeper = self.keeper();
        signal(keeper, Signal::KILL);
        keeper
    }

    /// With the keeper held, so that no successor starts: kills the worker, lets `meanwhile` happen, goes on.
    #[track_caller]
    pub fn without_a_worker<T>(&self, meanwhile: impl FnOnce(u32) -> T) -> T {
        let keeper = self.keeper();
        let worker = self.worker();
        signal(keeper, Signal::STOP);
        signal(worker, Signal::KILL);
        let dead = wait_for(LIMIT, || (!is_alive(worker)).then_some(()));
        assert!(dead.is_some(), "kill -9 kills");
        let done = meanwhile(keeper);
        signal(keeper, Signal::CONT);
        done
    }

    /// Memory files that the keeper holds, by descriptor number, with their length and the bytes that they take.
    pub fn memory_files(&self) -> Vec<MemoryFile> {
        let dir = PathBuf::from(format!("/proc/{}/fd", self.keeper()));
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let files = entries.filter_map(|entry| {
            let path = entry.path();
            let name = fs::read_link(&path).ok()?;
            let name = name
                .to_str()?
                .strip_prefix("/memfd:")?
                .trim_end_matches(" (deleted)")
                .to_owned();
            let metadata = fs::metadata(&path).ok()?;
            Some(MemoryFile {
                path,
                name,
                inode: metadata.ino(),
                length: metadata.len(),
                taken: metadata.blocks() * 512,
            })
        });
        files.collect()
    }
}

impl Drop for ServerHalf {
    /// Again and again: a worker that is left alone raises a keeper.
    fn drop(&mut self) {
        let end = now() + LIMIT;
        while now() < end {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            left.iter().for_each(|(pid, _)| signal(*pid, Signal::KILL));
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A memory file, as `/proc` shows it.
#[derive(Clone, Debug)]
pub struct MemoryFile {
    /// Opens as the file itself.
    pub path: PathBuf,
    pub name: String,
    pub inode: u64,
    /// In bytes.
    pub length: u64,
    /// Bytes of memory.
    pub taken: u64,
}

/// Sends a process a signal; one that has ended meanwhile is no failure.
pub fn signal(pid: u32, signal: Signal) {
    let _ = kill_process(pid_of(pid), signal);
}

/// Whether a process runs or is stopped; a zombie is dead.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().next());
    !matches!(state, None | Some("Z" | "X"))
}
