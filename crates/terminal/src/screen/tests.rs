use proptest::prelude::*;

use super::*;

fn after(columns: u16, rows: u16, bytes: &[u8]) -> Screen {
    let mut screen = Screen::new(columns, rows);
    screen.handle_output(bytes);
    screen
}

fn text(screen: &Screen) -> Vec<String> {
    (0..screen.rows()).map(|row| screen.row_text(row)).collect()
}

fn at(screen: &Screen) -> (u16, u16) {
    (screen.cursor().row, screen.cursor().column)
}

#[test]
fn synchronized_output_does_not_hold_the_shadow_back() {
    assert_eq!(after(10, 2, b"\x1b[?2026hnow").row_text(0), "now");
}

#[test]
fn vertical_movements_stop_at_the_margins() {
    assert_eq!(at(&after(10, 9, b"\x1b[3;6r\x1b[4;2H\x1b[9A")), (2, 1));
    assert_eq!(at(&after(10, 9, b"\x1b[3;6r\x1b[4;2H\x1b[9B")), (5, 1));
    assert_eq!(at(&after(10, 9, b"\x1b[3;6r\x1b[2;2H\x1b[9A")), (0, 1));
    assert_eq!(at(&after(10, 9, b"\x1b[3;6r\x1b[8;2H\x1b[9B")), (8, 1));
    assert_eq!(at(&after(10, 9, b"\x1b[3;6r\x1b[4;2H\x1b[9F")), (2, 0));
}

#[test]
fn origin_mode_homes_when_it_is_switched_and_comes_back_with_the_cursor() {
    assert_eq!(at(&after(10, 9, b"\x1b[3;6r\x1b[?6h")), (2, 0));
    assert_eq!(at(&after(10, 9, b"\x1b[3;6r\x1b[?6h\x1b[2;2H\x1b[?6l")), (0, 0));
    assert_eq!(
        at(&after(10, 9, b"\x1b[3;6r\x1b[?6h\x1b7\x1b[?6l\x1b8\x1b[2;1H")),
        (3, 0)
    );
    assert_eq!(at(&after(10, 9, b"\x1b[3;6r\x1b7\x1b[?6h\x1b8\x1b[2;1H")), (1, 0));
}

#[test]
fn the_alternate_screens_of_47_and_1047_share_the_cursor() {
    for mode in [47, 1047] {
        let screen = after(10, 3, format!("main\x1b[?{mode}h\x1b[3;3Halt\x1b[?{mode}l!").as_bytes());
        assert_eq!(text(&screen), ["main", "", "     !"], "{mode}");
        let screen = after(10, 3, format!("main\x1b[?{mode}halt").as_bytes());
        assert!(screen.is_alternate());
        assert_eq!(text(&screen), ["    alt", "", ""], "{mode}");
    }
    let screen = after(10, 3, b"main\x1b[?1049h\x1b[3;3Halt\x1b[?1049l!");
    assert_eq!(text(&screen), ["main!", "", ""]);
}

#[test]
fn erasing_above_from_the_second_row_erases_the_first() {
    assert_eq!(text(&after(10, 3, b"a\r\nb\r\nc\x1b[2;5H\x1b[1J")), ["", "", "c"]);
}

#[test]
fn the_alignment_pattern_homes_the_cursor() {
    assert_eq!(at(&after(3, 3, b"\x1b[2;2H\x1b#8")), (0, 0));
}

#[test]
fn a_soft_reset_keeps_the_cursor() {
    let mut screen = after(10, 5, b"\x1b[2;4r\x1b[4h\x1b[1;31m\x1b[3;3H");
    screen.handle_soft_reset();
    assert_eq!(at(&screen), (2, 2));
    assert_eq!(screen.pen(), &Cell::default());
    screen.handle_output(b"\x1b[5;1Hlast\r\n");
    assert_eq!(text(&screen), ["", "", "", "last", ""]);
}

#[test]
fn narrow_screens_are_followed_without_a_panic_and_never_certain() {
    for (columns, rows) in [(1, 1), (0, 0), (1, 5)] {
        let mut screen = after(columns, rows, "a漢\r\n\x1b[9;9Hb\x1b[2J👍".as_bytes());
        assert!(!screen.is_certain());
        screen.handle_resize(5, 1);
        screen.handle_resize(columns, rows);
        assert!(!screen.is_certain());
    }
}

