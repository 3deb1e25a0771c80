use super::*;
use crate::test_tools::start;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A cleared terminal of 20 columns and 4 rows, and what it shows: an emulator of its own.
struct Terminal {
    display: Display,
    shown: Screen,
    now: Instant,
}

impl Terminal {
    fn new(settings: Settings) -> Self {
        let mut display = Display::new(settings);
        display.handle_cleared();
        display.handle_login();
        display.set_rtt(ms(200));
        Self {
            display,
            shown: Screen::new(settings.columns, settings.rows),
            now: start(),
        }
    }

    fn small() -> Self {
        Self::new(Settings {
            columns: 20,
            rows: 4,
            ..Settings::default()
        })
    }

    fn output(&mut self, bytes: &[u8]) -> Vec<u8> {
        let written = self.display.handle_server_output(bytes, self.now);
        self.shown.handle_output(&written);
        written
    }

    /// A key whose echo is `echo`, judged.
    fn echoed(&mut self, key: &[u8], offset: u64, echo: &[u8]) {
        self.key(key, offset);
        self.now += ms(200);
        self.display.handle_acknowledged(offset, self.now);
        self.output(echo);
        self.now += ms(50);
        let written = self.display.handle_timeout(self.now);
        self.shown.handle_output(&written);
    }

    fn key(&mut self, key: &[u8], offset: u64) {
        let written = self.display.handle_key(key, offset, self.now);
        self.shown.handle_output(&written);
    }

    fn link_line(&mut self, line: Option<&str>) -> Vec<u8> {
        let written = self.display.set_link_line(line.map(str::to_owned), self.now);
        self.shown.handle_output(&written);
        written
    }

    fn rows(&self) -> Vec<String> {
        (0..self.shown.rows()).map(|row| self.shown.row_text(row)).collect()
    }
}

#[test]
fn output_without_an_overlay_goes_through_unchanged() {
    let mut terminal = Terminal::small();
    for bytes in [&b"$ ls\r\n"[..], b"\x1b[31", b"mred\xe6", b"\xbc\xa2\x1b[0m"] {
        assert_eq!(terminal.output(bytes), bytes);
    }
}

#[test]
fn a_predicted_key_appears_at_once_and_is_replaced_by_its_echo() {
    let mut terminal = Terminal::small();
    terminal.output(b"$ ");
    terminal.echoed(b"l", 1, b"l");
    terminal.key(b"s", 2);
    assert_eq!(terminal.rows()[0], "$ ls");
    assert_eq!(terminal.shown.cursor().column, 4);
    terminal.output(b"\x1b[4;1Hbelow\x1b[1;4H");
    assert_eq!(terminal.rows(), ["$ ls", "", "", "below"]);
    let written = terminal.output(b"s");
    assert!(written.windows(1).any(|byte| byte == b"s"));
    assert_eq!(terminal.rows()[0], "$ ls");
    assert!(!terminal.display.is_overlay_visible());
}

#[test]
fn the_link_line_covers_the_last_row_and_gives_it_back() {
    let mut terminal = Terminal::small();
    terminal.output("one\r\n\x1b[4;1H\x1b[1;31mlast 漢字 row\x1b[m\x1b[2;1Htwo".as_bytes());
    terminal.link_line(Some("bowline: no answer for 4 s; trying quic"));
    assert_eq!(terminal.rows(), ["one", "two", "", "bowline: no answer"]);
    assert_eq!(terminal.shown.cursor(), Position { row: 1, column: 3 });
    terminal.output(b"!");
    assert_eq!(terminal.rows(), ["one", "two!", "", "bowline: no answer"]);
    terminal.link_line(None);
    assert_eq!(terminal.rows(), ["one", "two!", "", "last 漢字 row"]);
    terminal.link_line(None);
    assert_eq!(terminal.link_line(None), b"");
}

#[test]
fn the_link_line_is_on_the_first_row_if_the_cursor_is_on_the_last() {
    let mut terminal = Terminal::small();
    terminal.output(b"one\x1b[4;1H$ ");
    terminal.link_line(Some("back\x1b[31m"));
    assert_eq!(terminal.rows(), ["back[31m", "", "", "$"]);
    terminal.output(b"\n");
    terminal.link_line(None);
    assert_eq!(terminal.rows(), ["", "", "$", ""]);
}

