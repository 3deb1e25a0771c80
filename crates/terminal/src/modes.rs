//! Which modes of the terminal a program has switched on, and the bytes that switch them off again.
//!
//! If ssh dies below a full-screen program, nobody else undoes what the program did to the terminal. The tracker also says
//! which bytes the shadow screen does not understand as a terminal may ([`ModeTracker::take_unknown`]).

use std::collections::{BTreeMap, BTreeSet};

use vte::{Params, Perform};

use crate::boundary::{Boundary, StringLimit, character_end_apart, text_len};

/// Follows the modes in a stream of output, split at any byte.
///
/// ```
/// use bowline_terminal::ModeTracker;
///
/// let mut modes = ModeTracker::new(24);
/// modes.handle_output(b"\x1b[?1049h\x1b[?25l\x1b[?2004h");
/// assert!(modes.is_alternate_screen());
/// assert_eq!(modes.restore(), b"\x1b[?1049l\x1b[?2004l\x1b[?25h");
/// ```
pub struct ModeTracker {
    parser: vte::Parser,
    boundary: Boundary,
    limit: StringLimit,
    modes: Modes,
}

/// Private modes that are off in a terminal as the shell gets it.
const NORMALLY_OFF: &[u16] = &[
    1, 5, 6, 9, 45, 47, 66, 69, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 1047, 1049, 2004, 2026, 2027,
    2031, 2048,
];

/// Private modes that are on in a terminal as the shell gets it: autowrap, and the visible cursor.
const NORMALLY_ON: &[u16] = &[7, 25];

/// Ways to the alternate screen.
const ALTERNATE_SCREEN: &[u16] = &[47, 1047, 1049];

/// Private modes that change the screen in ways that no shadow screen follows: VT52, 132 columns, reverse wraparound, margins
/// left and right, columns kept at a change of width, a saved cursor, grapheme clusters.
const NOT_FOLLOWED: &[u16] = &[2, 3, 45, 69, 95, 1048, 2027];

const HYPERLINK_END: &[u8] = b"\x1b]8;;\x1b\\";

/// By their terminfo, programs set it in tmux and screen whenever they show the cursor.
const CURSOR_MODE: u16 = 34;

/// Most bytes of a string by which vim finds out whether the terminal shows unknown strings. It sends one.
const MAX_PROBE: usize = 2;

/// Most entries that a terminal keeps on its stack of kitty keyboard flags.
const MAX_KEYBOARD_STACK: u16 = 16;

impl ModeTracker {
    /// A terminal of this many rows, with all modes as the shell gets it.
    pub fn new(rows: u16) -> Self {
        Self {
            parser: vte::Parser::new(),
            boundary: Boundary::default(),
            limit: StringLimit::default(),
            modes: Modes {
                rows,
                ..Modes::default()
            },
        }
    }

