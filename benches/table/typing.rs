//! How long a key takes to come back on a terminal, at several rates of loss. All type at the same time, so that all meet
//! the same moments of the machine.

use crate::picture::{Axis, Line, Panel, Picture};
use crate::sides::{self, Peer, Side, Sides};
use crate::support::lab::Lab;
use crate::support::now;
use crate::table::{Row, Seen, Table, keep};
use crate::terminal::Terminal;
use std::thread;
use std::time::Duration;

const CLIENT: &str = "delay=25";
/// Percent each way, and by which part of the keys a link with so much loss is measured: plain ssh needs seconds for some.
const LOSSES: [(u32, usize); 4] = [(0, 1), (1, 1), (5, 1), (20, 3)];
/// Between two keys. No divisor of what QUIC waits for, so that keys meet its timers at any moment.
const PAUSE: Duration = Duration::from_millis(113);
/// For one key: where all is lost that can be, TCP needs half of this.
const LONGEST: Duration = Duration::from_secs(60);

/// The other terminal echoes. The program there says that it is ready, and takes what is typed.
const TAKER: &str = r"stty -icanon; printf '#'; exec cat >/dev/null";
const READY: u8 = b'#';
/// Letters that no program here shows by itself: neither in mosh's line about the last contact nor at the end of a control
/// sequence.
const KEYS: &[u8] = b"bfjkvxz";

/// Echoes at a round trip of 50 ms, ssh with the kernel's BBR. `BOWLINE_BENCH_KEYS` changes the number of keys.
pub(crate) fn echo(table: &mut Table, _rounds: usize) {
    let keys = std::env::var("BOWLINE_BENCH_KEYS").map_or(500, |keys| keys.parse().expect("a number"));
    let panels = LOSSES.map(|(loss, part)| {
        let seen = measure(loss, keys / part);
        let name = format!("echo of {} keys on a terminal, 50 ms, {loss} % loss", keys / part);
        let panel = Panel {
            title: format!("{loss} % loss each way"),
            lines: seen
                .iter()
                .filter_map(|(peer, seen)| distribution(*peer, seen))
                .collect(),
            shaded: None,
        };
        table.add(Row::of_percentiles(&name, "ms", seen));
        panel
    });
    let picture = Picture {
        title: "How long a key takes to come back on a terminal, round trip 50 ms".into(),
        x: Axis {
            name: "ms, logarithmic",
            scale: f64::log10,
            range: (40.0, 5000.0),
            ticks: [50, 100, 200, 500, 1000, 2000, 5000]
                .map(|ms| (ms.into(), ms.to_string()))
                .into(),
        },
        y: Axis {
            name: "this many percent of the keys took at most so long",
            // Each nine as high as the one before.
            scale: |percent| -(100.0 - percent).log10(),
            range: (0.0, 99.9),
            ticks: [0, 50, 90, 99]
                .map(|percent| (percent.into(), percent.to_string()))
                .into(),
        },
        panels: panels.into(),
        columns: 2,
        panel_height: 200.0,
    };
    keep("echo.svg", &picture.svg());
}

fn measure(loss: u32, keys: usize) -> Vec<(Peer, Seen)> {
    let lab = Lab::up(&[("client", CLIENT), ("server", "")]);
    sides::use_tcp_control(&lab, "bbr");
    let sides = Sides::start_in(&lab, &Peer::TERMINALS);
    let typists: Vec<Typist> = sides.all().map(Typist::start).collect();
    lab.set("client", &format!("{CLIENT},loss={loss}"));
    let typing: Vec<_> = typists
        .into_iter()
        .map(|typist| thread::spawn(move || typist.types(keys)))
        .collect();
    let echoes = typing
        .into_iter()
        .map(|typing| typing.join().expect("a typist says why"));
    sides.named(echoes.collect())
}

/// How many percent of the keys took at most how long.
fn distribution(peer: Peer, seen: &Seen) -> Option<Line> {
    let Seen::Figures(figures) = seen else { return None };
    let mut sorted = figures.clone();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64;
    let percents = (0..sorted.len()).map(|place| (place as f64 + 0.5) / count * 100.0);
    let points = sorted.into_iter().zip(percents);
    Some(Line {
        peer: peer.name(),
        points: points.collect(),
    })
}

/// A user of a terminal.
struct Typist {
    peer: Peer,
    terminal: Terminal,
    said: Vec<u8>,
}

impl Typist {
    /// Logs in.
    fn start(side: &Side) -> Typist {
        let mut typist = Typist {
            peer: side.peer,
            terminal: side.on_terminal(TAKER),
            said: vec![],
        };
        assert!(typist.sees(READY), "no terminal: {}", typist.last_words());
        typist
    }

    /// Types so many keys, each once the one before is back; how many ms each took, or why it has stopped.
    fn types(mut self, keys: usize) -> Seen {
        let mut figures = vec![];
        for key in KEYS.iter().cycle().take(keys) {
            thread::sleep(PAUSE);
            let start = now();
            if self.terminal.press(&[*key]).is_err() || !self.sees(*key) {
                assert!(self.peer != Peer::Bowline, "a key is lost: {}", self.last_words());
                return Seen::Nothing(format!("loses key {}", figures.len() + 1));
            }
            figures.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Seen::Figures(figures)
    }

    /// Waits until the terminal shows it.
    fn sees(&mut self, key: u8) -> bool {
        let mut buffer = [0; 4096];
        loop {
            let Ok(read) = self.terminal.read(&mut buffer, LONGEST) else {
                return false;
            };
            self.said = buffer[..read].into();
            if self.said.contains(&key) {
                return true;
            }
        }
    }

    fn last_words(&self) -> String {
        format!("{}: {}", self.peer.name(), String::from_utf8_lossy(&self.said))
    }
}
