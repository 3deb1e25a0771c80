//! Man pages and shell completions, from the same source as `--help`; and PROTOCOL.md as a page.

mod protocol;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap_complete::Shell;

use super::args;
use super::report::{Failure, cannot_use_file};

/// Prints the completions for `shell`. A stdout that nobody reads is not an error.
pub(super) fn completions(shell: Shell) {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::command(), "bowline", &mut script);
    let _ = io::stdout().write_all(&script);
}

/// Writes `bowline.1`, a page for each command, `bowline.toml.5` and `bowline-protocol.7` into `folder`, which
/// is made when missing.
///
/// # Errors
/// The folder or a page cannot be written.
pub(super) fn man_pages(folder: &Path) -> Result<(), Failure> {
    fs::create_dir_all(folder).map_err(|error| cannot_use_file(folder, &error))?;
    for (name, page) in pages() {
        let path = folder.join(name);
        fs::write(&path, page).map_err(|error| cannot_use_file(&path, &error))?;
    }
    Ok(())
}

/// File name and content of every page.
fn pages() -> Vec<(String, Vec<u8>)> {
    // Only then do the commands carry the options that are common to all.
    let mut whole = args::command().disable_help_flag(true);
    whole.build();
    let commands = whole
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
        .cloned();
    let commands = std::iter::once(whole.clone()).chain(commands).map(page);
    commands.chain([super::config::page(), protocol::page()]).collect()
}

/// When the manuals were last changed: they are the same wherever they are made.
pub(super) const MANUALS_DATE: &str = "2026-11-25";

fn page(command: clap::Command) -> (String, Vec<u8>) {
    let man = clap_mangen::Man::new(command)
        .date(MANUALS_DATE)
        .manual("bowline")
        .source("bowline");
    let mut text = Vec::new();
    man.render(&mut text).expect("a Vec takes every byte");
    let text = String::from_utf8(text).expect("rendered from text");
    // An empty line is one already without a break before and after, which mandoc(1) remarks on.
    let text = text.replace(".br\n\n.br\n", ".sp\n");
    (man.get_filename(), text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_man_pages_are_current() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("man");
        let mut committed: Vec<_> = fs::read_dir(&folder)
            .expect("man/")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("a plain name")
            })
            .collect();
        let mut expected: Vec<_> = pages().into_iter().map(|(name, _)| name).collect();
        committed.sort();
        expected.sort();
        assert_eq!(committed, expected);
        for (name, page) in pages() {
            let committed = fs::read(folder.join(&name)).expect("a page");
            assert!(
                committed == page,
                "man/{name} is not current; run: cargo run -- man man"
            );
        }
    }

    #[test]
    fn completions_know_the_options() {
        let mut script = Vec::new();
        clap_complete::generate(Shell::Bash, &mut args::command(), "bowline", &mut script);
        assert!(String::from_utf8(script).expect("text").contains("--connect-timeout"));
    }
}
