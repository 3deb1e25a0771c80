//! Prompts for a passphrase as ssh does: on the terminal, or with an askpass program.
//!
//! Never on stdin or stdout, which carry the session. Follows OpenSSH's `readpass.c`.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::OFlags;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;
use tokio::process::Command;
use zeroize::{Zeroize, Zeroizing};

use super::SkipReason;
use crate::controlling_terminal::is_in_background;

/// Longest passphrase in bytes, as in ssh.
const MAX_PASSPHRASE: usize = 1023;

/// How to prompt.
#[derive(Debug, Clone)]
pub struct Prompter {
    /// The terminal, which is tried first; `None` for none.
    pub terminal: Option<PathBuf>,
    /// The askpass program; `None` for none.
    pub askpass: Option<OsString>,
    /// Use the program even if there is a terminal.
    pub prefer_askpass: bool,
}

impl Prompter {
    /// As `SSH_ASKPASS`, `SSH_ASKPASS_REQUIRE`, `DISPLAY` and `WAYLAND_DISPLAY` say; no prompt in
    /// batch mode.
    pub fn from_environment(batch_mode: bool) -> Self {
        if batch_mode {
            return Self {
                terminal: None,
                askpass: None,
                prefer_askpass: false,
            };
        }
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let has_display = variable("DISPLAY").or_else(|| variable("WAYLAND_DISPLAY")).is_some();
        let require = variable("SSH_ASKPASS_REQUIRE").unwrap_or_default().to_ascii_lowercase();
        let (allowed, prefer_askpass) = match require.to_str() {
            Some("force") => (true, true),
            Some("prefer") => (has_display, has_display),
            Some("never") => (false, false),
            _ => (has_display, false),
        };
        let program = variable("SSH_ASKPASS").unwrap_or_else(|| "ssh-askpass".into());
        Self {
            terminal: Some("/dev/tty".into()),
            askpass: allowed.then_some(program),
            prefer_askpass,
        }
    }

    /// Prompts once. The answer is empty if the user cancels askpass.
    ///
    /// # Errors
    /// `NoPrompt`, `Interrupted` (Ctrl-C at the terminal), `PromptFailed`.
    pub(super) async fn ask(&self, prompt: &str) -> Result<Zeroizing<String>, SkipReason> {
        let askpass = self.askpass.as_ref();
        if let Some(program) = askpass.filter(|_| self.prefer_askpass) {
            return run_askpass(program, prompt).await;
        }
        if let Some(terminal) = self.terminal.as_deref().and_then(Terminal::open) {
            return terminal.ask(prompt).await;
        }
        match askpass {
            Some(program) => run_askpass(program, prompt).await,
            None => Err(SkipReason::NoPrompt),
        }
    }
}

async fn run_askpass(program: &OsString, prompt: &str) -> Result<Zeroizing<String>, SkipReason> {
    let mut command = Command::new(program);
    command
        .arg(prompt)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true);
    let output = command
        .output()
        .await
        .map_err(|error| SkipReason::PromptFailed(error.kind()))?;
    let answer = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Ok(Zeroizing::new(String::new()));
    }
    first_line(&answer)
}

fn first_line(answer: &[u8]) -> Result<Zeroizing<String>, SkipReason> {
    let end = answer
        .iter()
        .position(|byte| matches!(byte, b'\r' | b'\n'))
        .unwrap_or(answer.len());
    let line = &answer[..end.min(MAX_PASSPHRASE)];
    let text = std::str::from_utf8(line).map_err(|_| SkipReason::PromptFailed(ErrorKind::InvalidData))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A terminal without echo. Dropping it restores its settings.
struct Terminal {
    device: AsyncFd<File>,
    before: Termios,
}

impl Terminal {
    /// `None` if it cannot be used: there is no terminal, or this process is in its background and
    /// would be stopped.
    fn open(path: &Path) -> Option<Self> {
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(flags)
            .open(path)
            .ok()?;
        let before = tcgetattr(&device).ok()?;
        if is_in_background(&device) {
            return None;
        }
        let terminal = Self {
            device: watch(device).ok()?,
            before,
        };
        terminal.silence().ok()?;
        Some(terminal)
    }

    fn silence(&self) -> rustix::io::Result<()> {
        let mut silent = self.before.clone();
        silent
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ISIG);
        // Without ISIG, Ctrl-C does not kill the process and leave the terminal without echo.
        // Instead it ends the line and is read.
        silent.special_codes[SpecialCodeIndex::VEOL] = self.before.special_codes[SpecialCodeIndex::VINTR];
        tcsetattr(self.device.get_ref(), OptionalActions::Flush, &silent)
    }

    async fn ask(mut self, prompt: &str) -> Result<Zeroizing<String>, SkipReason> {
        let failed = |error: std::io::Error| SkipReason::PromptFailed(error.kind());
        // The carriage return comes first, as in ssh, to overwrite what was typed before echo was
        // disabled.
        self.write(format!("\r{prompt}").as_bytes()).await.map_err(failed)?;
        let line = self.read_line().await;
        self.write(b"\n").await.map_err(failed)?;
        let line = line.map_err(failed)?;
        let interrupt = self.before.special_codes[SpecialCodeIndex::VINTR];
        if line.last() == Some(&interrupt) {
            return Err(SkipReason::Interrupted);
        }
        first_line(&line)
    }

    async fn write(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.device.writable_mut().await?;
            match ready.try_io(|device| device.get_mut().write(bytes)) {
                Ok(written) => bytes = &bytes[written?..],
                Err(_would_block) => {}
            }
        }
        Ok(())
    }

    /// Reads one line, which the terminal passes on when it is complete. The end of input is an
    /// empty line.
    async fn read_line(&mut self) -> std::io::Result<Zeroizing<Vec<u8>>> {
        // The longest line of the kernel (N_TTY_BUF_SIZE).
        let mut buffer = Zeroizing::new([0; 4096]);
        loop {
            let mut ready = self.device.readable_mut().await?;
            match ready.try_io(|device| device.get_mut().read(buffer.as_mut())) {
                Ok(length) => return Ok(Zeroizing::new(buffer[..length?].to_vec())),
                Err(_would_block) => buffer.zeroize(),
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // If this fails, the terminal is gone.
        let _ = tcsetattr(self.device.get_ref(), OptionalActions::Now, &self.before);
    }
}

#[allow(unsafe_code)]
fn watch(device: File) -> std::io::Result<AsyncFd<File>> {
    // SAFETY: a `File` owns an open descriptor, and nothing replaces or closes the one in the
    // `AsyncFd`.
    Ok(unsafe { AsyncFd::register(device)? })
}

#[cfg(test)]
mod tests;