#[test]
fn the_link_line_is_on_another_row_if_the_first_and_the_last_are_in_doubt() {
    let settings = Settings {
        columns: 20,
        rows: 4,
        ..Settings::default()
    };
    let mut display = Display::new(settings);
    let mut shown = Screen::new(20, 4);
    shown.handle_output(b"old\r\nold\r\nold\r\n");
    display.handle_cursor_report(Position { row: 3, column: 0 });
    let mut output = |display: &mut Display, bytes: &[u8]| {
        let written = display.handle_server_output(bytes, start());
        shown.handle_output(&written);
        (0..4).map(|row| shown.row_text(row)).collect::<Vec<_>>()
    };
    display.set_link_line(Some("line".to_owned()), start());
    // Of the rows that the server has written the cursor has one.
    assert_eq!(output(&mut display, b"$ "), ["old", "old", "old", "$"]);
    assert_eq!(output(&mut display, b"a\r\n$ "), ["old", "old", "line", "$"]);
    assert_eq!(output(&mut display, b"b\r\n$ "), ["old", "line", "$ b", "$"]);
    assert_eq!(output(&mut display, b"c\r\n$ "), ["line", "$ b", "$ c", "$"]);
    assert_eq!(output(&mut display, b"\x1b[1;1H"), ["$ a", "$ b", "$ c", "line"]);
}

#[test]
fn a_wide_character_is_not_drawn_below_a_row_that_had_no_room_for_one() {
    let mut terminal = Terminal::small();
    // The last column of the first row is left free, and the row below is empty since.
    terminal.output("0123456789012345678漢\r\x1b[2K".as_bytes());
    terminal.output(b"\x1b[4;1H\x1bPzz\x1b\\\x1b[1;1H\x1bPzz\x1b\\\x1b[3;1H");
    let last = Position { row: 0, column: 19 };
    let before = terminal.shown.cell(last).cloned();
    terminal.link_line(Some("漢字"));
    assert_eq!(terminal.rows()[1], "  字");
    terminal.link_line(None);
    assert_eq!(terminal.shown.cell(last).cloned(), before);
}

#[test]
fn nothing_is_drawn_within_a_sequence_or_a_character() {
    for (begin, end) in [
        (&b"\x1b[3"[..], &b"1m"[..]),
        (b"\xe6\xbc", b"\xa2"),
        (b"\x1b]0;ti", b"tle\x07"),
        (b"\x1b(0", b"\x1b(B"),
    ] {
        let mut terminal = Terminal::small();
        terminal.output(begin);
        assert_eq!(terminal.link_line(Some("line")), b"", "{begin:?}");
        terminal.output(end);
        assert_eq!(terminal.rows()[3], "line", "{end:?}");
    }
}

#[test]
fn nothing_is_drawn_where_the_terminal_is_not_known() {
    let mut display = Display::new(Settings::default());
    assert_eq!(display.set_link_line(Some("line".to_owned()), start()), b"");
    let mut terminal = Terminal::small();
    terminal.output(b"\x1bP0;0;0q#0~~\x1b\\");
    assert_eq!(terminal.link_line(Some("line")), b"");
}

#[test]
fn a_dumb_terminal_gets_nothing_but_output() {
    let mut terminal = Terminal::new(Settings {
        overlays: false,
        ..Settings::default()
    });
    terminal.output(b"$ ");
    terminal.echoed(b"l", 1, b"l");
    assert_eq!(terminal.display.handle_key(b"s", 2, terminal.now), b"");
    assert_eq!(terminal.link_line(Some("line")), b"");
}

#[test]
fn a_pending_wrap_survives_an_overlay() {
    for last in ["x", "漢", "e\u{301}"] {
        let mut terminal = Terminal::small();
        let width = if last == "漢" { 18 } else { 19 };
        terminal.output(format!("{}\x1b[1;32m{last}", "a".repeat(width)).as_bytes());
        assert!(terminal.shown.is_wrap_pending());
        terminal.link_line(Some("line"));
        assert!(terminal.shown.is_wrap_pending());
        terminal.link_line(None);
        assert!(terminal.shown.is_wrap_pending());
        terminal.output(b"b");
        assert_eq!(terminal.rows()[1], "b");
        assert_eq!(
            terminal.shown.cell(Position { row: 1, column: 0 }).unwrap().flags,
            Flags::BOLD
        );
    }
}

