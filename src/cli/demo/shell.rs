//! `bowline demo --shell`: the shell is the user's, and so is the path, to break at the press of a key.

use std::io::{self, IsTerminal, Write};
use std::time::Instant;

use bytes::{Buf, BytesMut};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::DemoError;
use super::fixture::Fixture;
use super::keys::{Action, Keys, Typed};
use super::path::{Condition, Path};
use super::screen::{Screen, Style};
use super::ssh_client::{Remote, SshClient};
use crate::clock;

/// Typed bytes that wait for ssh, which waits for the path. With more, the keyboard waits.
const MAX_TYPED: usize = 1 << 20;

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
pub(super) async fn run(fixture: &Fixture, ssh_client: &SshClient, screen: &Screen) -> Result<(), DemoError> {
    if !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err(DemoError::NoTerminal);
    }
    let title = "A shell over bowline, on this machine. Break the path and keep typing.";
    screen.say(&screen.features().style(Style::Bold, title));
    screen.say(&format!("\n{}\n", HELP.replace('\r', "")));
    let size = tcgetwinsize(io::stdout()).map_err(|error| DemoError::Terminal(error.into()))?;
    let mut remote = ssh_client.shell(fixture, size).await?;
    let raw = RawMode::enter().map_err(DemoError::Terminal)?;
    let interaction = Interaction {
        path: &fixture.path,
        screen,
        restored: None,
    };
    let left = interaction.run(&mut remote).await;
    drop(raw);
    screen.say(match left? {
        Left::ShellEnded => "\nThe shell exited, and its session ended.",
        Left::Quit => "\nLeft the shell.",
    });
    // It cannot take leave over a path that is down.
    fixture.path.set(Condition::Normal).map_err(DemoError::Socket)?;
    remote.process.leave().await;
    Ok(())
}

/// How the user left.
enum Left {
    ShellEnded,
    Quit,
}

/// The user before the terminal.
struct Interaction<'a> {
    path: &'a Path,
    screen: &'a Screen,
    /// When the path was given back; until the first byte has come.
    restored: Option<Instant>,
}

impl Interaction<'_> {
    async fn run(mut self, remote: &mut Remote) -> Result<Left, DemoError> {
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
                count = keyboard.read(&mut pressed), if typed.len() < MAX_TYPED => {
                    let count = count.map_err(DemoError::Terminal)?;
                    if count == 0 {
                        return Ok(Left::Quit);
                    }
                    for what in keys.take(&pressed[..count]) {
                        match what {
                            Typed::Text(text) => typed.extend_from_slice(&text),
                            Typed::Action(Action::Quit) => return Ok(Left::Quit),
                            Typed::Action(action) => self.handle_action(action)?,
                        }
                    }
                }
                count = remote.input.write(&typed), if !typed.is_empty() => match count {
                    Ok(count) => typed.advance(count),
                    Err(_) => return Ok(Left::ShellEnded),
                },
                _ = resized.recv() => if let Ok(size) = tcgetwinsize(io::stdout()) {
                    remote.process.resize(size).await;
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

    fn handle_action(&mut self, action: Action) -> Result<(), DemoError> {
        match action {
            Action::BlackHole => self.toggle(
                Condition::BlackHole,
                "black hole: every packet is lost now; keep typing",
            ),
            Action::Unreachable => self.toggle(
                Condition::Unreachable,
                "unreachable: the server half's port refuses every packet now",
            ),
            Action::NewAddress => {
                self.path.take_new_address();
                self.note("the client has a new address now");
                Ok(())
            }
            Action::Reset => {
                self.path.reset_connections();
                self.note("the next packet of every connection is answered with a reset");
                Ok(())
            }
            Action::Help | Action::Quit => {
                put(format!("\r\n{HELP}\r\n").as_bytes());
                Ok(())
            }
        }
    }

    fn toggle(&mut self, condition: Condition, words: &str) -> Result<(), DemoError> {
        if self.path.condition() == condition {
            self.path.set(Condition::Normal).map_err(DemoError::Socket)?;
            self.restored = Some(clock::now());
            self.note("the path works again");
        } else {
            self.path.set(condition).map_err(DemoError::Socket)?;
            self.restored = None;
            self.note(words);
        }
        Ok(())
    }

    fn note(&self, words: &str) {
        let words = self
            .screen
            .features()
            .style(Style::Bold, &format!("[bowline: {words}]"));
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
