//! systemd's journal: whether stderr leads there, and what then speaks to it in fields.
//!
//! An entry has each value as a field of its own, for filters and programs, and a text that tells all of it, for who reads
//! plain `journalctl`. tracing-journald, which has the sentence alone as its text, cannot be told to do so.

use std::env;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use rustix::fs::fstat;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// systemd.exec(5): device and inode of the stream to the journal that a service was given.
const STREAM: &str = "JOURNAL_STREAM";

/// Where the journal takes entries in fields: <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>.
const SOCKET: &str = "/run/systemd/journal/socket";

/// What the names of our fields begin with: the field `event` is `BOWLINE_EVENT` in the journal.
const PREFIX: &str = "BOWLINE_";

/// A worker's own name for itself is a descriptor of its program.
const IDENTIFIER: &str = "bowline";

/// Speaks to the journal.
pub(super) struct Journal {
    socket: UnixDatagram,
    at: PathBuf,
}

/// `None` where stderr does not lead to the journal, or that does not answer.
pub(super) fn layer() -> Option<Journal> {
    let stream = env::var(STREAM).ok()?;
    if !is_stream(&stream, io::stderr()) {
        return None;
    }
    // Without its socket for fields the journal still has what goes to stderr.
    Journal::at(SOCKET.into()).ok()
}

/// Children inherit the variable also where they are given another stderr: only the numbers tell.
fn is_stream(stream: &str, descriptor: impl AsFd) -> bool {
    let numbers = stream.split_once(':');
    let numbers = numbers.and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    fstat(descriptor).is_ok_and(|stat| numbers == Some((stat.st_dev, stat.st_ino)))
}

impl Journal {
    /// # Errors
    /// As `sendto(2)`: nobody listens there.
    fn at(at: PathBuf) -> io::Result<Journal> {
        let socket = UnixDatagram::unbound()?;
        // The journal passes over an empty entry.
        socket.send_to(&[], &at)?;
        Ok(Journal { socket, at })
    }

    fn send(&self, entry: &[u8], text: &str) {
        // What is too long for one datagram, or comes while the journal is away, goes where all would without it; a log
        // that cannot be written at all is dropped.
        if self.socket.send_to(entry, &self.at).is_err() {
            let _ = writeln!(io::stderr(), "{text}");
        }
    }
}

/// What a span adds to the entries within.
struct Within {
    fields: Fields,
    /// `id=3f2a9c01`.
    text: String,
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Journal {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        fields.put("SPAN_NAME", span.name());
        attributes.record(&mut fields);
        let text = text_of(attributes);
        span.extensions_mut().insert(Within { fields, text });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(within) = span.extensions_mut().get_mut::<Within>() {
            values.record(&mut within.fields);
            let _ = write!(within.text, " {}", text_of(values));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let (mut entry, mut text) = (Fields::default(), String::new());
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(within) = span.extensions().get::<Within>() {
                entry.0.extend_from_slice(&within.fields.0);
                // As on a terminal. A String takes everything.
                let _ = match within.text.as_str() {
                    "" => write!(text, "{}: ", span.name()),
                    values => write!(text, "{}{{{values}}}: ", span.name()),
                };
            }
        }
        text += &text_of(event);
        entry.put_origin(event.metadata());
        event.record(&mut entry);
        entry.put("MESSAGE", &text);
        self.send(&entry.0, &text);
    }
}

/// The sentence and the values, as a terminal is told them.
fn text_of(fields: impl RecordFields) -> String {
    let mut text = String::new();
    // A String takes everything.
    let _ = DefaultFields::new().format_fields(Writer::new(&mut text), fields);
    text
}

