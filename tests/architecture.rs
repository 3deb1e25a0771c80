//! The rules of the house, enforced: floors, sizes, and what may stand only in one place.

#[path = "architecture/documents.rs"]
mod documents;
#[path = "architecture/refusals.rs"]
mod refusals;
#[path = "architecture/source.rs"]
mod source;
#[path = "architecture/words.rs"]
mod words;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use source::{functions, paths, production, tokens};

/// What a room may take from the outside world.
enum Crates {
    /// These only, beside the standard library without `std` paths named in [`PURE_STD`].
    Only(&'static [&'static str]),
    /// All but these.
    AllBut(&'static [&'static str]),
}

/// A module of the top level: what of the house it may import, and what of the world.
struct Room {
    name: &'static str,
    rooms: &'static [&'static str],
    crates: Crates,
}

/// The house. Leaves that everyone from floor 2 up may use: `clock`, `tasks`, `descriptor`, `random`, `atomic_file`, `memory`, `tcp_info`, `hints`,
/// `local_socket`, `safe_path`, `fault`.
const ROOMS: &[Room] = &[
    // Floors 0 and 1, in crates/proto: the compiler sees to the crates, this test to the standard library.
    Room {
        name: "wire",
        rooms: &[],
        crates: Crates::Only(&["bytes", "thiserror"]),
    },
    Room {
        name: "session",
        rooms: &["wire"],
        crates: Crates::Only(&["bytes", "thiserror"]),
    },
    Room {
        name: "connection",
        rooms: &["wire", "session"],
        crates: Crates::Only(&["bytes", "thiserror"]),
    },
    // A crate of its own, crates/terminal: screens and keys, and nothing of sessions.
    Room {
        name: "terminal",
        rooms: &[],
        crates: Crates::Only(&[]),
    },
    // Leaves
    Room {
        name: "clock",
        rooms: &["descriptor"],
        crates: Crates::Only(&["rustix", "tokio", "libc", "tracing"]),
    },
    Room {
        name: "tasks",
        rooms: &[],
        crates: Crates::Only(&["tokio", "tokio_util", "tracing", "thiserror"]),
    },
    Room {
        name: "descriptor",
        rooms: &[],
        crates: Crates::Only(&["rustix", "tokio"]),
    },
    Room {
        name: "memory",
        rooms: &[],
        crates: Crates::Only(&["rustix"]),
    },
    Room {
        name: "random",
        rooms: &[],
        crates: Crates::Only(&["aws_lc_rs"]),
    },
    Room {
        name: "atomic_file",
        rooms: &[],
        crates: Crates::Only(&["tempfile"]),
    },
    Room {
        name: "local_socket",
        rooms: &[],
        crates: Crates::Only(&["rustix", "libc"]),
    },
    Room {
        name: "safe_path",
        rooms: &[],
        crates: Crates::Only(&["rustix", "thiserror"]),
    },
    Room {
        name: "hints",
        rooms: &["atomic_file"],
        crates: Crates::Only(&["toml", "thiserror"]),
    },
    Room {
        name: "tcp_info",
        rooms: &[],
        crates: Crates::Only(&["libc"]),
    },
    Room {
        name: "controlling_terminal",
        rooms: &[],
        crates: Crates::Only(&["libc"]),
    },
    Room {
        name: "fault",
        rooms: &["clock"],
        crates: Crates::AllBut(CLI_ONLY),
    },
    // Floor 2
    Room {
        name: "identity",
        rooms: &[
            "wire",
            "clock",
            "tasks",
            "descriptor",
            "atomic_file",
            "controlling_terminal",
        ],
        crates: Crates::AllBut(&[
            "quinn",
            "clap",
            "clap_complete",
            "clap_mangen",
            "directories",
            "ratatui",
            "strsim",
        ]),
    },
    Room {
        name: "transport",
        rooms: &["wire", "identity", "clock", "tasks", "descriptor", "tcp_info", "fault"],
        crates: Crates::AllBut(CLI_ONLY),
    },
    Room {
        name: "carrier",
        rooms: &[
            "wire",
            "identity",
            "transport",
            "clock",
            "tasks",
            "descriptor",
            "random",
            "atomic_file",
            "tcp_info",
            "fault",
        ],
        crates: Crates::AllBut(CLI_ONLY),
    },
    // Floor 3
    Room {
        name: "pump",
        rooms: &[
            "wire",
            "session",
            "connection",
            "identity",
            "transport",
            "carrier",
            "clock",
            "tasks",
            "descriptor",
            "memory",
            "fault",
        ],
        crates: Crates::AllBut(CLI_ONLY),
    },
    Room {
        name: "observe",
        rooms: &["wire", "carrier", "pump", "clock", "tasks", "local_socket", "tcp_info"],
        crates: Crates::AllBut(CLI_ONLY),
    },
    // Floor 4
    Room {
        name: "client",
        rooms: &[
            "wire",
            "session",
            "connection",
            "identity",
            "transport",
            "carrier",
            "pump",
            "observe",
            "random",
            "clock",
            "tasks",
            "descriptor",
            "tcp_info",
            "memory",
            "hints",
            "fault",
        ],
        crates: Crates::AllBut(CLI_ONLY),
    },
    Room {
        name: "server",
        rooms: &[
            "wire",
            "session",
            "identity",
            "transport",
            "carrier",
            "pump",
            "observe",
            "random",
            "clock",
            "tasks",
            "descriptor",
            "local_socket",
            "memory",
            "tcp_info",
            "fault",
        ],
        crates: Crates::AllBut(CLI_ONLY),
    },
    Room {
        name: "relay",
        rooms: &[
            "wire",
            "identity",
            "transport",
            "carrier",
            "observe",
            "clock",
            "tasks",
            "random",
            "fault",
        ],
        crates: Crates::AllBut(CLI_ONLY),
    },
    Room {
        name: "sshd",
        rooms: &["identity", "clock", "tasks", "descriptor"],
        crates: Crates::AllBut(&[
            "quinn",
            "rustls",
            "clap",
            "clap_complete",
            "clap_mangen",
            "toml",
            "directories",
            "ratatui",
            "strsim",
        ]),
    },
    // Floor 5
    Room {
        name: "cli",
        rooms: &[
            "wire",
            "session",
            "identity",
            "transport",
            "carrier",
            "pump",
            "observe",
            "client",
            "server",
            "relay",
            "sshd",
            "random",
            "atomic_file",
            "clock",
            "tasks",
            "descriptor",
            "memory",
            "safe_path",
            "controlling_terminal",
            "fault",
        ],
        crates: Crates::AllBut(&["quinn"]),
    },
];

