//! What was measured: medians with their spread, or percentiles, as text and as JSON.

use crate::sides::Peer;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const PERCENTILES: [usize; 4] = [50, 90, 95, 99];

/// What was seen of a peer.
pub(crate) enum Seen {
    Figures(Vec<f64>),
    /// Why there are none.
    Nothing(String),
}

impl From<Vec<f64>> for Seen {
    fn from(figures: Vec<f64>) -> Seen {
        Seen::Figures(figures)
    }
}

/// One line of the table: the same thing measured for some of the peers.
pub(crate) struct Row {
    name: String,
    unit: &'static str,
    seen: Vec<(Peer, Seen)>,
    /// So many figures that their distribution is what tells.
    many: bool,
}

impl Row {
    pub(crate) fn new(name: &str, unit: &'static str, seen: Vec<(Peer, Seen)>) -> Row {
        Row {
            name: name.into(),
            unit,
            seen,
            many: false,
        }
    }

    /// One of very many figures.
    pub(crate) fn of_percentiles(name: &str, unit: &'static str, seen: Vec<(Peer, Seen)>) -> Row {
        Row {
            many: true,
            ..Row::new(name, unit, seen)
        }
    }
}

#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Takes a row, and shows it at once: the whole takes long.
    pub(crate) fn add(&mut self, row: Row) {
        let ssh = row.seen.iter().find_map(|(peer, seen)| match seen {
            Seen::Figures(figures) if *peer == Peer::Ssh => Some(percentile(figures, 50)),
            _ => None,
        });
        print!("{:<42}", format!("{} [{}]", row.name, row.unit));
        for (peer, seen) in &row.seen {
            let shown = match seen {
                Seen::Nothing(why) => why.clone(),
                Seen::Figures(figures) if row.many => percentiles(figures),
                Seen::Figures(figures) => spread(figures, ssh.filter(|_| *peer != Peer::Ssh)),
            };
            print!("  {} {shown}", peer.name());
        }
        println!();
        self.rows.push(row);
    }

    pub(crate) fn json(&self) -> Value {
        let row = |row: &Row| {
            let figures = row.seen.iter().map(|(peer, seen)| {
                let seen = match seen {
                    Seen::Figures(figures) => json!(figures),
                    Seen::Nothing(why) => json!(why),
                };
                (peer.name().to_owned(), seen)
            });
            json!({ "row": row.name, "unit": row.unit, "figures": figures.collect::<serde_json::Map<_, _>>() })
        };
        self.rows.iter().map(row).collect()
    }
}

/// Writes a file of results.
///
/// # Panics
/// When the target folder is not to be written to.
pub(crate) fn keep(name: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench");
    fs::create_dir_all(&folder).expect("the target folder");
    fs::write(folder.join(name), text).expect("the target folder");
}

/// The median and what it lies between; beside that of plain ssh, if that is given.
fn spread(figures: &[f64], ssh: Option<f64>) -> String {
    let least = figures.iter().copied().fold(f64::MAX, f64::min);
    let most = figures.iter().copied().fold(0.0, f64::max);
    let median = percentile(figures, 50);
    let ratio = ssh
        .map(|ssh| format!(" = {:.2} x ssh", median / ssh))
        .unwrap_or_default();
    format!("{} ({}-{}){ratio}", short(median), short(least), short(most))
}

fn percentiles(figures: &[f64]) -> String {
    PERCENTILES
        .map(|percent| format!("{:.0}", percentile(figures, percent)))
        .join(" / ")
}

/// What so many percent of the figures are at most.
fn percentile(figures: &[f64], percent: usize) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// Three digits are more than any of this is good for.
fn short(figure: f64) -> String {
    match figure.abs() {
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}
