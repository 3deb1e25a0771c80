//! `bowline demo` as a newcomer runs it, and without what a newcomer's machine may lack.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const OUTAGES: [&str; 5] = [
    "black hole",
    "new address",
    "reset storm",
    "address unreachable",
    "offline, then new address",
];

/// Two shows at once on two cores would measure each other.
fn alone() -> MutexGuard<'static, ()> {
    static STAGE: Mutex<()> = Mutex::new(());
    STAGE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[allow(clippy::disallowed_methods, reason = "the suite measures the program from outside")]
fn now() -> Instant {
    Instant::now()
}

/// Nothing of the machine's own: neither settings nor folders. `folder` is home and the place of temporary files.
fn demo(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bowline"));
    command.arg("demo").stdin(Stdio::null()).env_clear();
    command
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder)
        .env("TMPDIR", folder);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn assert_whole(output: &Output) {
    let (told, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{told}{error}");
    assert_eq!(error, "");
    let table = told.split("outage  ").nth(1).unwrap_or_default();
    for outage in OUTAGES {
        let row = table.lines().find(|line| line.starts_with(outage));
        assert!(row.is_some_and(|row| row.contains(" ms ")), "{outage}: {told}");
    }
    assert!(table.contains("none missing, none twice; exit code 7"), "{told}");
    let hash = table.lines().skip_while(|line| !line.contains("SHA-256")).nth(1);
    let digits = hash.map(|line| line.trim().chars().filter(char::is_ascii_hexdigit).count());
    assert_eq!(digits, Some(64), "{told}");
    assert!(!told.contains('\x1b'), "escape codes in a pipe: {told}");
}

fn assert_empty(folder: &Path) {
    let left: Vec<_> = std::fs::read_dir(folder).expect("a folder").collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

#[test]
fn the_show_ends_within_30_s_with_its_table_and_a_whole_file_and_leaves_nothing() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let begun = now();
    let output = demo(folder.path()).output().expect("bowline runs");
    let took = now() - begun;
    assert_whole(&output);
    assert!(text(&output.stdout).contains("ssh (OpenSSH_"), "the real ssh is there");
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_empty(folder.path());
}

#[test]
fn without_openssh_the_show_goes_on_with_a_client_of_its_own() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let programs = tempfile::tempdir().expect("a folder");
    for name in ["sh", "sleep", "tee"] {
        let found = ["/usr/bin", "/bin"].map(|place| Path::new(place).join(name));
        let found = found.iter().find(|path| path.exists()).expect("a usual program");
        std::os::unix::fs::symlink(found, programs.path().join(name)).expect("a link");
    }
    let output = demo(folder.path()).env("PATH", programs.path()).output();
    let output = output.expect("bowline runs");
    assert_whole(&output);
    assert!(text(&output.stdout).contains("SSH client (built in)"));
}

/// The fault exists in debug builds only.
#[cfg(debug_assertions)]
#[test]
fn a_damaged_file_is_found_and_is_a_failure() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let output = demo(folder.path()).env("BOWLINE_FAULT", "damage-file").output();
    let output = output.expect("bowline runs");
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "{error}");
    assert!(
        error.starts_with("error: the file written on the other side differs from the file that was sent"),
        "{error}"
    );
    assert!(
        error.contains("expected SHA-256 ") && error.contains("hint: "),
        "{error}"
    );
}

#[test]
fn a_shell_without_a_terminal_is_a_usage_error_that_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = demo(folder.path()).arg("--shell").output().expect("bowline runs");
    assert_eq!(output.status.code(), Some(64));
    assert!(
        text(&output.stderr).contains("must be a terminal"),
        "{}",
        text(&output.stderr)
    );
    assert_empty(folder.path());
}

#[test]
fn no_room_for_temporary_files_is_told_with_the_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let nowhere = folder.path().join("nowhere");
    let output = demo(folder.path())
        .env("TMPDIR", &nowhere)
        .output()
        .expect("bowline runs");
    assert_eq!(output.status.code(), Some(69));
    let error = text(&output.stderr);
    assert!(error.contains("nowhere") && error.contains("hint: "), "{error}");
}

#[test]
fn an_interrupt_ends_everything_it_started() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let mut running = demo(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bowline runs");
    // The first outage is on its way: both sessions are open.
    let mut told = std::io::BufReader::new(running.stdout.take().expect("a pipe"));
    let mut line = String::new();
    while !line.contains("black hole") {
        line.clear();
        let count = std::io::BufRead::read_line(&mut told, &mut line).expect("text");
        assert!(count > 0, "ended early");
    }
    let pid = rustix::process::Pid::from_child(&running);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    assert_eq!(running.wait().expect("it ends").code(), Some(130));
    assert_empty(folder.path());
    // A proxy whose ssh is gone has three seconds to tell the server half.
    let limit = now() + Duration::from_secs(10);
    let mut left = processes_in(folder.path());
    while !left.is_empty() && now() < limit {
        std::thread::sleep(Duration::from_millis(20));
        left = processes_in(folder.path());
    }
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// Command lines that name the folder; those of zombies are empty.
fn processes_in(folder: &Path) -> Vec<String> {
    let folder = folder.display().to_string();
    let lines = std::fs::read_dir("/proc").expect("a Linux").filter_map(|entry| {
        let line = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        Some(text(&line).replace('\0', " "))
    });
    lines.filter(|line| line.contains(&folder)).collect()
}
