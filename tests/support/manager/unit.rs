//! What a unit file says, as far as these managers go by it; systemd.service(5), systemd.exec(5), systemd.kill(5).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Who gets the first signal of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillMode {
    /// All processes of the unit.
    ControlGroup,
    /// The main process; the rest is killed after it.
    Mixed,
    /// The main process; the rest is let be.
    Process,
}

/// A unit of `Type=notify`, `NotifyAccess=main`, `Restart=always`; the real manager takes others too.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The unit file it was read from; the real manager gets the whole of it.
    pub text: String,
    pub command: Vec<OsString>,
    pub environment: Vec<(String, String)>,
    pub store_max: usize,
    /// Whether a stop leaves the store as it is, since systemd 254.
    pub preserves_store: bool,
    /// Whether the manager's private socket is there; the real one's is.
    pub private_socket: bool,
    pub restart_after: Duration,
    pub timeout_start: Duration,
    pub timeout_stop: Duration,
    pub watchdog: Option<Duration>,
    pub kill_mode: KillMode,
    pub limit_nofile: Option<u64>,
    /// What the unit may see (and write) of folders that its hardening would hide.
    pub folders: Vec<PathBuf>,
}

impl Unit {
    /// A plain one for a program.
    pub fn of(command: Vec<OsString>) -> Unit {
        let text = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=notify\nNotifyAccess=main\nRestart=always\n\
                    RestartSec=20ms\nExecReload=/bin/kill -HUP $MAINPID\n";
        Unit {
            command,
            ..Unit::parse(text)
        }
    }

    /// As a unit file has it.
    ///
    /// # Panics
    /// When it cannot be read, or says what no manager would understand.
    pub fn read(path: &Path) -> Unit {
        Unit::parse(&fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    fn parse(text: &str) -> Unit {
        let time = |name, default| value(text, name).map_or(Duration::from_secs(default), duration);
        Unit {
            text: text.to_owned(),
            command: value(text, "ExecStart")
                .map_or_else(Vec::new, |line| line.split_whitespace().map(OsString::from).collect()),
            environment: vec![],
            store_max: value(text, "FileDescriptorStoreMax").map_or(0, number) as usize,
            preserves_store: value(text, "FileDescriptorStorePreserve") == Some("yes"),
            private_socket: true,
            restart_after: value(text, "RestartSec").map_or(Duration::from_millis(100), duration),
            timeout_start: time("TimeoutStartSec", 90),
            timeout_stop: time("TimeoutStopSec", 90),
            watchdog: value(text, "WatchdogSec").map(duration),
            kill_mode: match value(text, "KillMode") {
                None | Some("control-group") => KillMode::ControlGroup,
                Some("mixed") => KillMode::Mixed,
                Some("process") => KillMode::Process,
                Some(other) => panic!("KillMode={other}"),
            },
            limit_nofile: value(text, "LimitNOFILE").map(number),
            folders: vec![],
        }
    }
}

/// The last value of a key; comments and sections do not matter here.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    values.next_back()
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

/// systemd.time(7), the two units that are in use.
fn duration(text: &str) -> Duration {
    match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(millis), _) => Duration::from_millis(number(millis)),
        (None, Some(seconds)) => Duration::from_secs(number(seconds)),
        (None, None) => Duration::from_secs(number(text)),
    }
}