/// The modules of the server half that are the keeper's. Each may import the modules of the server half that are named, and
/// those before it in this list.
const KEEPER: &[(&str, &[&str])] = &[
    ("ipc", &["sshd_config"]),
    ("handover", &["client_address", "worker_user"]),
    ("takeover", &[]),
    ("supervisor", &["client_address", "worker_user"]),
];

/// Modules beside the server half that the keeper's may import: nothing that parses what the network sends.
const KEEPER_LEAVES: &[&str] = &["server", "clock", "fault", "local_socket", "tcp_info"];

/// What the keeper's modules may use of the world: system calls, JSON, errors, logging, wiping of keys. No async runtime, and
/// nothing that parses what the network sends.
const KEEPER_CRATES: &[&str] = &[
    "libc",
    "rustix",
    "serde",
    "serde_json",
    "thiserror",
    "tracing",
    "zeroize",
];

/// What only the command line is for.
const CLI_ONLY: &[&str] = &[
    "clap",
    "clap_complete",
    "clap_mangen",
    "roff",
    "pulldown_cmark",
    "toml",
    "directories",
    "ratatui",
    "similar",
    "strsim",
    "tempfile",
    "tracing_subscriber",
];

/// The parts of `std` that touch the world: forbidden where only named crates may be used and no clock is.
const PURE_STD: &[&str] = &["fs", "net", "process", "thread", "env", "os"];

/// Where I/O is nobody's business.
const PURE_ROOMS: &[&str] = &["wire", "session", "connection", "terminal"];

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Where the product is.
const PRODUCT: [&str; 2] = ["src", "crates"];
/// Where there is Rust that people read.
const ALL: [&str; 4] = ["src", "crates", "tests", "examples"];

const MOST_LINES_BEFORE_TESTS: usize = 800;
const MOST_LINES_OF_A_FUNCTION: usize = 60;

#[test]
fn imports_go_down_the_floors_only() {
    let all = PRODUCT.map(sources);
    report(all.iter().flatten().flat_map(|file| imports(&file.place, &file.text)));
}

