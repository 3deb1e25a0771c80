//! Tables. Columns that a narrow terminal has no room for are left out, the least telling first.

use crate::wire::Escaped;

/// Between columns.
const GAP: &str = "  ";

/// One column.
pub(super) struct Column<T> {
    pub(super) name: &'static str,
    /// The lower, the longer it stays; up to 2 it always does.
    pub(super) rank: u8,
    pub(super) cell: fn(&T) -> String,
}

/// A heading and a line for each of `all`.
pub(super) fn lines<T>(columns: &[&Column<T>], all: &[T], width: Option<usize>) -> Vec<String> {
    let rows: Vec<Vec<String>> = all.iter().map(|one| row(columns, one)).collect();
    let longest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len())
        .map(|column| longest(column).max(columns[column].name.len()))
        .collect();
    let shown = chosen(columns, &widths, width);
    let heading = columns.iter().map(|column| column.name.to_owned()).collect();
    let all = std::iter::once(&heading).chain(&rows);
    all.map(|cells: &Vec<String>| cut(&line(cells, &shown, &widths), width))
        .collect()
}

fn row<T>(columns: &[&Column<T>], one: &T) -> Vec<String> {
    // Names and reasons may be a stranger's words.
    let cells = columns.iter().map(|column| Escaped(&(column.cell)(one)).to_string());
    cells.collect()
}

/// Which columns fit.
fn chosen<T>(columns: &[&Column<T>], widths: &[usize], width: Option<usize>) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..columns.len()).collect();
    let needed = |shown: &[usize]| -> usize {
        let own: usize = shown.iter().map(|column| widths[*column]).sum();
        own + GAP.len() * shown.len().saturating_sub(1)
    };
    while let Some(width) = width
        && needed(&shown) > width
        && let Some(least) = shown.iter().max_by_key(|column| columns[**column].rank).copied()
        && columns[least].rank > 2
    {
        shown.retain(|column| *column != least);
    }
    shown
}

fn line(cells: &[String], shown: &[usize], widths: &[usize]) -> String {
    let padded = shown
        .iter()
        .map(|column| format!("{:<width$}", cells[*column], width = widths[*column]));
    padded.collect::<Vec<_>>().join(GAP)
}

fn cut(line: &str, width: Option<usize>) -> String {
    line.chars().take(width.unwrap_or(usize::MAX)).collect()
}
