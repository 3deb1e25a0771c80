//! The terminal's answer to the question where its cursor is, which comes among the keys.

use std::borrow::Cow;

use bowline_terminal::Position;

/// CPR (ECMA-48): the terminal answers with `CSI row ; column R`.
pub(super) const QUESTION: &[u8] = b"\x1b[6n";

/// No answer is longer.
const MAX_ANSWER: usize = 14;

/// Takes the answer out of what comes from the terminal.
#[derive(Debug, Default)]
pub(super) struct CursorReport {
    is_awaited: bool,
    /// What may be the beginning of the answer.
    held: Vec<u8>,
}

impl CursorReport {
    /// The question has been asked. Asked once, before any program can ask the same: the first answer is ours.
    pub(super) fn handle_asked(&mut self) {
        self.is_awaited = true;
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// The keys among the bytes, and the position of the cursor if they have the answer.
    pub(super) fn take<'a>(&mut self, bytes: &'a [u8]) -> (Cow<'a, [u8]>, Option<Position>) {
        if !self.is_awaited {
            return (Cow::Borrowed(bytes), None);
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        for start in 0..all.len() {
            match answer(&all[start..]) {
                Answer::Whole(position, length) => {
                    self.is_awaited = false;
                    all.drain(start..start + length);
                    return (Cow::Owned(all), Some(position));
                }
                Answer::Begun => {
                    self.held = all.split_off(start);
                    break;
                }
                Answer::None => {}
            }
        }
        (Cow::Owned(all), None)
    }
}

/// What some bytes begin with.
enum Answer {
    /// The answer, and its length.
    Whole(Position, usize),
    /// What may become one. The escape key alone is not enough.
    Begun,
    None,
}

fn answer(bytes: &[u8]) -> Answer {
    let Some(rest) = bytes.strip_prefix(b"\x1b[") else {
        return Answer::None;
    };
    let length = rest
        .iter()
        .take_while(|byte| byte.is_ascii_digit() || **byte == b';')
        .count();
    if length > MAX_ANSWER {
        return Answer::None;
    }
    match rest.get(length) {
        None => Answer::Begun,
        Some(b'R') => position(&rest[..length]).map_or(Answer::None, |position| Answer::Whole(position, length + 3)),
        Some(_) => Answer::None,
    }
}

fn position(text: &[u8]) -> Option<Position> {
    let (row, column) = std::str::from_utf8(text).ok()?.split_once(';')?;
    // The terminal counts from 1.
    let number = |text: &str| text.parse::<u16>().ok()?.checked_sub(1);
    Some(Position {
        row: number(row)?,
        column: number(column)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(pieces: &[&[u8]]) -> (Vec<u8>, Option<(u16, u16)>) {
        let mut report = CursorReport::default();
        report.handle_asked();
        let (mut keys, mut found) = (Vec::new(), None);
        for piece in pieces {
            let (some, position) = report.take(piece);
            keys.extend_from_slice(&some);
            found = found.or(position.map(|position| (position.row, position.column)));
        }
        (keys, found)
    }

    #[test]
    fn the_answer_is_taken_out_of_the_keys_however_it_is_split() {
        let bytes = b"ls\x1b[24;1R -l";
        for split in 0..bytes.len() {
            let (first, second) = bytes.split_at(split);
            if split == 3 {
                // The escape key is handed on at once, so an answer that is split behind it is not seen.
                continue;
            }
            assert_eq!(taken(&[first, second]), (b"ls -l".to_vec(), Some((23, 0))), "{split}");
        }
    }

    #[test]
    fn other_sequences_are_keys() {
        for keys in [
            &b"\x1b"[..],
            b"\x1b[A",
            b"\x1b[1;5D",
            b"\x1bOR",
            b"\x1b[R",
            b"\x1b[0;0R",
            b"\x1b[99999;1R",
            b"a;R",
        ] {
            assert_eq!(taken(&[keys]), (keys.to_vec(), None), "{keys:?}");
        }
    }

    #[test]
    fn only_the_first_answer_is_ours() {
        assert_eq!(
            taken(&[b"\x1b[1;1R", b"\x1b[2;2R"]),
            (b"\x1b[2;2R".to_vec(), Some((0, 0)))
        );
    }
}
