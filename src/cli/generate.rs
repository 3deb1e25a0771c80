//! Man pages and shell completions, from the same source as `--help`; and PROTOCOL.md as a page.

mod protocol;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::builder::Resettable;
use clap_complete::Shell;
use roff::{Inline, Roff, bold, roman};

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
pub(super) const MANUALS_DATE: &str = "2026-11-26";

fn page(mut command: clap::Command) -> (String, Vec<u8>) {
    let is_whole = command.has_subcommands();
    // Each option has its line below, in an order that somebody has thought about.
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").to_owned();
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let man = clap_mangen::Man::new(command.override_usage(usage).after_help(Resettable::Reset))
        .date(MANUALS_DATE)
        .manual("bowline")
        .source("bowline");
    let mut text = Vec::new();
    man.render(&mut text).expect("a Vec takes every byte");
    let text = String::from_utf8(text).expect("rendered from text");
    // An empty line is one already without a break before and after, which mandoc(1) remarks on.
    let text = text.replace(".br\n\n.br\n", ".sp\n");
    (man.get_filename(), (text + &end(&examples, is_whole)).into_bytes())
}

/// The sections that clap knows nothing of. `examples` is a line that says what follows, and examples.
fn end(examples: &str, is_whole: bool) -> String {
    let mut roff = Roff::new();
    roff.control("SH", ["EXAMPLES"]);
    roff.control("nf", []);
    for example in examples.lines().skip(1) {
        roff.text([roman(example.trim_start_matches("  "))]);
    }
    roff.control("fi", []);
    roff.control("SH", ["SEE ALSO"]);
    roff.text(match is_whole {
        true => see(&[
            ("bowline.toml", 5),
            ("bowline-protocol", 7),
            ("ssh", 1),
            ("ssh_config", 5),
            ("sshd", 8),
        ]),
        false => see(&[("bowline", 1), ("bowline.toml", 5)]),
    });
    roff.to_roff()
}

fn see(pages: &[(&str, u8)]) -> Vec<Inline> {
    let mut line = Vec::new();
    for (index, (name, section)) in pages.iter().enumerate() {
        let gap = if index == 0 { "" } else { ", " };
        line.extend([roman(gap), bold(*name), roman(format!("({section})"))]);
    }
    line
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

    /// As readers of manuals look for them.
    #[test]
    fn a_page_says_how_to_call_it_which_variables_count_and_what_else_to_read() {
        for (name, page) in pages().into_iter().filter(|(name, _)| name.ends_with(".1")) {
            let page = String::from_utf8(page).expect("text");
            let section = |heading: &str| {
                let (_, rest) = page.split_once(&format!(".SH {heading}\n")).expect(heading);
                rest.split("\n.SH ").next().expect("one at least").to_owned()
            };
            let calls = section("SYNOPSIS");
            let calls: Vec<_> = calls.lines().filter(|line| *line != ".br").collect();
            assert!(
                (1..4).contains(&calls.len()) && !page.contains("Usage:"),
                "{name}: {calls:?}"
            );
            assert!(section("EXAMPLES").contains("bowline"), "{name}");
            assert!(section("\"SEE ALSO\"").contains("bowline.toml"), "{name}");
            assert!(page.contains("BOWLINE_STATE_DIR"), "{name}");
        }
    }

    #[test]
    fn completions_know_the_options() {
        let mut script = Vec::new();
        clap_complete::generate(Shell::Bash, &mut args::command(), "bowline", &mut script);
        assert!(String::from_utf8(script).expect("text").contains("--connect-timeout"));
    }
}
