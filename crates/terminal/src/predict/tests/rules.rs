//! The table of rules, row by row.

use super::*;

#[test]
fn a_confirmed_epoch_shows_keys_at_once() {
    let mut session = confirmed(200);
    session.key(b"c");
    session.key(b"h");
    assert_eq!(session.row(0), "$ ech");
    assert_eq!(session.cursor(), (0, 5));
    session.wait(1000);
    assert_eq!(
        session.overlay(),
        Prediction {
            is_underlined: true,
            ..Prediction::default()
        }
    );
    assert_eq!(session.row(0), "$ ech");
}

#[test]
fn the_first_character_of_an_epoch_stays_invisible_until_it_is_judged() {
    let mut session = Session::new(200, "$ ", echo);
    session.key(b"a");
    session.key(b"b");
    assert_eq!(session.row(0), "$");
    session.wait(200);
    // The echo is on the screen, but the program has 50 ms to change its mind.
    assert_eq!(session.row(0), "$ ab");
    session.key(b"c");
    assert_eq!(session.row(0), "$ ab");
    session.wait(49);
    assert_eq!(session.row(0), "$ ab");
    session.wait(1);
    assert_eq!(session.row(0), "$ abc");
}

#[test]
fn control_characters_unknown_sequences_and_enter_begin_an_epoch() {
    for key in [&b"\x03"[..], b"\x1b", b"\x1b[A", b"\t", b"\r", b"\x1bb", b"\x1b[200~"] {
        let mut session = confirmed(200);
        session.key(key);
        session.key(b"z");
        session.wait(10);
        assert_eq!(session.row(0), "$ e", "{key:?}");
        assert_eq!(session.displayed, [], "{key:?}");
    }
}

#[test]
fn the_last_column_begins_an_epoch() {
    let mut session = confirmed(200);
    session.output(b"\r\x1b[K$ 34567890123456789012345678901234567");
    session.type_text("8", 1000);
    session.key(b"9");
    session.key(b"x");
    session.key(b"y");
    assert!(!session.displayed.iter().any(|(at, _)| at.column == 39 || at.row == 1));
    session.wait(1000);
    session.type_text("z", 1000);
    session.key(b"!");
    assert_eq!(session.row(1), "yz!");
}

#[test]
fn a_resize_begins_an_epoch_and_stops_until_the_screen_is_certain() {
    let mut session = confirmed(200);
    session.key(b"c");
    session.screen.handle_resize(50, 6);
    session.predictor.handle_resize();
    assert_eq!(session.overlay().cells, []);
    session.wait(1000);
    session.type_text("ho", 1000);
    assert_eq!(session.displayed.len(), 1, "{:?}", session.displayed);
    session.output(b"\x1b[m\x1b[H\x1b[2J$ ");
    session.type_text("a", 1000);
    session.key(b"b");
    assert_eq!(session.row(0), "$ ab");
}

#[test]
fn a_paste_is_not_predicted() {
    let mut session = confirmed(200);
    session.key("p".repeat(101).as_bytes());
    session.key(b"q");
    assert_eq!(session.displayed, []);
    let mut session = confirmed(200);
    session.key("p".repeat(20).as_bytes());
    assert_eq!(session.displayed.len(), 20);
}

#[test]
fn a_cell_that_showed_the_character_before_confirms_nothing() {
    // The program has drawn "secret" already; typing over it shows the same whether it is echoed or not.
    let mut session = Session::new(200, "> secret\r\x1b[2C", |key: &[u8]| {
        if key == b"s" { b"\x1b[C".to_vec() } else { echo(key) }
    });
    session.type_text("s", 1000);
    session.key(b"e");
    assert_eq!(session.displayed, []);
}

#[test]
fn blanks_and_masks_confirm_nothing() {
    for first in [" ", "*", "x", "\u{2022}"] {
        let mut session = Session::new(200, "$ ", echo);
        session.type_text(first, 1000);
        session.key(b"z");
        assert_eq!(session.displayed, [], "{first}");
    }
}

#[test]
fn a_wrong_prediction_that_was_visible_discards_all() {
    let mut session = confirmed(200);
    session.host = |_: &[u8]| b"\r\nother\r\n".to_vec();
    session.key(b"a");
    session.wait(100);
    session.key(b"b");
    assert_eq!(session.row(0), "$ eab");
    session.wait(149);
    assert_eq!(session.overlay().cells.len(), 2);
    session.wait(1);
    assert_eq!(session.overlay().cells, []);
    session.key(b"c");
    assert_eq!(session.overlay().cells, []);
}

