//! What systemd's journal gets from a program whose stderr leads there. The journal is a stand-in: a socket at the usual
//! place, in a mount namespace.

mod support;

use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::process::Running;
use support::server_half::{MARK, ServerHalf};
use support::{BOWLINE, Scratch, measured, wait_for};

const LIMIT: Duration = Duration::from_secs(20);

/// A field and its value.
type Entry = BTreeMap<String, String>;

#[test]
fn keeper_and_worker_tell_the_journal_in_fields_and_say_nothing_on_stderr() {
    let Some(served) = Served::start("fields in the journal", &[]) else {
        return;
    };
    let ready = served.entry("BOWLINE_EVENT", "ready");
    // Plain journalctl shows this alone.
    let text = format!("serving event=\"ready\" udp={} tls=", ready["BOWLINE_UDP"]);
    assert!(ready["MESSAGE"].starts_with(&text), "{ready:?}");
    assert_eq!(ready["TARGET"], "bowline::server::worker");
    assert_eq!(ready["SYSLOG_IDENTIFIER"], "bowline");
    assert_eq!(ready["PRIORITY"], "6");
    assert!(ready["BOWLINE_UDP"].contains("127.0.0.1:"), "{ready:?}");

    // The same program anew, in the same process.
    fs::write(served.scratch.join("bowline.toml"), "broken").expect("the scratch folder");
    served.running.signal(Signal::HUP);
    let failed = served.entry("PRIORITY", "4");
    assert!(failed["MESSAGE"].starts_with("reload failed: "), "{failed:?}");
    assert!(failed["MESSAGE"].contains("bowline.toml"), "{failed:?}");
    assert_eq!(failed["TARGET"], "bowline::cli::serve::keep");

    served.running.signal(Signal::TERM);
    let stopped = served.entry("TARGET", "bowline::server::supervisor");
    assert_eq!(stopped["PRIORITY"], "6");
    assert_eq!(served.stderr(), "");
}

#[test]
fn who_names_a_format_gets_it_on_stderr_under_systemd_too() {
    for (format, sign) in [("human", " INFO "), ("json", "\"level\":\"INFO\"")] {
        let Some(served) = Served::start("a format in the journal", &["--log-format", format]) else {
            return;
        };
        served.running.signal(Signal::TERM);
        served.journal.set_nonblocking(true).expect("a socket");
        let journal = served.journal.recv(&mut [0; 64]).map_err(|error| error.kind());
        assert_eq!(journal, Err(std::io::ErrorKind::WouldBlock), "{format}");
        let said = served.stderr();
        assert!(said.contains(sign) && said.contains("serving"), "{format}: {said}");
    }
}

/// `bowline serve`, and both of its ways to the journal.
struct Served {
    running: Running,
    _half: ServerHalf,
    /// The other end of its stderr.
    stream: UnixStream,
    journal: UnixDatagram,
    scratch: Scratch,
}

impl Served {
    /// Starts it and waits until it serves; `None` where that is not possible, which is said.
    fn start(test: &str, more: &[&str]) -> Option<Served> {
        if !rustix::process::geteuid().is_root() {
            measured(test, "SKIPPED, it needs root for a mount namespace");
            return None;
        }
        let scratch = Scratch::new();
        let folder = scratch.join("journal");
        fs::create_dir(&folder).expect("the scratch folder");
        fs::write(scratch.join("bowline.toml"), "").expect("the scratch folder");
        let socket = folder.join("socket");
        let journal = UnixDatagram::bind(&socket).expect("a socket");
        journal.set_read_timeout(Some(LIMIT)).expect("a socket");
        fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("our own file");
        let (stream, stderr) = UnixStream::pair().expect("a pair of sockets");
        let stat = rustix::fs::fstat(&stderr).expect("an open socket");

        // Everything before the program execs the next: one process id.
        let script = "mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p /run/systemd/journal && \
                      mount --bind \"$0\" /run/systemd/journal && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", script]).arg(&folder).arg(BOWLINE);
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--target",
            "127.0.0.1:22",
            "--config",
        ]);
        command.arg(scratch.join("bowline.toml")).args(more);
        for (option, name) in [
            ("--state-dir", "state"),
            ("--runtime-dir", "run"),
            ("--host-key", "key"),
        ] {
            command.arg(option).arg(scratch.join(name));
        }
        support::sshd::make_key(&scratch.join("key"), "ed25519");
        command
            .env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino))
            .env(MARK, scratch.path())
            .env_remove("BOWLINE_LOG")
            .env_remove("BOWLINE_LOG_FORMAT");
        let stdout = scratch.join("stdout");
        command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).expect("the scratch folder"))
            .stderr(OwnedFd::from(stderr));
        let served = Served {
            running: Running::spawn(&mut command),
            _half: ServerHalf::of(scratch.path()),
            stream,
            journal,
            scratch,
        };
        let said = || fs::read_to_string(&stdout).unwrap_or_default();
        let ready = wait_for(LIMIT, || said().starts_with("ready ").then_some(()));
        assert!(ready.is_some(), "not ready, it says {:?}", said());
        Some(served)
    }

    /// The next entry with this field.
    fn entry(&self, field: &str, value: &str) -> Entry {
        let mut datagram = vec![0; 64 * 1024];
        loop {
            let length = self.journal.recv(&mut datagram);
            let length = length.unwrap_or_else(|error| panic!("no {field}={value} in the journal: {error}"));
            let entry = parse(&datagram[..length]);
            if entry.get(field).is_some_and(|found| found == value) {
                return entry;
            }
        }
    }

    /// All that was said on stderr until the end.
    fn stderr(mut self) -> String {
        let mut said = String::new();
        self.stream.set_read_timeout(Some(LIMIT)).expect("a socket");
        self.stream.read_to_string(&mut said).expect("its end, and text before");
        said
    }
}

/// systemd's native protocol: `NAME=VALUE` and a newline; or `NAME`, a newline, a length in eight bytes, the value and
/// a newline.
fn parse(mut rest: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let line = str::from_utf8(&rest[..end]).expect("names are text");
        rest = &rest[end + 1..];
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => {
                let (length, after) = rest.split_first_chunk().expect("a length");
                let (value, after) = after.split_at(u64::from_le_bytes(*length) as usize);
                rest = &after[1..];
                (line, String::from_utf8_lossy(value).into_owned())
            }
        };
        entry.insert(name.to_owned(), value);
    }
    entry
}
