//! Whether an output stream is between two escape sequences.
//!
//! Bytes of our own may be written to a terminal only there: anywhere else they would become part of the sequence, or of
//! the character, that is not complete yet. Where terminals disagree about the end of a sequence, the later end counts.

/// The state of the terminal's parser, as far as it says whether other bytes may be inserted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Boundary {
    /// The next byte begins something new.
    #[default]
    Ground,
    /// So many bytes of a character in UTF-8 are missing.
    Utf8(u8),
    /// After ESC, and after its intermediate bytes.
    Escape,
    /// After CSI, until the final byte.
    Csi,
    /// OSC, until BEL or the string terminator.
    Osc,
    /// DCS, SOS, PM, APC or the title of GNU screen, until the string terminator.
    String,
}

impl Boundary {
    /// The state after `bytes`.
    pub(crate) fn after(self, bytes: &[u8]) -> Self {
        let mut state = self;
        let mut rest = bytes;
        while let Some((first, after)) = rest.split_first() {
            rest = after;
            state = state.after_byte(*first);
            if state == Self::Ground {
                rest = &rest[text_len(rest)..];
            }
        }
        state
    }

    /// How many of `bytes` come before the next text that stands between sequences, and the state behind them.
    pub(crate) fn before_text(self, bytes: &[u8]) -> (usize, Self) {
        let mut state = self;
        for (at, byte) in bytes.iter().enumerate() {
            if state == Self::Ground && is_text(*byte) {
                return (at, state);
            }
            state = state.after_byte(*byte);
        }
        (bytes.len(), state)
    }

    fn after_byte(self, byte: u8) -> Self {
        match (self, byte) {
            (_, 0x1b) => Self::Escape,
            // CAN and SUB cancel what has begun.
            (_, 0x18 | 0x1a) => Self::Ground,
            (Self::Ground, _) => Self::first(byte),
            (Self::Utf8(1), 0x80..=0xbf) => Self::Ground,
            (Self::Utf8(missing), 0x80..=0xbf) => Self::Utf8(missing - 1),
            (Self::Utf8(_), _) => Self::first(byte),
            (Self::Escape, b'[') => Self::Csi,
            (Self::Escape, b']') => Self::Osc,
            (Self::Escape, b'P' | b'X' | b'^' | b'_' | b'k') => Self::String,
            (Self::Escape, 0x30..=0x7e) | (Self::Csi, 0x40..=0x7e) | (Self::Osc, 0x07) => Self::Ground,
            (state, _) => state,
        }
    }

    fn first(byte: u8) -> Self {
        match byte {
            0xc2..=0xdf => Self::Utf8(1),
            0xe0..=0xef => Self::Utf8(2),
            0xf0..=0xf4 => Self::Utf8(3),
            _ => Self::Ground,
        }
    }
}

/// How many of these bytes are text in ASCII. Floods are that, mostly: they are looked through in blocks, which the
/// compiler turns into vector instructions.
pub(crate) fn text_len(bytes: &[u8]) -> usize {
    const BLOCK: usize = 32;
    let is_all_text = |block: &&[u8]| block.iter().fold(true, |so_far, byte| so_far & is_text(*byte));
    let start = BLOCK * bytes.chunks_exact(BLOCK).take_while(is_all_text).count();
    let rest = &bytes[start..];
    start + rest.iter().position(|byte| !is_text(*byte)).unwrap_or(rest.len())
}

/// Printable, or a control character that only moves the cursor.
fn is_text(byte: u8) -> bool {
    matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r')
}

/// Keeps long strings from the parser, which would store them whole: an image in an OSC may have any size.
#[derive(Debug, Default)]
pub(crate) struct StringLimit {
    state: Boundary,
    length: usize,
}

impl StringLimit {
    /// Enough for each OSC that is obeyed: hyperlinks are at most 2,083 bytes long.
    const MAX: usize = 64 * 1024;

    /// The part of `bytes` that goes to the parser: what is left out is the middle of a long OSC.
    pub(crate) fn parsed<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let ends = |byte: &u8| matches!(byte, 0x07 | 0x18 | 0x1a | 0x1b);
        let is_long = self.state == Boundary::Osc && self.length > Self::MAX;
        let start = match is_long {
            true => bytes.iter().position(ends).unwrap_or(bytes.len()),
            false => 0,
        };
        self.state = self.state.after(bytes);
        self.length = if self.state == Boundary::Osc {
            self.length + bytes.len()
        } else {
            0
        };
        &bytes[start..]
    }
}

