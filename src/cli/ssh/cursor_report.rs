//! The question to the terminal where its cursor is, and the answer, which comes among the keys.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use bowline_terminal::Position;

/// CPR (ECMA-48): the terminal answers with `CSI row ; column R`.
pub(super) const QUESTION: &[u8] = b"\x1b[6n";

/// The question is asked again when nothing was written for so long.
const QUIET: Duration = Duration::from_millis(200);

/// So long after a question of the program's, none of ours is asked: the next answer may be the program's.
const PROGRAM_ASKS: Duration = Duration::from_secs(10);

/// A terminal that has not answered for so long does not.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// No answer is shorter: `CSI 1;1R`.
const MIN_ANSWER: usize = 6;

/// No answer is longer.
const MAX_ANSWER: usize = 14;

/// Takes the answer out of what comes from the terminal.
#[derive(Debug, Default)]
pub(super) struct CursorReport {
    is_awaited: bool,
    /// When the question was asked last.
    asked_at: Option<Instant>,
    /// The terminal has answered once.
    is_answered: bool,
    /// Output has been written since the question, so that the answer is of no use.
    is_stale: bool,
    /// Since when the terminal has read everything that may have moved the cursor; `None` if nothing has since the question.
    quiet_since: Option<Instant>,
    /// When the program asked the same.
    program_asked_at: Option<Instant>,
    /// What may be the beginning of the answer.
    held: Vec<u8>,
}

impl CursorReport {
    /// The question has been asked, while no answer for a program is on its way: the first answer is ours.
    pub(super) fn handle_asked(&mut self, now: Instant) {
        self.is_awaited = true;
        self.asked_at = Some(now);
        self.is_stale = false;
        // Not again until something has changed.
        self.quiet_since = None;
    }

    /// Output of the program has been written.
    pub(super) fn handle_output(&mut self, bytes: &[u8], now: Instant) {
        if bytes.is_empty() {
            return;
        }
        self.handle_moved(now);
        if has_question(bytes) {
            self.program_asked_at = Some(now);
        }
    }

    /// The terminal has read everything.
    pub(super) fn handle_written(&mut self, now: Instant) {
        if let Some(since) = &mut self.quiet_since {
            *since = now;
        }
    }

    /// The cursor may be elsewhere.
    pub(super) fn handle_moved(&mut self, now: Instant) {
        self.is_stale = true;
        self.quiet_since = Some(now);
    }

    /// Whether the question may be asked again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.poll_timeout().is_some_and(|due| due <= now)
    }

    /// From when on it may be; never, if the terminal does not answer.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        if self.is_awaited || !self.is_answered {
            return None;
        }
        let after_program = self.program_asked_at.map(|at| at + PROGRAM_ASKS);
        let quiet = self.quiet_since? + QUIET;
        Some(after_program.map_or(quiet, |after| after.max(quiet)))
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// Whether the answer is still to be expected.
    pub(super) fn is_expected(&self, now: Instant) -> bool {
        let is_recent = self.asked_at.is_some_and(|at| now < at + REPORT_TIMEOUT);
        self.is_awaited && (self.is_answered || is_recent)
    }

    /// How many bytes of the answer are missing, at least. What is shorter is a key.
    pub(super) fn missing(&self) -> usize {
        MIN_ANSWER.saturating_sub(self.held.len()).max(1)
    }

    /// The keys among the bytes, and the position of the cursor if they have the answer and it still holds.
    pub(super) fn take<'a>(&mut self, bytes: &'a [u8]) -> (Cow<'a, [u8]>, Option<Position>) {
        if !self.is_awaited {
            return (Cow::Borrowed(bytes), None);
        }
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        for start in 0..all.len() {
            match answer(&all[start..]) {
                Answer::Whole(position, length) => {
                    (self.is_awaited, self.is_answered) = (false, true);
                    all.drain(start..start + length);
                    return (Cow::Owned(all), Some(position).filter(|_| !self.is_stale));
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

/// Whether the program asks. Floods rarely have an escape, and that is found fast.
fn has_question(bytes: &[u8]) -> bool {
    // The escape may have come before.
    let searched = match bytes.contains(&0x1b) {
        true => bytes,
        false => &bytes[..bytes.len().min(4)],
    };
    let is_question = |window: &[u8]| window == b"[6n" || window == b"?6n";
    searched.windows(3).any(is_question)
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
        report.handle_asked(crate::clock::now());
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
    fn the_question_is_asked_again_when_it_is_quiet_and_the_program_does_not_ask() {
        let now = crate::clock::now();
        let after = |milliseconds| now + Duration::from_millis(milliseconds);
        let mut report = CursorReport::default();
        report.handle_moved(now);
        assert!(
            !report.is_due(after(60_000)),
            "a terminal that has not answered is not asked again"
        );
        report.handle_asked(crate::clock::now());
        report.take(b"\x1b[3;1R");
        report.handle_moved(now);
        report.handle_output(b"text", after(100));
        assert!(!report.is_due(after(299)));
        assert!(report.is_due(after(300)));
        // The terminal was slow.
        report.handle_written(after(300));
        assert!(!report.is_due(after(499)));
        assert!(report.is_due(after(500)));
        report.handle_output(b"\x1b[6n", after(500));
        assert!(!report.is_due(after(10_499)));
        assert!(report.is_due(after(10_500)));
        report.handle_asked(crate::clock::now());
        report.take(b"\x1b[3;80R");
        assert_eq!(report.poll_timeout(), None, "asked once");
    }

    #[test]
    fn a_terminal_that_never_answers_is_not_waited_for_longer_than_a_second() {
        let now = crate::clock::now();
        let after = |milliseconds| now + Duration::from_millis(milliseconds);
        let mut report = CursorReport::default();
        assert!(!report.is_expected(now));
        report.handle_asked(now);
        assert!(report.is_expected(after(999)) && !report.is_expected(after(1000)));
        report.take(b"l\x1b[2");
        assert_eq!(report.missing(), 3);
        report.take(b";1R");
        assert!(!report.is_expected(now));
        report.handle_asked(now);
        assert!(report.is_expected(after(5000)), "it has answered before");
    }

    #[test]
    fn an_answer_from_before_later_output_is_of_no_use() {
        let mut report = CursorReport::default();
        report.handle_asked(crate::clock::now());
        report.handle_output(b"text", crate::clock::now());
        let (keys, position) = report.take(b"\x1b[3;1Rl");
        assert_eq!((&*keys, position), (&b"l"[..], None));
    }

    #[test]
    fn only_the_first_answer_is_ours() {
        assert_eq!(
            taken(&[b"\x1b[1;1R", b"\x1b[2;2R"]),
            (b"\x1b[2;2R".to_vec(), Some((0, 0)))
        );
    }
}
