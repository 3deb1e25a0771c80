//! The machine's own systemd program, run as the init of namespaces of its own. Never the machine's systemd.

use super::unit::{KillMode, Unit};
use super::{Manager, ORDER, UnitChange};
use crate::support::process::{Running, run, tree};
use crate::support::{Scratch, measured, wait_for};
use std::ffi::OsString;
use std::fmt::Write;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

const SYSTEMD: &str = "/lib/systemd/systemd";

/// What the unit is called here.
const NAME: &str = "tested.service";

/// Of our control groups' names; the id of the process that made them follows.
const PREFIX: &str = "bowline-test-";

/// Targets that units refer to, and that have nothing to wait for here.
const TARGETS: [&str; 6] = ["default", "sysinit", "basic", "shutdown", "network", "network-online"];

/// A systemd with one unit. Everything ends when it is dropped.
pub struct Systemd {
    running: Option<Running>,
    /// As this process sees its id.
    init: u32,
    scratch: Scratch,
    group: PathBuf,
}

impl Systemd {
    /// Whether one can be booted here; if not, says so.
    pub fn possible(test: &str) -> bool {
        let missing = if !rustix::process::geteuid().is_root() {
            "it needs root for namespaces"
        } else if !Path::new(SYSTEMD).exists() {
            "no systemd here"
        } else if own_group().is_none() {
            "no unified control groups here"
        } else {
            return true;
        };
        measured(test, format_args!("SKIPPED under systemd: {missing}"));
        false
    }

    /// Boots one that has this unit.
    ///
    /// # Panics
    /// When it does not come up, with what it says.
    pub fn boot(unit: Unit) -> Systemd {
        static BOOTED: AtomicU32 = AtomicU32::new(0);
        let scratch = Scratch::new();
        write_units(&scratch, &unit);
        fs::write(scratch.join("boot.sh"), include_str!("boot.sh")).expect("the scratch folder");
        let own = own_group().expect("possible() was asked");
        remove_leftovers(&own);
        let group = own.join(format!(
            "{PREFIX}{}-{}",
            std::process::id(),
            BOOTED.fetch_add(1, Relaxed)
        ));
        fs::create_dir(&group).expect("root may make control groups");

        let script = "echo $$ >\"$0/cgroup.procs\" && exec unshare --mount --pid --cgroup --uts --ipc --fork --kill-child \
                      sh \"$1/boot.sh\" \"$1\"";
        let log = File::create(scratch.join("boot.log")).expect("the scratch folder");
        let mut command = Command::new("sh");
        command.args(["-c", script]).arg(&group).arg(scratch.path());
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log);
        let running = Running::spawn(&mut command);
        let mut systemd = Systemd {
            init: 0,
            running: Some(running),
            scratch,
            group,
        };
        let up = wait_for(Duration::from_secs(20), || systemd.is_up().then_some(()));
        assert!(up.is_some(), "systemd does not come up: {}", systemd.boot_log());
        systemd
    }

    fn is_up(&mut self) -> bool {
        let shell = self.running.as_ref().expect("runs until it is dropped").id();
        let Some(init) = tree(shell).into_iter().find(|pid| is_systemd(*pid)) else {
            return false;
        };
        self.init = init;
        let said = run(&mut self.systemctl(&["is-system-running"]), ORDER).out();
        matches!(said.trim(), "running" | "degraded")
    }

    fn boot_log(&self) -> String {
        fs::read_to_string(self.scratch.join("boot.log")).unwrap_or_default()
    }

    fn systemctl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["--all", "--target", &self.init.to_string(), "systemctl"])
            .args(arguments);
        command
    }

    fn order(&self, verb: &str) -> Result<(), String> {
        let outcome = run(&mut self.systemctl(&[verb, NAME]), ORDER);
        match outcome.code {
            Some(0) => Ok(()),
            _ => Err(format!("{}{}", outcome.err(), self.boot_log())),
        }
    }

    /// Both orders before anything can have come of the first.
    fn order_at_once(&self, verbs: &[&str; 2]) -> Result<(), String> {
        let script = format!(
            "systemctl --no-block {0} {NAME} && systemctl {1} {NAME}",
            verbs[0], verbs[1]
        );
        let mut command = Command::new("nsenter");
        command.args(["--all", "--target", &self.init.to_string(), "sh", "-c", &script]);
        let outcome = run(&mut command, ORDER);
        match outcome.code {
            Some(0) => Ok(()),
            _ => Err(format!("{}{}", outcome.err(), self.boot_log())),
        }
    }

    fn property(&self, name: &str) -> String {
        let outcome = run(
            &mut self.systemctl(&["show", "--value", "--property", name, NAME]),
            ORDER,
        );
        outcome.expect_code(0).out().trim().to_owned()
    }
}

impl Manager for Systemd {
    fn start(&self) -> Result<(), String> {
        self.order("start")
    }

    fn stop(&self) -> Result<(), String> {
        self.order("stop")
    }

    fn restart(&self) -> Result<(), String> {
        self.order("restart")
    }

    fn shut_down(&self) -> Result<(), String> {
        let outcome = run(&mut self.systemctl(&["isolate", "poweroff.target"]), ORDER);
        match outcome.code {
            Some(0) => Ok(()),
            _ => Err(format!("{}{}", outcome.err(), self.boot_log())),
        }
    }

    fn stop_and_start_at_once(&self) -> Result<(), String> {
        self.order_at_once(&["stop", "start"])
    }

    fn restart_and_stop_at_once(&self) -> Result<(), String> {
        self.order_at_once(&["restart", "stop"])
    }

