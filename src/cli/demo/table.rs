//! The summary at the end: a line per outage, the counter, the file, and where to go from here.

use std::fmt::Write as _;
use std::time::Duration;

use super::counter::EXIT_CODE;
use super::outage::Outage;
use super::picture::seconds;
use super::screen::{Style, TerminalFeatures};
use super::transfer::Hash;

/// One outage, from the session's point of view.
#[derive(Clone, Debug)]
pub(super) struct Survived {
    pub(super) outage: Outage,
    /// From its beginning to its end.
    pub(super) lasted: Duration,
    /// The longest time without a byte from the remote shell, over all of it.
    pub(super) silence: Duration,
    /// From its end to the first byte.
    pub(super) first_byte: Duration,
    /// Numbers that had waited and came at once.
    pub(super) caught_up: u64,
    /// Packets that vanished.
    pub(super) dropped: u64,
    /// Connections that were reset.
    pub(super) resets: u64,
}

/// What there is to tell when all went well.
pub(super) struct Summary {
    pub(super) survived: Vec<Survived>,
    /// The counter's last number.
    pub(super) last: u64,
    /// SHA-256 of the file, on both sides.
    pub(super) hash: Hash,
}

impl Survived {
    /// What it cost, in words.
    pub(super) fn impact(&self) -> String {
        match self.outage {
            Outage::ResetStorm => format!("{} connections reset", self.resets),
            _ if self.caught_up == 1 => "no number was delayed".to_owned(),
            _ => format!("{} numbers were delayed", self.caught_up),
        }
    }

    fn row(&self) -> String {
        let lasted = match self.outage {
            Outage::NewAddress => "a moment".to_owned(),
            _ => seconds(self.lasted),
        };
        let impact = match self.outage {
            Outage::ResetStorm => format!("{} resets", self.resets),
            _ => format!("{} packets", self.dropped),
        };
        format!(
            "{:<26}{lasted:>9}{:>12}{:>11} ms{impact:>15}",
            self.outage.name(),
            seconds2(self.silence),
            self.first_byte.as_millis(),
        )
    }
}

impl Summary {
    /// All of it, for a terminal of 80 columns.
    pub(super) fn render(&self, features: TerminalFeatures) -> String {
        let good = |text: &str| features.style(Style::Good, text);
        let dim = |text: &str| features.style(Style::Dim, text);
        let header = format!(
            "{:<26}{:>9}{:>12}{:>14}{:>15}",
            "outage", "lasted", "silence", "first byte", "lost"
        );
        let mut text = String::from("\n");
        // A failed write to a String does not exist.
        let _ = writeln!(text, "{}", features.style(Style::Bold, &header));
        for survived in &self.survived {
            let _ = writeln!(text, "{}", survived.row());
        }
        let _ = writeln!(
            text,
            "{}\n",
            dim("silence: longest time without output; first byte: time after the outage")
        );
        let _ = writeln!(
            text,
            "counter  {}: 1 to {}, none missing, none twice; exit code {EXIT_CODE}, as sent",
            good("complete"),
            self.last
        );
        let _ = writeln!(
            text,
            "file     {}: 32 MiB there and back; SHA-256 on both sides:",
            good("identical")
        );
        let _ = writeln!(text, "         {}\n", self.hash);
        text.push_str(
            "Break the path yourself: bowline demo --shell\nUse bowline: `sudo bowline serve` on a server, `bowline ssh HOST` here.",
        );
        text
    }
}

/// `4.08 s`.
fn seconds2(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_account_fits_into_79_columns_whatever_the_figures() {
        let survived = Outage::ALL.map(|outage| Survived {
            outage,
            lasted: Duration::from_millis(99_999),
            silence: Duration::from_millis(99_999),
            first_byte: Duration::from_millis(9999),
            caught_up: 9999,
            dropped: 999_999,
            resets: 9999,
        });
        let summary = Summary {
            survived: survived.to_vec(),
            last: 99_999,
            hash: Hash::of(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256)),
        };
        let bare = TerminalFeatures {
            live: true,
            colour: false,
            unicode: true,
        };
        let told = summary.render(bare);
        let widest = told.lines().max_by_key(|line| line.chars().count()).unwrap_or_default();
        assert!(widest.chars().count() < 80, "{widest}");
        assert!(
            told.contains("9999 resets") && told.contains("999999 packets"),
            "{told}"
        );
    }
}