    /// Takes output of the program, in pieces of any size.
    pub fn handle_output(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let text = match self.boundary {
                Boundary::Ground => text_len(rest),
                _ => 0,
            };
            self.modes.handle_text(&rest[..text]);
            rest = &rest[text..];
            let (length, boundary) = self.boundary.before_text(rest);
            self.boundary = boundary;
            for part in character_end_apart(self.limit.parsed(&rest[..length])) {
                self.parser.advance(&mut self.modes, part);
            }
            rest = &rest[length..];
        }
    }

    /// Takes a new height. Terminals reset the scroll region then.
    pub fn handle_resize(&mut self, rows: u16) {
        self.modes.rows = rows;
        self.modes.region = None;
    }

    /// Whether other bytes may be inserted here: no sequence and no character is incomplete.
    pub fn is_between_sequences(&self) -> bool {
        self.boundary == Boundary::Ground
    }

    /// Whether the alternate screen is shown.
    pub fn is_alternate_screen(&self) -> bool {
        ALTERNATE_SCREEN.iter().any(|mode| self.modes.is_changed(*mode))
    }

    /// Whether the program shows the cursor.
    pub fn is_cursor_visible(&self) -> bool {
        !self.modes.is_changed(25)
    }

    /// Whether a paste comes in brackets (mode 2004).
    pub fn is_bracketed_paste(&self) -> bool {
        self.modes.is_changed(2004)
    }

    /// Whether the program holds the display back (mode 2026).
    pub fn is_synchronized(&self) -> bool {
        self.modes.is_changed(2026)
    }

    /// Whether characters appear as they are, where the cursor is moved to: no insert mode, origin mode or margins, autowrap
    /// on, the usual character set, no open hyperlink.
    pub fn is_plain(&self) -> bool {
        let modes = &self.modes;
        let changed = [6, 7, 66, 69, 2026, 2027].iter().any(|mode| modes.is_changed(*mode));
        !changed && modes.ansi.is_empty() && modes.active_set() == b'B' && !modes.hyperlink && !modes.single_shift
    }

    /// The last character, if nothing came after it. REP would repeat it.
    pub fn last_printed(&self) -> Option<char> {
        self.modes.last_printed
    }

    /// Whether output came, since the last call, that the shadow screen may have shown otherwise than the terminal did.
    pub fn take_unknown(&mut self) -> bool {
        std::mem::take(&mut self.modes.unknown)
    }

    /// How many of these bytes belong to the sequence, or the character, that is incomplete.
    pub(crate) fn sequence_end(&self, bytes: &[u8]) -> usize {
        let mut state = self.boundary;
        let is_end = |byte: &u8| {
            state = state.after(&[*byte]);
            state == Boundary::Ground
        };
        bytes.iter().position(is_end).map_or(bytes.len(), |at| at + 1)
    }

    /// The bytes that bring an emulator in its initial state to the modes that change what output shows.
    pub(crate) fn write_screen_modes(&self, bytes: &mut Vec<u8>) {
        self.modes.write_screen_modes(bytes);
    }

    /// How often the last REP since the last call repeated a character; 0 for none.
    pub(crate) fn take_repeated(&mut self) -> u16 {
        std::mem::take(&mut self.modes.repeated)
    }

    /// Whether a soft reset (DECSTR) came since the last call.
    pub fn take_soft_reset(&mut self) -> bool {
        std::mem::take(&mut self.modes.soft_reset)
    }

    /// Whether vim asked, since the last call, whether the terminal shows unknown sequences as text.
    pub(crate) fn take_probe(&mut self) -> bool {
        std::mem::take(&mut self.modes.probe)
    }

    /// The bytes that switch off what is on, in an order that leaves the cursor where it is on the main screen.
    ///
    /// Empty if the terminal is as the shell got it.
    pub fn restore(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if !self.is_between_sequences() {
            // A string that broke off counts as far as it came, in most terminals: it may have opened a hyperlink.
            bytes.extend_from_slice(b"\x1b\\");
            if self.boundary == Boundary::Osc && !self.modes.hyperlink {
                bytes.extend_from_slice(HYPERLINK_END);
            }
        }
        self.modes.write_restore(&mut bytes);
        bytes
    }
}

/// Flags of the kitty keyboard protocol, one stack per screen.
#[derive(Debug, Clone, Copy, Default)]
struct KeyboardStack {
    depth: u16,
    /// Flags were set without an entry on the stack.
    is_set: bool,
}

impl KeyboardStack {
    fn pop(&mut self, count: u16) {
        if count >= self.depth {
            // The last entry takes all flags along.
            *self = Self::default();
        } else {
            self.depth -= count;
        }
    }

    fn write_restore(self, bytes: &mut Vec<u8>) {
        if self.depth > 0 {
            write(bytes, format_args!("\x1b[<{}u", self.depth));
        }
        if self.is_set {
            bytes.extend_from_slice(b"\x1b[=0u");
        }
    }
}

#[derive(Default)]
struct Modes {
    rows: u16,
    /// Private modes that are not as the shell got them.
    changed: BTreeSet<u16>,
    /// By XTSAVE.
    saved: BTreeMap<u16, bool>,
    /// Of ANSI: insert (4) and newline (20).
    ansi: BTreeSet<u16>,
    keypad: bool,
    /// Designated character sets, if not ASCII.
    sets: [Option<u8>; 4],
    /// Which of G0 to G3 is active.
    active: usize,
    single_shift: bool,
    /// First and last row, from 1, if not the whole screen.
    region: Option<(u16, u16)>,
    cursor_shape: bool,
    /// Whether tmux and screen show the cursor more clearly (mode 34 of ANSI, off). Other terminals ignore it.
    clear_cursor: bool,
    /// Keys of XTMODKEYS that were set: 4 is modifyOtherKeys.
    modify_keys: BTreeSet<u16>,
    main_keyboard: KeyboardStack,
    alternate_keyboard: KeyboardStack,
    pen: bool,
    hyperlink: bool,
    unknown: bool,
    soft_reset: bool,
    /// A question of vim's, which most terminals do not show.
    probe: bool,
    /// Bytes that may still come in a string that is such a question.
    probe_left: Option<usize>,
    last_printed: Option<char>,
    /// Of the last REP.
    repeated: u16,
}

