//! Content whose every byte can be checked: seeded pseudo-random files, and SHA-256.

use super::link::Rng;
use aws_lc_rs::digest::{Context, Digest, SHA256, digest};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// One mebibyte.
pub const MIB: u64 = 1024 * 1024;

/// `length` pseudo-random bytes, the same for the same seed: incompressible, so a tunnel cannot cheat.
pub fn random_bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&rng.draw().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Such bytes without end, known at every place: a stream of any length is checked without keeping it.
#[derive(Clone, Copy, Debug)]
pub struct Pattern {
    seed: u64,
}

impl Pattern {
    /// The same for the same seed.
    pub fn new(seed: u64) -> Pattern {
        Pattern { seed }
    }

    /// The bytes from offset `at` on.
    pub fn fill(self, at: u64, bytes: &mut [u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let offset = at + done as u64;
            let word = Rng::at(self.seed, offset / 8).to_le_bytes();
            let word = &word[(offset % 8) as usize..];
            let length = word.len().min(bytes.len() - done);
            bytes[done..done + length].copy_from_slice(&word[..length]);
            done += length;
        }
    }

    /// The offset of the first of these bytes, which are at offset `at`, that is not as it should be.
    pub fn first_difference(self, at: u64, bytes: &[u8]) -> Option<u64> {
        let mut expected = vec![0; bytes.len()];
        self.fill(at, &mut expected);
        if expected == bytes {
            return None;
        }
        let wrong = expected.iter().zip(bytes).position(|(expected, is)| expected != is);
        wrong.map(|place| at + place as u64)
    }
}

/// Writes such bytes to a new file.
pub fn random_file(path: &Path, seed: u64, length: u64) {
    let mut rng = Rng::new(seed);
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).expect("a file in the scratch folder"));
    for _ in 0..length / 8 {
        file.write_all(&rng.draw().to_le_bytes())
            .expect("room in the scratch folder");
    }
    file.write_all(&rng.draw().to_le_bytes()[..(length % 8) as usize])
        .expect("room in the scratch folder");
    file.flush().expect("room in the scratch folder");
}

/// A folder of `files` files of mixed sizes, `total` bytes together, in two levels.
pub fn random_tree(root: &Path, seed: u64, files: u64, total: u64) {
    let mut rng = Rng::new(seed);
    for i in 0..files {
        let dir = root.join(format!("d{}", i % 7));
        std::fs::create_dir_all(&dir).expect("a folder in the scratch folder");
        let length = total / files / 2 + rng.draw() % (total / files).max(1);
        random_file(&dir.join(format!("f{i}")), rng.draw(), length);
    }
}

/// SHA-256 of a stream, and its length.
pub fn hash_stream(mut stream: impl Read) -> io::Result<(Hash, u64)> {
    let mut context = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 18];
    let mut length = 0;
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok((Hash::of(&context.finish()), length));
        }
        length += n as u64;
        context.update(&buffer[..n]);
    }
}

/// SHA-256 of a file.
pub fn hash_file(path: &Path) -> Hash {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    hash_stream(file)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .0
}

/// SHA-256 of bytes in memory.
pub fn hash_bytes(bytes: &[u8]) -> Hash {
    Hash::of(&digest(&SHA256, bytes))
}

/// SHA-256 over every file of a folder, names included, in a fixed order.
pub fn hash_tree(root: &Path) -> Hash {
    let mut names = vec![];
    collect(root, &mut names);
    names.sort();
    let mut context = Context::new(&SHA256);
    for name in names {
        context.update(
            name.strip_prefix(root)
                .expect("found below the root")
                .as_os_str()
                .as_encoded_bytes(),
        );
        context.update(hash_file(&name).0.as_bytes());
    }
    Hash::of(&context.finish())
}

fn collect(dir: &Path, names: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .flatten()
    {
        if entry.path().is_dir() {
            collect(&entry.path(), names);
        } else {
            names.push(entry.path());
        }
    }
}

/// A SHA-256 in hexadecimal: a failed comparison prints it readably.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hash(pub String);

impl Hash {
    fn of(digest: &Digest) -> Hash {
        Hash(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

/// The bytes with one part of them replaced, wherever it stands, by another of the same length.
///
/// # Panics
/// When it does not stand there, or the lengths differ.
pub fn replaced(bytes: &[u8], part: &[u8], by: &[u8]) -> bytes::Bytes {
    assert_eq!(part.len(), by.len(), "lengths stand in front of texts");
    let mut bytes = bytes.to_vec();
    let mut found = 0;
    for at in 0..bytes.len().saturating_sub(part.len() - 1) {
        if bytes[at..].starts_with(part) {
            bytes[at..at + by.len()].copy_from_slice(by);
            found += 1;
        }
    }
    assert!(found > 0, "nothing to replace");
    bytes.into()
}
