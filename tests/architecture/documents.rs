//! The documents name files, tests and dependencies that exist, and have the form that was agreed.

use std::collections::BTreeSet;
use std::path::Path;

use super::{ROOT, report, sources};

/// Every page of prose that is kept in the repository.
const PAGES: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "SECURITY.md",
    "PROTOCOL.md",
    "CHANGELOG.md",
    "benches/RESULTS.md",
    "docs/claims.md",
    "docs/faq.md",
    "docs/operation.md",
    "docs/performance.md",
    "docs/proxies.md",
    "docs/refusals.md",
    "docs/relays.md",
    "docs/setup.md",
    "docs/troubleshooting.md",
    "fuzz/README.md",
    "packaging/README.md",
    "packaging/grafana/README.md",
];

/// A reader who looks for one thing reads no more than this.
const MAX_README_LINES: usize = 170;

const MAX_COLUMNS: usize = 100;

/// Phrases that readers stumbled over, and what is written in their place.
const RETIRED_PHRASES: &[(&str, &str)] = &[
    ("afresh", "again, or a new one"),
    ("anew", "again, or a new one"),
    ("by way of", "through"),
    ("gives way", "is disconnected, or is replaced"),
    ("goes mad", "misbehaves"),
    ("in vain", "without an answer"),
    ("taken for", "accepted as"),
];

#[test]
fn every_file_that_the_architecture_names_exists() {
    let page = read("ARCHITECTURE.md");
    let mut found = 0;
    let missing: Vec<String> = code_spans(&page)
        .filter(|name| is_path(name))
        .inspect(|_| found += 1)
        .filter(|name| !is_file(name))
        .map(|name| format!("ARCHITECTURE.md: no file {name}"))
        .collect();
    report(missing.into_iter());
    assert!(found > 50, "{found} files are named");
}

#[test]
fn every_source_that_a_page_names_exists() {
    report(PAGES.iter().flat_map(|page| {
        let text = read(page);
        let missing: Vec<String> = code_spans(&text)
            .filter(|name| is_path(name) && (name.ends_with(".rs") || name.ends_with(".md")))
            .filter(|name| !is_file(name))
            .map(|name| format!("{page}: no file {name}"))
            .collect();
        missing
    }));
}

#[test]
fn every_dependency_has_one_row_in_the_architecture() {
    let page = read("ARCHITECTURE.md");
    let table = page.split("| crate | what for |").nth(1).expect("a table of crates");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut named: Vec<String> = rows
        .filter_map(|row| row.split('|').nth(1))
        .flat_map(|cell| cell.split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    named.sort();
    let manifest = read("Cargo.toml");
    let section = manifest
        .split("\n[dependencies]\n")
        .nth(1)
        .and_then(|rest| rest.split("\n[").next())
        .expect("dependencies");
    let mut used: Vec<String> = section
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .filter(|(name, _)| !name.starts_with('#'))
        .map(|(name, _)| name.trim_end_matches(".workspace").to_owned())
        .collect();
    used.sort();
    assert_eq!(named, used, "ARCHITECTURE.md has one row for each crate of Cargo.toml");
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= MAX_README_LINES, "README.md has {lines} lines");
}

#[test]
fn prose_is_wrapped_at_100_columns() {
    report(PAGES.iter().flat_map(|page| {
        let text = read(page);
        let long: Vec<String> = prose(&text)
            .filter(|(_, line)| line.chars().count() > MAX_COLUMNS && line.trim().contains(' '))
            .map(|(number, _)| format!("{page}:{number}: longer than {MAX_COLUMNS} columns"))
            .collect();
        long
    }));
}

#[test]
fn no_page_has_a_phrase_that_was_retired() {
    report(PAGES.iter().flat_map(|page| {
        let text = read(page);
        let found: Vec<String> = prose_and_tables(&text)
            .flat_map(|(number, line)| {
                // What stands in backquotes is the text of a program.
                let words = line.split('`').step_by(2).collect::<Vec<_>>().join(" ").to_lowercase();
                let phrases = RETIRED_PHRASES.iter().filter(move |(phrase, _)| words.contains(phrase));
                phrases.map(move |(phrase, instead)| format!("{page}:{number}: {phrase:?} (say: {instead})"))
            })
            .collect();
        found
    }));
}