impl Modes {
    fn is_changed(&self, mode: u16) -> bool {
        self.changed.contains(&mode)
    }

    fn active_set(&self) -> u8 {
        self.sets[self.active].unwrap_or(b'B')
    }

    fn is_alternate(&self) -> bool {
        ALTERNATE_SCREEN.iter().any(|mode| self.is_changed(*mode))
    }

    fn keyboard(&mut self) -> &mut KeyboardStack {
        if self.is_alternate() {
            &mut self.alternate_keyboard
        } else {
            &mut self.main_keyboard
        }
    }

    fn is_on(&self, mode: u16) -> bool {
        NORMALLY_ON.contains(&mode) != self.is_changed(mode)
    }

    /// Text in ASCII between sequences, at once: what the parser would do character by character.
    fn handle_text(&mut self, text: &[u8]) {
        let Some(last) = text.last() else { return };
        let is_printable = |byte: &u8| matches!(byte, b' '..=b'~');
        self.last_printed = Some(char::from(*last)).filter(|_| is_printable(last));
        self.single_shift &= !text.iter().any(is_printable);
    }

    fn set_private(&mut self, mode: u16, on: bool) {
        self.unknown |= NOT_FOLLOWED.contains(&mode);
        let is_changed = match mode {
            _ if NORMALLY_ON.contains(&mode) => !on,
            _ if NORMALLY_OFF.contains(&mode) => on,
            _ => return,
        };
        if is_changed {
            self.change(mode);
        } else {
            self.changed.remove(&mode);
            if ALTERNATE_SCREEN.contains(&mode) {
                // Each of the three leaves the one alternate screen.
                ALTERNATE_SCREEN.iter().for_each(|other| {
                    self.changed.remove(other);
                });
                self.alternate_keyboard = KeyboardStack::default();
            }
        }
    }

    fn set_ansi(&mut self, mode: u16, on: bool) {
        match mode {
            4 | 20 if on => {
                self.ansi.insert(mode);
            }
            4 | 20 => {
                self.ansi.remove(&mode);
            }
            CURSOR_MODE => self.clear_cursor = !on,
            _ => self.unknown |= on,
        }
    }

    fn change(&mut self, mode: u16) {
        if ALTERNATE_SCREEN.contains(&mode) && self.is_alternate() {
            return;
        }
        self.changed.insert(mode);
    }

    fn reset(&mut self) {
        *self = Self {
            rows: self.rows,
            unknown: self.unknown,
            ..Self::default()
        };
    }

    /// DECSTR, which tmux ignores: what it would change may be so or so, until it is set explicitly.
    fn reset_softly(&mut self) {
        let is_changed = [1, 6, 25].iter().any(|mode| self.is_changed(*mode)) || !self.ansi.is_empty();
        let has_sets = self.active != 0 || self.sets.iter().any(Option::is_some);
        self.unknown |= is_changed || has_sets || self.keypad || self.region.is_some() || self.pen;
        self.soft_reset = true;
    }

    fn write_screen_modes(&self, bytes: &mut Vec<u8>) {
        if self.is_alternate() {
            bytes.extend_from_slice(b"\x1b[?1049h");
        }
        for (set, designator) in self.sets.iter().zip(b"()*+") {
            if let Some(set) = set {
                bytes.extend_from_slice(&[0x1b, *designator, *set]);
            }
        }
        if self.active == 1 {
            bytes.push(0x0e);
        }
        if let Some((top, bottom)) = self.region {
            write(bytes, format_args!("\x1b[{top};{bottom}r"));
        }
        self.ansi
            .iter()
            .for_each(|mode| write(bytes, format_args!("\x1b[{mode}h")));
        for mode in [6, 7, 25].iter().filter(|mode| self.is_changed(**mode)) {
            let letter = if NORMALLY_ON.contains(mode) { 'l' } else { 'h' };
            write(bytes, format_args!("\x1b[?{mode}{letter}"));
        }
    }