/// Fields of an entry, in the journal's form. Values may be any bytes: each comes with its length.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn put(&mut self, name: &str, value: &str) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'\n');
        self.0.extend_from_slice(&(value.len() as u64).to_le_bytes());
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(b'\n');
    }

    fn put_origin(&mut self, metadata: &Metadata<'_>) {
        self.put("PRIORITY", priority(metadata.level()));
        self.put("SYSLOG_IDENTIFIER", IDENTIFIER);
        self.put("TARGET", metadata.target());
        if let Some(file) = metadata.file() {
            self.put("CODE_FILE", file);
        }
        if let Some(line) = metadata.line() {
            self.put("CODE_LINE", &line.to_string());
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        // That is in the text.
        if field.name() != "message" {
            self.put(&name(field.name()), value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

/// syslog(3) has no word for traces.
fn priority(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        Level::DEBUG | Level::TRACE => "7",
    }
}

/// systemd.journal-fields(7): capital letters, digits and underscores.
fn name(field: &str) -> String {
    let permitted = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    PREFIX
        .chars()
        .chain(field.to_ascii_uppercase().chars().map(permitted))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use tracing::{info, info_span, warn};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    /// What the journal is sent by `act`.
    fn entries(act: impl FnOnce()) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path().join("socket");
        let journal = UnixDatagram::bind(&at).expect("a socket");
        journal.set_nonblocking(true).expect("a socket");
        let layer = Journal::at(at).expect("a socket to send to");
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), act);
        let mut datagram = vec![0; 64 * 1024];
        let mut entries = Vec::new();
        while let Ok(length) = journal.recv(&mut datagram) {
            entries.push(String::from_utf8_lossy(&datagram[..length]).into_owned());
        }
        assert_eq!(entries.remove(0), "", "whether it answers");
        entries
    }

    fn field(name: &str, value: &str) -> String {
        let length = (value.len() as u64).to_le_bytes();
        format!("{name}\n{}{value}\n", str::from_utf8(&length).expect("a short value"))
    }

    #[test]
    fn an_entry_has_each_value_as_a_field_and_all_of_them_in_its_text() {
        let session = || info_span!("session", id = %"3f2a");
        let told = entries(|| session().in_scope(|| info!(event = "resumed", outage_ms = 12, "the path is back")));
        let text = "session{id=3f2a}: the path is back event=\"resumed\" outage_ms=12";
        for (name, value) in [
            ("MESSAGE", text),
            ("PRIORITY", "6"),
            ("SYSLOG_IDENTIFIER", "bowline"),
            ("TARGET", module_path!()),
            ("CODE_FILE", file!()),
            ("SPAN_NAME", "session"),
            ("BOWLINE_ID", "3f2a"),
            ("BOWLINE_EVENT", "resumed"),
            ("BOWLINE_OUTAGE_MS", "12"),
        ] {
            let field = field(name, value);
            assert_eq!(told[0].matches(&field).count(), 1, "{field:?} in {:?}", told[0]);
        }
        assert_eq!(told.len(), 1);
        let told = entries(|| info_span!("alone").in_scope(|| info!("here")));
        assert!(told[0].contains(&field("MESSAGE", "alone: here")), "{told:?}");
    }

    #[test]
    fn a_strangers_line_break_makes_no_field() {
        let told = entries(|| warn!(user = "ada\nPRIORITY=0", "refused"));
        assert!(told[0].contains(&field("BOWLINE_USER", "ada\nPRIORITY=0")), "{told:?}");
        assert!(told[0].contains(&field("PRIORITY", "4")), "{told:?}");
        let text = field("MESSAGE", "refused user=\"ada\\nPRIORITY=0\"");
        assert!(told[0].contains(&text), "{told:?}");
    }

    #[test]
    fn names_of_fields_are_such_as_the_journal_takes() {
        assert_eq!(name("log.target"), "BOWLINE_LOG_TARGET");
        assert_eq!(name("outage_ms"), "BOWLINE_OUTAGE_MS");
    }

    #[test]
    fn only_the_file_that_is_named_is_the_stream() {
        let (null, zero) = (
            File::open("/dev/null").expect("null"),
            File::open("/dev/zero").expect("zero"),
        );
        let stat = fstat(&null).expect("an open file");
        let stream = format!("{}:{}", stat.st_dev, stat.st_ino);
        assert!(is_stream(&stream, &null));
        assert!(!is_stream(&stream, &zero));
        for broken in ["", "1", "1:", ":1", "a:b", "1:2:3"] {
            assert!(!is_stream(broken, &null), "{broken}");
        }
    }
}
