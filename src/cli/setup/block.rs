//! The block in ssh's configuration: how it is written, found and taken out.
//!
//! Pure: bytes in, bytes out. All that is not in a block passes through unread.

use std::ops::Range;

const BEGIN: (&str, &str) = ("# >>> bowline: ", " >>>");
const END: (&str, &str) = ("# <<< bowline: ", " <<<");

/// Where its `Host` stands in a file that begins with a block; lines count from 1.
pub(super) const HOST_LINE: usize = 3;

/// What a block says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// The hosts, apart by spaces: what follows `Host`, and what the markers name.
    pub(super) name: String,
    /// What follows `ProxyCommand`.
    pub(super) command: String,
    /// ssh makes names canonical when it goes straight, and is to do so still.
    pub(super) is_canonical: bool,
    /// The command that takes it out, for whoever reads the block.
    pub(super) undo: String,
}

impl Block {
    /// Its text, with the ends of lines that `content` has.
    ///
    /// For the top of a file: only there can nothing come before it, and the first value that ssh reads counts. The
    /// last line makes what follows mean what it meant without the block.
    fn text(&self, content: &[u8]) -> Vec<u8> {
        let Block { name, undo, .. } = self;
        let mut lines = vec![
            marker(BEGIN, name),
            format!("# To remove this block: {undo}"),
            format!("Host {name}"),
        ];
        lines.extend(self.settings().map(|(keyword, value)| format!("    {keyword} {value}")));
        lines.extend([
            "# The lines below apply to all hosts, until the next Host or Match.".to_owned(),
            "Host *".to_owned(),
            marker(END, name),
        ]);
        let end = end_of_line(content);
        lines.iter().flat_map(|line| [line, end]).flat_map(str::bytes).collect()
    }

    /// What it sets.
    pub(super) fn settings(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let canonical = self.is_canonical.then_some(("CanonicalizeHostname", "always"));
        [
            ("ProxyCommand", &*self.command),
            ("ProxyUseFdpass", "no"),
            ("ServerAliveInterval", "0"),
        ]
        .into_iter()
        .chain(canonical)
    }

    /// `content` with this block at its top, and with no other of that name.
    ///
    /// # Errors
    /// As [`without`].
    pub(super) fn on_top_of(&self, content: &[u8]) -> Result<Vec<u8>, Damaged> {
        let rest = without(content, &self.name)?;
        Ok([self.text(content), rest].concat())
    }
}

/// A block whose markers are no pair.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is one marker of a bowline block; the other marker is missing or has another name")]
pub(crate) struct Damaged {
    /// The line, from 1.
    pub(crate) line: usize,
}

/// `content` without the blocks of that name; all others stay.
///
/// # Errors
/// Markers that are no pair: where a block ends is then a guess.
pub(super) fn without(content: &[u8], name: &str) -> Result<Vec<u8>, Damaged> {
    let mut rest = content.to_vec();
    for (_, range) in blocks(content)?.into_iter().rev().filter(|(found, _)| found == name) {
        rest.drain(range);
    }
    Ok(rest)
}

/// The names of all blocks.
///
/// # Errors
/// As [`without`].
pub(super) fn names(content: &[u8]) -> Result<Vec<String>, Damaged> {
    Ok(blocks(content)?.into_iter().map(|(name, _)| name).collect())
}

fn blocks(content: &[u8]) -> Result<Vec<(String, Range<usize>)>, Damaged> {
    let mut found = Vec::new();
    let mut open: Option<(String, usize, usize)> = None;
    let mut at = 0;
    let lines = content.split_inclusive(|byte| *byte == b'\n');
    for (number, bytes) in (1..).zip(lines) {
        let line = String::from_utf8_lossy(bytes);
        match (named(BEGIN, &line), named(END, &line), open.take()) {
            (Some(name), _, None) => open = Some((name, at, number)),
            (None, Some(end), Some((name, start, _))) if end == name => found.push((name, start..at + bytes.len())),
            (None, None, still) => open = still,
            _ => return Err(Damaged { line: number }),
        }
        at += bytes.len();
    }
    match open {
        Some((_, _, line)) => Err(Damaged { line }),
        None => Ok(found),
    }
}