    fn write_restore(&self, bytes: &mut Vec<u8>) {
        let off = |mode: u16, bytes: &mut Vec<u8>| {
            if self.is_changed(mode) {
                write(bytes, format_args!("\x1b[?{mode}l"));
            }
        };
        // First what would hold back the rest, then the screen: its end brings back a cursor with a pen of its own.
        off(2026, bytes);
        self.alternate_keyboard.write_restore(bytes);
        ALTERNATE_SCREEN.iter().for_each(|mode| off(*mode, bytes));
        self.main_keyboard.write_restore(bytes);
        if self.hyperlink {
            bytes.extend_from_slice(HYPERLINK_END);
        }
        if self.pen {
            bytes.extend_from_slice(b"\x1b[m");
        }
        self.write_character_sets(bytes);
        self.ansi
            .iter()
            .for_each(|mode| write(bytes, format_args!("\x1b[{mode}l")));
        self.write_region(bytes);
        let last = |mode: &u16| [6, 25, 2026].contains(mode) || ALTERNATE_SCREEN.contains(mode);
        for mode in self.changed.iter().filter(|mode| !last(mode)) {
            let letter = if NORMALLY_ON.contains(mode) { 'h' } else { 'l' };
            write(bytes, format_args!("\x1b[?{mode}{letter}"));
        }
        if self.keypad {
            bytes.extend_from_slice(b"\x1b>");
        }
        for key in &self.modify_keys {
            write(bytes, format_args!("\x1b[>{key}m"));
        }
        if self.cursor_shape {
            bytes.extend_from_slice(b"\x1b[0 q");
        }
        if self.clear_cursor {
            write(bytes, format_args!("\x1b[{CURSOR_MODE}h"));
        }
        if self.is_changed(25) {
            bytes.extend_from_slice(b"\x1b[?25h");
        }
    }

    fn write_character_sets(&self, bytes: &mut Vec<u8>) {
        for (set, designator) in self.sets.iter().zip(b"()*+") {
            if set.is_some() {
                bytes.extend_from_slice(&[0x1b, *designator, b'B']);
            }
        }
        if self.active != 0 {
            bytes.push(0x0f);
        }
    }

    /// DECSTBM and the end of origin mode move the cursor home: it is saved before, and brought back.
    fn write_region(&self, bytes: &mut Vec<u8>) {
        if self.region.is_none() && !self.is_changed(6) {
            return;
        }
        if self.is_changed(6) {
            // A cursor that is saved in origin mode comes back with it. CPR would be needed to keep the place.
            bytes.extend_from_slice(b"\x1b[?6l");
        }
        bytes.extend_from_slice(b"\x1b7");
        if self.region.is_some() {
            bytes.extend_from_slice(b"\x1b[r");
        }
        bytes.extend_from_slice(b"\x1b8");
    }

    fn designate(&mut self, intermediate: u8, set: u8) {
        let place = match intermediate {
            b'(' => 0,
            b')' | b'-' => 1,
            b'*' | b'.' => 2,
            b'+' | b'/' => 3,
            _ => return,
        };
        self.unknown |= !b"0B".contains(&set);
        self.sets[place] = (set != b'B').then_some(set);
    }

    fn set_region(&mut self, params: &Params) {
        let mut bounds = params.iter().map(|param| param[0]);
        let top = bounds.next().filter(|top| *top > 0).unwrap_or(1);
        let bottom = bounds.next();
        // xterm takes a bottom of 0 as the last row, tmux as the first.
        self.unknown |= bottom == Some(0);
        let bottom = bottom.filter(|bottom| *bottom > 0).unwrap_or(self.rows);
        if top < bottom {
            self.region = (top > 1 || bottom < self.rows).then_some((top, bottom));
        }
    }

