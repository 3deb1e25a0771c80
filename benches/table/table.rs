//! What was measured: medians with their spread, as text and as JSON.

use crate::sides::Peer;
use serde_json::{Value, json};

/// One line of the table: the same thing measured for some of the peers.
pub(crate) struct Row {
    name: String,
    unit: &'static str,
    figures: Vec<(Peer, Vec<f64>)>,
}

impl Row {
    pub(crate) fn new(name: &str, unit: &'static str, figures: Vec<(Peer, Vec<f64>)>) -> Row {
        Row {
            name: name.into(),
            unit,
            figures,
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
        let ssh = row
            .figures
            .iter()
            .find(|(peer, _)| *peer == Peer::Ssh)
            .map(|(_, figures)| median(figures));
        print!("{:<42}", format!("{} [{}]", row.name, row.unit));
        for (peer, figures) in &row.figures {
            let (least, most) = figures
                .iter()
                .fold((f64::MAX, 0f64), |(a, b), f| (a.min(*f), b.max(*f)));
            print!(
                "  {} {} ({}-{})",
                peer.name(),
                short(median(figures)),
                short(least),
                short(most)
            );
            if let Some(ssh) = ssh.filter(|_| *peer != Peer::Ssh) {
                print!(" = {:.2} x ssh", median(figures) / ssh);
            }
        }
        println!();
        self.rows.push(row);
    }

    pub(crate) fn json(&self) -> Value {
        let row = |row: &Row| {
            let figures = row
                .figures
                .iter()
                .map(|(peer, figures)| (peer.name().to_owned(), json!(figures)));
            json!({ "row": row.name, "unit": row.unit, "figures": figures.collect::<serde_json::Map<_, _>>() })
        };
        self.rows.iter().map(row).collect()
    }
}

fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Three digits are more than any of this is good for.
fn short(figure: f64) -> String {
    match figure.abs() {
        100.0.. => format!("{figure:.0}"),
        10.0.. => format!("{figure:.1}"),
        _ => format!("{figure:.2}"),
    }
}
