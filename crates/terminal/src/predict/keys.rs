//! Bytes from the keyboard as far as the predictor knows what they do.

use unicode_width::UnicodeWidthChar;
use vte::{Params, Perform};

/// What a key is expected to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// A character of this many columns, 1 or 2.
    Print(char, u16),
    /// DEL.
    Backspace,
    /// `^H`: erases in line editors, and shows `^H` on a terminal whose erase character is DEL.
    ControlH,
    Left,
    Right,
    Enter,
    /// Anything else.
    Unknown,
}

/// Parses keys across reads.
#[derive(Default)]
pub(super) struct KeyParser {
    parser: vte::Parser,
    actions: Actions,
}

#[derive(Default)]
struct Actions {
    list: Vec<Action>,
    /// ESC O came: the next character names the key.
    single_shift: bool,
}

impl KeyParser {
    /// What these bytes do. An incomplete sequence counts as unknown.
    pub(super) fn parse(&mut self, bytes: &[u8]) -> Vec<Action> {
        self.parser.advance(&mut self.actions, bytes);
        let ends_open = bytes.last() == Some(&0x1b) || self.actions.list.is_empty() || self.actions.single_shift;
        let mut list = std::mem::take(&mut self.actions.list);
        if ends_open {
            list.push(Action::Unknown);
        }
        list
    }
}

impl Perform for Actions {
    fn print(&mut self, character: char) {
        let action = match (std::mem::take(&mut self.single_shift), character) {
            (true, 'C') => Action::Right,
            (true, 'D') => Action::Left,
            (false, '\u{7f}') => Action::Backspace,
            (false, _) => match character.width() {
                Some(width @ 1..=2) => Action::Print(character, u16::try_from(width).unwrap_or(1)),
                _ => Action::Unknown,
            },
            _ => Action::Unknown,
        };
        self.list.push(action);
    }

    fn execute(&mut self, byte: u8) {
        self.list.push(match byte {
            b'\r' => Action::Enter,
            0x08 => Action::ControlH,
            0x7f => Action::Backspace,
            _ => Action::Unknown,
        });
    }

    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], _ignore: bool, action: char) {
        let is_bare = intermediates.is_empty() && params.iter().all(|param| param[0] <= 1) && params.len() < 2;
        self.list.push(match action {
            'C' if is_bare => Action::Right,
            'D' if is_bare => Action::Left,
            _ => Action::Unknown,
        });
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], _ignore: bool, byte: u8) {
        if intermediates.is_empty() && byte == b'O' {
            self.single_shift = true;
        } else {
            self.list.push(Action::Unknown);
        }
    }

    fn osc_dispatch(&mut self, _params: &[&[u8]], _bell_terminated: bool) {
        self.list.push(Action::Unknown);
    }

    fn unhook(&mut self) {
        self.list.push(Action::Unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_understood_also_if_they_come_in_pieces() {
        let mut parser = KeyParser::default();
        assert_eq!(
            parser.parse("aλ漢".as_bytes()),
            [Action::Print('a', 1), Action::Print('λ', 1), Action::Print('漢', 2)]
        );
        assert_eq!(
            parser.parse(b"\x7f\x08\r"),
            [Action::Backspace, Action::ControlH, Action::Enter]
        );
        assert_eq!(
            parser.parse(b"\x1b[C\x1b[D\x1bOC\x1bOD"),
            [Action::Right, Action::Left, Action::Right, Action::Left]
        );
        assert_eq!(parser.parse(b"\x1b[A\x1b[1;5C\x1bOP\x1bb\x03"), [Action::Unknown; 5]);
        assert_eq!(parser.parse(b"\x1b"), [Action::Unknown]);
        assert_eq!(parser.parse(b"[C"), [Action::Right]);
        assert_eq!(parser.parse(&[0xe6, 0xbc]), [Action::Unknown]);
        assert_eq!(parser.parse(&[0xa2]), [Action::Print('漢', 2)]);
    }
}
