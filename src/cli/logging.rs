//! Where log lines go, and how many.
//!
//! A log never disturbs a session: what cannot be written is dropped, and said once on stderr. Events that
//! others rely on carry their stable name in the field `event`: `opened`, `suspected`, `resumed`, `closed`, `refused`.

mod journal;
mod refusals;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use super::args::CommonArgs;
use super::values::LogFormat;
use crate::safe_path;
use crate::wire::is_active;
use refusals::RefusalLimit;
pub(crate) use refusals::{tell_suppressed, tell_suppressed_each_minute};

/// Replaces the filter that [`Verbosity`] gives, in the syntax of tracing's `EnvFilter`: `bowline=debug,quinn=info`.
pub(super) const FILTER_VARIABLE: &str = "BOWLINE_LOG";

/// How much is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verbosity {
    /// Nothing.
    Silent,
    /// Sessions opened, lost, resumed, closed; what an operator should look at.
    Info,
    /// Unusual branches as well.
    Debug,
    /// Every frame as well.
    Trace,
}

impl Verbosity {
    /// One step more for every `-v`.
    pub(super) fn raised_by(self, steps: u8) -> Verbosity {
        let all = [Verbosity::Silent, Verbosity::Info, Verbosity::Debug, Verbosity::Trace];
        all[(self as usize + usize::from(steps)).min(all.len() - 1)]
    }

    /// Libraries speak one level below bowline: at `-v` nobody asked for their news.
    fn directives(self) -> &'static str {
        match self {
            Verbosity::Silent => "off",
            Verbosity::Info => "error,bowline=info",
            Verbosity::Debug => "warn,bowline=debug",
            Verbosity::Trace => "debug,bowline=trace",
        }
    }
}

/// How to log.
#[derive(Debug, Clone)]
pub(crate) struct LogSettings {
    /// How much.
    pub(crate) verbosity: Verbosity,
    /// Appended to; without one lines go to stderr.
    pub(crate) file: Option<PathBuf>,
    /// The form of a line. `None`: fields where stderr leads to systemd's journal, else for eyes.
    pub(crate) format: Option<LogFormat>,
}

impl LogSettings {
    /// Those of a worker, as its keeper's [`LogSettings::as_arguments`] say.
    pub(super) fn of_worker(common: &CommonArgs) -> LogSettings {
        LogSettings {
            verbosity: Verbosity::Info.raised_by(common.verbose),
            file: None,
            format: common.log_format,
        }
    }

    /// What makes a worker say as much in the same form, on stderr.
    pub(super) fn as_arguments(&self) -> Vec<OsString> {
        let steps = (self.verbosity as usize).saturating_sub(Verbosity::Info as usize);
        let mut arguments = vec![OsString::from("-v"); steps];
        if let Some(format) = self.format {
            arguments.extend(["--log-format".into(), format.to_string().into()]);
        }
        arguments
    }

    /// Makes the log file, if there is one, this process's stderr and so that of its children.
    pub(super) fn take_stderr(&self) {
        let Some(path) = &self.file else { return };
        if let Ok(file) = safe_path::append(path) {
            // Without it the worker's lines go where ours went.
            let _ = rustix::stdio::dup2_stderr(&file);
        }
    }
}

/// Starts logging, for the rest of the process. A log that cannot be opened is said on stderr and left out.
pub(crate) fn start(settings: &LogSettings) {
    let filter = match std::env::var(FILTER_VARIABLE) {
        Ok(directives) if !directives.is_empty() => EnvFilter::builder().parse_lossy(directives),
        _ => EnvFilter::new(settings.verbosity.directives()),
    };
    // Whoever wants to see more wants to see all.
    let limit = (settings.verbosity <= Verbosity::Info).then_some(RefusalLimit);
    if let (None, None) = (&settings.file, settings.format)
        && let Some(journal) = journal::layer()
    {
        // As below: the first one stays.
        let _ = tracing_subscriber::registry()
            .with(filter)
            .with(limit)
            .with(journal)
            .try_init();
        return;
    }
    let format = settings.format.unwrap_or(LogFormat::Human);
    let ansi = settings.file.is_none() && io::IsTerminal::is_terminal(&io::stderr());
    let sink = Sink {
        // Colours are control characters too; there the errors' own escapes have to do.
        escapes: (!ansi).then_some(format),
        ..Sink::open(settings.file.as_deref())
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(sink)
        .with_ansi(ansi)
        .with_target(false);
    let lines = match format {
        LogFormat::Human => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let log = tracing_subscriber::registry().with(filter).with(limit).with(lines);
    // The only failure is a subscriber that is already there: the first one stays.
    let _ = log.try_init();
}

/// A line as it is to be written: one line, in which nothing is obeyed by whoever shows it. Errors escape what they quote; this is
/// for what none of them has thought of.
fn escaped(line: &[u8], format: LogFormat) -> Option<String> {
    let text = String::from_utf8_lossy(line);
    let (text, end) = match text.strip_suffix('\n') {
        Some(text) => (text, "\n"),
        None => (&*text, ""),
    };
    if !text.contains(is_active) {
        return None;
    }
    let mut escaped = String::with_capacity(text.len() + 32);
    for c in text.chars() {
        match format {
            _ if !is_active(c) => escaped.push(c),
            LogFormat::Human => escaped.extend(c.escape_default()),
            LogFormat::Json => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    escaped += &format!("\\u{unit:04x}");
                }
            }
        }
    }
    Some(escaped + end)
}