#[test]
fn cases_where_terminals_differ_bring_doubt() {
    let full = "x".repeat(10);
    for (name, bytes) in [
        ("EL at a pending wrap", format!("{full}\x1b[K")),
        ("ED at a pending wrap", format!("{full}\x1b[J")),
        ("ICH at a pending wrap", format!("{full}\x1b[@")),
        ("DCH at a pending wrap", format!("{full}\x1b[P")),
        ("ECH at a pending wrap", format!("{full}\x1b[X")),
        ("BS at a pending wrap", format!("{full}\x08")),
        ("CUB at a pending wrap", format!("{full}\x1b[D")),
        ("LF at a pending wrap", format!("{full}\n")),
        ("restore at a pending wrap", format!("{full}\x1b7\x1b[1;1H\x1b8")),
        ("the row after EL at a pending wrap", format!("{full}\x1b[Kmore\r")),
        ("VS16", "\u{2764}\u{fe0f}".to_owned()),
        ("ZWJ", "\u{1f469}\u{200d}\u{1f467}".to_owned()),
        ("skin tone", "\u{1f44d}\u{1f3fd}".to_owned()),
        ("half of a wide character", "漢\rx".to_owned()),
        ("a wide character over half of another", "a漢\r漢".to_owned()),
        ("a part of wide characters erased", "漢漢\x1b[1;2H\x1b[K".to_owned()),
        ("wide characters moved", "漢漢\r\x1b[@".to_owned()),
        ("a mark on nothing", "\u{301}".to_owned()),
        ("a mark on a blank", "a \u{301}".to_owned()),
        ("a wrap after an unknown tab", "\x1b[9I漢\r\n".to_owned()),
        ("no autowrap", format!("\x1b[?7l{full}xx\r")),
        ("origin mode", "\x1b[?6h\x1b[2;2H".to_owned()),
    ] {
        assert!(!after(10, 4, bytes.as_bytes()).is_certain(), "{name}");
    }
    let mut resized = after(10, 4, b"$ ");
    resized.handle_resize(20, 4);
    assert!(!resized.is_certain());
}

#[test]
fn ordinary_output_brings_no_doubt() {
    let full = "x".repeat(10);
    for bytes in [
        format!("{full}{full}\r\n{full}\r\x1b[K$ "),
        format!("{full}\r\n$ ls\x08\x08\x1b[K"),
        "漢字漢字漢字漢字\r\n$ 漢".to_owned(),
        "e\u{301}te\u{301}".to_owned(),
        "\x1b[?1049h\x1b[H\x1b[2J\x1b[2;3r\x1b[3;1H\n\x1b[r\x1b[1;1Hvim".to_owned(),
        "\x1b7\x1b[3;3H\x1b8a".to_owned(),
    ] {
        assert!(after(10, 4, bytes.as_bytes()).is_certain(), "{bytes:?}");
    }
}

#[test]
fn a_new_line_ends_doubt_about_a_column() {
    let mut screen = after(40, 4, "\u{2764}\u{fe0f} $ ".as_bytes());
    assert!(!screen.is_cursor_certain());
    screen.handle_output(b"\r\n");
    assert!(screen.is_certain());
    assert!(!screen.is_row_certain(0));
}

#[test]
fn a_cursor_that_is_placed_is_certain_and_the_rows_when_they_are_erased() {
    let mut screen = after(10, 4, b"$ ");
    screen.handle_resize(12, 4);
    screen.handle_output(b"\x1b[2;1H\x1b[m");
    assert!(screen.is_cursor_certain());
    assert!(!screen.is_certain());
    screen.handle_output(b"\x1b[K");
    assert!(screen.is_certain());
    assert!(!screen.is_row_certain(0));
    screen.handle_output(b"\x1b[2J");
    assert!((0..4).all(|row| screen.is_row_certain(row)));
}

#[test]
fn line_feeds_through_the_whole_screen_end_all_doubt() {
    let mut screen = after(10, 4, b"$ ");
    screen.handle_resize(12, 4);
    screen.handle_output(b"\x1b[m");
    for _ in 0..7 {
        screen.handle_output(b"line\r\n");
    }
    assert!(screen.is_certain());
    assert!((0..4).all(|row| screen.is_row_certain(row)));
}

