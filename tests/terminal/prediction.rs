//! Typed keys that are shown before the server returns them. The judge is another terminal emulator.

use crate::support::pty::size;
use crate::support::rig::Rig;
use crate::support::ssh::HOST;
use crate::support::sshd::make_locked_key;
use crate::support::{measured_time, now, wait_for};
use crate::{Desk, LIMIT, PROMPT, THERE};
use std::time::Duration;

pub(crate) const COLUMNS: u16 = 80;
const ROWS: u16 = 24;

/// No key is returned before the path has been gone to and fro.
pub(crate) const RTT: Duration = Duration::from_millis(300);

/// What is shown after these bytes.
fn emulated(bytes: &[u8]) -> vt100::Parser {
    let mut parser = vt100::Parser::new(ROWS, COLUMNS, 0);
    parser.process(bytes);
    parser
}

fn locate(bytes: &[u8]) -> (u16, u16) {
    emulated(bytes).screen().cursor_position()
}

/// A desk with a terminal that knows where its cursor is.
pub(crate) fn desk() -> Desk {
    let desk = Desk::of(Rig::gated(|setup| setup));
    desk.pty.set_locate(locate);
    desk
}

/// Starts bash with line editing there, over a session of bowline's.
pub(crate) fn log_in(desk: &mut Desk, options: &str) {
    log_in_by(desk, &format!("{options} --fallback none --connect-timeout 30s"));
}

fn log_in_by(desk: &mut Desk, options: &str) {
    let shell = "HISTFILE= PS1='there''> ' exec bash --norc --noprofile -i";
    desk.pty.enter(&format!(
        "./bssh {options} -F ssh_config -t {HOST} \"{shell}\"; echo \"code=$?.\""
    ));
    desk.pty.expect(THERE);
}

/// Makes the path as long as that.
pub(crate) fn make_long(desk: &Desk) {
    desk.rig.gate().set(&format!("delay={}", RTT.as_millis() / 2));
}

/// The row with the cursor, without blanks at its end.
pub(crate) fn row(desk: &Desk) -> String {
    let parser = emulated(&desk.pty.shown_since(0));
    let (row, _) = parser.screen().cursor_position();
    let row = parser.screen().rows(0, COLUMNS).nth(row.into());
    row.unwrap_or_default().trim_end().to_owned()
}

pub(crate) fn cursor(desk: &Desk) -> (u16, u16) {
    locate(&desk.pty.shown_since(0))
}

#[track_caller]
pub(crate) fn wait_for_row(desk: &Desk, text: &str) {
    let found = wait_for(LIMIT, || (row(desk) == text.trim_end()).then_some(()));
    let screen = || emulated(&desk.pty.shown_since(0)).screen().contents();
    assert!(
        found.is_some(),
        "wanted {text:?} in the row of the cursor, shown:\n{}",
        screen()
    );
}

/// Types a letter at the end of a line, and returns how long it takes until it is shown with the cursor behind it. There may be
/// a suggestion behind that.
#[track_caller]
pub(crate) fn type_letter(desk: &mut Desk, line: &mut String, letter: char) -> Duration {
    line.push(letter);
    let start = now();
    desk.pty.press(letter.to_string());
    let is_shown = || row(desk).starts_with(line.trim_end()) && usize::from(cursor(desk).1) == line.chars().count();
    let found = wait_for(LIMIT, || is_shown().then_some(start.elapsed()));
    found.unwrap_or_else(|| panic!("wanted {line:?}, shown {:?}", row(desk)))
}

/// Types letters into the line until one is shown before the server can have returned it: then the program is known to
/// echo, and so are the letters before.
#[track_caller]
pub(crate) fn type_until_predicted(desk: &mut Desk, line: &mut String) {
    let early = wait_for(LIMIT, || (type_letter(desk, line, 'w') < RTT / 2).then_some(()));
    assert!(early.is_some(), "no letter is predicted");
}

#[track_caller]
pub(crate) fn run(desk: &mut Desk, command: &str, output: &str) {
    desk.pty.enter(command);
    desk.pty.expect(output);
    wait_for_row(desk, THERE);
}