/// Takes log lines and never fails.
#[derive(Clone)]
struct Sink {
    output: Arc<Output>,
    /// The form in which control characters are escaped.
    escapes: Option<LogFormat>,
}

struct Output {
    file: Option<Mutex<File>>,
    path: Option<PathBuf>,
    /// Whether a failure has been said already.
    failed: AtomicBool,
}

impl Sink {
    fn open(path: Option<&std::path::Path>) -> Sink {
        let mut output = Output {
            file: None,
            path: path.map(PathBuf::from),
            failed: AtomicBool::new(false),
        };
        if let Some(path) = path {
            match safe_path::append(path) {
                Ok(file) => output.file = Some(Mutex::new(file)),
                Err(error) => output.say_once(&error),
            }
        }
        Sink {
            output: Arc::new(output),
            escapes: None,
        }
    }
}

impl Output {
    fn write_line(&self, line: &[u8]) -> io::Result<()> {
        match (&self.file, &self.path) {
            (Some(file), _) => file.lock().write_all(line),
            // Said when it could not be opened.
            (None, Some(_)) => Ok(()),
            (None, None) => io::stderr().write_all(line),
        }
    }

    fn say_once(&self, error: &io::Error) {
        if self.failed.swap(true, Ordering::Relaxed) {
            return;
        }
        if let Some(path) = &self.path {
            let _ = writeln!(
                io::stderr(),
                "warning: cannot write the log file {}: {error}; going on without it",
                path.display()
            );
        }
    }
}

impl Write for Sink {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let escaped = self.escapes.and_then(|format| escaped(line, format));
        if let Err(error) = self.output.write_line(escaped.as_ref().map_or(line, String::as_bytes)) {
            self.output.say_once(&error);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = Sink;

    fn make_writer(&'a self) -> Sink {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_v_says_one_step_more() {
        assert_eq!(Verbosity::Silent.raised_by(0), Verbosity::Silent);
        assert_eq!(Verbosity::Silent.raised_by(1), Verbosity::Info);
        assert_eq!(Verbosity::Info.raised_by(1), Verbosity::Debug);
        assert_eq!(Verbosity::Info.raised_by(200), Verbosity::Trace);
    }

    #[test]
    fn a_line_stays_one_line_whatever_it_quotes() {
        let line = "said \u{1b}[2J\r\nERROR forged \u{202e} \u{9b}\n".as_bytes();
        let human = escaped(line, LogFormat::Human).expect("it needs escapes");
        assert_eq!(human, "said \\u{1b}[2J\\r\\nERROR forged \\u{202e} \\u{9b}\n");
        let json = format!("{{\"said\":\"{}\"}}\n", "\u{9b}\u{e0001}");
        let json = escaped(json.as_bytes(), LogFormat::Json).expect("it needs escapes");
        assert_eq!(json, "{\"said\":\"\\u009b\\udb40\\udc01\"}\n");
        let value: serde_json::Value = serde_json::from_str(&json).expect("still JSON");
        assert_eq!(value["said"], "\u{9b}\u{e0001}");
        assert_eq!(escaped("plain ü\n".as_bytes(), LogFormat::Human), None);
    }

    #[test]
    fn a_log_file_is_appended_to_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("log");
        for line in [&b"one\n"[..], b"two\n"] {
            Sink::open(Some(&path)).write_all(line).expect("a sink takes all");
        }
        assert_eq!(std::fs::read(&path).expect("a log"), b"one\ntwo\n");
        assert_eq!(
            std::fs::metadata(&path).expect("a log").permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_full_disk_is_swallowed_and_noted_once() {
        let mut sink = Sink::open(Some(std::path::Path::new("/dev/full")));
        assert!(!sink.output.failed.load(Ordering::Relaxed), "opening /dev/full works");
        for _ in 0..3 {
            sink.write_all(b"line\n").expect("a sink takes all");
            assert!(sink.output.failed.load(Ordering::Relaxed));
        }
    }

    #[test]
    fn a_log_file_that_cannot_be_opened_is_left_out() {
        let mut sink = Sink::open(Some(std::path::Path::new("/nowhere/log")));
        sink.write_all(b"line\n").expect("a sink takes all");
        assert!(sink.output.failed.load(Ordering::Relaxed));
    }

    #[test]
    fn a_fifo_without_a_reader_does_not_hold_up_the_start() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo")
            .arg(&path)
            .status()
            .expect("mkfifo");
        assert!(made.success());
        let mut sink = Sink::open(Some(&path));
        sink.write_all(b"line\n").expect("a sink takes all");
    }
}
