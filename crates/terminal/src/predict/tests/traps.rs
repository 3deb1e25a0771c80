//! What has gone wrong in other programs.

use super::*;

/// A shell whose line editor redraws as it likes.
fn scripted(answers: Vec<(&'static [u8], &'static str)>) -> impl FnMut(&[u8]) -> Vec<u8> {
    let mut answers = VecDeque::from(answers);
    move |key: &[u8]| {
        let (expected, output) = answers.pop_front().expect("an answer for each key");
        assert_eq!(key, expected);
        output.as_bytes().to_vec()
    }
}

#[test]
fn a_grey_suggestion_is_overwritten_and_not_pushed_to_the_right() {
    for grey in ["\x1b[90m", "\x1b[38;5;8m", "\x1b[38;2;85;85;85m", "\x1b[2m"] {
        let first: &'static str = Box::leak(format!("g{grey}it status\x1b[m\x1b[9D").into_boxed_str());
        let mut session = Session::new(
            200,
            "$ ",
            scripted(vec![(b"g", first), (b"i", "\x1b[mi"), (b"t", "\x1b[mt")]),
        );
        session.type_text("g", 1000);
        assert_eq!(session.row(0), "$ git status");
        session.key(b"i");
        session.key(b"t");
        assert_eq!(session.row(0), "$ git status", "{grey:?}");
        assert_eq!(session.cursor(), (0, 5));
    }
}

#[test]
fn the_arrow_that_accepts_a_suggestion_is_not_predicted() {
    let mut session = Session::new(
        200,
        "$ ",
        scripted(vec![(b"g", "g\x1b[90mit\x1b[m\x1b[2D"), (b"\x1b[C", "it"), (b"x", "x")]),
    );
    session.type_text("g", 1000);
    session.key(b"\x1b[C");
    assert_eq!(session.cursor(), (0, 3));
    session.key(b"x");
    session.wait(1000);
    assert_eq!(session.displayed, []);
    assert_eq!(session.row(0), "$ gitx");
}

#[test]
fn zsh_that_echoes_a_backspace_and_both_characters_is_understood() {
    let mut session = Session::new(
        200,
        "% ",
        scripted(vec![(b"l", "l"), (b"s", "\x08ls"), (b" ", "\x08s "), (b"x", "x")]),
    );
    session.type_text("l", 1000);
    session.key(b"s");
    assert_eq!(session.row(0), "% ls");
    session.wait(200);
    session.key(b" ");
    session.wait(30);
    session.key(b"x");
    assert_eq!(session.row(0), "% ls x");
    session.wait(1000);
    assert_eq!(session.row(0), "% ls x");
    session.predictor.handle_key(b"y", 99, session.now, &session.screen);
    assert_eq!(session.row(0), "% ls xy", "nothing was wrong");
}

#[test]
fn enter_on_the_last_line_scrolls_what_was_predicted() {
    let mut session = Session::new(200, "\x1b[6;1H$ ", echo);
    session.type_text("l", 1000);
    session.key(b"s");
    session.wait(1);
    session.key(b"\r");
    session.wait(1);
    session.key(b"p");
    session.wait(100);
    session.key(b"w");
    let before = session.displayed.clone();
    assert!(
        before
            .iter()
            .all(|(at, character)| (*at, *character) == (Position { row: 5, column: 3 }, 's'))
    );
    session.wait(1000);
    assert_eq!(session.row(4), "$ ls");
    assert_eq!(session.row(5), "$ pw");
    session.key(b"d");
    assert_eq!(session.row(5), "$ pwd");
}

#[test]
fn a_full_redraw_between_two_keys_keeps_the_predictions() {
    let redraw = "\x1b[H\x1b[2Jheader\x1b[2;1H$ ea";
    let mut session = Session::new(
        200,
        "\x1b[2;1H$ ",
        scripted(vec![(b"e", "e"), (b"a", redraw), (b"b", "b")]),
    );
    session.type_text("e", 1000);
    session.key(b"a");
    session.wait(100);
    session.key(b"b");
    session.wait(110);
    assert_eq!(session.row(1), "$ eab");
    assert_eq!(session.cursor(), (1, 5));
    session.wait(1000);
    session.predictor.handle_key(b"c", 99, session.now, &session.screen);
    assert_eq!(session.row(1), "$ eabc", "nothing was wrong");
}