#[test]
fn a_repetition_after_an_overlay_repeats_the_servers_character() {
    let mut terminal = Terminal::small();
    terminal.output(b"ab");
    terminal.link_line(Some("line"));
    terminal.output(b"\x1b[3b");
    assert_eq!(terminal.rows()[0], "abbbb");
}

#[test]
fn a_soft_reset_is_followed_however_it_is_split() {
    for cut in 0..4 {
        let mut terminal = Terminal::small();
        terminal.output(b"\x1b[4h\x1b[1;31m\x1b[2;3r\x1b[1;1Habc");
        let (begin, end) = b"\x1b[!p".split_at(cut);
        terminal.output(begin);
        terminal.output(end);
        assert_eq!(
            terminal.display.screen().pen(),
            &crate::screen::Cell::default(),
            "{cut}"
        );
        // Not every terminal knows it.
        assert!(!terminal.display.modes().is_plain());
        assert!(!terminal.display.screen().is_certain());
    }
    let mut terminal = Terminal::small();
    terminal.output(b"$ \x1b[!p");
    assert!(terminal.display.screen().is_certain());
}

#[test]
fn a_resize_below_an_overlay_paints_the_screen_again() {
    let mut terminal = Terminal::small();
    terminal.output(b"one\r\ntwo\r\n\x1b[32mthree\x1b[m \x1b]8;;http://a\x07link\x1b]8;;\x07\r\n$ \x1b[1;1H");
    terminal.link_line(Some("bowline: no answer"));
    assert_eq!(terminal.rows()[3], "bowline: no answer");
    terminal.shown.handle_resize(12, 5);
    let written = terminal.display.handle_resize(12, 5, terminal.now);
    terminal.shown.handle_output(&written);
    let written = terminal.display.hide();
    terminal.shown.handle_output(&written);
    for row in 0..5 {
        assert_eq!(
            terminal.shown.row_text(row),
            terminal.display.screen().row_text(row),
            "{row}"
        );
    }
    assert_eq!(terminal.shown.cursor(), terminal.display.screen().cursor());
}

#[test]
fn nothing_is_drawn_after_output_of_another_program_until_the_cursor_and_its_row_are_known() {
    let mut terminal = Terminal::small();
    terminal.output(b"\r\n\n\n$ ");
    terminal.echoed(b"l", 1, b"l");
    terminal.key(b"s", 2);
    assert!(terminal.display.is_acknowledgement_awaited());
    assert_eq!(terminal.rows()[3], "$ ls");
    terminal.display.handle_foreign_output();
    terminal.shown.handle_output(b"\r\nstopped\r\n");
    assert_eq!(terminal.link_line(Some("line")), b"");
    terminal.link_line(None);
    terminal.display.handle_cursor_report(Position { row: 3, column: 0 });
    terminal.output(b"\r\n$ ");
    // Not known is only what the key on its way did.
    terminal.echoed(b"l", 3, b"l");
    terminal.echoed(b"s", 4, b"s");
    terminal.key(b" ", 5);
    terminal.key(b"-", 6);
    assert_eq!(terminal.rows()[3], "$ ls -");
}

#[test]
fn a_program_that_is_continued_gets_its_screen_back_and_overlays_are_possible_at_once() {
    for (columns, rows) in [(20, 4), (30, 6)] {
        let mut terminal = Terminal::small();
        terminal.output(b"one\r\n\x1b[32mtwo\x1b[m\r\n$ ls");
        terminal.link_line(Some("bowline: no answer"));
        let written = terminal.display.hide();
        terminal.shown.handle_output(&written);
        terminal.shown.handle_resize(columns, rows);
        terminal
            .shown
            .handle_output(b"\r\n[1]+ Stopped\r\n\x1b[31m$ ls\r\nmine\r\n$ fg\r\nssh\r\n");
        terminal.link_line(None);
        let written = terminal.display.handle_continued(columns, rows);
        terminal.shown.handle_output(&written);
        let screen = terminal.display.screen();
        assert_eq!(
            (0..rows).map(|row| screen.row_text(row)).collect::<Vec<_>>(),
            terminal.rows()
        );
        assert!(terminal.rows().contains(&"$ ls".to_owned()), "{:?}", terminal.rows());
        assert_eq!(terminal.shown.cursor(), screen.cursor());
        assert_eq!(terminal.shown.pen(), screen.pen());
        terminal.link_line(Some("line"));
        assert_eq!(terminal.rows()[usize::from(rows) - 1], "line");
    }
}

