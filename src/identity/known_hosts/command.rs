//! `KnownHostsCommand`: a program that prints known_hosts lines. It is run as ssh runs it
//! (`load_hostkeys_command()` in OpenSSH's `sshconnect.c`).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use russh::keys::ssh_encoding::base64::{Base64, Encoding};
use thiserror::Error;
use tokio::process::Command;
use tokio::time::timeout;

use super::ServerKey;

/// Longest run. ssh has no limit, but a server half waits no longer for its first hello.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// Marks a token in an argument that is expanded at each run. No argument in a configuration
/// contains this byte.
pub(crate) const DEFERRED: u8 = 0x1e;

/// The tokens whose values differ from run to run: host, reason, fingerprint, key and key type.
pub(crate) const DEFERRED_TOKENS: &[u8] = b"HIfKt";

/// The program and its arguments, expanded except for [`DEFERRED_TOKENS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHostsCommand {
    program: PathBuf,
    arguments: Vec<OsString>,
}

/// The program failed. As in ssh, no connection is made then.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The program cannot be run.
    #[error("cannot run KnownHostsCommand {}", program.display())]
    NotRunnable {
        /// The program.
        program: PathBuf,
        /// The error of the system call.
        source: std::io::Error,
    },
    /// The program exited with an error.
    #[error("KnownHostsCommand {} failed ({status})", program.display())]
    Failed {
        /// The program.
        program: PathBuf,
        /// Its exit status.
        status: ExitStatus,
    },
    /// The program did not end in time.
    #[error("KnownHostsCommand {} did not end within {COMMAND_TIMEOUT:?}", program.display())]
    TimedOut {
        /// The program.
        program: PathBuf,
    },
}

impl KnownHostsCommand {
    /// From words in which the ordinary tokens are expanded already; `None` if there are no words.
    pub(crate) fn of_words(words: Vec<OsString>) -> Option<KnownHostsCommand> {
        let mut words = words.into_iter();
        let program = PathBuf::from(words.next()?);
        Some(KnownHostsCommand {
            program,
            arguments: words.collect(),
        })
    }

    /// The program.
    pub fn program(&self) -> &std::path::Path {
        &self.program
    }

    /// The lines for `name` before any key of the host is known. ssh asks this way to order the
    /// algorithms.
    ///
    /// # Errors
    /// `CommandError`.
    pub async fn ask(&self, name: &str) -> Result<Vec<u8>, CommandError> {
        self.run(name, None).await
    }

    /// The lines for `name` and the keys that the host has proved. One run is enough if the
    /// arguments do not contain the key.
    ///
    /// # Errors
    /// `CommandError`.
    pub(crate) async fn ask_about(&self, name: &str, keys: &[ServerKey]) -> Result<Vec<u8>, CommandError> {
        let is_told = |argument: &OsString| {
            let pairs = argument.as_bytes().windows(2);
            pairs
                .into_iter()
                .any(|pair| pair[0] == DEFERRED && b"fKt".contains(&pair[1]))
        };
        let runs = if self.arguments.iter().any(is_told) {
            keys.len()
        } else {
            1
        };
        let mut lines = Vec::new();
        for key in keys.iter().take(runs) {
            lines.extend(self.run(name, Some(key)).await?);
            lines.push(b'\n');
        }
        Ok(lines)
    }

    async fn run(&self, name: &str, key: Option<&ServerKey>) -> Result<Vec<u8>, CommandError> {
        let program = || self.program.clone();
        let mut command = Command::new(&self.program);
        command.args(self.arguments.iter().map(|argument| expand(argument, name, key)));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        command.kill_on_drop(true);
        let not_runnable = |source| CommandError::NotRunnable {
            program: program(),
            source,
        };
        // As in ssh, the program is not searched in PATH.
        if !self.program.is_absolute() {
            return Err(not_runnable(std::io::ErrorKind::NotFound.into()));
        }
        let child = command.spawn().map_err(not_runnable)?;
        let output = timeout(COMMAND_TIMEOUT, child.wait_with_output()).await;
        let output = output.map_err(|_| CommandError::TimedOut { program: program() })?;
        let output = output.map_err(not_runnable)?;
        match output.status.success() {
            true => Ok(output.stdout),
            false => Err(CommandError::Failed {
                program: program(),
                status: output.status,
            }),
        }
    }
}

fn expand(argument: &OsStr, name: &str, key: Option<&ServerKey>) -> OsString {
    let none = || "NONE".to_owned();
    let mut expanded = Vec::new();
    let mut bytes = argument.as_bytes().iter();
    while let Some(&byte) = bytes.next() {
        if byte != DEFERRED {
            expanded.push(byte);
            continue;
        }
        let value = match bytes.next() {
            Some(b'H') => name.to_owned(),
            Some(b'I') => if key.is_some() { "HOSTNAME" } else { "ORDER" }.to_owned(),
            Some(b'f') => key.map_or_else(none, |key| key.fingerprint().to_string()),
            Some(b't') => key.map_or_else(none, |key| key.key_data().algorithm().to_string()),
            Some(b'K') => key.map_or_else(none, |key| Base64::encode_string(&key.blob())),
            _ => String::new(),
        };
        expanded.extend(value.into_bytes());
    }
    OsString::from_vec(expanded)
}

/// Splits a command line into words as OpenSSH's `argv_split()` does; `None` if a quotation mark is
/// not closed.
pub(crate) fn split_words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words: Vec<Vec<u8>> = Vec::new();
    let mut bytes = line.iter().copied().peekable();
    while bytes.peek().is_some() {
        while bytes.next_if(|byte| matches!(byte, b' ' | b'\t')).is_some() {}
        if bytes.peek().is_none() {
            break;
        }
        let (mut word, mut quote) = (Vec::new(), None);
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => {
                    let is_escape =
                        |next: &u8| matches!(next, b'\'' | b'"' | b'\\') || (quote.is_none() && *next == b' ');
                    word.push(bytes.next_if(is_escape).unwrap_or(b'\\'));
                }
                b' ' | b'\t' if quote.is_none() => break,
                b'"' | b'\'' if quote.is_none() => quote = Some(byte),
                byte if quote == Some(byte) => quote = None,
                byte => word.push(byte),
            }
        }
        if quote.is_some() {
            return None;
        }
        words.push(word);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_as_ssh_splits_it() {
        let words = |line: &str| {
            let words = split_words(line.as_bytes())?;
            let text = words.into_iter().map(|word| String::from_utf8(word).unwrap());
            Some(text.collect::<Vec<_>>())
        };
        assert_eq!(
            words(r#" /bin/a "b c"  d\ e 'f"g' h\i "#).unwrap(),
            ["/bin/a", "b c", "d e", "f\"g", r"h\i"]
        );
        assert_eq!(words("").unwrap(), [] as [&str; 0]);
        assert_eq!(words("a \"b"), None);
    }
}
