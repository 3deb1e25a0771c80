//! The lines of sshd's configuration that look at a client's address.
//!
//! For messages, and to know that there are none: what the configuration *means* is for `sshd -T` to say. Files that
//! cannot be read are passed over, and it is told that there were some.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::identity::authorized_keys::wildcard;

/// Where sshd looks for files that are included by a relative name.
const SSH_FOLDER: &str = "/etc/ssh";

/// Most files looked at, and how deep they may include each other (sshd stops at 16).
const MAX_FILES: usize = 256;
const MAX_DEPTH: usize = 16;

/// Criteria of `Match` that a connection over loopback meets differently.
const CRITERIA: [&str; 5] = ["address", "host", "localaddress", "localport", "rdomain"];

/// A line that treats clients by their address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchLine {
    /// The file.
    pub path: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// What it says, without blanks around it.
    pub text: String,
}

impl MatchLine {
    /// Whether it matches the client's host name.
    pub(super) fn looks_at_names(&self) -> bool {
        let words = words(&self.text);
        let is = |word: Option<&&str>, name: &str| word.is_some_and(|word| word.eq_ignore_ascii_case(name));
        is(words.first(), "match") && words.iter().any(|word| is(Some(word), "host"))
    }
}

impl fmt::Display for MatchLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.text)
    }
}

/// What was found.
pub(super) struct Found {
    /// In sshd's order.
    pub(super) lines: Vec<MatchLine>,
    /// Whether everything could be read.
    pub(super) is_whole: bool,
}

/// All such lines of the configuration file and what it includes.
pub(super) fn find(config: &Path) -> Found {
    let mut search = Search::default();
    search.file(config, 0);
    Found {
        lines: search.found,
        is_whole: !search.passed_over,
    }
}

#[derive(Default)]
struct Search {
    files: usize,
    found: Vec<MatchLine>,
    passed_over: bool,
}

impl Search {
    fn file(&mut self, path: &Path, depth: usize) {
        self.files += 1;
        let content = fs::read(path).ok();
        let Some(content) = content.filter(|_| self.files <= MAX_FILES && depth <= MAX_DEPTH) else {
            self.passed_over = true;
            return;
        };
        for (line, text) in (1..).zip(String::from_utf8_lossy(&content).lines()) {
            let text = text.trim();
            let words = words(text);
            let Some((keyword, arguments)) = words.split_first() else {
                continue;
            };
            match keyword.to_ascii_lowercase().as_str() {
                "include" => arguments.iter().for_each(|pattern| match expand(pattern) {
                    Some(paths) => paths.iter().for_each(|path| self.file(path, depth + 1)),
                    None => self.passed_over = true,
                }),
                keyword if by_address(keyword, arguments) => self.found.push(MatchLine {
                    path: path.to_owned(),
                    line,
                    text: text.to_owned(),
                }),
                _ => {}
            }
        }
    }
}

fn by_address(keyword: &str, arguments: &[&str]) -> bool {
    match keyword {
        "match" => arguments
            .iter()
            .any(|word| CRITERIA.contains(&word.trim_start_matches('!').to_ascii_lowercase().as_str())),
        "allowusers" | "denyusers" => arguments.iter().any(|pattern| pattern.contains('@')),
        _ => false,
    }
}

/// The words of a line; `Keyword=value` counts as two, quotation marks are taken off.
fn words(text: &str) -> Vec<&str> {
    if text.starts_with('#') {
        return Vec::new();
    }
    let separators = |character: char| character.is_ascii_whitespace() || character == '=';
    let words = text.split(separators).map(|word| word.trim_matches('"'));
    words.filter(|word| !word.is_empty()).collect()
}

/// The files that a pattern names; `None` where that cannot be told. Wildcards only in the last part of the path, as
/// in `sshd_config.d/*.conf`.
fn expand(pattern: &str) -> Option<Vec<PathBuf>> {
    let path = Path::new(SSH_FOLDER).join(pattern);
    let (folder, name) = (path.parent()?, path.file_name()?.to_str()?);
    let is_wild = |text: &str| text.contains(['*', '?', '[']);
    if name.contains('[') || is_wild(folder.to_str()?) {
        return None;
    }
    if !is_wild(name) {
        // sshd passes over what is not there, too.
        return Some(path.exists().then_some(path).into_iter().collect());
    }
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(Vec::new()),
        Err(_) => return None,
    };
    let fits = |file: &String| wildcard(file, name) && !file.starts_with('.');
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut files: Vec<_> = names.filter(fits).map(|name| folder.join(name)).collect();
    files.sort();
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_look_at_addresses_are_found_through_includes() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("d")).unwrap();
        fs::write(path("d/20-b.conf"), "match=user bob ADDRESS 10.0.0.0/8\n").unwrap();
        fs::write(path("d/10-a.conf"), "DenyUsers eve eve@10.*\nMatch User bob\n").unwrap();
        fs::write(path("d/ignored"), "Match Address 1.2.3.4\n").unwrap();
        let main = format!(
            "# Match Host x\nInclude \"{}/*.conf\"\n\n  Match Host *.org\n",
            path("d").display()
        );
        fs::write(path("main"), main).unwrap();
        let found = find(&path("main"));
        assert!(found.is_whole);
        let found: Vec<_> = found.lines.iter().map(ToString::to_string).collect();
        let expected = [
            format!("{}:1: DenyUsers eve eve@10.*", path("d/10-a.conf").display()),
            format!("{}:1: match=user bob ADDRESS 10.0.0.0/8", path("d/20-b.conf").display()),
            format!("{}:4: Match Host *.org", path("main").display()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn a_file_that_includes_itself_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main");
        let line = format!("Include {}\n", path.display());
        fs::write(&path, line.repeat(3)).unwrap();
        assert_eq!(find(&path).lines, []);
    }

    #[test]
    fn what_cannot_be_read_or_followed_leaves_a_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        assert!(!find(&path("missing")).is_whole);
        for (text, is_whole) in [
            (
                "Port 22\nInclude /nonexistent/*.conf /nonexistent/file\n".to_owned(),
                true,
            ),
            (format!("Include {}/*/x.conf\n", folder.path().display()), false),
            (format!("Include {}/[a-z].conf\n", folder.path().display()), false),
            (format!("Include {}\n", path("folder").display()), false),
        ] {
            fs::create_dir_all(path("folder")).unwrap();
            fs::write(path("main"), &text).unwrap();
            assert_eq!(find(&path("main")).is_whole, is_whole, "{text}");
        }
    }
}
