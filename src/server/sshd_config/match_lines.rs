//! The lines of sshd's configuration that look at a client's address.
//!
//! For messages only: what the configuration *means* is for `sshd -T` to say. Files that cannot be read are passed over.

use std::fmt;
use std::fs;
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

/// All such lines of the configuration file and what it includes, in sshd's order.
pub(super) fn find(config: &Path) -> Vec<MatchLine> {
    let mut search = Search::default();
    search.file(config, 0);
    search.found
}

#[derive(Default)]
struct Search {
    files: usize,
    found: Vec<MatchLine>,
}

impl Search {
    fn file(&mut self, path: &Path, depth: usize) {
        self.files += 1;
        if self.files > MAX_FILES || depth > MAX_DEPTH {
            return;
        }
        let Ok(content) = fs::read(path) else { return };
        for (line, text) in (1..).zip(String::from_utf8_lossy(&content).lines()) {
            let text = text.trim();
            let words = words(text);
            let Some((keyword, arguments)) = words.split_first() else {
                continue;
            };
            match keyword.to_ascii_lowercase().as_str() {
                "include" => arguments.iter().flat_map(|pattern| expand(pattern)).for_each(|path| {
                    self.file(&path, depth + 1);
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
            .any(|word| CRITERIA.contains(&word.to_ascii_lowercase().as_str())),
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

/// The files that a pattern names. Wildcards only in the last part of the path, as in `sshd_config.d/*.conf`.
fn expand(pattern: &str) -> Vec<PathBuf> {
    let path = Path::new(SSH_FOLDER).join(pattern);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Vec::new();
    };
    if !name.contains(['*', '?']) {
        return vec![path];
    }
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let fits = |file: &String| wildcard(file, name) && !file.starts_with('.');
    let names = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let mut files: Vec<_> = names.filter(fits).map(|name| folder.join(name)).collect();
    files.sort();
    files
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
        let found: Vec<_> = find(&path("main")).iter().map(ToString::to_string).collect();
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
        assert_eq!(find(&path), []);
    }
}
