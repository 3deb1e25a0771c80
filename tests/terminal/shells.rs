//! Typed keys in the line editors of zsh and fish, and in vim.

use crate::prediction::{
    COLUMNS, RTT, cursor, desk, expect_letters_at_once, log_in, make_long, row, run, type_letter, type_until_predicted,
    wait_for_row,
};
use crate::support::ssh::HOST;
use crate::support::{wait_for, write_program};
use crate::{Desk, LIMIT, THERE};

/// Programs that ask for keys there, with commands that ask for a word that is not shown.
const SHELLS: [(&str, &str, &str); 2] = [
    (
        "zsh",
        "PS1='there''> ' HISTFILE= exec zsh -f -i",
        "read -s 'w?sec''ret: '; echo has-${#w}",
    ),
    (
        "fish",
        "exec fish -i -C 'function fish_prompt; printf \"there> \"; end; function fish_greeting; end'",
        "read -s -P sec(echo ret:\\ ) w; echo has-(string length $w)",
    ),
];

/// What sudo and getpass do: the terminal does not echo while the word is typed.
const UNECHOED: &str = "python3 -c 'import getpass as g; print(\"has-%d\" % len(g.getpass(\"sec\" + \"ret: \")))'";

/// A desk with this shell there, 300 ms away.
fn shell(name: &str) -> Desk {
    let mut desk = desk();
    let (_, start, _) = SHELLS.iter().find(|(shell, ..)| *shell == name).expect("one of them");
    let home = desk.rig.ssh.path("home");
    std::fs::create_dir(&home).expect("the scratch folder");
    let program = desk.rig.ssh.path("shell");
    write_program(
        &program,
        &format!("cd {0}; HOME={0}; export HOME; {start}", home.display()),
    );
    let options = "--predict always --link-line=false --fallback none --connect-timeout 30s";
    desk.pty.enter(&format!(
        "./bssh {options} -F ssh_config -t {HOST} {}; echo \"code=$?.\"",
        program.display()
    ));
    wait_for_row(&desk, THERE);
    make_long(&desk);
    desk
}

#[test]
fn letters_are_shown_at_once_in_zsh_and_fish() {
    for (name, ..) in SHELLS {
        let mut desk = shell(name);
        let mut line = THERE.to_owned();
        type_until_predicted(&mut desk, &mut line);
        expect_letters_at_once(&mut desk, &mut line, name);
        desk.pty.press("\x15");
        wait_for_row(&desk, THERE);
        // Corrected, with a word inserted before the last.
        for key in ["e", "c", "h", "i", "\x7f", "o", " ", "x", "z", "\x1b[D", "y"] {
            desk.pty.press(key);
        }
        wait_for_row(&desk, &format!("{THERE}echo xyz"));
        run(&mut desk, "", "xyz");
    }
}

#[test]
fn a_grey_suggestion_of_fish_is_overwritten_and_not_pushed() {
    let mut desk = shell("fish");
    run(&mut desk, "echo suggested-one", "suggested-one");
    let overwritten = wait_for(LIMIT, || {
        let mut line = THERE.to_owned();
        type_letter(&mut desk, &mut line, 'e');
        wait_for_row(&desk, &format!("{THERE}echo suggested-one"));
        type_letter(&mut desk, &mut line, 'c');
        type_letter(&mut desk, &mut line, 'h');
        assert_eq!(row(&desk), format!("{THERE}echo suggested-one"));
        // Shown before fish can have said that there is no such suggestion.
        let is_early = type_letter(&mut desk, &mut line, 'X') < RTT / 2;
        let shown = row(&desk);
        desk.pty.press("\x15");
        wait_for_row(&desk, THERE);
        is_early.then_some(shown)
    });
    assert_eq!(overwritten.as_deref(), Some("there> echX suggested-one"));
}

#[test]
fn no_character_of_a_password_is_shown_in_zsh_and_fish() {
    for (name, _, read) in SHELLS {
        let mut desk = shell(name);
        for command in [read, UNECHOED] {
            let mut line = THERE.to_owned();
            type_until_predicted(&mut desk, &mut line);
            desk.pty.press("\x15");
            wait_for_row(&desk, THERE);
            desk.pty.enter(command);
            desk.pty.expect("secret: ");
            let mark = desk.pty.mark();
            for letter in ["Z", "Q", "J", "Z"] {
                desk.pty.press(letter);
            }
            desk.pty.press("\r");
            desk.pty.expect("has-4");
            wait_for_row(&desk, THERE);
            let shown = String::from_utf8_lossy(&desk.pty.shown_since(mark)).into_owned();
            let until = shown.find("has-4").expect("it was waited for");
            assert!(
                !shown[..until].contains(['Z', 'Q', 'J']),
                "{name}, {command}: {shown:?}"
            );
        }
    }
}

#[test]
fn keys_in_vim_are_shown_at_once_before_it_has_painted_anew() {
    let mut desk = desk();
    log_in(&mut desk, "--predict always");
    make_long(&desk);
    desk.pty.enter("LC_ALL=C.UTF-8 vim -u NONE -i NONE -N -n");
    desk.pty.expect("\x1b[?1049h");
    desk.pty.expect("~");
    desk.pty.press("i");
    desk.pty.expect("-- INSERT --");
    let found = wait_for(LIMIT, || (cursor(&desk) == (0, 0)).then_some(()));
    assert!(found.is_some(), "vim is ready");
    let mut line = String::new();
    let mark = desk.pty.mark();
    let early = (0..COLUMNS / 2).any(|_| type_letter(&mut desk, &mut line, 'w') < RTT / 2);
    let shown = desk.pty.shown_since(mark);
    assert!(early, "no letter is shown at once: {}", shown.escape_ascii());
    desk.pty.press("\x1b:q!\r");
    desk.pty.expect("\x1b[?1049l");
    wait_for_row(&desk, THERE);
}
