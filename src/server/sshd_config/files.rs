//! The lines of sshd's configuration files, split into words as sshd does.
//!
//! By hand, because no crate reads sshd_config as sshd does. Their effect is read from `sshd -T`. The files are read for what that does not print: the criteria of `Match`, the
//! position of each line, and the host keys if sshd cannot be asked.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::identity::authorized_keys::Stamp;
use crate::identity::glob_matches;

/// Base folder of relative `Include` paths.
const SSH_FOLDER: &str = "/etc/ssh";

/// The most files read, and how deep includes may be nested (sshd's limit is 16).
const MAX_FILES: usize = 256;
const MAX_DEPTH: usize = 16;

/// The largest file read, in bytes.
const MAX_LENGTH: u64 = 4 * 1024 * 1024;

/// One line of a configuration file that is neither empty nor a comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1.
    pub number: usize,
    /// Its text, trimmed.
    pub text: String,
    /// In lower case.
    pub(super) keyword: String,
    pub(super) arguments: Vec<String>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.number, self.text)
    }
}

/// Why a part of the configuration is not known.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A file or folder could not be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The error of reading.
        source: io::Error,
    },
    /// The file is too large, there are too many files, or they include each other in a circle.
    #[error("{} is too large, or there are too many included files", path.display())]
    TooMuch {
        /// The file.
        path: PathBuf,
    },
    /// The line cannot be split into words.
    #[error("{}:{number} cannot be parsed: it has an unterminated quotation mark or a zero byte", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        number: usize,
    },
    /// bowline cannot expand this `Include`.
    #[error("{line}: bowline supports wildcards only in the last part of a path, and no brackets")]
    Include {
        /// The line.
        line: Line,
    },
}

/// The state of a file or folder; `None` if it did not exist.
pub(super) type FileState = (PathBuf, Option<Stamp>);

/// The current state of `path`.
pub(super) fn look(path: &Path) -> FileState {
    let stamp = fs::metadata(path).ok().map(|metadata| Stamp::of(&metadata));
    (path.to_owned(), stamp)
}

/// A configuration file and everything it includes, as far as it can be read.
#[derive(Debug, Default)]
pub(super) struct ConfigFiles {
    /// In sshd's order.
    pub(super) lines: Vec<Line>,
    /// Every file and folder that was read.
    pub(super) seen: Vec<FileState>,
    /// The first error; if there is one, lines may be missing.
    pub(super) unreadable: Option<Unreadable>,
    files: usize,
}

impl ConfigFiles {
    pub(super) fn read(config: &Path) -> ConfigFiles {
        let mut files = ConfigFiles::default();
        files.file(config, 0);
        files
    }

    /// Reads a file without following its includes.
    pub(super) fn read_text(&mut self, path: &Path) -> Option<String> {
        // Taken before reading: a write in between then counts as a change.
        self.seen.push(look(path));
        match read(path) {
            Ok(text) => Some(text),
            Err(unreadable) => {
                self.unreadable.get_or_insert(unreadable);
                None
            }
        }
    }

    fn file(&mut self, path: &Path, depth: usize) {
        self.files += 1;
        if self.files > MAX_FILES || depth > MAX_DEPTH {
            let path = path.to_owned();
            self.unreadable.get_or_insert(Unreadable::TooMuch { path });
            return;
        }
        let Some(content) = self.read_text(path) else { return };
        for (number, text) in (1..).zip(content.split('\n')) {
            let split = split(text).filter(|_| !text.contains('\0'));
            let Some((keyword, arguments)) = split else {
                let path = path.to_owned();
                self.unreadable.get_or_insert(Unreadable::Line { path, number });
                continue;
            };
            if keyword.is_empty() {
                continue;
            }
            let line = Line {
                path: path.to_owned(),
                number,
                text: text.trim().to_owned(),
                keyword,
                arguments,
            };
            if line.keyword == "include" {
                self.include(&line, depth);
            }
            self.lines.push(line);
        }
    }

