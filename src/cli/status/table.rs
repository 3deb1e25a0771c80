//! The table of sessions. Columns that a narrow terminal has no room for are left out, the least telling first.

use std::fmt::Write as _;
use std::net::SocketAddr;

use super::gather::{Overview, ServerReport, Silent};
use super::human::{round_trip, short_id, size, state, who};
use crate::cli::report::Harmless;
use crate::observe::{RelayReport, SessionReport};

/// Between columns.
const GAP: &str = "  ";

/// One column.
struct Column {
    name: &'static str,
    /// The lower, the longer it stays.
    rank: u8,
    cell: fn(&SessionReport) -> String,
}

/// In the order in which they are shown.
const COLUMNS: [Column; 13] = [
    Column {
        name: "ID",
        rank: 0,
        cell: |session| short_id(session).to_owned(),
    },
    Column {
        name: "WHO",
        rank: 1,
        cell: who,
    },
    Column {
        name: "PATH",
        rank: 3,
        cell: |session| or_dash(session.path.clone()),
    },
    Column {
        name: "STANDBY",
        rank: 7,
        cell: |session| or_dash(joined(&session.standby)),
    },
    Column {
        name: "RTT",
        rank: 4,
        cell: |session| or_dash(session.rtt_ms.map(round_trip)),
    },
    Column {
        name: "LOSS",
        rank: 9,
        cell: |session| or_dash(session.loss.map(|loss| format!("{:.1} %", loss * 100.0))),
    },
    Column {
        name: "IN",
        rank: 6,
        cell: |session| size(session.bytes_in),
    },
    Column {
        name: "OUT",
        rank: 6,
        cell: |session| size(session.bytes_out),
    },
    Column {
        name: "BUFFERED",
        rank: 8,
        cell: |session| or_dash(session.buffered.map(size)),
    },
    Column {
        name: "EPOCH",
        rank: 11,
        cell: |session| or_dash(session.epoch.map(|epoch| epoch.to_string())),
    },
    Column {
        name: "OUTAGES",
        rank: 5,
        cell: outages,
    },
    Column {
        name: "SSHD SEES",
        rank: 10,
        cell: |session| or_dash(session.alias.map(|alias| alias.to_string())),
    },
    Column {
        name: "STATE",
        rank: 2,
        cell: state,
    },
];

/// All of it, for a terminal so wide, or whatever there is.
pub(super) fn text(overview: &Overview, width: Option<usize>) -> String {
    let mut text = String::new();
    if overview.sessions.is_empty() {
        text += "no sessions here\n";
    } else {
        for line in lines(&overview.sessions, width) {
            text += line.trim_end();
            text += "\n";
        }
    }
    for line in footer(overview) {
        text += &line;
        text += "\n";
    }
    text
}

/// A heading and a line for each session.
pub(super) fn lines(sessions: &[SessionReport], width: Option<usize>) -> Vec<String> {
    let rows: Vec<Vec<String>> = sessions.iter().map(row).collect();
    let longest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS.len())
        .map(|column| longest(column).max(COLUMNS[column].name.len()))
        .collect();
    let shown = chosen(&widths, width);
    let heading = COLUMNS.iter().map(|column| column.name.to_owned()).collect();
    let all = std::iter::once(&heading).chain(&rows);
    all.map(|cells: &Vec<String>| cut(&line(cells, &shown, &widths), width))
        .collect()
}

fn row(session: &SessionReport) -> Vec<String> {
    // Names and reasons may be a stranger's words.
    let cells = COLUMNS
        .iter()
        .map(|column| Harmless(&(column.cell)(session)).to_string());
    cells.collect()
}

/// Which columns fit.
fn chosen(widths: &[usize], width: Option<usize>) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..COLUMNS.len()).collect();
    let needed = |shown: &[usize]| -> usize {
        let own: usize = shown.iter().map(|column| widths[*column]).sum();
        own + GAP.len() * shown.len().saturating_sub(1)
    };
    while let Some(width) = width
        && needed(&shown) > width
        && let Some(least) = shown.iter().max_by_key(|column| COLUMNS[**column].rank).copied()
        && COLUMNS[least].rank > 2
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

