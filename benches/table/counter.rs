//! A program that counts on a remote terminal while the user types nothing, and when each number was seen here.

use crate::sides::{Peer, Side};
use crate::support::{now, wait_for};
use crate::terminal::Terminal;
use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A number each 20 ms, all at the same place of the screen, for 14 minutes: the n-th character from U+20000 on. No program
/// here shows those by itself, and mosh, which brings the newest screen only, draws such a number whole. Its line about the last
/// contact is the first one.
const COUNT: &str =
    r#"exec perl -CO -e '$|=1; print "\n"; for(0..42000){printf "\r%c",0x20000+$_; select undef,undef,undef,.02}'"#;
/// The first byte of each of these characters in UTF-8, and of no others that are seen here.
const HEAD: u8 = 0xF0;
const LENGTH: usize = 4;
const FIRST: u32 = 0x20000;

/// The running session.
pub(crate) struct Counter {
    pub(crate) peer: Peer,
    seen: Arc<Mutex<Seen>>,
    _terminal: Terminal,
}

#[derive(Default)]
struct Seen {
    numbers: Vec<(Instant, u32)>,
    said: String,
    ended: bool,
}

impl Counter {
    /// Logs in and waits until numbers come.
    ///
    /// # Panics
    /// When none do, with what the terminal shows.
    pub(crate) fn start(side: &Side) -> Counter {
        let terminal = side.on_terminal(COUNT);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (filled, reader) = (seen.clone(), terminal.reader());
        std::thread::spawn(move || read_numbers(reader, &filled));
        let counter = Counter {
            peer: side.peer,
            seen,
            _terminal: terminal,
        };
        let runs = wait_for(Duration::from_secs(30), || {
            counter.look(|seen| seen.numbers.len() >= 10).then_some(())
        });
        let said = counter.look(|seen| seen.said.clone());
        assert!(runs.is_some(), "{} shows no numbers: {said}", side.peer.name());
        counter
    }

    /// When the first number after `moment` came.
    pub(crate) fn next_after(&self, moment: Instant) -> Option<Instant> {
        self.look(|seen| seen.numbers.iter().map(|(at, _)| *at).find(|at| *at >= moment))
    }

    /// Whether numbers have come lately.
    pub(crate) fn flows(&self) -> bool {
        // mosh brings four screens a second at the least.
        now()
            .checked_sub(Duration::from_millis(400))
            .is_some_and(|lately| self.next_after(lately).is_some())
    }

    /// Whether the program before the terminal has ended.
    pub(crate) fn ended(&self) -> bool {
        self.look(|seen| seen.ended)
    }

    /// The longest silence that ended after `from`, until now: between two numbers, or since the last one.
    pub(crate) fn longest_silence_since(&self, from: Instant) -> Duration {
        self.look(|seen| {
            let times = || seen.numbers.iter().map(|(at, _)| *at);
            let silences = times().zip(times().skip(1).chain([now()]));
            let after = silences.filter(|(_, end)| *end > from);
            after.map(|(start, end)| end - start).max().unwrap_or_default()
        })
    }

    /// Each number, and when it came.
    pub(crate) fn numbers(&self) -> Vec<(Instant, u32)> {
        self.look(|seen| seen.numbers.clone())
    }

    /// Insists that the session still runs, and that every number has come once and in order.
    #[track_caller]
    pub(crate) fn assert_whole(&self) {
        assert!(
            !self.ended(),
            "the session still runs: {}",
            self.look(|seen| seen.said.clone())
        );
        let numbers = self.numbers();
        let wrong = (0..).zip(&numbers).find(|(expected, (_, number))| expected != number);
        assert!(wrong.is_none(), "every number once and in order: {wrong:?}");
    }

    fn look<T>(&self, view: impl FnOnce(&Seen) -> T) -> T {
        view(&self.seen.lock().expect("the reader does not panic"))
    }
}

fn read_numbers(mut terminal: File, seen: &Mutex<Seen>) {
    let (mut buffer, mut rest) = ([0; 4096], vec![]);
    loop {
        // EIO: nobody has the other end open any more.
        let read = terminal.read(&mut buffer).unwrap_or(0);
        let mut seen = seen.lock().expect("nobody panics while holding this");
        if read == 0 {
            seen.ended = true;
            return;
        }
        rest.extend_from_slice(&buffer[..read]);
        let at = now();
        if seen.numbers.is_empty() {
            seen.said += &String::from_utf8_lossy(&buffer[..read]);
        }
        seen.numbers
            .extend(take_numbers(&mut rest).into_iter().map(|number| (at, number)));
    }
}

/// Takes all whole numbers off the front, and whatever else is among them.
fn take_numbers(bytes: &mut Vec<u8>) -> Vec<u32> {
    let mut numbers = vec![];
    while let Some(at) = bytes.iter().position(|byte| *byte == HEAD) {
        let Some(character) = bytes.get(at..at + LENGTH) else {
            return numbers;
        };
        let code = character[1..]
            .iter()
            .fold(0, |code, byte| code << 6 | u32::from(byte & 0x3F));
        numbers.extend(u32::checked_sub(code, FIRST));
        bytes.drain(..at + LENGTH);
    }
    bytes.clear();
    numbers
}
