//! The report for people.

use std::fmt::Write as _;
use std::time::Duration;

use crate::client::check::{CheckedPath, Diagnosis};

use super::limits::other_way;
use super::limits::{Limit, UNKNOWN, survival};
use super::{Report, answer, words};
use crate::cli::bootstrap::Running;
use crate::cli::wrap::hanging_indent;
use crate::wire::Escaped;

/// The table, and what stands below it, for a terminal so wide or whatever there is. Nothing where the name leads nowhere:
/// that is told as an error.
pub(super) fn write(report: &Report<'_>, width: Option<usize>) -> String {
    let Ok(paths) = report.paths else { return String::new() };
    let mut text = String::new();
    if let Some(started) = report.started {
        let (version, ports) = (&started.version, started.ports());
        let what = format!("the one that bowline started there over ssh, version {version}, at {ports}");
        line(&mut text, &hanging_indent("server half: ", &what, width));
    }
    table(&mut text, paths, width);
    for relay in report.unresolved_relays {
        line(&mut text, &hanging_indent("no relay: ", relay, width));
    }
    for sshd in report.asked_sshd {
        let what = format!(
            "no path works, so check also connected to sshd itself at {sshd}, without logging in, to \
                find the cause"
        );
        line(&mut text, &hanging_indent("note: ", &what, width));
    }
    for key in &report.keys {
        line(&mut text, &hanging_indent("key: ", key, width));
    }
    match report.started {
        Some(started) if paths.iter().all(is_silent) => start_again(&mut text, report.host, started, width),
        _ => advice(&mut text, paths, width),
    }
    notes(&mut text, report, paths, width);
    if let Some(obstacle) = &report.obstacle {
        line(&mut text, "");
        line(
            &mut text,
            &hanging_indent("ssh cannot use these paths: ", obstacle.what, width),
        );
        line(&mut text, &hanging_indent("hint: ", obstacle.hint, width));
    }
    if let Some(answer) = answer(paths) {
        let seen = match answer.shows_client {
            true => "sshd sees this client's own address.",
            false => "sshd sees a loopback address of the server instead of this client's own address.",
        };
        line(&mut text, &format!("\n{seen}"));
    }
    if paths
        .iter()
        .any(|path| path.diagnosis == Diagnosis::Works && path.is_unknown_host)
    {
        line(&mut text, &unknown_host(&report.unsupported_types));
    }
    limits(&mut text, report, paths, width);
    text
}

/// What a path that works, or may work, does not show.
fn notes(text: &mut String, report: &Report<'_>, paths: &[CheckedPath], width: Option<usize>) {
    if let Some(way) = other_way(report.ssh) {
        let what = format!(
            "plain ssh does not use bowline for {} ({way}); `bowline ssh` does, and `bowline setup` configures \
             ssh to do so",
            report.host
        );
        line(text, "");
        line(text, &hanging_indent("note: ", &what, width));
    }
    if paths.iter().any(|path| path.all_keys_sign) {
        line(text, "");
        line(text, &hanging_indent("note: ", words::ALL_KEYS_SIGN, width));
    }
    if !report.not_given.is_empty() {
        let what = format!(
            "this check was not given {}, which ssh's ProxyCommand has: pass the same to check, or put it into \
             bowline.toml",
            report.not_given.join(", ")
        );
        line(text, "");
        line(text, &hanging_indent("note: ", &what, width));
    }
}

/// What ssh will do about a host that bowline cannot tell from another.
fn unknown_host(unsupported_types: &[String]) -> String {
    match unsupported_types {
        [] => "\nNo key of this host is known yet: ssh will ask you to confirm it.".to_owned(),
        types => format!(
            "\nknown_hosts has only keys of types that bowline does not support ({}): ssh checks the host key itself.",
            types.join(", ")
        ),
    }
}

fn table(text: &mut String, paths: &[CheckedPath], width: Option<usize>) {
    let names: Vec<String> = paths.iter().map(|checked| checked.path.to_string()).collect();
    let longest = names.iter().map(String::len).max().unwrap_or(0).max(4);
    let heading = format!("{:<longest$}  HANDSHAKE    BANNER   MTU  ", "PATH");
    line(text, &hanging_indent(&heading, "VERDICT", width));
    for (name, checked) in names.iter().zip(paths) {
        let (handshake, banner) = (milliseconds(checked.handshake), milliseconds(checked.banner));
        let mtu = checked.mtu.map_or("-".to_owned(), |mtu| mtu.to_string());
        let head = format!("{name:<longest$}  {handshake:>9} {banner:>9}  {mtu:>4}  ");
        line(text, &hanging_indent(&head, &diagnosis(checked), width));
    }
}

