//! The table of sessions, that of a relay's paths, and what stands below them.

use super::gather::{Overview, ServerReport, Silent};
use super::human::{age_of, round_trip, short_fingerprint, short_id, size, state, who};
use crate::observe::{PathReport, RelayReport, SessionReport, State};
use crate::wire::Escaped;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

const TERMINAL: &str = "TERMINAL";
const LAST_KEY: &str = "LAST KEY";

/// In the order in which they are shown.
const COLUMNS: [Column<SessionReport>; 15] = [
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
        name: TERMINAL,
        rank: 5,
        cell: |session| or_dash(session.terminal.clone()),
    },
    Column {
        name: LAST_KEY,
        rank: 5,
        cell: |session| or_dash(session.last_key_ms.map(|age| format!("{} ago", age_of(age)))),
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

/// Those of paths through a relay.
const PATH_COLUMNS: [Column<PathReport>; 6] = [
    Column {
        name: "FROM",
        rank: 0,
        cell: |path| path.peer.to_string(),
    },
    Column {
        name: "TO HOST KEY",
        rank: 1,
        cell: |path| short_fingerprint(&path.host_key),
    },
    Column {
        name: "BY",
        rank: 5,
        cell: |path| path.transport.clone(),
    },
    Column {
        name: "UP",
        rank: 4,
        cell: |path| size(path.bytes_up),
    },
    Column {
        name: "DOWN",
        rank: 3,
        cell: |path| size(path.bytes_down),
    },
    Column {
        name: "AGE",
        rank: 2,
        cell: |path| age_of(path.age_ms),
    },
];

/// A line of the tables.
pub(super) struct Row {
    pub(super) text: String,
    pub(super) kind: Kind,
}

/// What it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Heading,
    Session(State),
    /// A session's path through a relay, or how many more there are.
    Path,
    /// Between tables.
    Gap,
}

/// All of it, for a terminal so wide, or whatever there is.
pub(super) fn text(overview: &Overview, width: Option<usize>) -> String {
    let mut text = String::new();
    let rows = rows(overview, width);
    if rows.is_empty() {
        text += "no sessions on this machine\n";
    }
    for line in rows.into_iter().map(|row| row.text).chain(footer(overview)) {
        text += line.trim_end();
        text += "\n";
    }
    text
}

/// A table of the sessions and one of each relay's paths, where there are any.
pub(super) fn rows(overview: &Overview, width: Option<usize>) -> Vec<Row> {
    let mut rows = Vec::new();
    let kinds = overview.sessions.iter().map(|session| Kind::Session(session.state));
    add(&mut rows, session_lines(&overview.sessions, width), kinds);
    for relay in overview.relays.iter().filter(|relay| relay.splices > 0) {
        let lines = lines(&PATH_COLUMNS.each_ref(), &relay.paths, width);
        add(&mut rows, lines, relay.paths.iter().map(|_| Kind::Path));
        let untold = relay.splices.saturating_sub(relay.paths.len() as u64);
        if untold > 0 {
            let text = format!("and {untold} older ones");
            rows.push(Row { text, kind: Kind::Path });
        }
    }
    rows
}

/// Without the columns about terminals if no session has one, as on a server.
fn session_lines(sessions: &[SessionReport], width: Option<usize>) -> Vec<String> {
    let has_terminals = sessions.iter().any(|session| session.terminal.is_some());
    let columns = COLUMNS.each_ref();
    let is_shown = |column: &&&Column<SessionReport>| has_terminals || ![TERMINAL, LAST_KEY].contains(&column.name);
    let columns: Vec<_> = columns.iter().filter(is_shown).copied().collect();
    lines(&columns, sessions, width)
}

fn add(rows: &mut Vec<Row>, lines: Vec<String>, kinds: impl ExactSizeIterator<Item = Kind>) {
    if kinds.len() == 0 {
        return;
    }
    if !rows.is_empty() {
        let text = String::new();
        rows.push(Row { text, kind: Kind::Gap });
    }
    let kinds = std::iter::once(Kind::Heading).chain(kinds);
    rows.extend(lines.into_iter().zip(kinds).map(|(text, kind)| Row { text, kind }));
}

/// Who is there beside the sessions.
pub(super) fn footer(overview: &Overview) -> Vec<String> {
    let servers = overview.servers.iter().map(server);
    let relays = overview.relays.iter().map(relay);
    servers
        .chain(relays)
        .chain(overview.silent.iter().map(silent))
        .chain(overview.closed.iter().map(|folder| closed(folder)))
        .collect()
}