#[test]
fn a_key_of_a_new_epoch_does_not_hide_what_is_shown() {
    let mut session = confirmed(200);
    session.key(b"a");
    session.key(b"\x08");
    session.key(b"b");
    assert_eq!(session.row(0), "$ ea");
    session.wait(1000);
    assert_eq!(session.overlay().cells, []);
}

#[test]
fn on_a_fast_path_nothing_is_shown_unless_an_answer_is_late() {
    let mut session = confirmed(30);
    session.key(b"c");
    assert_eq!(session.overlay().cells, []);
    session.wait(1000);
    session.is_down = true;
    session.key(b"h");
    session.wait(249);
    assert_eq!(session.overlay().cells, []);
    session.wait(1);
    assert_eq!(session.row(0), "$ ech");
}

#[test]
fn always_shows_on_a_fast_path_and_never_on_none() {
    for (mode, expected) in [(PredictMode::Always, "$ ab"), (PredictMode::Never, "$ a")] {
        let mut session = Session::with(mode, Confirmation::Exact, 10, "$ ", echo);
        session.type_text("a", 1000);
        session.key(b"b");
        assert_eq!(session.row(0), expected);
    }
}

#[test]
fn wide_characters_are_predicted_with_both_columns() {
    let mut session = confirmed(200);
    session.key("漢".as_bytes());
    session.key(b"a");
    assert_eq!(session.cursor(), (0, 6));
    assert_eq!(session.overlay().cells[0].0.column, 3);
    assert_eq!(session.overlay().cells[1].0.column, 5);
    session.key(b"\x7f");
    session.key(b"\x7f");
    assert_eq!(session.cursor(), (0, 3));
    session.wait(1000);
}

#[test]
fn characters_get_the_attributes_of_the_cell_on_the_left() {
    let mut session = confirmed(200);
    session.output(b"\x1b[31mr\x1b[m");
    session.type_text("a", 1000);
    session.output(b"\x08\x1b[1;32mb\x1b[m");
    session.type_text("c", 1000);
    session.output(b"\x08\x1b[1;32mc\x1b[m");
    session.type_text("d", 1000);
    session.key(b"e");
    let left = session.screen.cell(Position { row: 0, column: 6 }).unwrap().clone();
    let (_, cell) = session.overlay().cells[0].clone();
    assert_eq!((cell.fg, cell.flags), (left.fg, left.flags));
}

#[test]
fn backspace_and_arrows_move_the_cursor_and_the_rest_of_the_line() {
    let mut session = confirmed(200);
    session.type_text("cho abc", 300);
    session.wait(1000);
    session.key(b"\x1b[D");
    session.key(b"\x1bOD");
    assert_eq!(session.cursor(), (0, 8));
    session.key(b"\x7f");
    assert_eq!(session.row(0), "$ echo bc");
    session.key(b"X");
    assert_eq!(session.row(0), "$ echo Xbc");
    session.key(b"\x1b[C");
    assert_eq!(session.cursor(), (0, 9));
}

#[test]
fn backspace_stops_at_the_prompt() {
    let mut session = confirmed(200);
    session.key(b"\x7f");
    assert_eq!(session.row(0), "$");
    session.key(b"\x7f");
    assert_eq!(session.row(0), "$");
    assert_eq!(session.cursor(), (0, 2));
}

#[test]
fn a_text_at_the_right_margin_stays_there() {
    let mut session = Session::new(200, "\x1b[31C[prompt]\r$ ", |key: &[u8]| echo(key));
    session.type_text("a", 1000);
    session.key(b"b");
    assert_eq!(session.row(0), format!("$ ab{}[prompt]", " ".repeat(27)));
}

#[test]
fn enter_moves_the_cursor_only_when_its_epoch_is_confirmed() {
    let mut session = confirmed(200);
    session.key(b"\r");
    assert_eq!(session.cursor(), (0, 3));
    session.key(b"x");
    assert_eq!(session.displayed, []);
    session.wait(1000);
    assert_eq!(session.row(1), "$ x");
}

#[test]
fn the_alternate_screen_needs_a_confirmation_of_its_own() {
    let mut session = confirmed(200);
    session.output(b"\x1b[?1049h\x1b[H\x1b[2Jtext\x1b[2;1H");
    session.key(b"a");
    assert_eq!(session.displayed, []);
    session.wait(1000);
    session.key(b"b");
    assert_eq!(session.row(1), "ab");
    session.output(b"\x1b[?1049l");
    assert_eq!(session.overlay().cells, []);
    session.displayed.clear();
    session.wait(1000);
    session.key(b"c");
    assert_eq!(session.displayed, []);
}

