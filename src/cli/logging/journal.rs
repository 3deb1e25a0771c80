//! systemd's journal: whether stderr leads there, and what then speaks to it in fields.

use std::env;
use std::os::fd::AsFd;

use rustix::fs::fstat;
use tracing_journald::{Layer, Priority, PriorityMappings};

/// systemd.exec(5): device and inode of the stream to the journal that a service was given.
const STREAM: &str = "JOURNAL_STREAM";

/// What the names of our fields begin with: the field `event` is `BOWLINE_EVENT` in the journal.
const PREFIX: &str = "BOWLINE";

/// What speaks to the journal; `None` where stderr does not lead there, or the journal does not answer.
pub(super) fn layer() -> Option<Layer> {
    let stream = env::var(STREAM).ok()?;
    if !is_stream(&stream, std::io::stderr()) {
        return None;
    }
    // Without its socket for fields the journal still has what goes to stderr.
    let layer = tracing_journald::layer().ok()?;
    Some(
        layer
            .with_field_prefix(Some(PREFIX.to_owned()))
            // A worker's own name for itself is a descriptor of its program.
            .with_syslog_identifier("bowline".to_owned())
            .with_priority_mappings(PriorityMappings {
                error: Priority::Error,
                warn: Priority::Warning,
                info: Priority::Informational,
                debug: Priority::Debug,
                trace: Priority::Debug,
            }),
    )
}

/// Children inherit the variable also where they are given another stderr: only the numbers tell.
fn is_stream(stream: &str, descriptor: impl AsFd) -> bool {
    let numbers = stream.split_once(':');
    let numbers = numbers.and_then(|(device, inode)| Some((device.parse().ok()?, inode.parse().ok()?)));
    fstat(descriptor).is_ok_and(|stat| numbers == Some((stat.st_dev, stat.st_ino)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

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