#[test]
fn letters_are_shown_before_they_return_as_soon_as_the_prompt_has_echoed_one() {
    let mut desk = desk();
    log_in(&mut desk, "--predict always");
    make_long(&desk);
    let mut line = THERE.to_owned();
    assert!(
        type_letter(&mut desk, &mut line, 'w') >= RTT,
        "the first is not known to be echoed"
    );
    type_until_predicted(&mut desk, &mut line);
    expect_letters_at_once(&mut desk, &mut line, "a shell");
}

/// Types letters that are predicted.
#[track_caller]
pub(crate) fn expect_letters_at_once(desk: &mut Desk, line: &mut String, program: &str) {
    let mut times: Vec<Duration> = "abcdefghijkl"
        .chars()
        .map(|letter| type_letter(desk, line, letter))
        .collect();
    times.sort();
    let median = times[times.len() / 2];
    measured_time(
        &format!("a predicted key in {program} until it is shown, median"),
        median,
    );
    assert!(median < RTT / 6, "{program}: {times:?}");
}

/// The screen and the cursor after these lines, typed key by key at once.
fn shown_after(desk: &mut Desk, lines: &[(Vec<&str>, &str)]) -> (String, (u16, u16)) {
    // The screen of the shell there only.
    desk.pty.press("\x0c");
    wait_for_row(desk, THERE);
    for (keys, output) in lines {
        for key in keys {
            desk.pty.press(key);
        }
        run(desk, "", output);
    }
    let parser = emulated(&desk.pty.shown_since(0));
    let shown = String::from_utf8_lossy(&parser.screen().contents_formatted()).into_owned();
    (shown, parser.screen().cursor_position())
}

#[test]
fn after_the_output_the_screen_is_as_with_plain_ssh() {
    let keys = |text: &'static str| text.split("").filter(|key| !key.is_empty());
    // Corrected with backspace, and a word is inserted before the last.
    let edited = keys("echo one tow").chain(["\x7f", "\x7f", "wo", "\x1b[D", "\x1b[D", "\x1b[D", "1", " "]);
    let lines = [
        (edited.collect(), "one 1 two\r\n"),
        (keys("printf '\\033[31mred\\033[m\\n\\n'").collect(), "red\x1b[m\r\n"),
        (keys("echo the-end-$((1+1))").collect(), "the-end-2\r\n"),
    ];
    let mut plain = desk();
    log_in(&mut plain, "--plain");
    let plain = shown_after(&mut plain, &lines);
    let mut long = desk();
    log_in(&mut long, "--predict always");
    make_long(&long);
    assert_eq!(shown_after(&mut long, &lines), plain);
    // Where only time says what has been echoed.
    let mut tcp = desk();
    tcp.rig.gate().cut();
    log_in_by(&mut tcp, "--predict always --link-line=false --connect-timeout 1s");
    assert_eq!(shown_after(&mut tcp, &lines), plain);
}

#[test]
fn nothing_is_written_if_nothing_is_to_be_predicted() {
    let keys = ["e", "c", "h", "o", " the-end-$((1+1))", "\r"];
    let written = |options: &str| {
        let mut desk = desk();
        log_in(&mut desk, options);
        let mark = desk.pty.seen();
        let mut line = THERE.to_owned();
        for keys in keys {
            desk.pty.press(keys);
            line += keys;
            // One at a time, so that each is echoed alone.
            if keys != "\r" {
                wait_for_row(&desk, &line);
            }
        }
        desk.pty.expect("the-end-2\r\n");
        desk.pty.expect(THERE);
        desk.pty.shown_since(mark)[..desk.pty.seen() - mark].to_vec()
    };
    let (never, plain) = (written("--predict never"), written("--plain"));
    assert_eq!(String::from_utf8_lossy(&never), String::from_utf8_lossy(&plain));
}

