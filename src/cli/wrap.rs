//! Lines that a terminal has no room for, broken between words.

use std::io;

use rustix::termios::tcgetwinsize;

/// What must be left of a line behind its head; with less its text goes on below the head.
const MIN_TEXT_WIDTH: usize = 28;

/// Where it then goes on.
const SHALLOW_INDENT: usize = 4;

/// The columns of the terminal that is stdout, if it is one.
pub(super) fn width() -> Option<usize> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// `head` and `text`, in lines of at most `width`; those after the first begin under the text. A word that has no room stays
/// whole.
pub(super) fn hanging_indent(head: &str, text: &str, width: Option<usize>) -> String {
    let Some(width) = width else {
        return format!("{head}{text}");
    };
    let column = head.chars().count();
    let indent = if column + MIN_TEXT_WIDTH > width {
        SHALLOW_INDENT
    } else {
        column
    };
    let mut lines = head.to_owned();
    let (mut at, mut is_fresh) = (column, true);
    for word in text.split(' ') {
        let length = word.chars().count();
        let gap = usize::from(!is_fresh);
        if at + gap + length > width && at > indent {
            lines.truncate(lines.trim_end().len());
            lines.push('\n');
            lines.extend(std::iter::repeat_n(' ', indent));
            at = indent;
        } else {
            lines.extend(std::iter::repeat_n(' ', gap));
            at += gap;
        }
        lines.push_str(word);
        at += length;
        is_fresh = false;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_goes_on_under_itself() {
        let told = hanging_indent("hint: ", "is it running there, and does it listen", Some(40));
        assert_eq!(told, "hint: is it running there, and does it\n      listen");
        assert_eq!(hanging_indent("hint: ", "a b", None), "hint: a b");
    }

    #[test]
    fn a_head_that_leaves_no_room_has_the_text_below_it() {
        let told = hanging_indent("quic [2001:db8::1]:22   12.5 ms  ", "works: SSH-2.0-OpenSSH", Some(40));
        assert_eq!(told, "quic [2001:db8::1]:22   12.5 ms  works:\n    SSH-2.0-OpenSSH");
    }

    #[test]
    fn a_word_without_room_stays_whole() {
        let word = "x".repeat(60);
        assert_eq!(hanging_indent("a: ", &word, Some(40)), format!("a: {word}"));
        assert_eq!(
            hanging_indent("a: ", &format!("b {word} c"), Some(40)),
            format!("a: b\n   {word}\n   c")
        );
    }
}