    fn set_pen(&mut self, params: &Params) {
        let mut params = params.iter().map(|param| param[0]).peekable();
        self.pen = params.peek().is_some();
        while let Some(param) = params.next() {
            match param {
                0 => self.pen = false,
                38 | 48 | 58 => {
                    // Colours in the form with semicolons: 5;N or 2;R;G;B.
                    let operands = match params.peek() {
                        Some(5) => 2,
                        Some(2) => 4,
                        _ => 0,
                    };
                    (0..operands).for_each(|_| {
                        params.next();
                    });
                    self.pen = true;
                }
                // Blinking, fonts, frames, overline and what is newer: not kept in the cells of the shadow screen.
                5 | 6 | 10..=20 | 26 | 50..=55 | 60..=65 | 73..=75 | 108.. => {
                    self.pen = true;
                    self.unknown = true;
                }
                _ => self.pen = true,
            }
        }
    }
}

fn write(bytes: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    use std::io::Write as _;
    bytes.write_fmt(text).expect("a Vec takes every byte");
}

fn first(params: &Params, default: u16) -> u16 {
    let first = params.iter().next().map(|param| param[0]);
    first.filter(|value| *value != 0).unwrap_or(default)
}

impl Perform for Modes {
    fn print(&mut self, character: char) {
        self.last_printed = Some(character);
        self.single_shift = false;
        // Replacement characters are counted differently; controls of C1 are obeyed, ignored or printed; soft hyphens have no
        // width or one.
        self.unknown |= matches!(character, '\u{fffd}' | '\u{80}'..='\u{9f}' | '\u{ad}');
    }

    fn execute(&mut self, byte: u8) {
        self.last_printed = None;
        match byte {
            0x0e => self.active = 1,
            0x0f => self.active = 0,
            // SUB is shown as a character by some.
            0x1a => self.unknown = true,
            _ => {}
        }
    }

    fn hook(&mut self, _params: &Params, intermediates: &[u8], _ignore: bool, action: char) {
        // Requests (DECRQSS, XTGETTCAP) show nothing; sixel does, and so does all that is not known.
        let is_request = matches!((intermediates, action), ([b'$' | b'+' | b'='], 'q' | 's'));
        let is_probe = intermediates.is_empty() && action == 'z';
        self.probe |= is_probe;
        self.probe_left = is_probe.then_some(MAX_PROBE);
        self.unknown |= !is_request && !is_probe;
    }

    fn put(&mut self, _byte: u8) {
        if let Some(left) = self.probe_left {
            self.probe_left = left.checked_sub(1);
            self.unknown |= self.probe_left.is_none();
        }
    }

    fn unhook(&mut self) {
        self.probe_left = None;
    }

    fn osc_dispatch(&mut self, params: &[&[u8]], _bell_terminated: bool) {
        match params.first().copied() {
            Some(b"8") => self.hyperlink = params.get(2).is_some_and(|uri| !uri.is_empty()),
            // Images of iTerm2, and text of other sizes of kitty.
            Some(b"1337") => {
                self.unknown |= params
                    .get(1)
                    .is_some_and(|value| value.starts_with(b"File") || value.starts_with(b"Multi"));
            }
            Some(b"66") => self.unknown = true,
            _ => {}
        }
    }

