use super::*;

mod passwords;
mod rules;
mod traps;

/// A program on the server: what it writes for keys.
pub(super) trait Host {
    fn handle_key(&mut self, key: &[u8]) -> Vec<u8>;
}

impl<F: FnMut(&[u8]) -> Vec<u8>> Host for F {
    fn handle_key(&mut self, key: &[u8]) -> Vec<u8> {
        self(key)
    }
}

/// What comes back to the client, and when.
enum Arrival {
    Output(Vec<u8>),
    Acknowledged(u64),
}

/// A user, a path with a round-trip time, and a host, in virtual time.
pub(super) struct Session<H> {
    pub(super) host: H,
    pub(super) predictor: Predictor,
    pub(super) screen: Screen,
    pub(super) now: Instant,
    pub(super) rtt: Duration,
    /// No answer arrives; they wait.
    pub(super) is_down: bool,
    arrivals: VecDeque<(Instant, Arrival)>,
    offset: u64,
    /// All that was ever displayed beyond the screen.
    pub(super) displayed: Vec<(Position, char)>,
}

pub(super) fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl<H: Host> Session<H> {
    pub(super) fn new(rtt: u64, output: &str, host: H) -> Self {
        Self::with(PredictMode::Adaptive, Confirmation::Exact, rtt, output, host)
    }

    pub(super) fn with(mode: PredictMode, confirmation: Confirmation, rtt: u64, output: &str, host: H) -> Self {
        let mut predictor = Predictor::new(mode, confirmation);
        predictor.allow();
        predictor.handle_rtt(ms(rtt));
        let mut session = Self {
            host,
            predictor,
            screen: Screen::new(40, 6),
            now: crate::test_tools::start(),
            rtt: ms(rtt),
            is_down: false,
            arrivals: VecDeque::new(),
            offset: 0,
            displayed: Vec::new(),
        };
        session.output(output.as_bytes());
        session
    }

    /// Output that no key caused.
    pub(super) fn output(&mut self, bytes: &[u8]) {
        self.screen.handle_output(bytes);
        self.predictor.handle_output(self.now, &self.screen);
        self.note();
    }

    pub(super) fn key(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        self.predictor.handle_key(bytes, self.offset, self.now, &self.screen);
        self.note();
        let back = self.now + self.rtt;
        self.arrivals.push_back((back, Arrival::Acknowledged(self.offset)));
        let output = self.host.handle_key(bytes);
        if !output.is_empty() {
            self.arrivals.push_back((back, Arrival::Output(output)));
        }
    }

    /// Types each character as one key, `pause` apart.
    pub(super) fn type_text(&mut self, text: &str, pause: u64) {
        for character in text.chars() {
            self.key(character.to_string().as_bytes());
            self.wait(pause);
        }
    }

    pub(super) fn wait(&mut self, milliseconds: u64) {
        let end = self.now + ms(milliseconds);
        loop {
            let arrival = self.arrivals.front().map(|(at, _)| *at).filter(|_| !self.is_down);
            let timeout = self.predictor.poll_timeout();
            let Some(next) = [arrival, timeout]
                .into_iter()
                .flatten()
                .min()
                .filter(|next| *next <= end)
            else {
                break;
            };
            self.now = self.now.max(next);
            while let Some((at, _)) = self.arrivals.front()
                && *at <= self.now
                && !self.is_down
            {
                self.arrive();
            }
            self.predictor.handle_timeout(self.now, &self.screen);
            self.note();
            if timeout.is_some_and(|at| at <= self.now) && self.predictor.poll_timeout() == timeout {
                panic!("the timeout at {:?} is not served", timeout);
            }
        }
        self.now = end;
    }

    fn arrive(&mut self) {
        match self.arrivals.pop_front() {
            Some((_, Arrival::Output(bytes))) => self.output(&bytes),
            Some((_, Arrival::Acknowledged(offset))) => self.predictor.handle_acknowledged(offset, self.now),
            None => {}
        }
    }

    fn note(&mut self) {
        let overlay = self.predictor.poll_overlay(&self.screen);
        self.displayed
            .extend(overlay.cells.iter().map(|(position, cell)| (*position, cell.c)));
    }

    pub(super) fn overlay(&self) -> Prediction {
        self.predictor.poll_overlay(&self.screen)
    }

    /// A row as the user sees it.
    pub(super) fn row(&self, row: u16) -> String {
        let overlay = self.overlay();
        let mut characters = Vec::new();
        for column in 0..self.screen.columns() {
            let position = Position { row, column };
            let shown = self.screen.cell(position).map_or(' ', |cell| cell.c);
            let over = overlay.cells.iter().find(|(at, _)| *at == position);
            characters.push(over.map_or(shown, |(_, cell)| cell.c));
        }
        characters.iter().collect::<String>().trim_end().to_owned()
    }

    pub(super) fn cursor(&self) -> (u16, u16) {
        let cursor = self.overlay().cursor.unwrap_or(self.screen.cursor());
        (cursor.row, cursor.column)
    }
}

/// A line editor as a terminal in cooked mode has it: characters appear, DEL erases, Enter begins a new line with a prompt.
pub(super) fn echo(key: &[u8]) -> Vec<u8> {
    match key {
        b"\r" => b"\r\n$ ".to_vec(),
        b"\x7f" => b"\x08\x1b[K".to_vec(),
        b"\x1b[D" => b"\x08".to_vec(),
        b"\x1b[C" => b"\x1b[C".to_vec(),
        [0x20..=0x7e | 0x80..=0xff, ..] => key.to_vec(),
        _ => Vec::new(),
    }
}

/// A host that is a function.
pub(super) type Echo = fn(&[u8]) -> Vec<u8>;

/// A session at a prompt where one character was confirmed.
pub(super) fn confirmed(rtt: u64) -> Session<Echo> {
    let mut session = Session::new(rtt, "$ ", echo as Echo);
    session.type_text("e", 1000);
    assert!(session.displayed.is_empty());
    session
}