#[test]
fn no_character_of_a_password_is_shown() {
    let mut desk = desk();
    make_locked_key(&desk.rig.ssh.path("locked"), "ed25519", "zqjz");
    let key = desk.rig.ssh.path("locked").display().to_string();
    log_in(&mut desk, "--predict always");
    make_long(&desk);
    for (command, prompt, output) in [
        ("read -s -p 'secret: ' word; echo has-${#word}", "secret: ", "has-4"),
        (
            "python3 -c 'import getpass as g; print(\"has\", len(g.getpass()))'",
            "Password: ",
            "has 4",
        ),
        (&format!("ssh-keygen -y -f {key}"), "passphrase", "ssh-ed25519 "),
    ] {
        let mut line = THERE.to_owned();
        type_until_predicted(&mut desk, &mut line);
        // The line was echoed, and predicted.
        desk.pty.press("\x15");
        wait_for_row(&desk, THERE);
        desk.pty.enter(command);
        desk.pty.expect("\r\n");
        desk.pty.expect(prompt);
        let mark = desk.pty.mark();
        for letter in ["z", "q", "j", "z"] {
            desk.pty.press(letter);
        }
        desk.pty.press("\r");
        desk.pty.expect(output);
        wait_for_row(&desk, THERE);
        let shown = String::from_utf8_lossy(&desk.pty.shown_since(mark)).into_owned();
        let until = shown.find(output).expect("it was waited for");
        assert!(!shown[..until].contains(['z', 'q', 'j']), "{command}: {shown:?}");
    }
}

/// Waits until the client half has found an outage, which takes much longer than drawing.
#[track_caller]
fn wait_for_outage(desk: &Desk) {
    let found = wait_for(LIMIT, || {
        (crate::outages::session_state(desk) == "detached").then_some(())
    });
    assert!(found.is_some(), "an outage");
}

/// Types these keys into an outage; the line, or the program, does not tell yet what they will do.
#[track_caller]
fn type_unshown(desk: &mut Desk, mark: usize, keys: &str) {
    for key in keys.chars() {
        desk.pty.press(key.to_string());
    }
    wait_for_outage(desk);
    let shown = String::from_utf8_lossy(&desk.pty.shown_since(mark)).into_owned();
    assert!(!shown.contains(|shown| keys.contains(shown)), "{shown:?}");
}

#[test]
fn keys_of_an_outage_are_shown_up_to_the_end_of_the_line_and_sent_once() {
    let mut desk = desk();
    log_in(&mut desk, "--predict always --link-line=false");
    make_long(&desk);
    let mut line = THERE.to_owned();
    type_until_predicted(&mut desk, &mut line);
    desk.pty.press("\x15");
    run(&mut desk, "echo up-$((1+1))", "up-2\r\n");
    line = THERE.to_owned();
    type_until_predicted(&mut desk, &mut line);
    desk.rig.gate().cut();
    for letter in "; echo lasts".chars() {
        type_letter(&mut desk, &mut line, letter);
    }
    let mark = desk.pty.mark();
    desk.pty.press("\r");
    type_unshown(&mut desk, mark, "zqj");
    desk.rig.gate().restore();
    desk.pty.expect("lasts\r\n");
    wait_for_row(&desk, &format!("{THERE}zqj"));
    desk.pty.press("\x15");
    run(&mut desk, "history | grep -c 'echo [l]asts'", "1\r\n");
}

#[test]
fn a_program_on_the_whole_screen_is_left_alone_until_it_has_echoed() {
    let mut desk = desk();
    log_in(&mut desk, "--predict always --link-line=false");
    make_long(&desk);
    let mut line = THERE.to_owned();
    type_until_predicted(&mut desk, &mut line);
    desk.pty.press("\x15");
    desk.pty.enter("seq 100 | LESSHISTFILE=- less");
    desk.pty.expect("\x1b[?1049h");
    wait_for_row(&desk, ":");
    desk.rig.gate().cut();
    let mark = desk.pty.mark();
    type_unshown(&mut desk, mark, "/zqj");
    desk.rig.gate().restore();
    wait_for_row(&desk, "/zqj");
    line = "/zqj".to_owned();
    type_until_predicted(&mut desk, &mut line);
    desk.pty.press("\r");
    desk.pty.expect("Pattern not found");
    desk.pty.press("\rq");
    desk.pty.expect("\x1b[?1049l");
    run(&mut desk, "echo done-$((1+1))", "done-2\r\n");
}

