//! The file that travels all along: up to the other side, written there, and back again.
//!
//! It is sent at the pace of the show, not as fast as it would go: there must be something left for every outage.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use aws_lc_rs::digest;
use data_encoding::HEXLOWER;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::DemoError;
use super::fixture::Fixture;
use super::ssh_client::{Input, Output, SshClient};
use crate::{clock, random};

/// Bytes of the file. The sender, the receiver and one copy in the temporary folder make 64 MiB on disk.
pub(super) const SIZE: u64 = 32 << 20;

/// Bytes read or written at once.
const CHUNK: usize = 64 * 1024;

/// Bytes that have gone up, and that have come back.
#[derive(Debug, Default)]
pub(super) struct Progress {
    sent: AtomicU64,
    returned: AtomicU64,
}

/// SHA-256 of some bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hash([u8; digest::SHA256_OUTPUT_LEN]);

/// The three copies at the end.
#[derive(Clone, Copy, Debug)]
struct Copies {
    sent: Hash,
    received: Hash,
    returned: Hash,
}

impl Progress {
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    pub(super) fn returned(&self) -> u64 {
        self.returned.load(Relaxed)
    }
}

/// Sends a file of random bytes within about `pace`, and compares what arrived and what came back. Gives its hash.
///
/// # Errors
/// `Damaged` where they differ, `EarlyEnd` or `Stream` where the session ends; or a full disk.
pub(super) async fn run(
    fixture: &Fixture,
    ssh_client: &SshClient,
    pace: Duration,
    progress: Arc<Progress>,
) -> Result<Hash, DemoError> {
    let (from, to) = (fixture.folder.path("sent"), fixture.folder.path("received"));
    let sent = write_random(&from).await.map_err(at(&from))?;
    let command = format!("exec tee {}", quoted(&to));
    let remote = ssh_client.run(fixture, &command).await?;
    let (up, down) = tokio::join!(
        upload(&from, remote.input, pace, &progress),
        download(remote.output, &progress)
    );
    let returned = match (up, down) {
        (Ok(()), Ok(returned)) if progress.returned() == SIZE => returned,
        (Err(error @ DemoError::File { .. }), _) => return Err(error),
        (Ok(()), Err(error)) => return Err(error),
        _ => {
            let said = remote.process.stderr_text();
            return Err(DemoError::EarlyEnd { said });
        }
    };
    match remote.process.wait().await? {
        0 => {}
        code => return Err(DemoError::TransferFailed { code }),
    }
    #[cfg(debug_assertions)]
    if crate::fault::damages_files() {
        damage(&to).map_err(at(&to))?;
    }
    let received = hash_file(&to).await.map_err(at(&to))?;
    let copies = Copies {
        sent,
        received,
        returned,
    };
    copies.compare()
}

impl Copies {
    fn compare(self) -> Result<Hash, DemoError> {
        for (copy, found) in [
            ("the file written on the other side", self.received),
            ("the file that came back", self.returned),
        ] {
            if found != self.sent {
                let expected = self.sent;
                return Err(DemoError::Damaged { copy, expected, found });
            }
        }
        Ok(self.sent)
    }
}

async fn upload(from: &Path, mut to: Input, pace: Duration, progress: &Progress) -> Result<(), DemoError> {
    let mut file = tokio::fs::File::open(from).await.map_err(at(from))?;
    let begun = clock::now();
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = file.read(&mut chunk).await.map_err(at(from))?;
        if count == 0 {
            return to.shutdown().await.map_err(DemoError::Stream);
        }
        to.write_all(&chunk[..count]).await.map_err(DemoError::Stream)?;
        let sent = progress.sent.fetch_add(count as u64, Relaxed) + count as u64;
        clock::sleep_until(begun + pace.mul_f64(sent as f64 / SIZE as f64)).await;
    }
}

async fn download(mut from: Output, progress: &Progress) -> Result<Hash, DemoError> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = from.read(&mut chunk).await.map_err(DemoError::Stream)?;
        if count == 0 {
            return Ok(Hash::of(hash));
        }
        hash.update(&chunk[..count]);
        progress.returned.fetch_add(count as u64, Relaxed);
    }
}

async fn write_random(path: &Path) -> std::io::Result<Hash> {
    let mut file = tokio::fs::File::create_new(path).await?;
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut chunk = vec![0; CHUNK];
    for _ in 0..SIZE / CHUNK as u64 {
        random::fill(&mut chunk);
        hash.update(&chunk);
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    Ok(Hash::of(hash))
}

async fn hash_file(path: &Path) -> std::io::Result<Hash> {
    let mut file = tokio::fs::File::open(path).await?;
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut chunk = vec![0; CHUNK];
    loop {
        let count = file.read(&mut chunk).await?;
        if count == 0 {
            return Ok(Hash::of(hash));
        }
        hash.update(&chunk[..count]);
    }
}

/// Changes one bit of a file: a test wants to see that it is found.
#[cfg(debug_assertions)]
fn damage(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, SIZE / 2)?;
    byte[0] ^= 1;
    file.write_all_at(&byte, SIZE / 2)
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> DemoError {
    let path = PathBuf::from(path);
    move |source| DemoError::File { path, source }
}

/// A word for any shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}

impl Hash {
    pub(super) fn of(context: digest::Context) -> Hash {
        let digest = context.finish();
        Hash(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(bytes: &[u8]) -> Hash {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(bytes);
        Hash::of(context)
    }

    #[test]
    fn a_copy_that_differs_is_named() {
        let (good, bad) = (hash(b"abc"), hash(b"abd"));
        let judged = |received, returned| {
            let copies = Copies {
                sent: good,
                received,
                returned,
            };
            match copies.compare() {
                Err(DemoError::Damaged { copy, .. }) => copy,
                _ => "none",
            }
        };
        assert_eq!(judged(good, good), "none");
        assert_eq!(judged(bad, good), "the file written on the other side");
        assert_eq!(judged(good, bad), "the file that came back");
    }

    #[test]
    fn a_hash_reads_as_sha256sum_shows_it() {
        assert_eq!(
            hash(b"abc").to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