#[test]
fn what_the_shell_wrote_while_a_program_was_stopped_is_in_the_scrollback() {
    let mut terminal = Terminal::small();
    terminal.output(b"$ ");
    terminal.shown.handle_output(b"\r\nmine\r\n$ fg\r\n");
    let before = terminal.shown.scrolled();
    let written = terminal.display.handle_continued(20, 4);
    terminal.shown.handle_output(&written);
    assert_eq!(
        terminal.shown.scrolled() - before,
        4,
        "all four rows, down to the cursor's"
    );
    assert_eq!(terminal.rows(), ["$", "", "", ""]);
}

#[test]
fn nothing_is_painted_for_a_continued_program_whose_screen_is_not_known() {
    for output in [&b"$ \x1b[4h"[..], b"$ \x1b[31", b"\x1b[5;", b"$ \xf0\x9f"] {
        let mut terminal = Terminal::small();
        terminal.output(output);
        assert_eq!(terminal.display.handle_continued(20, 4), b"", "{output:?}");
        assert!(!terminal.display.screen().is_cursor_certain());
    }
}

#[test]
fn restoring_erases_the_overlay_and_ends_the_modes() {
    let mut terminal = Terminal::small();
    terminal.output(b"\x1b[?2004h$ ");
    terminal.link_line(Some("line"));
    let written = terminal.display.restore();
    terminal.shown.handle_output(&written);
    assert_eq!(terminal.rows(), ["$", "", "", ""]);
    assert!(written.ends_with(b"\x1b[?2004l"));
}

#[test]
fn a_cursor_report_makes_a_shell_that_was_there_before_certain() {
    let settings = Settings {
        columns: 20,
        rows: 4,
        ..Settings::default()
    };
    let mut display = Display::new(settings);
    display.handle_cursor_report(Position { row: 1, column: 0 });
    display.handle_server_output(b"welcome\r\n$ ", start());
    assert_eq!(display.screen().row_text(1), "welcome");
    assert!(display.screen().is_certain());
    assert!(!display.screen().is_row_certain(0));
    display.handle_resize(30, 4, start());
    assert!(!display.screen().is_certain());
    display.handle_cursor_report(Position { row: 3, column: 2 });
    assert!(!display.screen().is_certain());
    display.handle_server_output(b"\r\n$ ", start());
    assert!(display.screen().is_certain());
}

#[test]
fn a_repetition_that_tmux_and_xterm_show_differently_brings_doubt() {
    for (repeated, is_certain) in [
        ("ab\x1b[3b", true),
        ("漢\x1b[3b", false),
        ("a\r\x1b[3b", false),
        ("0123456789abcdefghi\x1b[3b", false),
    ] {
        let mut terminal = Terminal::small();
        terminal.output(repeated.as_bytes());
        assert_eq!(terminal.display.screen().is_certain(), is_certain, "{repeated}");
    }
}

#[test]
fn a_character_that_is_split_loses_nothing() {
    let mut terminal = Terminal::small();
    terminal.output(b"e\xcc");
    terminal.output(b"\x81b\xc3");
    terminal.output(b"\xa9");
    assert_eq!(terminal.display.screen().row_text(0), "e\u{301}b\u{e9}");
}

#[test]
fn the_shadow_catches_up_after_a_flood() {
    let mut terminal = Terminal::small();
    let mut plain = Screen::new(20, 4);
    let mut flood = b"\x1b[?2004h\x1b[2;4r\x1b[4;1H".to_vec();
    flood.extend(b"line \x1b[32mof\x1b[m the flood\r\n".repeat(2000));
    flood.extend_from_slice(b"\x1b[3");
    plain.handle_output(&flood);
    // In pieces of all sizes: longer and shorter than what is kept of the end.
    let (mut rest, mut size) = (&flood[..], 1);
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(size.min(rest.len()));
        assert_eq!(terminal.display.handle_flood(piece, terminal.now), piece);
        (rest, size) = (after, size * 3 % 20_011);
    }
    assert!(terminal.display.is_flooded());
    terminal.display.handle_server_output(b"1m\x1b[", terminal.now);
    let rest = b"mred\x1b[m\r\n\x1b[r\x1b[4;1Ha\r\nb\r\nc\r\nd\r\ne\r\nf\r\ng\r\n$ ";
    plain.handle_output(b"1m\x1b[");
    plain.handle_output(rest);
    terminal.display.handle_server_output(rest, terminal.now);
    let screen = terminal.display.screen();
    assert!(screen.is_certain());
    for row in 0..4 {
        assert!(screen.is_row_certain(row), "{row}");
        assert_eq!(screen.row_text(row), plain.row_text(row), "{row}");
    }
    assert_eq!(screen.cursor(), plain.cursor());
    assert!(terminal.display.modes().is_bracketed_paste());
}