#[test]
fn links_between_documents_lead_to_files() {
    report(PAGES.iter().flat_map(|page| {
        let text = read(page);
        let folder = Path::new(ROOT).join(page).parent().expect("a folder").to_owned();
        let targets: BTreeSet<String> = text
            .split("](")
            .skip(1)
            .filter_map(|after| after.split(')').next())
            .filter(|target| !target.contains("://"))
            .filter_map(|target| target.split('#').next())
            .filter(|target| !target.is_empty())
            .map(str::to_owned)
            .collect();
        let missing: Vec<String> = targets
            .into_iter()
            .filter(|target| !folder.join(target).exists())
            .map(|target| format!("{page}: no file {target}"))
            .collect();
        missing
    }));
}

#[test]
fn every_claim_has_its_test() {
    let page = read("docs/claims.md");
    let table = page.split("| shown by |\n").nth(1).expect("a table of claims");
    let rows = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    let cells: Vec<&str> = rows
        .filter_map(|row| row.trim_end_matches([' ', '|']).rsplit('|').next())
        .collect();
    assert!(cells.len() > 5, "{cells:?}");
    for cell in cells {
        let mut suite = String::new();
        for name in cell.split('`').skip(1).step_by(2) {
            if Path::new(ROOT).join(format!("tests/{name}.rs")).exists()
                || Path::new(ROOT).join("tests").join(name).is_dir()
            {
                name.clone_into(&mut suite);
            } else {
                let fits = |test: &str| {
                    test.starts_with(name.trim_end_matches("..")) || test.ends_with(name.trim_start_matches(".."))
                };
                let files = sources("tests");
                let mut tests = files
                    .iter()
                    .filter(|file| file.place.trim_start_matches("tests/").starts_with(&suite))
                    .flat_map(|file| file.text.split("fn ").skip(1))
                    .map(|after| after.split('(').next().unwrap_or_default());
                assert!(tests.any(fits), "no test {name:?} in {suite:?}");
            }
        }
        assert!(!suite.is_empty(), "no suite in {cell:?}");
    }
}

#[test]
fn every_defence_that_the_security_page_names_has_its_test() {
    let page = read("SECURITY.md");
    let table = page
        .split("| attacker | attempt |")
        .nth(1)
        .expect("a table of attackers");
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 20, "{rows:?}");
    let mut missing = Vec::new();
    for row in rows {
        let cell = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
        let mut tests = cell.split('`').skip(1).step_by(2).peekable();
        if tests.peek().is_none() {
            missing.push(format!("{row}: no test"));
        }
        missing.extend(
            tests
                .filter(|test| !is_test(test))
                .map(|test| format!("SECURITY.md: no test {test}")),
        );
    }
    report(missing.into_iter());
}

/// Whether `file.rs::name` is a test.
fn is_test(path: &str) -> bool {
    let Some((file, name)) = path.split_once("::") else {
        return false;
    };
    let text = std::fs::read_to_string(Path::new(ROOT).join(file)).unwrap_or_default();
    text.contains(&format!("fn {name}("))
}

/// Whether a code span means a file of the repository: it has a folder, or the ending of a source or a page.
fn is_path(name: &str) -> bool {
    !name.contains([' ', ':', '<', '>', '*'])
        && !name.starts_with(['/', '~'])
        && (name.contains('/') || name.ends_with(".rs") || name.ends_with(".md"))
}

/// Whether a file or folder of the repository has this name, from its root or below the `src` of a crate.
fn is_file(name: &str) -> bool {
    let folders = ["", "src", "crates/proto/src", "crates/terminal/src"];
    folders
        .iter()
        .any(|folder| Path::new(ROOT).join(folder).join(name).exists())
}

/// What stands between backquotes, code blocks left out.
fn code_spans(page: &str) -> impl Iterator<Item = &str> {
    prose_and_tables(page).flat_map(|(_, line)| line.split('`').skip(1).step_by(2))
}

/// Numbered lines outside of code blocks.
fn prose_and_tables(page: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    page.lines().enumerate().filter_map(move |(index, line)| {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
            return None;
        }
        (!is_code).then_some((index + 1, line))
    })
}

/// Numbered lines of paragraphs and lists. Tables, headings and pictures have lines as long as they are.
fn prose(page: &str) -> impl Iterator<Item = (usize, &str)> {
    prose_and_tables(page).filter(|(_, line)| !line.starts_with(['|', '#', '!']))
}

fn read(page: &str) -> String {
    std::fs::read_to_string(Path::new(ROOT).join(page)).unwrap_or_else(|error| panic!("{page}: {error}"))
}