#[test]
fn nothing_is_predicted_before_login() {
    let mut session = confirmed(200);
    let mut predictor = Predictor::new(PredictMode::Always, Confirmation::Exact);
    predictor.handle_rtt(ms(200));
    std::mem::swap(&mut session.predictor, &mut predictor);
    session.type_text("abc", 1000);
    assert_eq!(session.displayed, []);
    assert_eq!(session.predictor.poll_timeout(), None);
}

#[test]
fn an_outage_shows_keys_of_the_confirmed_epoch_and_no_further() {
    let mut session = confirmed(200);
    session.is_down = true;
    session.predictor.handle_link(false, session.now);
    session.type_text("cho hi", 500);
    assert_eq!(session.row(0), "$ echo hi");
    session.key(b"\r");
    session.type_text("rm x", 500);
    session.wait(60_000);
    assert_eq!(session.row(0), "$ echo hi");
    assert_eq!(session.row(1), "");
    assert!(session.overlay().is_underlined);
    session.is_down = false;
    session.predictor.handle_link(true, session.now);
    session.wait(2000);
    assert_eq!(
        (session.row(0).as_str(), session.row(1).as_str()),
        ("$ echo hi", "$ rm x")
    );
    assert_eq!(session.overlay().cells, []);
    session.type_text("y", 1000);
    session.key(b"z");
    assert_eq!(session.row(1), "$ rm xyz");
}

#[test]
fn what_was_acknowledged_before_an_outage_is_judged_a_round_trip_after_it() {
    let mut session = confirmed(200);
    session.key(b"c");
    session.predictor.handle_acknowledged(2, session.now);
    session.predictor.handle_link(false, session.now);
    session.is_down = true;
    session.wait(9000);
    assert_eq!(session.row(0), "$ ec");
    session.predictor.handle_link(true, session.now);
    session.wait(249);
    assert_eq!(session.overlay().cells.len(), 1);
    session.is_down = false;
    session.wait(1);
    assert_eq!(session.row(0), "$ ec");
    assert_eq!(session.overlay().cells, []);
}

#[test]
fn without_acknowledgements_time_judges() {
    let mut session = Session::with(PredictMode::Adaptive, Confirmation::Estimated, 200, "$ ", echo);
    session.key(b"a");
    session.wait(349);
    session.key(b"b");
    assert_eq!(session.row(0), "$ a");
    session.wait(1);
    assert_eq!(session.row(0), "$ ab");
}

#[test]
fn after_a_doubtful_sequence_nothing_is_predicted_until_the_cursor_is_placed() {
    let mut session = confirmed(200);
    session.output("\u{2764}\u{fe0f} ".as_bytes());
    session.type_text("ab", 1000);
    assert_eq!(session.displayed, []);
    session.output(b"\r\n$ ");
    session.type_text("a", 1000);
    session.key(b"b");
    assert_eq!(session.row(1), "$ ab");
}

#[test]
fn an_unknown_key_pauses_until_it_has_arrived_and_the_rest_is_predicted_from_there() {
    let mut session = Session::new(400, "$ ", |key: &[u8]| {
        if key == b"\t" {
            b"completed ".to_vec()
        } else {
            echo(key)
        }
    });
    session.key(b"\t");
    session.wait(200);
    session.key(b"a");
    session.wait(200);
    session.key(b"b");
    assert_eq!(session.displayed, []);
    // The tab is judged at 450 ms, "a" at 650 ms.
    session.wait(251);
    assert_eq!(session.row(0), "$ completed ab");
    assert!(
        session
            .displayed
            .iter()
            .all(|(at, character)| (at.column, *character) == (13, 'b'))
    );
}

#[test]
fn the_round_trip_time_is_measured_if_nobody_gives_it() {
    let mut predictor = Predictor::new(PredictMode::Adaptive, Confirmation::Exact);
    predictor.allow();
    let mut screen = Screen::new(40, 6);
    let start = crate::test_tools::start();
    predictor.handle_key(b"a", 1, start, &screen);
    predictor.handle_acknowledged(1, start + ms(100));
    screen.handle_output(b"a");
    predictor.handle_output(start + ms(150), &screen);
    predictor.handle_key(b"b", 2, start + ms(200), &screen);
    assert_eq!(predictor.poll_overlay(&screen).cells.len(), 1);
}
