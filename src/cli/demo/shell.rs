//! `bowline demo --shell`: the shell is the user's, and so is the path, to break at the press of a key.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::DemoError;
use super::keys::{Keys, Typed, Wish};
use super::path::{Path, Weather};
use super::screen::{Ink, Screen};
use super::stage::Stage;
use super::visitor::{Remote, Visitor};
use crate::clock;

/// Typed bytes that wait for ssh, which waits for the path. With more, the keyboard waits.
const MOST_TYPED: usize = 1 << 20;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

const HELP: &str = "Press Ctrl-] and then one of:\r\n  b  black hole on or off: every packet is lost\r\n  u  unreachable on or \
                    off: the server half's port refuses every packet\r\n  r  give the client a new address, as after \
                    a change of network\r\n  x  reset every connection\r\n  ?  show this help\r\n  q  quit (or leave the \
                    shell with exit)";

/// Gives the user the shell until it ends, or the user wants to quit.
///
/// # Errors
/// Stdin or stdout is no terminal, or the session cannot be opened.
pub(super) async fn run(stage: &Stage, visitor: &Visitor, screen: &Screen) -> Result<(), DemoError> {
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(DemoError::NoTerminal);
    }
    let title = "A shell over bowline, on this machine. Break the path and keep typing.";
    screen.say(&screen.abilities().ink(Ink::Bold, title));
    screen.say(&format!("\n{}\n", HELP.replace('\r', "")));
    let size = tcgetwinsize(io::stdout()).map_err(|error| DemoError::Terminal(error.into()))?;
    let mut remote = visitor.shell(stage, size).await?;
    let raw = RawMode::enter().map_err(DemoError::Terminal)?;
    let sitting = Sitting {
        path: &stage.path,
        screen,
        restored: None,
    };
    let left = sitting.attend(&mut remote).await;
    drop(raw);
    screen.say(match left? {
        Left::ShellEnded => "\nThe shell exited, and its session ended.",
        Left::Quit => "\nLeft the shell.",
    });
    // It cannot take leave over a path that is down.
    stage.path.set(Weather::Fair).map_err(DemoError::Socket)?;
    remote.ending.leave().await;
    Ok(())
}

/// How the user left.
enum Left {
    ShellEnded,
    Quit,
}

/// The user before the terminal.
struct Sitting<'a> {
    path: &'a Path,
    screen: &'a Screen,
    /// When the path was given back; until the first byte has come.
    restored: Option<Instant>,
}

impl Sitting<'_> {
    async fn attend(mut self, remote: &mut Remote) -> Result<Left, DemoError> {
        let mut keyboard = tokio::io::stdin();
        let mut resized = signal(SignalKind::window_change()).map_err(DemoError::Terminal)?;
        let (mut keys, mut typed) = (Keys::default(), BytesMut::new());
        let (mut pressed, mut shown) = (vec![0; CHUNK], vec![0; CHUNK]);
        loop {
            tokio::select! {
                count = remote.output.read(&mut shown) => match count {
                    // What ssh's terminal gives at its end differs between systems.
                    Ok(0) | Err(_) => return Ok(Left::ShellEnded),
                    Ok(count) => self.show(&shown[..count]),
                },
                count = keyboard.read(&mut pressed), if typed.len() < MOST_TYPED => {
                    let count = count.map_err(DemoError::Terminal)?;
                    if count == 0 {
                        return Ok(Left::Quit);
                    }
                    for what in keys.take(&pressed[..count]) {
                        match what {
                            Typed::Text(text) => typed.extend_from_slice(&text),
                            Typed::Wish(Wish::Quit) => return Ok(Left::Quit),
                            Typed::Wish(wish) => self.grant(wish)?,
                        }
                    }
                }
                count = remote.input.write(&typed), if !typed.is_empty() => match count {
                    Ok(count) => typed.advance(count),
                    Err(_) => return Ok(Left::ShellEnded),
                },
                _ = resized.recv() => if let Ok(size) = tcgetwinsize(io::stdout()) {
                    remote.ending.resize(size).await;
                }
            }
        }
    }

    fn show(&mut self, bytes: &[u8]) {
        if let Some(restored) = self.restored.take() {
            let waited = clock::now().saturating_duration_since(restored);
            self.note(&format!("the first byte came {} ms later", waited.as_millis()));
        }
        put(bytes);
    }

    fn grant(&mut self, wish: Wish) -> Result<(), DemoError> {
        match wish {
            Wish::BlackHole => self.toggle(Weather::BlackHole, "black hole: every packet is lost now; keep typing"),
            Wish::Unreachable => self.toggle(
                Weather::Unreachable,
                "unreachable: the server half's port refuses every packet now",
            ),
            Wish::NewAddress => {
                self.path.take_new_address();
                self.note("the client has a new address now");
                Ok(())
            }
            Wish::Reset => {
                self.path.reset_connections();
                self.note("the next packet of every connection is answered with a reset");
                Ok(())
            }
            Wish::Help | Wish::Quit => {
                put(format!("\r\n{HELP}\r\n").as_bytes());
                Ok(())
            }
        }
    }

    fn toggle(&mut self, weather: Weather, words: &str) -> Result<(), DemoError> {
        if self.path.weather() == weather {
            self.path.set(Weather::Fair).map_err(DemoError::Socket)?;
            self.restored = Some(clock::now());
            self.note("the path works again");
        } else {
            self.path.set(weather).map_err(DemoError::Socket)?;
            self.restored = None;
            self.note(words);
        }
        Ok(())
    }

    fn note(&self, words: &str) {
        let words = self.screen.abilities().ink(Ink::Bold, &format!("[bowline: {words}]"));
        put(format!("\r\n{words}\r\n").as_bytes());
    }
}

/// The user's terminal hands on every key as it is, until this is dropped.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> io::Result<RawMode> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        Ok(RawMode(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that has gone needs no care.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}

fn put(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    // A terminal that has gone ends stdin as well.
    let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
}