#[test]
fn doubtful_rows_move_with_their_text() {
    let mut screen = after(10, 4, "\r\n漢\rx\r\n".as_bytes());
    let doubtful = |screen: &Screen| (0..4).filter(|row| !screen.is_row_certain(*row)).collect::<Vec<_>>();
    assert_eq!(doubtful(&screen), [1]);
    screen.handle_output(b"\x1b[4;1H\n");
    assert_eq!(doubtful(&screen), [0]);
    assert_eq!(screen.scrolled(), 1);
    screen.handle_output(b"\x1b[1;1H\x1b[2L");
    assert_eq!(doubtful(&screen), [2]);
    screen.handle_output(b"\x1b[?1049h");
    assert_eq!(doubtful(&screen), [] as [u16; 0]);
    screen.handle_output(b"\x1b[?1049l");
    assert_eq!(doubtful(&screen), [2]);
}

#[test]
fn a_row_with_a_background_is_erased_after_it_grew() {
    let fill = b"\x1b[44m\x1b[2J\x1b[H\x1b[m";
    let mut main = after(5, 2, fill);
    main.handle_resize(9, 2);
    main.handle_output(b"\x1b[2J");
    let mut alternate = after(5, 2, b"\x1b[?1049h");
    alternate.handle_output(fill);
    alternate.handle_output(b"\x1b[?1049l");
    alternate.handle_resize(9, 2);
    alternate.handle_output(b"\x1b[?1049h");
    for screen in [main, alternate] {
        for column in 0..9 {
            assert_eq!(
                screen.cell(Position { row: 0, column }),
                Some(&Cell::default()),
                "{column}"
            );
        }
    }
}

fn programs() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        "[a-z ]{1,12}".prop_map(String::into_bytes),
        "\u{1b}\\[[0-9]{0,2};?[0-9]{0,2}[A-HJ-MP-TXZ@`a-gmrsu]".prop_map(String::into_bytes),
        "\u{1b}\\[\\?(6|7|25|47|1047|1049)[hl]".prop_map(String::into_bytes),
        "\u{1b}[78DEHMc]".prop_map(String::into_bytes),
        "[\r\n\u{8}\t]{1,5}".prop_map(String::into_bytes),
        "[a漢é👍ü\u{301}\u{fe0f}]{1,6}".prop_map(String::into_bytes),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn bytes_split_anywhere_give_the_same_screen(bytes in programs(), columns in 1_u16..12, rows in 1_u16..6) {
        let whole = after(columns, rows, &bytes);
        let mut single = Screen::new(columns, rows);
        bytes.iter().for_each(|byte| single.handle_output(&[*byte]));
        let halves = (0..bytes.len()).map(|cut| {
            let mut screen = after(columns, rows, &bytes[..cut]);
            screen.handle_output(&bytes[cut..]);
            screen
        });
        for screen in halves.chain([single]) {
            prop_assert_eq!(text(&whole), text(&screen));
            prop_assert_eq!(whole.cursor(), screen.cursor());
            prop_assert_eq!(whole.is_certain(), screen.is_certain());
            prop_assert_eq!(whole.scrolled(), screen.scrolled());
        }
    }
}

#[test]
fn a_character_keeps_a_bounded_number_of_marks() {
    let marks = |screen: &Screen| {
        let cell = screen.cell(Position { row: 0, column: 1 }).expect("on the screen");
        cell.zerowidth().map_or(0, <[char]>::len)
    };
    let begin = "ab".to_owned();
    let few = after(10, 2, (begin.clone() + &"\u{301}".repeat(3)).as_bytes());
    assert_eq!(marks(&few), 3);
    assert!(few.is_row_certain(0));
    let many = after(10, 2, (begin.clone() + &"\u{301}".repeat(100_000)).as_bytes());
    assert!((1..=20).contains(&marks(&many)), "{}", marks(&many));
    assert!(!many.is_row_certain(0), "a terminal may keep them all");
    let again = after(10, 2, (begin + &"\x1b[1;3H\u{301}".repeat(100)).as_bytes());
    assert!(marks(&again) <= 20, "{}", marks(&again));
    let pending = after(2, 2, ("ab".to_owned() + &"\u{301}".repeat(100)).as_bytes());
    assert!(marks(&pending) <= 20, "{}", marks(&pending));
}
