//! `bowline-protocol(7)`: PROTOCOL.md as a manual page.
//!
//! Knows the Markdown that PROTOCOL.md uses, and no more; a test finds words that get lost.

use pulldown_cmark::{Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use roff::{Inline, Roff, bold, italic, roman};

use super::MANUALS_DATE;

const SOURCE: &str = include_str!("../../../PROTOCOL.md");

/// What a line of text may have: 80 columns less the indentation and a column that pagers leave free.
const LINE: usize = 72;

/// Between two columns of a table.
const GAP: usize = 3;

/// File name and content.
pub(super) fn page() -> (String, Vec<u8>) {
    let mut roff = Roff::new();
    roff.control("TH", ["bowline-protocol", "7", MANUALS_DATE, "bowline", "bowline"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(
        "bowline-protocol - what the two halves of bowline say to each other",
    )]);
    roff.control("SH", ["DESCRIPTION"]);
    let mut page = Page::new(roff);
    for event in Parser::new_ext(SOURCE, Options::ENABLE_TABLES) {
        page.take(event);
    }
    page.roff.control("SH", ["SEE ALSO"]);
    page.roff.text([
        bold("bowline-proxy"),
        roman("(1), "),
        bold("bowline-serve"),
        roman("(1), "),
        bold("bowline-relay"),
        roman("(1)"),
    ]);
    // The first line tells man that the page has tables.
    let mut text = b"'\\\" t\n".to_vec();
    page.roff.to_writer(&mut text).expect("a Vec takes every byte");
    ("bowline-protocol.7".to_owned(), text)
}

type Cell = Vec<Inline>;

/// A page that is being written.
struct Page {
    roff: Roff,
    /// What is said since the last line was written.
    line: Vec<Inline>,
    font: fn(String) -> Inline,
    /// Whether a paragraph may begin without a word about it.
    begun: bool,
    /// For each open list the number of its next item, where items have numbers.
    lists: Vec<Option<u64>>,
    rows: Vec<Vec<Cell>>,
}

impl Page {
    fn new(roff: Roff) -> Page {
        Page {
            roff,
            line: Vec::new(),
            font: roman,
            begun: true,
            lists: Vec::new(),
            rows: Vec::new(),
        }
    }

    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.begin(tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) | Event::Html(text) | Event::InlineHtml(text) => {
                self.line.push((self.font)(text.into_string()));
            }
            Event::Code(code) => self.line.push(bold(code.into_string())),
            Event::SoftBreak | Event::HardBreak => self.line.push(roman("\n")),
            _ => {}
        }
    }

    fn begin(&mut self, tag: Tag<'_>) {
        match tag {
            Tag::Paragraph => self.paragraph(),
            Tag::Strong => self.font = bold,
            Tag::Emphasis => self.font = italic,
            Tag::List(first) => {
                self.write();
                self.lists.push(first);
            }
            Tag::Item => self.item(),
            Tag::TableHead | Tag::TableRow => self.rows.push(Vec::new()),
            _ => {}
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Heading(level) => self.heading(level),
            TagEnd::Strong | TagEnd::Emphasis => self.font = roman,
            TagEnd::CodeBlock => self.code(),
            TagEnd::List(_) => {
                self.lists.pop();
                self.begun = false;
            }
            TagEnd::TableCell => self.cell(),
            TagEnd::Table => self.table(),
            TagEnd::Paragraph | TagEnd::Item => self.write(),
            _ => {}
        }
    }

    fn write(&mut self) {
        if !self.line.is_empty() {
            self.roff.text(std::mem::take(&mut self.line));
            self.begun = false;
        }
    }

    fn heading(&mut self, level: HeadingLevel) {
        let text = plain(&std::mem::take(&mut self.line));
        match level {
            HeadingLevel::H1 => self.roff.text([bold(text)]).control("PP", []),
            HeadingLevel::H2 => self.roff.control("SH", [text.to_uppercase().as_str()]),
            _ => self.roff.control("SS", [text.as_str()]),
        };
        self.begun = true;
    }

    fn paragraph(&mut self) {
        if !std::mem::replace(&mut self.begun, true) {
            self.roff.control(if self.lists.is_empty() { "PP" } else { "IP" }, []);
        }
    }

    fn item(&mut self) {
        match self.lists.last_mut() {
            Some(Some(number)) => {
                self.roff.control("IP", [format!("{number}.").as_str(), "4"]);
                *number += 1;
            }
            _ => {
                self.roff.control("IP", ["\\(bu", "2"]);
            }
        }
        self.begun = true;
    }

    fn code(&mut self) {
        let text = plain(&std::mem::take(&mut self.line));
        self.roff.control("PP", []).control("nf", []);
        for line in text.lines() {
            self.roff.text([roman(line)]);
        }
        self.roff.control("fi", []);
        self.begun = false;
    }

    fn cell(&mut self) {
        let cell = std::mem::take(&mut self.line);
        if let Some(row) = self.rows.last_mut() {
            row.push(cell);
        }
    }

    fn table(&mut self) {
        let rows = std::mem::take(&mut self.rows);
        let filled = filled_columns(&rows);
        let forms: Vec<_> = filled.iter().map(|filled| if *filled { "lx" } else { "l" }).collect();
        if self.lists.is_empty() && !self.begun {
            self.roff.control("PP", []);
        }
        // Words pushed apart to both edges of a narrow column are hard to read; and no gaps for the ends of paper pages.
        self.roff.control("na", []).control("TS", []).text([roman("nokeep;")]);
        self.roff.text([roman(vec!["lb"; filled.len()].join(" "))]);
        self.roff.text([roman(forms.join(" ") + ".")]);
        for row in rows {
            self.row(row, &filled);
        }
        self.roff.control("TE", []).control("ad", []);
        self.begun = false;
    }

    fn row(&mut self, row: Vec<Cell>, filled: &[bool]) {
        let mut line = Vec::new();
        for (at, (cell, filled)) in row.into_iter().zip(filled).enumerate() {
            if at > 0 {
                line.push(roman("\t"));
            }
            if *filled {
                line.push(roman("T{"));
                self.roff.text(std::mem::take(&mut line));
                self.roff.text(cell);
                line.push(roman("T}"));
            } else {
                line.extend(cell);
            }
        }
        self.roff.text(line);
    }
}