    fn change_unit(&self, change: UnitChange) {
        let units = self.scratch.join("units");
        let (file, aside) = (units.join(NAME), units.join("aside"));
        let more = units.join(format!("{NAME}.d"));
        let (drop_ins, drop_ins_aside) = (more.clone(), units.join("aside.d"));
        let done = match change {
            UnitChange::StoreMax(most) => fs::write(
                more.join("zz-store.conf"),
                format!("[Service]\nFileDescriptorStoreMax={most}\n"),
            ),
            UnitChange::Gone => fs::rename(file, aside).and_then(|()| fs::rename(drop_ins, drop_ins_aside)),
            UnitChange::Back => {
                let _ = fs::remove_file(more.join("zz-store.conf"));
                match aside.exists() {
                    true => fs::rename(aside, file).and_then(|()| fs::rename(drop_ins_aside, drop_ins)),
                    false => Ok(()),
                }
            }
        };
        done.expect("the scratch folder");
        run(&mut self.systemctl(&["daemon-reload"]), ORDER).expect_code(0);
    }

    fn reload(&self) -> Result<(), String> {
        self.order("reload")
    }

    fn main_pid(&self) -> Option<u32> {
        let inside = self.property("MainPID");
        tree(self.init).into_iter().find(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            // Ours first, then that of its namespace.
            ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some(&inside)
        })
    }

    fn stored(&self) -> usize {
        self.property("NFileDescriptorStore").parse().expect("a number")
    }

    fn status(&self) -> String {
        self.property("StatusText")
    }

    fn restarts(&self) -> u32 {
        self.property("NRestarts").parse().expect("a number")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // The kernel kills all of a process id namespace with its init.
        drop(self.running.take());
        wait_for(Duration::from_secs(10), || remove_groups(&self.group).then_some(()));
    }
}

fn is_systemd(pid: u32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    program.file_name().is_some_and(|name| name == "systemd")
}

/// The control group of this process, in the unified hierarchy.
fn own_group() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = mounts.find(|fields| fields.get(2) == Some(&"cgroup2"))?[1].to_owned();
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let path = Path::new(&mount).join(group);
    path.is_dir().then_some(path)
}

/// Ends what runs that were killed have left: groups whose name holds the id of a process that is gone.
fn remove_leftovers(own: &Path) {
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::write(entry.path().join("cgroup.kill"), "1");
            wait_for(Duration::from_secs(5), || remove_groups(&entry.path()).then_some(()));
        }
    }
}

/// From the innermost out; whether all are gone.
fn remove_groups(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
    !group.exists()
}

/// The unit as it is, and what the test changes of it in a drop-in.
fn write_units(scratch: &Scratch, unit: &Unit) {
    let write = |name: &str, text: &str| {
        let path = scratch.join(name);
        fs::create_dir_all(path.parent().expect("inside the scratch folder")).expect("the scratch folder");
        fs::write(path, text).expect("the scratch folder");
    };
    for folder in ["etc", "generators"] {
        fs::create_dir(scratch.join(folder)).expect("the scratch folder");
    }
    write("added-etc/systemd/README", "Of a test.\n");
    for target in TARGETS {
        write(&format!("units/{target}.target"), "[Unit]\nDefaultDependencies=no\n");
    }
    let end = "[Unit]\nDefaultDependencies=no\nAllowIsolate=yes\nRequires=shutdown.target\nAfter=shutdown.target\n";
    write("units/poweroff.target", end);
    write(&format!("units/{NAME}"), &unit.text);
    write(&format!("units/{NAME}.d/test.conf"), &drop_in(scratch, unit));
}

fn drop_in(scratch: &Scratch, unit: &Unit) -> String {
    let kill_mode = match unit.kill_mode {
        KillMode::ControlGroup => "control-group",
        KillMode::Mixed => "mixed",
        KillMode::Process => "process",
    };
    let millis = |time: Duration| format!("{}ms", time.as_millis());
    let mut text = format!(
        "[Service]\nExecStart=\nExecStart={}\nFileDescriptorStoreMax={}\nRestartSec={}\nTimeoutStartSec={}\n\
         TimeoutStopSec={}\nWatchdogSec={}\nWatchdogSignal=SIGKILL\nKillMode={kill_mode}\nStandardInput=null\n\
         StandardOutput=append:{log}\nStandardError=append:{log}\n",
        words(&unit.command),
        unit.store_max,
        millis(unit.restart_after),
        millis(unit.timeout_start),
        millis(unit.timeout_stop),
        unit.watchdog.map_or("0".into(), millis),
        log = scratch.join("log").display(),
    );
    if let Some(limit) = unit.limit_nofile {
        writeln!(text, "LimitNOFILE={limit}").expect("a String");
    }
    for (name, value) in &unit.environment {
        writeln!(text, "Environment=\"{name}={value}\"").expect("a String");
    }
    for folder in &unit.folders {
        writeln!(text, "BindPaths={}", folder.display()).expect("a String");
    }
    if unit
        .folders
        .iter()
        .any(|folder| folder.starts_with("/home") || folder.starts_with("/root"))
    {
        text += "ProtectHome=tmpfs\n";
    }
    text
}

/// systemd.service(5): quoted, with its own signs doubled.
fn words(command: &[OsString]) -> String {
    let quoted = command.iter().map(|word| {
        let word = word.to_str().expect("tests use plain text");
        let word = word
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('%', "%%")
            .replace('$', "$$");
        format!("\"{word}\"")
    });
    quoted.collect::<Vec<_>>().join(" ")
}
