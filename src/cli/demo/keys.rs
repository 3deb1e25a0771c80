//! What the user types in `demo --shell`: everything is the shell's, but for what follows Ctrl-].

/// Ctrl-], as in telnet and virsh: no shell or editor in common use wants it.
const ESCAPE: u8 = 0x1d;

/// What the user wants the demo to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    BlackHole,
    Unreachable,
    NewAddress,
    Reset,
    Help,
    Quit,
}

/// What came of some bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// For the remote shell.
    Text(Vec<u8>),
    /// For the demo.
    Action(Action),
}

/// Tells them apart.
#[derive(Debug, Default)]
pub(super) struct Keys {
    escaped: bool,
}

impl Keys {
    /// Takes what was read, in pieces of any length.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Vec<Typed> {
        let mut typed = Vec::new();
        let mut text = Vec::new();
        for byte in bytes {
            match (std::mem::take(&mut self.escaped), *byte) {
                (false, ESCAPE) => self.escaped = true,
                (true, ESCAPE) | (false, _) => text.push(*byte),
                (true, key) => {
                    if !text.is_empty() {
                        typed.push(Typed::Text(std::mem::take(&mut text)));
                    }
                    typed.push(Typed::Action(action(key)));
                }
            }
        }
        if !text.is_empty() {
            typed.push(Typed::Text(text));
        }
        typed
    }
}

/// A key that means nothing asks for help.
fn action(key: u8) -> Action {
    match key.to_ascii_lowercase() {
        b'b' => Action::BlackHole,
        b'u' => Action::Unreachable,
        b'r' => Action::NewAddress,
        b'x' => Action::Reset,
        b'q' => Action::Quit,
        _ => Action::Help,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Typed {
        Typed::Text(text.as_bytes().to_vec())
    }

    #[test]
    fn only_the_key_after_the_escape_is_the_demo_s() {
        let typed = Keys::default().take(b"ls\x1dbb\x1dq");
        assert_eq!(
            typed,
            [
                text("ls"),
                Typed::Action(Action::BlackHole),
                text("b"),
                Typed::Action(Action::Quit)
            ]
        );
    }

    #[test]
    fn an_escape_and_its_key_may_come_apart() {
        let mut keys = Keys::default();
        assert_eq!(keys.take(b"a\x1d"), [text("a")]);
        assert_eq!(keys.take(b"R"), [Typed::Action(Action::NewAddress)]);
        assert_eq!(keys.take(b"r"), [text("r")]);
    }

    #[test]
    fn the_escape_twice_is_itself_and_an_unknown_key_asks_for_help() {
        assert_eq!(Keys::default().take(b"\x1d\x1d"), [text("\x1d")]);
        assert_eq!(Keys::default().take(b"\x1d7"), [Typed::Action(Action::Help)]);
    }
}
