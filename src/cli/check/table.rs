//! The account for people.

use std::fmt::Write as _;
use std::time::Duration;

use crate::client::check::{Checked, Verdict};

use super::limits::{Limit, UNKNOWN, survival};
use super::{Account, answer, words};

/// The table, and what stands below it. Nothing where the name leads nowhere: that is told as an error.
pub(super) fn write(account: &Account<'_>) -> String {
    let Ok(paths) = account.paths else { return String::new() };
    let mut text = String::new();
    table(&mut text, paths);
    advice(&mut text, paths);
    if paths
        .iter()
        .any(|path| path.verdict == Verdict::Works && path.is_unknown_host)
    {
        line(&mut text, "\nNo key of this host is known yet: ssh will ask.");
    }
    limits(&mut text, account, paths);
    text
}

fn table(text: &mut String, paths: &[Checked]) {
    let names: Vec<String> = paths.iter().map(|checked| checked.path.to_string()).collect();
    let width = names.iter().map(String::len).max().unwrap_or(0).max(4);
    line(text, &format!("{:<width$}  HANDSHAKE    BANNER   MTU  VERDICT", "PATH"));
    for (name, checked) in names.iter().zip(paths) {
        let (handshake, banner) = (milliseconds(checked.handshake), milliseconds(checked.banner));
        let mtu = checked.mtu.map_or("-".to_owned(), |mtu| mtu.to_string());
        let verdict = verdict(checked);
        line(
            text,
            &format!("{name:<width$}  {handshake:>9} {banner:>9}  {mtu:>4}  {verdict}"),
        );
    }
}

fn verdict(checked: &Checked) -> String {
    let meaning = words::meaning(checked.verdict);
    match (&checked.answer, &checked.detail) {
        (Some(answer), _) => format!("{meaning}: {}", answer.banner),
        // The meaning has said it all.
        (None, Some(_)) if checked.verdict == Verdict::NobodyListens => meaning.to_owned(),
        (None, Some(detail)) => format!("{meaning} ({detail})"),
        (None, None) => meaning.to_owned(),
    }
}

/// Each piece of advice once.
fn advice(text: &mut String, paths: &[Checked]) {
    let mut told: Vec<String> = Vec::new();
    for checked in paths {
        if let Some(advice) = words::advice(checked).filter(|advice| !told.contains(advice)) {
            told.push(advice);
        }
    }
    if !told.is_empty() {
        line(text, "");
    }
    for advice in told {
        line(text, &format!("hint: {advice}"));
    }
}

fn limits(text: &mut String, account: &Account<'_>, paths: &[Checked]) {
    line(text, "\nWhat ends a session in an outage:");
    for limit in &account.limits {
        line(text, &format!("  {:>10}  {}", time(limit), limit.what));
        if let Some(mend) = &limit.mend {
            let place = limit
                .file
                .as_ref()
                .map(|file| format!("   ({file})"))
                .unwrap_or_default();
            line(text, &format!("              mend: {mend}{place}"));
        }
    }
    match answer(paths) {
        None => line(
            text,
            "   not known  what sshd and the server half would do: no path works",
        ),
        Some(answer) if answer.limits.is_none() => {
            line(
                text,
                "   not known  sshd's own settings: this server half cannot ask for them",
            );
        }
        Some(_) => {}
    }
    line(text, &format!("   not known  {UNKNOWN}"));
    if let Some(survives) = survival(&account.limits) {
        let seconds = survives.as_secs();
        line(
            text,
            &format!("As far as is known, a session survives an outage of {seconds} s."),
        );
    }
}

fn time(limit: &Limit) -> String {
    let seconds = |time: Duration| format!("{} s", time.as_secs());
    limit.survives.map_or("-".to_owned(), seconds)
}

fn milliseconds(time: Option<Duration>) -> String {
    time.map_or("-".to_owned(), |time| format!("{:.1} ms", time.as_secs_f64() * 1e3))
}

/// One line. What strangers say in it is shown, and not obeyed by the terminal.
fn line(text: &mut String, line: &str) {
    for c in line.chars() {
        match c {
            '\n' => text.push('\n'),
            // A failed write to a String does not exist.
            c if c.is_control() => drop(write!(text, "{}", c.escape_default())),
            c => text.push(c),
        }
    }
    text.push('\n');
}