fn marker((before, after): (&str, &str), name: &str) -> String {
    format!("{before}{name}{after}")
}

fn named((before, after): (&str, &str), line: &str) -> Option<String> {
    let inner = line.trim().strip_prefix(before)?.strip_suffix(after)?;
    Some(inner.to_owned())
}

/// That of the first line: ssh takes both.
fn end_of_line(content: &[u8]) -> &'static str {
    match content.split(|byte| *byte == b'\n').next() {
        Some([.., b'\r']) if content.contains(&b'\n') => "\r\n",
        _ => "\n",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(name: &str) -> Block {
        Block {
            name: name.into(),
            command: "bowline proxy '%r@%n' %p".into(),
            is_canonical: false,
            undo: format!("bowline setup --undo {name}"),
        }
    }

    /// Files that people have.
    const FILES: &[&[u8]] = &[
        b"",
        b"\n",
        b"User ann\nHost *\n  Port 1\n",
        b"Host box\n  User ann",
        b"Host box\r\n  User ann\r\n\r\n",
        b"Host box\r\n  User ann",
        b"# \xff latin 1 \xe9\nInclude x\n",
        b"# >>> conda >>>\n# <<< conda <<<\n",
    ];

    #[test]
    fn what_was_put_in_can_be_taken_out_to_the_last_byte() {
        for file in FILES {
            let one = block("box").on_top_of(file).unwrap();
            let two = block("*.org !a.org").on_top_of(&one).unwrap();
            assert!(two.ends_with(file));
            assert_eq!(names(&two).unwrap(), ["*.org !a.org", "box"]);
            assert_eq!(without(&two, "*.org !a.org").unwrap(), one);
            let other = without(&two, "box").unwrap();
            assert_eq!(without(&other, "*.org !a.org").unwrap(), *file);
            assert_eq!(without(&two, "nobody").unwrap(), two);
        }
    }

    #[test]
    fn its_host_line_is_where_it_is_said_to_be() {
        let text = String::from_utf8(block("box").on_top_of(b"Host other\n").unwrap()).unwrap();
        assert_eq!(text.lines().nth(HOST_LINE - 1), Some("Host box"));
    }

    #[test]
    fn a_block_is_written_again_in_place_of_the_old_one() {
        for file in FILES {
            let old = Block {
                command: "/old/bowline proxy '%r@%n' %p".into(),
                ..block("box")
            };
            let old = old.on_top_of(file).unwrap();
            let moved = [b"Host a\n", old.as_slice()].concat();
            let anew = block("box").on_top_of(&moved).unwrap();
            assert_eq!(names(&anew).unwrap(), ["box"]);
            assert_eq!(without(&anew, "box").unwrap(), [b"Host a\n", *file].concat());
        }
    }

    #[test]
    fn lines_end_as_those_of_the_file() {
        let text = |file: &[u8]| String::from_utf8(block("box").on_top_of(file).unwrap()).unwrap();
        assert!(text(b"a\r\nb\r\n").lines().count() == 11 && !text(b"a\r\nb\r\n").replace("\r\n", "").contains('\n'));
        assert!(!text(b"a\nb\r\n").trim_end_matches("b\r\n").contains('\r'));
        assert!(!text(b"a\r").trim_end_matches("a\r").contains('\r'));
    }

    #[test]
    fn half_a_block_is_left_alone() {
        let whole = String::from_utf8(block("box").on_top_of(b"User ann\n").unwrap()).unwrap();
        let (begin, end) = ("# >>> bowline: box >>>\n", "# <<< bowline: box <<<\n");
        for (damaged, line) in [
            (whole.replace(end, ""), 1),
            (whole.replace(begin, ""), 8),
            (whole.replace(end, "# <<< bowline: other <<<\n"), 9),
            (format!("{begin}{whole}"), 2),
            (format!("{whole}{end}"), 11),
        ] {
            assert_eq!(without(damaged.as_bytes(), "box"), Err(Damaged { line }), "{damaged}");
        }
    }
}