#[test]
fn editing_a_line_from_the_history_is_predicted_from_where_the_cursor_is() {
    let mut session = Session::new(
        400,
        "$ ",
        scripted(vec![
            (b"\x1b[A", "make test"),
            (b"\x7f", "\x08\x1b[K"),
            (b"\x7f", "\x08\x1b[K"),
            (b"a", "a"),
            (b"b", "b"),
            (b"c", "c"),
        ]),
    );
    session.key(b"\x1b[A");
    session.wait(100);
    for key in [b"\x7f", b"\x7f", b"a"] {
        session.key(key);
        session.wait(200);
    }
    session.key(b"b");
    assert_eq!(session.displayed, []);
    session.wait(500);
    session.key(b"c");
    assert_eq!(session.row(0), "$ make teabc");
    let right = [(10, 'b'), (11, 'c')];
    assert!(
        session
            .displayed
            .iter()
            .all(|(at, character)| right.contains(&(at.column, *character))),
        "{:?}",
        session.displayed
    );
}

#[test]
fn a_hidden_cursor_is_no_place_to_predict_at() {
    let mut session = confirmed(200);
    session.output(b"\x1b[?25l\x1b[5;5H");
    session.key(b"a");
    assert_eq!(session.displayed, []);
    assert_eq!(session.overlay().cursor, None);
}

#[test]
fn control_h_may_erase_or_show_itself() {
    let mut erases = confirmed(200);
    erases.type_text("c", 1000);
    erases.key(b"\x08");
    erases.key(b"a");
    assert_eq!(erases.row(0), "$ ec");
    let mut shows = Session::new(
        200,
        "$ ",
        |key: &[u8]| if key == b"\x08" { b"^H".to_vec() } else { echo(key) },
    );
    shows.type_text("a", 1000);
    shows.key(b"\x08");
    shows.key(b"b");
    shows.wait(1000);
    assert_eq!(shows.row(0), "$ a^Hb");
    assert_eq!(shows.displayed, []);
}

#[test]
fn output_of_another_program_in_between_is_not_overwritten_for_long() {
    let mut session = confirmed(200);
    session.key(b"a");
    session.output(b"\r\njob done\r\n$ e");
    session.wait(1000);
    assert_eq!(session.row(0), "$ e");
    assert_eq!(session.row(1), "job done");
    assert_eq!(session.row(2), "$ ea");
    assert_eq!(session.overlay().cells, []);
}

#[test]
fn typing_faster_than_the_path_never_pauses_for_long() {
    let mut session = Session::new(300, "$ ", |key: &[u8]| {
        if key == b"\t" {
            b"completed ".to_vec()
        } else {
            echo(key)
        }
    });
    session.key(b"\t");
    session.type_text("the quick brown fox", 40);
    session.displayed.clear();
    session.key(b"!");
    assert_eq!(session.row(0), "$ completed the quick brown fox!");
}

#[test]
fn text_behind_enter_in_an_editor_does_not_move_the_row_below() {
    let answers: Vec<(&'static [u8], &'static str)> = vec![
        (b"x", "x"),
        (b"\r", "\x1b[2;1H\x1b[L"),
        (b"a", "a"),
        (b"b", "b"),
        (b"c", "c"),
    ];
    let mut session = Session::new(200, "one\r\nold row\x1b[1;4H", scripted(answers));
    session.type_text("x", 1000);
    session.key(b"\r");
    session.key(b"a");
    session.wait(150);
    session.key(b"b");
    session.wait(1000);
    session.key(b"c");
    assert_eq!(
        (session.row(1), session.row(2)),
        ("abc".to_owned(), "old row".to_owned())
    );
    let shown: String = session.displayed.iter().map(|(_, character)| *character).collect();
    assert!(shown.chars().all(|character| "xabc".contains(character)), "{shown}");
}
