//! A terminal with an interactive shell on it: keys go in, and everything that it would show can be waited for.

use super::process::{Running, tree};
use super::wait_for;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is typed and shown; the shell ends with its owner.
pub struct Pty {
    device: File,
    screen: Arc<Mutex<Vec<u8>>>,
    /// Whether nothing is read from the terminal.
    paused: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    locate: Arc<Mutex<Locate>>,
    /// Whether nobody says where the cursor is.
    silent: Arc<AtomicBool>,
    /// What comes behind here has not been waited for.
    seen: usize,
    /// For one step.
    limit: Duration,
    pub shell: Running,
}

/// Where the cursor is after all that was shown: row and column, from 0.
type Locate = fn(&[u8]) -> (u16, u16);

/// What the shell asks for commands with.
pub const PROMPT: &str = "mine> ";

/// A size of so many columns and rows.
pub fn size(columns: u16, rows: u16) -> Winsize {
    Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// A terminal: the end of the person who uses it, and the end of the programs.
///
/// # Panics
/// When none can be had.
pub fn open_terminal() -> (File, File) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = rustix::pty::openpt(flags).expect("a terminal");
    rustix::pty::grantpt(&ours).expect("a terminal");
    rustix::pty::unlockpt(&ours).expect("a terminal");
    let name = rustix::pty::ptsname(&ours, Vec::new()).expect("its name");
    let theirs = File::options()
        .read(true)
        .write(true)
        .open(name.to_str().expect("its name"))
        .expect("its other end");
    (ours.into(), theirs)
}

impl Pty {
    /// bash with job control and without line editing, as the first process of `setsid`.
    ///
    /// # Panics
    /// When no terminal can be had, or the shell shows no prompt.
    pub fn start(mut setsid: Command, size: Winsize, limit: Duration) -> Pty {
        let (ours, theirs) = open_terminal();
        tcsetwinsize(&theirs, size).expect("a terminal");
        // These tests may run in the background of a script, where some signals are ignored and every child inherits that.
        setsid.args(["--wait", "--ctty", "env", "--default-signal=INT,QUIT,HUP"]);
        setsid.args(["bash", "--norc", "--noprofile", "--noediting", "-i"]);
        let end = || theirs.try_clone().expect("a terminal");
        setsid.stdin(end()).stdout(end()).stderr(end());
        setsid
            .env("PS1", PROMPT)
            .env("TERM", "xterm")
            .env_remove("PROMPT_COMMAND");
        setsid.env_remove("BASH_ENV");
        let shell = Running::spawn(&mut setsid);
        drop((theirs, setsid));
        let mut pty = Pty {
            device: ours,
            screen: Arc::default(),
            paused: Arc::default(),
            ended: Arc::default(),
            locate: Arc::new(Mutex::new(|_| (0, 0))),
            silent: Arc::default(),
            seen: 0,
            limit,
            shell,
        };
        pty.read_along();
        pty.expect(PROMPT);
        pty
    }

    fn read_along(&self) {
        let mut device = self.device.try_clone().expect("a terminal");
        let (screen, paused, ended) = (self.screen.clone(), self.paused.clone(), self.ended.clone());
        let (locate, silent) = (self.locate.clone(), self.silent.clone());
        // Ends with the terminal, or with its owner.
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !ended.load(Ordering::SeqCst) {
                let mut ready = [PollFd::new(&device, PollFlags::IN)];
                let look = Timespec {
                    tv_sec: 0,
                    tv_nsec: 20_000_000,
                };
                let found = poll(&mut ready, Some(&look));
                if paused.load(Ordering::SeqCst) || matches!(found, Ok(0)) {
                    if paused.load(Ordering::SeqCst) {
                        std::thread::park_timeout(Duration::from_millis(5));
                    }
                    continue;
                }
                match device.read(&mut buffer) {
                    Ok(count @ 1..) => {
                        let question = buffer[..count].windows(4).position(|window| window == b"\x1b[6n");
                        let mut screen = screen.lock().expect("no panic");
                        let before = screen.len();
                        screen.extend_from_slice(&buffer[..count]);
                        // As a terminal answers where its cursor is.
                        if let Some(at) = question
                            && !silent.load(Ordering::SeqCst)
                        {
                            let (row, column) = locate.lock().expect("no panic")(&screen[..before + at]);
                            let _ = device.write_all(format!("\x1b[{};{}R", row + 1, column + 1).as_bytes());
                        }
                    }
                    _ => return,
                }
            }
        });
    }

    /// From now on questions for the cursor are answered so. By default it is in the first row and column.
    pub fn set_locate(&self, locate: Locate) {
        *self.locate.lock().expect("no panic") = locate;
    }

    /// From now on nobody says where the cursor is.
    pub fn set_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    /// Types something.
    ///
    /// # Panics
    /// When the terminal is gone.
    pub fn press(&mut self, keys: impl AsRef<[u8]>) {
        self.device.write_all(keys.as_ref()).expect("a terminal");
    }

    /// Types a line.
    pub fn enter(&mut self, line: &str) {
        self.press(format!("{line}\r"));
    }

    /// Waits until a text is shown behind what was waited for before.
    ///
    /// # Panics
    /// When it does not come, with all that was shown since.
    #[track_caller]
    pub fn expect(&mut self, text: impl AsRef<[u8]>) {
        let text = text.as_ref();
        // What was looked at is not looked at again.
        let mut start = self.seen;
        let found = wait_for(self.limit, || {
            let screen = self.screen.lock().expect("no panic");
            let found = screen[start..].windows(text.len()).position(|window| window == text);
            let at = found.map(|at| start + at);
            start = start.max((screen.len() + 1).saturating_sub(text.len()));
            at
        });
        if let Some(at) = found {
            self.seen = at + text.len();
            return;
        }
        let shown = self.shown_since(self.seen);
        let tail = &shown[shown.len().saturating_sub(2000)..];
        panic!(
            "no {:?} on the screen: {:?}",
            String::from_utf8_lossy(text),
            String::from_utf8_lossy(tail)
        );
    }

    /// Where the screen is now, for [`Self::shown_since`].
    pub fn mark(&self) -> usize {
        self.screen.lock().expect("no panic").len()
    }

    /// Up to where it was waited for.
    pub fn seen(&self) -> usize {
        self.seen
    }

    /// All that was shown since.
    pub fn shown_since(&self, mark: usize) -> Vec<u8> {
        self.screen.lock().expect("no panic")[mark..].to_vec()
    }

    /// Whether the terminal reads what is written to it.
    pub fn set_reading(&self, reads: bool) {
        self.paused.store(!reads, Ordering::SeqCst);
    }

    /// The user has another window now.
    pub fn resize(&self, size: Winsize) {
        tcsetwinsize(&self.device, size).expect("a terminal");
    }

    /// Whether lines are edited by the terminal, as a shell without line editing wants it.
    pub fn is_cooked(&self) -> bool {
        use rustix::termios::LocalModes;
        let modes = tcgetattr(&self.device).expect("a terminal").local_modes;
        modes.contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// The processes below the shell that run a program of this name, the nearest first.
    pub fn processes(&self, name: &str) -> Vec<u32> {
        let mut pids = tree(self.shell.id());
        pids.retain(|pid| {
            let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            command.trim_end() == name
        });
        pids
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
    }
}