/// `bytes` in two parts that vte 0.15 parses right: the end of a character that began before, and the rest. In one part it loses
/// the character after that end, if a third one is cut off within the next bytes.
pub(crate) fn character_end_apart(bytes: &[u8]) -> [&[u8]; 2] {
    let end = bytes
        .iter()
        .take(3)
        .take_while(|byte| (0x80..=0xbf).contains(*byte))
        .count();
    let (end, rest) = bytes.split_at(end);
    [end, rest]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Default)]
    struct Printed(Vec<char>);

    impl vte::Perform for Printed {
        fn print(&mut self, character: char) {
            self.0.push(character);
        }
    }

    /// Whether a terminal would print `~` right after `bytes`, and print nothing else for it.
    fn prints_next(bytes: &[u8]) -> bool {
        let mut printed = Printed::default();
        let mut parser = vte::Parser::new();
        parser.advance(&mut printed, bytes);
        let before = printed.0.len();
        parser.advance(&mut printed, b"~");
        printed.0.len() == before + 1 && printed.0.last() == Some(&'~')
    }

    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            any::<u8>().prop_map(|byte| vec![byte]),
            "[a-z~]{1,3}".prop_map(String::into_bytes),
            "\u{1b}\\[[?>0-9;]{0,4}[ !$]{0,1}[A-Za-z]".prop_map(String::into_bytes),
            "\u{1b}[()][A0B]".prop_map(String::into_bytes),
            "\u{1b}[\\]P_^X][0-9a-z;]{0,5}(\u{7}|\u{1b}\\\\)".prop_map(String::into_bytes),
            "[äλ漢👍]{1,2}".prop_map(String::into_bytes),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn between_two_sequences_the_next_character_is_printed(bytes in pieces(), end in any::<prop::sample::Index>()) {
            let bytes = &bytes[..end.index(bytes.len() + 1)];
            if Boundary::default().after(bytes) == Boundary::Ground {
                prop_assert!(prints_next(bytes), "{}", bytes.escape_ascii());
            }
        }
    }

    #[test]
    fn text_ends_where_something_else_begins() {
        let text = b"text of\tsome length, in more than two blocks of thirty-two bytes\r\n";
        for end in [0, 1, 31, 32, 33, text.len()] {
            for other in [&b""[..], b"\x1b[m", b"\x7f", b"\xc3\xa4", b"\0"] {
                let bytes = [&text[..end], other, b"more"].concat();
                let expected = if other.is_empty() { end + 4 } else { end };
                assert_eq!(text_len(&bytes), expected, "{end} {other:?}");
            }
        }
    }

    #[test]
    fn a_long_string_reaches_the_parser_in_part_and_ends() {
        let mut limit = StringLimit::default();
        let mut parsed = limit.parsed(b"\x1b]1337;File=:").len();
        for _ in 0..1000 {
            parsed += limit.parsed(&[b'A'; 1000]).len();
        }
        assert!(parsed <= StringLimit::MAX + 1100, "{parsed}");
        assert_eq!(limit.parsed(b"AAA\x07text"), b"\x07text");
        assert_eq!(limit.parsed(b"more"), b"more");
    }

    #[test]
    fn complete_sequences_end_on_the_ground() {
        for bytes in [
            &b"text"[..],
            b"\x1b[1;31m",
            b"\x1b(0",
            b"\x1b]0;title\x07",
            b"\x1b]0;title\x1b\\",
            b"\x1bPq#0;2;0\x1b\\",
            b"\x1b[?2004h",
            "漢👍é".as_bytes(),
            b"\x1b[12\x18",
        ] {
            assert_eq!(Boundary::default().after(bytes), Boundary::Ground, "{bytes:?}");
            for end in 1..bytes.len() {
                let inside = Boundary::default().after(&bytes[..end]);
                let halves = inside.after(&bytes[end..]);
                assert_eq!(halves, Boundary::Ground, "{bytes:?} at {end}");
            }
        }
        assert_ne!(Boundary::default().after(b"\x1b[1;3"), Boundary::Ground);
        assert_ne!(Boundary::default().after(b"\xe6\xbc"), Boundary::Ground);
        assert_ne!(Boundary::default().after(b"\x1b]8;;http://"), Boundary::Ground);
    }
}