fn closed(folder: &Path) -> String {
    format!(
        "not readable: {} (run sudo bowline status to see what is there)",
        folder.display()
    )
}

fn server(server: &ServerReport) -> String {
    let mut line = format!("server half: keeper {}", server.keeper_pid);
    match server.worker_pid {
        Some(worker) => write!(line, ", worker {worker}"),
        None => write!(line, ", no worker"),
    }
    .expect("a String takes every byte");
    line = line + ", client addresses " + &server.client_address + &listens(&server.udp, &server.tls);
    if let Some(store) = server.store_shortage {
        write!(
            line,
            "; its service manager stores only {} of {} file descriptors for the next start \
             (FileDescriptorStoreMax={})",
            store.kept, store.wanted, store.most
        )
        .expect("a String takes every byte");
    }
    line
}

fn relay(relay: &RelayReport) -> String {
    format!(
        "relay: process {}, {} registered, {} paths, {} up, {} down{}",
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
        (None, Some(socket)) => format!("the process that listens on {}", socket.display()),
        (None, None) => "a process".to_owned(),
    };
    format!("{who} does not report its sessions: {}", silent.reason)
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

/// Between columns.
const GAP: &str = "  ";

/// One column.
pub(super) struct Column<T> {
    pub(super) name: &'static str,
    /// The lower, the longer it stays; up to 2 it always does.
    pub(super) rank: u8,
    pub(super) cell: fn(&T) -> String,
}

/// A heading and a line for each of `all`. Columns for which a narrow terminal has no room are left out, those of the
/// highest rank first.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Half;
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

    fn lines(sessions: &[SessionReport], width: Option<usize>) -> Vec<String> {
        session_lines(sessions, width)
    }

    fn path() -> PathReport {
        PathReport {
            peer: "192.0.2.7:50123".parse().expect("an address"),
            transport: "quic".to_owned(),
            host_key: "SHA256:Zm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm9vYmFyZm8".to_owned(),
            bytes_up: 1536,
            bytes_down: 5 << 20,
            age_ms: 180_000,
        }
    }

    fn relay(splices: u64) -> RelayReport {
        RelayReport {
            pid: 7,
            udp: Vec::new(),
            tls: Vec::new(),
            registered: 1,
            splices,
            bytes_up: 0,
            bytes_down: 0,
            paths: vec![path()],
        }
    }

    #[test]
    fn a_relays_paths_are_told_and_how_many_more_there_are() {
        let overview = Overview {
            relays: vec![relay(3)],
            ..Overview::default()
        };
        let expected = "\
FROM             TO HOST KEY        BY    UP       DOWN     AGE
192.0.2.7:50123  SHA256:Zm9vYmFy..  quic  1.5 KiB  5.0 MiB  3 m
and 2 older ones
relay: process 7, 1 registered, 3 paths, 0 B up, 0 B down
";
        assert_eq!(text(&overview, Some(80)), expected);
        let narrow = text(&overview, Some(45));
        assert!(
            narrow.starts_with("FROM             TO HOST KEY        AGE\n"),
            "{narrow}"
        );

        let both = Overview {
            sessions: vec![session()],
            relays: vec![relay(1)],
            ..Overview::default()
        };
        let kinds: Vec<_> = rows(&both, None).iter().map(|row| row.kind).collect();
        let (heading, connected) = (Kind::Heading, Kind::Session(State::Connected));
        assert_eq!(kinds, [heading, connected, Kind::Gap, heading, Kind::Path]);
    }

    #[test]
    fn a_wide_place_shows_all_and_80_columns_what_matters() {
        let typed = SessionReport {
            terminal: Some("pts/3".to_owned()),
            ..session()
        };
        let sessions = [session()];
        let wide = lines(&[typed], None);
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
    fn the_terminal_and_the_last_key_are_shown_if_a_session_has_a_terminal() {
        assert!(!lines(&[session()], None)[0].contains("TERMINAL"));
        let typed = SessionReport {
            terminal: Some("pts/3".to_owned()),
            last_key_ms: Some(185_000),
            ..session()
        };
        let both = lines(&[session(), typed], None);
        assert!(both[0].contains("TERMINAL  LAST KEY"), "{both:?}");
        assert!(both[2].contains("pts/3     3 m ago"), "{both:?}");
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
        assert_eq!(text(&Overview::default(), None), "no sessions on this machine\n");
    }
}