/// Who is there beside the sessions.
pub(super) fn footer(overview: &Overview) -> Vec<String> {
    let servers = overview.servers.iter().map(server);
    let relays = overview.relays.iter().map(relay);
    servers
        .chain(relays)
        .chain(overview.silent.iter().map(silent))
        .collect()
}

fn server(server: &ServerReport) -> String {
    let mut line = format!("server half: keeper {}", server.keeper_pid);
    match server.worker_pid {
        Some(worker) => write!(line, ", worker {worker}"),
        None => write!(line, ", no worker"),
    }
    .expect("a String takes every byte");
    line + &listens(&server.udp, &server.tls)
}

fn relay(relay: &RelayReport) -> String {
    format!(
        "relay: process {}, {} listed, {} joined, {} up, {} down{}",
        relay.pid,
        relay.registered,
        relay.splices,
        size(relay.bytes_up),
        size(relay.bytes_down),
        listens(&relay.udp, &relay.tls)
    )
}

fn listens(udp: &[SocketAddr], tls: &[SocketAddr]) -> String {
    let udp = udp.iter().map(|address| format!(", udp {address}"));
    udp.chain(tls.iter().map(|address| format!(", tls {address}")))
        .collect()
}

fn silent(silent: &Silent) -> String {
    let who = match (silent.pid, &silent.socket) {
        (Some(pid), _) => format!("process {pid}"),
        (None, Some(socket)) => format!("whoever listens at {}", socket.display()),
        (None, None) => "a process".to_owned(),
    };
    format!("{who} tells nothing: {}", silent.reason)
}

fn outages(session: &SessionReport) -> String {
    let outages = session.outages;
    match outages.survived {
        0 => "0".to_owned(),
        survived => format!("{survived}, {:.1} s", outages.longest_ms as f64 / 1e3),
    }
}

fn joined(all: &[String]) -> Option<String> {
    Some(all.join(", ")).filter(|text| !text.is_empty())
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Half, State};
    use crate::wire::SessionId;

    fn session() -> SessionReport {
        SessionReport {
            host: Some("build.example.org".to_owned()),
            user: Some("ann".to_owned()),
            path: Some("quic 192.0.2.7:4433".to_owned()),
            standby: vec!["tls via relay r1.example.org".to_owned()],
            rtt_ms: Some(23.4),
            state: State::Connected,
            age_ms: Some(400),
            ..SessionReport::gone(SessionId::new([0x3f; 16]), Half::Client)
        }
    }

    #[test]
    fn a_wide_place_shows_all_and_80_columns_what_matters() {
        let sessions = [session()];
        let wide = lines(&sessions, None);
        assert!(
            COLUMNS.iter().all(|column| wide[0].contains(column.name)),
            "{}",
            wide[0]
        );
        assert!(wide[1].contains("r1.example.org"), "{}", wide[1]);
        for narrow in [80, 60, 40, 10] {
            let lines = lines(&sessions, Some(narrow));
            assert!(lines.iter().all(|line| line.chars().count() <= narrow), "{lines:?}");
        }
        let usual = lines(&sessions, Some(80));
        assert!(
            usual[1].contains("3f3f3f3f  ann@build.example.org  quic 192.0.2.7:4433  23 ms"),
            "{usual:?}"
        );
        assert!(usual[1].contains("connected 0 s"), "{usual:?}");
    }

    #[test]
    fn a_strangers_name_does_not_move_the_cursor() {
        let hostile = SessionReport {
            user: Some("\x1b[2J".to_owned()),
            ..session()
        };
        let text = text(
            &Overview {
                sessions: vec![hostile],
                ..Overview::default()
            },
            None,
        );
        assert!(!text.contains('\x1b') && text.contains("\\u{1b}[2J"), "{text}");
    }

    #[test]
    fn nothing_is_said_in_one_line() {
        assert_eq!(text(&Overview::default(), None), "no sessions here\n");
    }
}