    fn include(&mut self, line: &Line, depth: usize) {
        for pattern in &line.arguments {
            match self.expand(pattern) {
                Ok(Some(paths)) => paths.iter().for_each(|path| self.file(path, depth + 1)),
                Ok(None) => {
                    let line = line.clone();
                    self.unreadable.get_or_insert(Unreadable::Include { line });
                }
                Err(unreadable) => {
                    self.unreadable.get_or_insert(unreadable);
                }
            }
        }
    }

    /// The files that a pattern matches; `None` if bowline cannot expand it. Wildcards are supported in the last part
    /// of the path only, as in `sshd_config.d/*.conf`.
    fn expand(&mut self, pattern: &str) -> Result<Option<Vec<PathBuf>>, Unreadable> {
        let path = Path::new(SSH_FOLDER).join(pattern);
        let Some((folder, name)) = path.parent().zip(path.file_name().and_then(|name| name.to_str())) else {
            return Ok(None);
        };
        let is_wild = |text: &str| text.contains(['*', '?', '[', '\\']);
        if name.contains(['[', '\\']) || folder.to_str().is_none_or(is_wild) {
            return Ok(None);
        }
        if !is_wild(name) {
            self.seen.push(look(&path));
            return match fs::metadata(&path) {
                // sshd also ignores missing files.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(Vec::new())),
                _ => Ok(Some(vec![path])),
            };
        }
        self.seen.push(look(folder));
        let failed = |error: io::Error| unreadable(folder, error);
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Some(Vec::new())),
            Err(error) => return Err(failed(error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let file = entry.map_err(failed)?.file_name();
            let text = file.to_string_lossy();
            if glob_matches(text.as_bytes(), name.as_bytes()) && (!text.starts_with('.') || name.starts_with('.')) {
                files.push(folder.join(&file));
            }
        }
        files.sort();
        Ok(Some(files))
    }
}

fn read(path: &Path) -> Result<String, Unreadable> {
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, error))?;
    if metadata.len() > MAX_LENGTH {
        let path = path.to_owned();
        return Err(Unreadable::TooMuch { path });
    }
    let content = fs::read(path).map_err(|error| unreadable(path, error))?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

fn unreadable(path: &Path, source: io::Error) -> Unreadable {
    let path = path.to_owned();
    Unreadable::File { path, source }
}

/// Keyword in lower case and arguments, both empty for a comment; `None` if a quotation mark is not closed.
///
/// As `strdelim` and `argv_split` of OpenSSH: the keyword ends at white space, a quotation mark or `=`; arguments may
/// be quoted in part or as a whole, `\` escapes quotation marks, white space and itself, and a word that starts with
/// `#` begins a comment.
fn split(text: &str) -> Option<(String, Vec<String>)> {
    let text = text.trim();
    if text.starts_with('#') {
        return Some(Default::default());
    }
    let is_end = |character: char| character.is_ascii_whitespace() || matches!(character, '=' | '"');
    let (keyword, rest) = match text.strip_prefix('"') {
        Some(quoted) => quoted.split_once('"')?,
        None => text.split_at(text.find(is_end).unwrap_or(text.len())),
    };
    let rest = rest.trim_start_matches(|character: char| character.is_ascii_whitespace() || character == '=');
    Some((keyword.to_ascii_lowercase(), words(rest)?))
}

fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = text.chars().peekable();
    loop {
        while rest.next_if(char::is_ascii_whitespace).is_some() {}
        match rest.peek() {
            None | Some('#') => return Some(words),
            Some(_) => {}
        }
        let (mut word, mut quote) = (String::new(), None);
        while let Some(character) = rest.next_if(|character| quote.is_some() || !character.is_ascii_whitespace()) {
            match character {
                '\\' if rest.peek().is_some_and(|next| matches!(next, '\'' | '"' | '\\' | ' ')) => {
                    word.extend(rest.next())
                }
                '\'' | '"' if quote == Some(character) => quote = None,
                '\'' | '"' if quote.is_none() => quote = Some(character),
                _ => word.push(character),
            }
        }
        if quote.is_some() {
            return None;
        }
        words.push(word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> Option<Vec<String>> {
        let (keyword, arguments) = split(text)?;
        Some([vec![keyword], arguments].concat())
    }

    #[test]
    fn lines_are_split_as_openssh_splits_them() {
        for (text, expected) in [
            ("# Match Host x", &[""][..]),
            ("  ", &[""]),
            ("MATCH Address 10.0.0.0/8", &["match", "Address", "10.0.0.0/8"]),
            ("match=user \"a b\"", &["match", "user", "a b"]),
            ("\"Match\" Add\"ress\" x", &["match", "Address", "x"]),
            ("HostKey = '/a b' # c", &["hostkey", "/a b"]),
            ("Include a\\ b c\\d", &["include", "a b", "c\\d"]),
            ("Match User \"\" Host all", &["match", "User", "", "Host", "all"]),
            ("Banner \"#x\"\r", &["banner", "#x"]),
        ] {
            assert_eq!(parts(text).unwrap(), expected, "{text}");
        }
        assert_eq!(parts("Match User \"bob"), None);
        assert_eq!(parts("\"Match User bob"), None);
    }

    #[test]
    fn included_files_are_read_in_order_and_their_places_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("a d")).unwrap();
        for (name, text) in [
            ("20-b.conf", "B 1"),
            ("10-a.conf", "\nA 1"),
            (".c.conf", "C 1"),
            ("d", "D 1"),
        ] {
            fs::write(path("a d").join(name), text).unwrap();
        }
        let text = format!(
            "First 1\nInclude \"{0}/*.conf\" /nonexistent/*.conf /nonexistent/x\nLast\n",
            path("a d").display()
        );
        fs::write(path("main"), text).unwrap();
        let read = ConfigFiles::read(&path("main"));
        assert!(read.unreadable.is_none());
        let lines: Vec<_> = read
            .lines
            .iter()
            .map(|line| (line.keyword.as_str(), line.number))
            .collect();
        assert_eq!(lines, [("first", 1), ("a", 2), ("b", 1), ("include", 2), ("last", 3)]);
        let seen: Vec<_> = read
            .seen
            .iter()
            .map(|(path, stamp)| (path.as_path(), stamp.is_some()))
            .collect();
        let (main, parts) = (path("main"), path("a d"));
        let (a, b) = (parts.join("10-a.conf"), parts.join("20-b.conf"));
        let expected = [
            (main.as_path(), true),
            (&parts, true),
            (&a, true),
            (&b, true),
            (Path::new("/nonexistent"), false),
            (Path::new("/nonexistent/x"), false),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_cannot_be_read_or_followed_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let unreadable = |text: &str| {
            fs::write(path("main"), text).unwrap();
            ConfigFiles::read(&path("main")).unreadable
        };
        fs::create_dir(path("folder")).unwrap();
        let at = |name: &str| path(name).display().to_string();
        assert!(matches!(
            ConfigFiles::read(&path("none")).unreadable,
            Some(Unreadable::File { .. })
        ));
        let is_file = |text: &str| matches!(unreadable(text), Some(Unreadable::File { .. }));
        assert!(is_file(&format!("Include {}\n", at("folder"))));
        assert!(is_file(&format!("Include {}/*\n", at("main"))));
        let is_include = |text: &str| matches!(unreadable(text), Some(Unreadable::Include { .. }));
        assert!(is_include(&format!("Include {}/*/x.conf\n", at("folder"))));
        assert!(is_include(&format!("Include {}/[a-z].conf\n", at("folder"))));
        let is_line = |text: &str| matches!(unreadable(text), Some(Unreadable::Line { number: 2, .. }));
        assert!(is_line("Port 22\nMat\0\nch Address x"));
        assert!(is_line("Port 22\nMatch User \"x\n"));
        let circle = format!("Include {}\n", at("main")).repeat(3);
        assert!(matches!(unreadable(&circle), Some(Unreadable::TooMuch { .. })));
    }
}