/// Which columns get lines that are broken: those longer than their fair share of what the shorter ones leave.
fn filled_columns(rows: &[Vec<Cell>]) -> Vec<bool> {
    let columns = rows.first().map_or(0, Vec::len);
    let longest = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        cells.map(|cell| plain(cell).chars().count()).max().unwrap_or(0)
    };
    let longest: Vec<_> = (0..columns).map(longest).collect();
    let mut by_length: Vec<_> = (0..columns).collect();
    by_length.sort_by_key(|at| longest[*at]);
    let mut filled = vec![false; columns];
    let mut room = LINE.saturating_sub(GAP * columns.saturating_sub(1));
    for (done, at) in by_length.into_iter().enumerate() {
        filled[at] = longest[at] > room / (columns - done);
        room = room.saturating_sub(if filled[at] {
            room / (columns - done)
        } else {
            longest[at]
        });
    }
    filled
}

fn plain(line: &[Inline]) -> String {
    let texts = line.iter().map(|part| match part {
        Inline::Roman(text) | Inline::Italic(text) | Inline::Bold(text) => text.as_str(),
        Inline::LineBreak => "\n",
    });
    texts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_of_the_source_gets_lost() {
        // Lines that begin a block say what it is an example of, and are no text.
        let source: Vec<_> = SOURCE.lines().filter(|line| !line.starts_with("```")).collect();
        let mut written = words(&without_roff());
        for word in words(&source.join("\n")) {
            assert!(written.any(|found| found == word), "{word}");
        }
    }

    /// The page with signs for what roff has words for. Its lines of control are still there.
    fn without_roff() -> String {
        let (_, page) = page();
        let said = [
            ("\\fB", ""),
            ("\\fI", ""),
            ("\\fR", ""),
            ("\\&", ""),
            ("\\-", "-"),
            ("\\*(Aq", "'"),
        ];
        let page = String::from_utf8(page).expect("text");
        said.iter()
            .fold(page, |page, (sign, meaning)| page.replace(sign, meaning))
    }

    fn words(text: &str) -> std::vec::IntoIter<String> {
        let words = text.split(|sign: char| !sign.is_alphanumeric());
        let words: Vec<_> = words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect();
        words.into_iter()
    }

    #[test]
    fn examples_fit_a_page_of_80_columns() {
        let page = without_roff();
        let examples = page.split(".nf\n").skip(1).filter_map(|rest| rest.split_once(".fi\n"));
        for line in examples.flat_map(|(example, _)| example.lines()) {
            let columns = line.chars().count();
            assert!(columns <= LINE, "{columns}: {line}");
        }
    }

    #[test]
    fn the_short_columns_of_a_table_stay_whole_and_the_long_share_the_rest() {
        let table = |lengths: &[usize]| vec![lengths.iter().map(|length| vec![roman("x".repeat(*length))]).collect()];
        assert_eq!(filled_columns(&table(&[4, 14, 40])), [false, false, false]);
        assert_eq!(filled_columns(&table(&[28, 100])), [false, true]);
        assert_eq!(filled_columns(&table(&[4, 14, 100, 26])), [false, false, true, true]);
    }

    #[test]
    fn tables_have_a_line_for_each_row_and_long_cells_are_filled() {
        let mut page = Page::new(Roff::new());
        let long = "a cell that is longer than the rest of a line of a table may be, as it is on this page";
        let source = format!("| a | b |\n|---|---|\n| `x` | {long} |\n");
        for event in Parser::new_ext(&source, Options::ENABLE_TABLES) {
            page.take(event);
        }
        let expected =
            format!(".na\n.TS\nnokeep;\nlb lb\nl lx.\na\tT{{\nb\nT}}\n\\fBx\\fR\tT{{\n{long}\nT}}\n.TE\n.ad\n");
        assert_eq!(page.roff.to_roff(), expected);
    }
}