#[test]
fn what_is_typed_in_vim_is_shown_as_vim_shows_it() {
    let mut desk = desk();
    log_in(&mut desk, "--predict always");
    make_long(&desk);
    let mut line = THERE.to_owned();
    type_until_predicted(&mut desk, &mut line);
    desk.pty.press("\x15");
    desk.pty.enter("vim -u NONE -i NONE -N -n");
    desk.pty.expect("\x1b[?1049h");
    // It marks rows behind the end of the file.
    desk.pty.expect("~");
    for key in [
        "i", "o", "n", "e", " ", "t", "o", "w", "\x7f", "\x7f", "w", "o", "\r", "x",
    ] {
        desk.pty.press(key);
    }
    wait_for_row(&desk, "x");
    let parser = emulated(&desk.pty.shown_since(0));
    let rows: Vec<String> = parser
        .screen()
        .rows(0, COLUMNS)
        .map(|row| row.trim_end().to_owned())
        .collect();
    assert_eq!(rows[..3], ["one two", "x", "~"]);
    desk.pty.press("\x1b");
    desk.pty.expect("\x1b[?25h");
    desk.pty.press(":q!\r");
    desk.pty.expect("\x1b[?1049l");
    run(&mut desk, "echo done-$((1+1))", "done-2\r\n");
}

#[test]
fn keys_are_predicted_again_after_a_resize_and_after_fg() {
    let mut desk = desk();
    log_in(&mut desk, "--predict always");
    make_long(&desk);
    // New lines are at the end of a full screen, where they are empty for certain if the cursor is known.
    run(&mut desk, "seq 30", "30\r\n");
    desk.pty.resize(size(COLUMNS + 20, ROWS));
    run(&mut desk, "echo sized-$((1+1))", "sized-2\r\n");
    let mut line = THERE.to_owned();
    type_until_predicted(&mut desk, &mut line);
    desk.pty.press("\x15");
    // ssh discards what it has read when it stops.
    run(&mut desk, "", THERE);
    desk.pty.press("~\x1a");
    desk.pty.expect("Stopped");
    desk.pty.expect(PROMPT);
    desk.pty.enter("fg");
    desk.pty.expect("bssh");
    run(&mut desk, "echo back-$((1+1))", "back-2\r\n");
    line = THERE.to_owned();
    type_until_predicted(&mut desk, &mut line);
}

#[test]
fn after_fg_the_remote_screen_is_shown_again_and_an_outage_is_said() {
    let mut desk = desk();
    log_in(&mut desk, "");
    run(&mut desk, "seq 30; echo last-$((1+1))", "last-2\r\n");
    run(&mut desk, "", THERE);
    desk.pty.press("~\x1a");
    desk.pty.expect("Stopped");
    desk.pty.expect(PROMPT);
    desk.pty.enter("clear; echo mine-$((1+1)); fg");
    desk.pty.expect("mine-2");
    desk.pty.expect("last-2");
    let rows = || emulated(&desk.pty.shown_since(0)).screen().contents();
    let is_back = wait_for(LIMIT, || {
        (rows().contains("[suspend ssh]") && !rows().contains("mine-2")).then_some(())
    });
    assert!(is_back.is_some(), "{}", rows());
    assert!(rows().contains("last-2"), "{}", rows());
    run(&mut desk, "echo again-$((1+1))", "again-2\r\n");
    run(&mut desk, "", THERE);
    desk.rig.gate().cut();
    desk.pty.press("e");
    desk.pty.expect("bowline: no answer for ");
    desk.pty.press("c");
    desk.pty.expect("wait");
    desk.rig.gate().restore();
    desk.pty.expect("bowline: back after ");
    run(&mut desk, "ho up-$((1+1))", "up-2\r\n");
}