#[test]
fn the_keeper_imports_down_and_has_no_async_runtime() {
    let all = sources("src/server");
    report(all.iter().flat_map(|file| keeper_imports(&file.place, &file.text)));
    for (name, _) in KEEPER {
        let folder = format!("src/server/{name}/");
        assert!(all.iter().any(|file| file.place.starts_with(&folder)), "no {folder}");
    }
}

#[test]
fn the_protocol_core_depends_on_bytes_and_thiserror_only() {
    let manifest = include_str!("../crates/proto/Cargo.toml");
    assert_eq!(dependencies_of(manifest), ["bytes", "thiserror"]);
}

#[test]
fn the_terminal_depends_on_an_emulator_and_the_widths_of_characters_only() {
    let manifest = include_str!("../crates/terminal/Cargo.toml");
    assert_eq!(
        dependencies_of(manifest),
        ["alacritty_terminal", "unicode_width", "vte"]
    );
}

#[test]
fn what_has_one_place_stands_nowhere_else() {
    let all = PRODUCT.map(sources);
    report(
        all.iter()
            .flatten()
            .flat_map(|file| single_places(&file.place, &file.text)),
    );
}

#[test]
fn files_and_functions_are_of_a_readable_size() {
    let all = ALL.map(sources);
    report(all.iter().flatten().flat_map(|file| sizes(&file.place, &file.text)));
}

#[test]
fn nothing_is_left_undone_or_switched_off() {
    let all = ALL.map(sources);
    report(all.iter().flatten().flat_map(|file| leftovers(&file.place, &file.text)));
}

#[test]
fn every_file_says_what_it_is() {
    let all = ALL.map(sources);
    // tests.rs is the end of the file beside it.
    let bare = all
        .iter()
        .flatten()
        .filter(|file| !file.text.starts_with("//!") && !is_test_file(&file.place));
    report(bare.map(|file| format!("{}: no header (`//!`)", file.place)));
}

/// A source file: `src/server/verifier.rs`.
struct Source {
    place: String,
    text: String,
}

fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(ROOT);
    let mut files = Vec::new();
    collect(&root.join(folder), &mut files);
    files.sort();
    let sources = files.into_iter().map(|path| Source {
        place: path
            .strip_prefix(root)
            .expect("below the root")
            .to_str()
            .expect("a plain name")
            .to_owned(),
        text: std::fs::read_to_string(&path).expect("a readable source"),
    });
    sources.collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn report(faults: impl Iterator<Item = String>) {
    let mut all = String::new();
    for fault in faults {
        writeln!(all, "  {fault}").expect("a String takes every byte");
    }
    assert!(all.is_empty(), "against the rules of the house:\n{all}");
}

/// `["server", "verifier"]` for `src/server/verifier.rs`; empty for a crate's root. `crates/proto` is part of the house, and
/// `crates/terminal` is one room of it.
fn module_of(place: &str) -> Vec<&str> {
    if place.starts_with("crates/terminal/src/") {
        return vec!["terminal"];
    }
    let inner = place.trim_start_matches("crates/proto/").trim_start_matches("src/");
    let inner = inner.trim_end_matches(".rs");
    inner
        .split('/')
        .filter(|part| !["mod", "lib", "main"].contains(part))
        .collect()
}

/// Whether a file holds nothing but tests.
fn is_test_file(place: &str) -> bool {
    place
        .split('/')
        .any(|part| ["tests", "tests.rs", "testing.rs", "test_tools.rs", "fuzzing.rs"].contains(&part))
}

fn imports(place: &str, text: &str) -> Vec<String> {
    let module = module_of(place);
    let Some(own) = module.first() else { return Vec::new() };
    if is_test_file(place) {
        return Vec::new();
    }
    let Some(room) = ROOMS.iter().find(|room| room.name == *own) else {
        return vec![format!(
            "{place}: `{own}` has no floor; give it one in tests/architecture.rs"
        )];
    };
    let all = tokens(text);
    let mut faults = Vec::new();
    for path in paths(production(&all)) {
        if let Some(target) = room_of(&path.segments, &module)
            && target != *own
            && ROOMS.iter().any(|room| room.name == target)
            && !room.rooms.contains(&target)
        {
            faults.push(format!("{place}:{}: `{own}` may not import `{target}`", path.line));
        }
        if let Some(name) = forbidden_crate(room, &path.segments) {
            faults.push(format!("{place}:{}: `{own}` may not use `{name}`", path.line));
        }
    }
    faults
}