    // long: one call an arm
    fn csi_dispatch(&mut self, params: &Params, intermediates: &[u8], ignore: bool, action: char) {
        let values = || params.iter().map(|param| param[0]);
        match (intermediates, action) {
            // After anything but a character some terminals repeat nothing, and tmux repeats ASCII only.
            ([], 'b') => {
                self.unknown |= !self.last_printed.is_some_and(|last| last.is_ascii());
                self.repeated = first(params, 1);
            }
            _ => self.last_printed = None,
        }
        match (intermediates, action) {
            _ if ignore => self.unknown = true,
            ([b'?'], 'h') => values().for_each(|mode| self.set_private(mode, true)),
            ([b'?'], 'l') => values().for_each(|mode| self.set_private(mode, false)),
            ([b'?'], 's') => {
                for mode in values() {
                    self.saved.insert(mode, self.is_on(mode));
                }
            }
            ([b'?'], 'r') => {
                for mode in values() {
                    if let Some(on) = self.saved.get(&mode).copied() {
                        self.set_private(mode, on);
                    }
                }
                self.unknown = true;
            }
            ([], 'h') => values().for_each(|mode| self.set_ansi(mode, true)),
            ([], 'l') => values().for_each(|mode| self.set_ansi(mode, false)),
            ([b'>'], 'u') => {
                let stack = self.keyboard();
                stack.depth = (stack.depth + 1).min(MAX_KEYBOARD_STACK);
            }
            ([b'<'], 'u') => self.keyboard().pop(first(params, 1)),
            ([b'='], 'u') => self.set_keyboard(params),
            ([b'>'], 'm') => self.set_modify_keys(params),
            ([b'>'], 'n') => {
                self.modify_keys.remove(&first(params, 2));
            }
            ([b'!'], 'p') => self.reset_softly(),
            ([b'%'], 'm') if params.iter().count() <= 1 => self.probe = true,
            ([b' '], 'q') => self.cursor_shape = first(params, 0) != 0,
            ([], 'r') => self.set_region(params),
            ([], 'm') => self.set_pen(params),
            // What the shadow screen does as all terminals do, and what shows nothing.
            (
                [],
                '@'
                | 'A'..='M'
                | 'P'
                | 'X'
                | 'Z'
                | '`'
                | 'a'..='d'
                | 'f'
                | 'g'
                | 'i'
                | 'n'
                | 's'
                | 'u'
                | 'S'
                | 'x'
                | 'q',
            )
            | ([b'?'], 'n' | 'u' | 'm' | 'S' | 'c' | 'g')
            | ([b'>'], 'c' | 'q' | 'p' | 't' | 'f')
            | ([b'='], 'c')
            | ([b'$'] | [b'?', b'$'], 'p')
            | ([b'?'], 'W') => {}
            ([], 'T') => self.unknown |= params.iter().count() > 1,
            // Reports and titles; others resize the window, which is reported by itself.
            ([], 't') => {}
            _ => self.unknown = true,
        }
    }

    fn esc_dispatch(&mut self, intermediates: &[u8], ignore: bool, byte: u8) {
        self.last_printed = None;
        match (intermediates, byte) {
            _ if ignore => self.unknown = true,
            ([], b'=') => self.keypad = true,
            ([], b'>') => self.keypad = false,
            ([], b'c') => self.reset(),
            ([], b'n') => self.active = 2,
            ([], b'o') => self.active = 3,
            ([], b'N' | b'O') => {
                self.single_shift = true;
                self.unknown = true;
            }
            ([], b'7' | b'8' | b'D' | b'E' | b'H' | b'M' | b'Z' | b'\\') | ([b'#'], b'8') | ([b'%'], b'G') => {}
            ([intermediate @ (b'(' | b')' | b'*' | b'+' | b'-' | b'.' | b'/')], set) => {
                self.designate(*intermediate, set)
            }
            _ => self.unknown = true,
        }
        // G2 and G3 as the left half are not followed by the shadow screen.
        self.unknown |= self.active > 1;
    }
}

impl Modes {
    fn set_keyboard(&mut self, params: &Params) {
        let mut params = params.iter().map(|param| param[0]);
        let flags = params.next().unwrap_or(0);
        let replaces = params.next().is_none_or(|how| how < 2);
        let stack = self.keyboard();
        if stack.depth == 0 {
            stack.is_set = flags != 0 || (stack.is_set && !replaces);
        }
    }