#[test]
fn a_flood_on_the_alternate_screen_is_followed_by_its_modes() {
    let mut terminal = Terminal::small();
    let modes = b"\x1b[?1049h\x1b[?25l\x1b(0\x1b[2;3r";
    terminal.display.handle_flood(modes, terminal.now);
    terminal.display.handle_flood(&b"flood\r\n".repeat(5000), terminal.now);
    terminal
        .display
        .handle_server_output(b"\x1b[2Jq\x1b[3;1H\n", terminal.now);
    let screen = terminal.display.screen();
    assert!(screen.is_alternate() && !screen.is_cursor_visible());
    assert!((0..4).any(|row| screen.row_text(row).contains('\u{2500}')));
}

#[test]
fn the_end_of_a_flood_is_shown_when_nothing_more_comes() {
    let mut terminal = Terminal::small();
    let mut plain = Screen::new(20, 4);
    let flood = b"line \x1b[32mof\x1b[m the flood\r\n".repeat(2000);
    plain.handle_output(&flood);
    terminal.display.handle_flood(&flood, terminal.now);
    let end = terminal.display.poll_timeout().expect("it may have ended");
    assert!(end > terminal.now);
    terminal.display.handle_timeout(end);
    assert!(!terminal.display.is_flooded());
    let screen = terminal.display.screen();
    assert!(screen.is_certain());
    assert_eq!(
        (screen.row_text(2), screen.cursor()),
        (plain.row_text(2), plain.cursor())
    );
}

#[test]
fn a_line_that_goes_on_keeps_its_end() {
    let mut terminal = Terminal::small();
    terminal.output(&[b'x'; 40]);
    // The first row, which goes on in the next, is now below the cursor, where a wrap is pending.
    terminal.output(b"\x1b[T");
    assert!(terminal.shown.is_wrap_pending());
    assert_eq!(terminal.link_line(Some("line")), b"");
}

#[test]
fn questions_of_vim_whether_they_are_shown_are_in_doubt_until_they_are_overwritten() {
    let asked = b"\x1b[3;1H\x1bPzz\x1b\\\x1b[0%m\x1b[6n";
    let erased = b"\x1b[3;1H           \x1b[1;1H";
    for cut in 0..asked.len() {
        let mut terminal = Terminal::small();
        terminal.output(b"\x1b[2J");
        terminal.output(&asked[..cut]);
        terminal.output(&asked[cut..]);
        let certain = |terminal: &Terminal| [0, 1, 2, 3].map(|row| terminal.display.screen().is_row_certain(row));
        assert_eq!(certain(&terminal), [true, true, false, true], "{cut}");
        assert!(!terminal.display.screen().is_cursor_certain(), "{cut}");
        terminal.output(&erased[..16]);
        assert!(!certain(&terminal)[2], "{cut}");
        terminal.output(&erased[16..]);
        assert_eq!(certain(&terminal), [true; 4], "{cut}");
        assert!(terminal.display.screen().is_certain(), "{cut}");
    }
    for other in [
        &b"\x1bPzzzz\x1b\\"[..],
        b"\x1bPyz\x1b\\",
        b"\x1b[0;1%m",
        b"\x1b[31m\x1b[0%m",
        b"\x1b[1;15H\x1b[0%m",
    ] {
        let mut terminal = Terminal::small();
        terminal.output(b"\x1b[2J");
        terminal.output(other);
        let shown = other.escape_ascii();
        assert!(!terminal.display.screen().is_row_certain(1), "everything: {shown}");
    }
    let mut moved = Terminal::small();
    moved.output(b"\x1b[1;2H\x1b[0%m\x1b[1;1H\x1b[@            ");
    assert!(!moved.display.screen().is_row_certain(0), "what was shown has moved");
}
