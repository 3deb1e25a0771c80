//! The counter in the remote shell: what it runs, and whether every number came once and in order.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::DemoError;
use super::ssh_client::{Input, Output, Remote, RemoteProcess};
use crate::clock;

/// Time between two numbers.
pub(super) const COUNT_INTERVAL: Duration = Duration::from_millis(50);

/// What the remote shell exits with, to see that it arrives.
pub(super) const EXIT_CODE: u32 = 7;

/// How long the last numbers may take after the shell was told to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Counts until a line comes in, then exits with [`EXIT_CODE`].
///
/// Whatever shell the user has hands it on to sh.
pub(super) const COMMAND: &str = "exec sh -c '(n=0; while :; do n=$((n+1)); echo $n; sleep 0.05; done) & read stop; \
                                  kill $!; exit 7'";

/// The latest number, and when it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) number: u64,
    pub(super) at: Instant,
}

/// A counter that runs.
pub(super) struct Counter {
    input: Input,
    output: Output,
    process: RemoteProcess,
    sequence: Sequence,
    readings: watch::Sender<Reading>,
}

impl Counter {
    /// Takes what runs [`COMMAND`]. Each number is told to those who watch.
    pub(super) fn new(remote: Remote) -> (Counter, watch::Receiver<Reading>) {
        let (readings, watched) = watch::channel(Reading {
            number: 0,
            at: clock::now(),
        });
        let counter = Counter {
            input: remote.input,
            output: remote.output,
            process: remote.process,
            sequence: Sequence::default(),
            readings,
        };
        (counter, watched)
    }

    /// Reads numbers until something is wrong with them, or for ever. Cancel safe.
    pub(super) async fn listen(&mut self) -> DemoError {
        loop {
            match self.read().await {
                Ok(true) => {}
                Ok(false) => {
                    return DemoError::EarlyEnd {
                        said: self.process.stderr_text(),
                    };
                }
                Err(error) => return error,
            }
        }
    }

    /// Has the remote shell stop. Gives the last number and the exit code.
    ///
    /// # Errors
    /// A number is missing or came twice, up to the very last; or the session did not end.
    pub(super) async fn stop(mut self) -> Result<(u64, u32), DemoError> {
        self.input.write_all(b"stop\n").await.map_err(DemoError::Stream)?;
        let rest = async {
            while self.read().await? {}
            Ok::<_, DemoError>(())
        };
        tokio::time::timeout(STOP_TIMEOUT, rest)
            .await
            .map_err(|_| DemoError::DoesNotEnd)??;
        drop(self.input);
        Ok((self.sequence.last, self.process.wait().await?))
    }

    /// `false` at the end.
    async fn read(&mut self) -> Result<bool, DemoError> {
        let mut buffer = [0; 4096];
        let count = self.output.read(&mut buffer).await.map_err(DemoError::Stream)?;
        self.sequence.take(&buffer[..count])?;
        if self.sequence.last > self.readings.borrow().number {
            self.readings.send_replace(Reading {
                number: self.sequence.last,
                at: clock::now(),
            });
        }
        Ok(count > 0)
    }
}

/// The numbers are not 1, 2, 3 and so on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OutOfOrder {
    /// Numbers are missing, or came again.
    #[error("expected number {expected} from the remote shell, got {found}")]
    Jump {
        /// The number that was due.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// Something else came.
    #[error("expected number {expected} from the remote shell, got {found:?}")]
    NoNumber {
        /// The number that was due.
        expected: u64,
        /// What came.
        found: String,
    },
}

/// Lines that should be 1, 2, 3 and so on.
#[derive(Debug, Default)]
struct Sequence {
    last: u64,
    line: Vec<u8>,
}

impl Sequence {
    fn take(&mut self, bytes: &[u8]) -> Result<(), OutOfOrder> {
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.take_line(&line)?;
            } else {
                self.line.push(*byte);
            }
        }
        Ok(())
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), OutOfOrder> {
        let expected = self.last + 1;
        let text = String::from_utf8_lossy(line);
        match text.trim_end().parse() {
            Ok(found) if found == expected => self.last = found,
            Ok(found) => return Err(OutOfOrder::Jump { expected, found }),
            Err(_) => {
                let found = text.chars().take(80).collect();
                return Err(OutOfOrder::NoNumber { expected, found });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(chunks: &[&str]) -> Result<u64, OutOfOrder> {
        let mut sequence = Sequence::default();
        for chunk in chunks {
            sequence.take(chunk.as_bytes())?;
        }
        Ok(sequence.last)
    }

    #[test]
    fn numbers_cut_anywhere_count_once_they_are_whole() {
        assert_eq!(taken(&["1\n2\n3\n4\n5\n6\n7\n8\n9\n1", "0\n1", "1"]), Ok(10));
    }

    #[test]
    fn a_missing_number_and_one_that_came_twice_are_found() {
        let jump = |expected, found| Err(OutOfOrder::Jump { expected, found });
        assert_eq!(taken(&["1\n2\n4\n"]), jump(3, 4));
        assert_eq!(taken(&["1\n2\n", "2\n3\n"]), jump(3, 2));
    }

    #[test]
    fn what_is_no_number_is_shown() {
        let Err(OutOfOrder::NoNumber { expected: 2, found }) = taken(&["1\nsh: sleep: not found\n"]) else {
            panic!("not a number")
        };
        assert_eq!(found, "sh: sleep: not found");
    }

    #[test]
    fn the_command_is_as_the_constants_say() {
        assert!(COMMAND.contains(&format!("exit {EXIT_CODE}'")));
        assert!(COMMAND.contains(&format!("sleep {}", COUNT_INTERVAL.as_secs_f64())));
    }
}