/// What a module of the keeper imports and may not.
fn keeper_imports(place: &str, text: &str) -> Vec<String> {
    let module = module_of(place);
    let own = KEEPER
        .iter()
        .position(|(name, _)| module.len() > 1 && module[0] == "server" && module[1] == *name);
    let Some(own) = own.filter(|_| !is_test_file(place)) else {
        return Vec::new();
    };
    let (name, beside) = KEEPER[own];
    let all = tokens(text);
    let mut faults = Vec::new();
    for path in paths(production(&all)) {
        let absolute = absolute(&path.segments, &module);
        if let Some(target) = absolute.strip_prefix(&["server".to_owned()][..]).and_then(<[_]>::first)
            && target.starts_with(char::is_lowercase)
            && target != name
            && !beside.contains(&target.as_str())
            && !KEEPER[..own].iter().any(|(lower, _)| lower == target)
        {
            faults.push(format!("{place}:{}: `{name}` may not import `{target}`", path.line));
        }
        if let Some(room) = room_of(&path.segments, &module)
            && room.starts_with(char::is_lowercase)
            && !KEEPER_LEAVES.contains(&room)
        {
            faults.push(format!("{place}:{}: the keeper may not import `{room}`", path.line));
        }
        let head = path.segments[0].as_str();
        let is_crate = dependencies_of(include_str!("../Cargo.toml"))
            .iter()
            .any(|one| one == head);
        if is_crate && !KEEPER_CRATES.contains(&head) {
            faults.push(format!("{place}:{}: the keeper may not use `{head}`", path.line));
        }
    }
    faults
}

/// A path from the root of our own crate; empty if it leads out of it.
fn absolute(segments: &[String], module: &[&str]) -> Vec<String> {
    let ups = segments.iter().take_while(|segment| *segment == "super").count();
    match segments[0].as_str() {
        "crate" => segments[1..].to_vec(),
        "super" if ups <= module.len() => {
            let above = module[..module.len() - ups].iter().map(|name| (*name).to_owned());
            above.chain(segments[ups..].iter().cloned()).collect()
        }
        _ => Vec::new(),
    }
}

/// The room that a path of our own crate leads to.
fn room_of<'a>(segments: &'a [String], module: &'a [&str]) -> Option<&'a str> {
    let ups = segments.iter().take_while(|segment| *segment == "super").count();
    match segments[0].as_str() {
        "crate" | "bowline" => segments.get(1).map(String::as_str),
        "super" if ups < module.len() => Some(module[0]),
        "super" => segments.get(ups).map(String::as_str),
        _ => None,
    }
}

fn forbidden_crate(room: &Room, segments: &[String]) -> Option<String> {
    let head = segments[0].as_str();
    if head == "bowline_proto" {
        return Some(
            "bowline_proto, which has its names as `crate::wire`, `crate::session` and `crate::connection`".to_owned(),
        );
    }
    if PURE_ROOMS.contains(&room.name) && head == "std" && PURE_STD.contains(&segments[1].as_str()) {
        return Some(format!("std::{}", segments[1]));
    }
    let forbidden = match room.crates {
        Crates::Only(few) => {
            dependencies_of(include_str!("../Cargo.toml"))
                .iter()
                .any(|name| name == head)
                && !few.contains(&head)
        }
        Crates::AllBut(some) => some.contains(&head),
    };
    forbidden.then(|| head.to_owned())
}

/// The crates of `[dependencies]`, as they are called in source.
fn dependencies_of(manifest: &str) -> Vec<String> {
    let section = manifest
        .split("[dependencies]")
        .nth(1)
        .and_then(|rest| rest.split("\n[").next())
        .unwrap_or_default();
    section
        .lines()
        .filter_map(|line| line.split_once(" ="))
        .map(|(name, _)| name.replace('-', "_"))
        .collect()
}

/// The only `spawn` is in `tasks`, the only present in `clock`.
///
/// `spawn_blocking` is free: it is awaited where it stands, a call on another thread.
fn single_places(place: &str, text: &str) -> Vec<String> {
    if is_test_file(place) {
        return Vec::new();
    }
    let all = tokens(text);
    let found = paths(production(&all)).into_iter().filter_map(|path| {
        let tail: Vec<&str> = path.segments.iter().rev().take(2).rev().map(String::as_str).collect();
        let home = match tail.as_slice() {
            ["tokio" | "task" | "thread", "spawn" | "spawn_local"] => "tasks",
            ["Instant", "now"] => "clock",
            _ => return None,
        };
        (module_of(place).first() != Some(&home))
            .then(|| format!("{place}:{}: `{}` belongs into `{home}`", path.line, tail.join("::")))
    });
    found.collect()
}