    fn set_modify_keys(&mut self, params: &Params) {
        let mut params = params.iter().map(|param| param[0]);
        match (params.next(), params.next()) {
            (Some(key), Some(value)) if value != 0 => {
                self.modify_keys.insert(key);
            }
            (Some(key), _) if key != 0 => {
                self.modify_keys.remove(&key);
            }
            _ => self.modify_keys.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(bytes: &[u8]) -> ModeTracker {
        let mut modes = ModeTracker::new(24);
        modes.handle_output(bytes);
        modes
    }

    fn restored(bytes: &[u8]) -> String {
        String::from_utf8(after(bytes).restore()).unwrap()
    }

    #[test]
    fn a_terminal_that_nobody_changed_gets_no_bytes() {
        assert_eq!(restored(b""), "");
        assert_eq!(
            restored("$ ls\r\n\x1b[31mred\x1b[0m ä漢\r\n\x1b[K\x1b[2;3H".as_bytes()),
            ""
        );
    }

    #[test]
    fn each_mode_is_switched_off_by_exactly_its_own_bytes() {
        for (on, off, expected) in [
            ("\x1b[?1h", "\x1b[?1l", "\x1b[?1l"),
            ("\x1b[?1000;1006h", "\x1b[?1000;1006l", "\x1b[?1000l\x1b[?1006l"),
            ("\x1b[?1004h", "\x1b[?1004l", "\x1b[?1004l"),
            ("\x1b[?2004h", "\x1b[?2004l", "\x1b[?2004l"),
            ("\x1b[?2026h", "\x1b[?2026l", "\x1b[?2026l"),
            ("\x1b[?25l", "\x1b[?25h", "\x1b[?25h"),
            ("\x1b[?7l", "\x1b[?7h", "\x1b[?7h"),
            ("\x1b[?1049h", "\x1b[?1049l", "\x1b[?1049l"),
            ("\x1b[?47h", "\x1b[?47l", "\x1b[?47l"),
            ("\x1b[4h", "\x1b[4l", "\x1b[4l"),
            ("\x1b=", "\x1b>", "\x1b>"),
            ("\x1b[>1u\x1b[>5u", "\x1b[<2u", "\x1b[<2u"),
            ("\x1b[=5u", "\x1b[=0u", "\x1b[=0u"),
            ("\x1b[>4;2m", "\x1b[>4m", "\x1b[>4m"),
            ("\x1b[>4;1m", "\x1b[>4n", "\x1b[>4m"),
            ("\x1b(0", "\x1b(B", "\x1b(B"),
            ("\x1b)0\x0e", "\x1b)B\x0f", "\x1b)B\x0f"),
            ("\x1b[3;9r", "\x1b[r", "\x1b7\x1b[r\x1b8"),
            ("\x1b[?6h", "\x1b[?6l", "\x1b[?6l\x1b7\x1b8"),
            ("\x1b[5 q", "\x1b[0 q", "\x1b[0 q"),
            ("\x1b[1;38;5;0m", "\x1b[0m", "\x1b[m"),
            ("\x1b]8;;http://a\x07", "\x1b]8;;\x07", "\x1b]8;;\x1b\\"),
        ] {
            assert_eq!(restored(on.as_bytes()), expected, "{on:?}");
            assert_eq!(restored(format!("{on}{off}").as_bytes()), "", "{on:?}{off:?}");
            assert_eq!(
                restored(format!("{on}{expected}").as_bytes()),
                "",
                "{expected:?} undoes {on:?}"
            );
            assert_eq!(restored(format!("{on}\x1bc").as_bytes()), "", "RIS undoes {on:?}");
        }
    }

    #[test]
    fn a_region_of_the_whole_screen_is_no_region() {
        assert_eq!(restored(b"\x1b[1;24r"), "");
        assert_eq!(restored(b"\x1b[9;3r"), "");
        let mut modes = after(b"\x1b[2;9r");
        modes.handle_resize(30);
        assert_eq!(modes.restore(), b"");
    }

    #[test]
    fn the_alternate_screen_is_left_before_the_rest_is_switched_off() {
        assert_eq!(
            restored(b"\x1b[>1u\x1b[?1049h\x1b[>3u\x1b[?25l\x1b[?1006h\x1b[7m\x1b[2;5r\x1b[?2026h"),
            "\x1b[?2026l\x1b[<1u\x1b[?1049l\x1b[<1u\x1b[m\x1b7\x1b[r\x1b8\x1b[?1006l\x1b[?25h"
        );
        // 1047 leaves what 1049 entered.
        assert_eq!(restored(b"\x1b[?1049h\x1b[?1047l"), "");
    }

    #[test]
    fn a_string_that_broke_off_is_ended_first() {
        assert_eq!(restored(b"\x1b[?25l\x1b]0;tit"), "\x1b\\\x1b]8;;\x1b\\\x1b[?25h");
    }

    #[test]
    fn the_cursor_of_tmux_is_as_usual_afterwards() {
        assert_eq!(restored(b"\x1b[34h\x1b[?25h"), "");
        assert_eq!(restored(b"\x1b[34l\x1b[?25h"), "\x1b[34h");
    }

    #[test]
    fn saved_modes_come_back() {
        assert_eq!(restored(b"\x1b[?1006h\x1b[?1006s\x1b[?1006l\x1b[?1006r"), "\x1b[?1006l");
    }

    #[test]
    fn what_the_shadow_screen_does_not_follow_is_reported_once() {
        for bytes in [
            &b"\x1bPq#0\x1b\\"[..],
            b"\x1b#6",
            b"\x1b[5mblink",
            b"\x1b[2 @",
            b"\x1b[1;2;3;4$z",
            b"\x1b[?69h",
            b"\xff",
            b"\x1b]1337;File=inline=1:AAAA\x07",
            b"\x1bktitle\x1b\\",
        ] {
            let mut modes = after(bytes);
            assert!(modes.take_unknown(), "{bytes:?}");
            assert!(!modes.take_unknown(), "{bytes:?}");
        }
        for bytes in [
            "ls ä漢👍\r\n\x1b[1;31;48;5;5;38;2;1;5;6mx\x1b[m".as_bytes(),
            b"\x1b]0;title\x07\x1b]133;A\x1b\\\x1b[6n\x1b[c\x1b[>q\x1b[?u",
            b"\x1b[?1049h\x1b[22;0;0t\x1b[H\x1b[2J\x1b(0lqk\x1b(B\x1b[3;9r\x1b[2L",
            b"\x1b[34l\x1b[?25h\x1b[34h\x1b[?25h",
        ] {
            assert!(!after(bytes).take_unknown(), "{bytes:?}");
        }
    }

    fn sequences() -> impl Strategy<Value = Vec<u8>> {
        let mode = prop::sample::select([NORMALLY_OFF, NORMALLY_ON].concat());
        let piece = prop_oneof![
            (mode, prop::bool::ANY).prop_map(|(mode, on)| format!("\x1b[?{mode}{}", if on { 'h' } else { 'l' })),
            prop::sample::select(vec![
                "\x1b[>1u",
                "\x1b[<u",
                "\x1b[=3;2u",
                "\x1b[>4;2m",
                "\x1b[>4m",
                "\x1b(0",
                "\x1b)0",
                "\x0e",
                "\x0f",
                "\x1b[2;4r",
                "\x1b[5 q",
                "\x1b[4h",
                "\x1b[4l",
                "\x1b=",
                "\x1b[1;31m",
                "\x1b[m",
                "\x1b]8;;http://a\x1b\\",
                "\x1b]8;;\x07",
                "\x1b[!p",
                "text",
                "漢",
                "\x1b[?1006s",
                "\x1b[?1006r",
            ])
            .prop_map(str::to_owned),
        ];
        prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn bytes_split_anywhere_give_the_same(bytes in sequences()) {
            let whole = after(&bytes);
            let mut single = ModeTracker::new(24);
            bytes.iter().for_each(|byte| single.handle_output(&[*byte]));
            prop_assert_eq!(whole.restore(), single.restore());
            for end in 0..bytes.len() {
                let mut halves = after(&bytes[..end]);
                halves.handle_output(&bytes[end..]);
                prop_assert_eq!(whole.restore(), halves.restore());
                prop_assert_eq!(whole.is_plain(), halves.is_plain());
            }
        }

        #[test]
        fn text_changes_the_modes_as_if_it_were_parsed(bytes in sequences(), text in "[ -~\\t\\r\\n]{0,70}", end in "(\u{1b}N|\u{1b}\\[|\u{7f}|ä|\u{e})?") {
            let bytes = [&bytes[..], end.as_bytes(), text.as_bytes(), &bytes[..]].concat();
            let skipping = after(&bytes);
            let mut parsing = ModeTracker::new(24);
            parsing.parser.advance(&mut parsing.modes, &bytes);
            parsing.boundary = Boundary::default().after(&bytes);
            prop_assert_eq!(skipping.boundary, parsing.boundary);
            prop_assert_eq!(skipping.restore(), parsing.restore());
            prop_assert_eq!(skipping.is_plain(), parsing.is_plain());
            prop_assert_eq!(skipping.last_printed(), parsing.last_printed());
            prop_assert_eq!(skipping.modes.unknown, parsing.modes.unknown);
        }

        #[test]
        fn what_restores_leaves_nothing_on(bytes in sequences(), end in any::<prop::sample::Index>()) {
            let mut modes = after(&bytes[..end.index(bytes.len() + 1)]);
            let restore = modes.restore();
            modes.handle_output(&restore);
            prop_assert!(modes.restore().is_empty(), "{:?} leaves {:?}", restore.escape_ascii().to_string(), modes.restore().escape_ascii().to_string());
        }
    }
}