fn diagnosis(checked: &CheckedPath) -> String {
    let meaning = words::meaning(checked.diagnosis);
    match (&checked.answer, &checked.detail) {
        (Some(answer), _) => format!("{meaning}: {}", answer.banner),
        // The meaning has said it all.
        (None, Some(_)) if checked.diagnosis == Diagnosis::NobodyListens => meaning.to_owned(),
        (None, Some(detail)) => format!("{meaning} ({detail})"),
        (None, None) => meaning.to_owned(),
    }
}

fn is_silent(path: &CheckedPath) -> bool {
    path.handshake.is_none() && path.diagnosis != Diagnosis::WrongKey
}

/// It may have ended, which is no fault.
fn start_again(text: &mut String, host: &str, started: &Running, width: Option<usize>) {
    let what = format!(
        "`bowline ssh {host}` starts it again over ssh if it does not run there; if there are firewalls, open {} in \
         them",
        started.ports()
    );
    line(text, "");
    line(text, &hanging_indent("hint: ", &what, width));
}

/// Each piece of advice once.
fn advice(text: &mut String, paths: &[CheckedPath], width: Option<usize>) {
    let is_there = words::answers_quic(paths);
    let mut told: Vec<String> = Vec::new();
    for checked in paths {
        if let Some(advice) = words::advice(checked, is_there).filter(|advice| !told.contains(advice)) {
            told.push(advice);
        }
    }
    if !told.is_empty() {
        line(text, "");
    }
    for advice in told {
        line(text, &hanging_indent("hint: ", &advice, width));
    }
}

fn limits(text: &mut String, report: &Report<'_>, paths: &[CheckedPath], width: Option<usize>) {
    line(text, "\nWhat ends a session in an outage:");
    for limit in &report.limits {
        line(text, &hanging_indent(&head(&time(limit)), &limit.what, width));
        if let Some(fix) = &limit.fix {
            let place = limit
                .file
                .as_ref()
                .map(|file| format!("   ({file})"))
                .unwrap_or_default();
            line(text, &format!("              fix:  {fix}{place}"));
        }
    }
    match answer(paths) {
        None => unknown(
            text,
            "the limits of sshd and of the server half, because no path works",
            width,
        ),
        Some(answer) if answer.limits.is_none() => {
            unknown(
                text,
                "sshd's settings, because this server half cannot read them",
                width,
            );
        }
        Some(_) => {}
    }
    unknown(text, UNKNOWN, width);
    if let Some(survives) = survival(&report.limits) {
        let survives = rough(survives);
        line(
            text,
            &format!("By the known limits, a session survives an outage of up to {survives}."),
        );
    }
}

fn unknown(text: &mut String, what: &str, width: Option<usize>) {
    line(text, &hanging_indent(&head("not known"), what, width));
}

/// What stands before a limit.
fn head(time: &str) -> String {
    format!("  {time:>10}  ")
}

fn time(limit: &Limit) -> String {
    limit.survives.map_or("-".to_owned(), rough)
}

/// `45 s`, `12 h`, `7 days`: in the largest unit that it is a multiple of, minutes apart, in which nobody writes settings of
/// sshd.
fn rough(time: Duration) -> String {
    match time.as_secs() {
        0 => "0 s".to_owned(),
        86_400 => "1 day".to_owned(),
        seconds if seconds % 86_400 == 0 => format!("{} days", seconds / 86_400),
        seconds if seconds % 3600 == 0 => format!("{} h", seconds / 3600),
        seconds => format!("{seconds} s"),
    }
}

fn milliseconds(time: Option<Duration>) -> String {
    time.map_or("-".to_owned(), |time| format!("{:.1} ms", time.as_secs_f64() * 1e3))
}

/// One line. What strangers say in it is shown, and not obeyed by the terminal.
fn line(text: &mut String, line: &str) {
    for line in line.split('\n') {
        // A failed write to a String does not exist.
        let _ = writeln!(text, "{}", Escaped(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_in_a_unit_that_fits() {
        let told = [0, 45, 120, 3600, 5400, 86_400, 604_800].map(|seconds| rough(Duration::from_secs(seconds)));
        assert_eq!(told, ["0 s", "45 s", "120 s", "1 h", "5400 s", "1 day", "7 days"]);
    }
}