fn sizes(place: &str, text: &str) -> Vec<String> {
    let all = tokens(text);
    let mut faults = Vec::new();
    let before_tests = match all.get(production(&all).len()) {
        Some(first_of_tests) => first_of_tests.line - 1,
        None => text.lines().count(),
    };
    if before_tests > MOST_LINES_BEFORE_TESTS
        && (place.starts_with("src/") || place.starts_with("crates/"))
        && !is_test_file(place)
    {
        faults.push(format!(
            "{place}: {before_tests} lines before its tests, at most {MOST_LINES_BEFORE_TESTS}"
        ));
    }
    for function in functions(&all) {
        if function.lines > MOST_LINES_OF_A_FUNCTION && !has_reason(text, function.line) {
            faults.push(format!(
                "{place}:{}: `{}` has {} lines, at most {MOST_LINES_OF_A_FUNCTION} or a reason above it (`// long: ..`)",
                function.line, function.name, function.lines
            ));
        }
    }
    faults
}

/// Whether `// long: REASON` stands above the function, among its attributes and documentation.
fn has_reason(text: &str, line: usize) -> bool {
    let above: Vec<&str> = text.lines().take(line - 1).map(str::trim).collect();
    let heading = above
        .iter()
        .rev()
        .take_while(|line| line.starts_with("//") || line.starts_with("#["));
    heading.into_iter().any(|line| {
        line.strip_prefix("// long:")
            .is_some_and(|reason| !reason.trim().is_empty())
    })
}

fn leftovers(place: &str, text: &str) -> Vec<String> {
    let all = tokens(text);
    let found = all.windows(2).filter(|pair| {
        let pair = [pair[0].text.as_str(), pair[1].text.as_str()];
        matches!(pair, ["todo" | "unimplemented", "!"] | ["[", "ignore"])
    });
    found
        .map(|pair| format!("{place}:{}: `{}{}`", pair[0].line, pair[0].text, pair[1].text))
        .collect()
}

/// The rules themselves, on samples: each must find what it is there to find.
mod self_test {
    use super::*;

    #[test]
    fn a_forbidden_import_is_found_in_every_spelling() {
        for (place, text) in [
            ("crates/proto/src/wire/a.rs", "use tokio::io;"),
            ("crates/terminal/src/a.rs", "use tokio::io;"),
            ("crates/terminal/src/a.rs", "use std::os::fd::OwnedFd;"),
            (
                "crates/proto/src/wire/a.rs",
                "fn f() { let t = std::net::TcpStream::connect(a); }",
            ),
            (
                "crates/proto/src/session/mod.rs",
                "use crate::{wire::Offset, carrier::Link};",
            ),
            ("crates/proto/src/session/a.rs", "use std::{fmt, fs::File};"),
            ("crates/proto/src/session/a.rs", "fn f() { tracing::info!(\"x\"); }"),
            ("src/client/a.rs", "use crate::server::Registry;"),
            ("src/client/a.rs", "use super::super::server;"),
            ("src/pump/mod.rs", "pub(crate) use super::client::Dialer;"),
            ("src/server/a.rs", "fn f(client: crate::client::Dialer) {}"),
            ("src/sshd/mod.rs", "use crate::session::Session;"),
            ("src/server/a.rs", "use clap::Parser;"),
            ("src/pump/a.rs", "use bowline_proto::session::Session;"),
            ("src/attic/mod.rs", ""),
        ] {
            assert_eq!(
                imports(place, text).len(),
                1,
                "{place}: {text}: {:?}",
                imports(place, text)
            );
        }
    }

    #[test]
    fn what_the_keeper_may_not_import_is_found() {
        for text in [
            "use crate::server::supervisor::Keeper;",
            "use super::super::worker::WorkerSetup;",
            "use crate::{clock, server::{ipc::Stop, registry::Registry}};",
            "use tokio::sync::mpsc;",
            "use crate::tasks::Tasks;",
            "use crate::transport::quic::bind;",
            "use crate::{clock, identity::raw_key::TlsKey};",
        ] {
            assert_eq!(keeper_imports("src/server/takeover/client.rs", text).len(), 1, "{text}");
        }
        for text in [
            "use super::super::ipc::Stop; use super::client::Offer;",
            "use crate::server::handover::Handover; use rustix::io::Errno;",
            "#[cfg(test)]\nmod tests { use tokio::sync::mpsc; }",
        ] {
            assert_eq!(
                keeper_imports("src/server/takeover/client.rs", text),
                Vec::<String>::new(),
                "{text}"
            );
        }
        assert_eq!(
            keeper_imports("src/server/takeover/mod.rs", "use super::{ipc::Stop, worker::serve};").len(),
            1
        );
    }

    #[test]
    fn an_allowed_import_passes() {
        for (place, text) in [
            (
                "crates/proto/src/wire/a.rs",
                "use super::codec::Reader; use bytes::Bytes;",
            ),
            (
                "crates/proto/src/session/a.rs",
                "use crate::wire::Offset; use std::time::{Duration, Instant};",
            ),
            (
                "crates/proto/src/session/a.rs",
                "// use tokio::io;\n/* use /* */ tokio::io; */ const A: &str = \"tokio::io\";",
            ),
            (
                "crates/proto/src/session/a.rs",
                "#[cfg(test)]\nmod tests { use tokio::io; }",
            ),
            ("crates/proto/src/session/tests.rs", "use proptest::prelude::*;"),
            (
                "crates/terminal/src/display.rs",
                "use crate::modes::ModeTracker; use vte::Perform;",
            ),
            ("src/identity/a/b.rs", "use super::super::raw_key; use crate::tasks;"),
            ("src/cli/a.rs", "use crate::client::Dialer; use clap::Parser;"),
        ] {
            assert_eq!(imports(place, text), Vec::<String>::new(), "{place}: {text}");
        }
    }

    #[test]
    fn a_spawn_and_a_clock_out_of_place_are_found() {
        for text in [
            "fn f() { tokio::spawn(g()); }",
            "fn f() { std::thread::spawn(g); }",
            "fn f() { tokio::task::spawn_local(g()); }",
            "fn f() -> Instant { Instant::now() }",
            "fn f() { let n = tokio::time::Instant::now(); }",
        ] {
            assert_eq!(single_places("src/client/a.rs", text).len(), 1, "{text}");
        }
        assert_eq!(
            single_places("src/clock.rs", "fn f() { Instant::now(); }"),
            Vec::<String>::new()
        );
        assert_eq!(
            single_places("src/tasks.rs", "fn f() { tokio::spawn(g()); }"),
            Vec::<String>::new()
        );
        assert_eq!(
            single_places("src/client/a.rs", "fn f() { set.spawn(g()); }"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_long_function_is_found_unless_it_says_why() {
        let body = "    step();\n".repeat(59);
        let long = format!("fn f(a: [u8; 2]) -> u8 {{\n{body}}}\n");
        assert_eq!(sizes("src/a.rs", &long).len(), 1);
        assert_eq!(
            sizes("src/a.rs", &format!("// long: one call an arm\n#[inline]\n{long}")),
            Vec::<String>::new()
        );
        assert_eq!(sizes("src/a.rs", &format!("// long:\n{long}")).len(), 1);
        let shorter = long.replacen("    step();\n", "", 1);
        assert_eq!(sizes("src/a.rs", &shorter), Vec::<String>::new());
        assert_eq!(
            sizes("src/a.rs", "trait T { fn f(); }\nfn g() { '{'; \"}\"; r#\"}\"#; }"),
            Vec::<String>::new()
        );
    }

    #[test]
    fn a_long_file_is_found_and_its_tests_do_not_count() {
        let lines = "const A: u8 = b'\\'';\n".repeat(MOST_LINES_BEFORE_TESTS);
        assert_eq!(sizes("src/a.rs", &lines), Vec::<String>::new());
        assert_eq!(sizes("src/a.rs", &format!("{lines}{lines}")).len(), 1);
        assert_eq!(
            sizes("src/a.rs", &format!("{lines}#[cfg(test)]\nmod tests {{\n{lines}}}")),
            Vec::<String>::new()
        );
    }

    #[test]
    fn what_is_left_undone_is_found() {
        for text in [
            "fn f() { todo!() }",
            "#[ignore]\nfn f() {}",
            "#[ignore = \"slow\"]\nfn f() {}",
        ] {
            assert_eq!(leftovers("src/a.rs", text).len(), 1, "{text}");
        }
        assert_eq!(
            leftovers("src/a.rs", "// todo!\nlet a = \"#[ignore]\";"),
            Vec::<String>::new()
        );
    }
}
