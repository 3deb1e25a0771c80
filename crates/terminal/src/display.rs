//! The terminal as one object: shadow screen, modes, predictor and overlay together.

use std::time::{Duration, Instant};

use crate::modes::ModeTracker;

/// When predictions are displayed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PredictMode {
    /// Above 60 ms of round-trip time until it is below 40 ms, and while answers are late. The default.
    #[default]
    Adaptive,
    /// At any round-trip time.
    Always,
    /// Never; the link line is still shown.
    Never,
}

/// How the predictor knows that the server has echoed a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Confirmation {
    /// By [`Display::handle_acknowledged`]: the bytes up to an offset were written to sshd. The default.
    #[default]
    Exact,
    /// By time: a key is echoed after one round trip and the time that a program needs. For a connection that does not say
    /// what was delivered, such as plain TCP.
    Estimated,
}

/// What a [`Display`] is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Columns of the terminal.
    pub columns: u16,
    /// Rows of the terminal.
    pub rows: u16,
    /// When predictions are displayed.
    pub predict: PredictMode,
    /// How a prediction is judged.
    pub confirmation: Confirmation,
    /// Whether anything may be drawn over the screen: `false` for a terminal without cursor addressing (TERM is `dumb` or
    /// unknown). Then there are no predictions and no link line.
    pub overlays: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            columns: 80,
            rows: 24,
            predict: PredictMode::default(),
            confirmation: Confirmation::default(),
            overlays: true,
        }
    }
}

/// A terminal that shows the output of a server, predicted keys and the link line.
///
/// ```
/// use bowline_terminal::{Display, Settings};
/// use std::time::Instant;
///
/// let mut display = Display::new(Settings::default());
/// let now = Instant::now();
/// assert_eq!(display.handle_server_output(b"login: ", now), b"login: ");
/// ```
pub struct Display {
    modes: ModeTracker,
}

impl Display {
    /// A terminal whose screen is not known yet. Predictions begin after [`Self::handle_login`].
    pub fn new(settings: Settings) -> Self {
        Self {
            modes: ModeTracker::new(settings.rows),
        }
    }

    /// The user is logged in: from now on keys are predicted. Before, they are answers to prompts of ssh.
    pub fn handle_login(&mut self) {}

    /// Takes output of the server and returns what to write to the terminal: `bytes` unchanged, between what erases the
    /// overlay and what draws it again.
    pub fn handle_server_output(&mut self, bytes: &[u8], _now: Instant) -> Vec<u8> {
        self.modes.handle_output(bytes);
        bytes.to_vec()
    }

    /// Takes the bytes of one read from the keyboard, which the caller has sent (or queued) to the server.
    ///
    /// `offset` is the position in the client's stream behind the last byte that carries this key. If ssh delays keys
    /// (`ObscureKeystrokeTiming`), it is the offset after the pipe has been quiet for one interval.
    pub fn handle_key(&mut self, _bytes: &[u8], _offset: u64, _now: Instant) -> Vec<u8> {
        Vec::new()
    }

    /// The server half has written all bytes before `offset` to sshd. A lower offset than before is ignored.
    ///
    /// Output that arrived before this acknowledgement must have been passed to [`Self::handle_server_output`] already.
    pub fn handle_acknowledged(&mut self, _offset: u64, _now: Instant) {}

    /// The round-trip time of the path, smoothed.
    pub fn set_rtt(&mut self, _rtt: Duration) {}

    /// Whether the path works. While it does not, no prediction is judged.
    pub fn handle_link(&mut self, _is_up: bool, _now: Instant) {}

    /// Shows a line about the connection, or takes it away. Control characters are left out; what is wider than the screen is
    /// cut.
    pub fn set_link_line(&mut self, _line: Option<String>, _now: Instant) -> Vec<u8> {
        Vec::new()
    }

    /// Takes the new size of the terminal, which has been resized already.
    pub fn handle_resize(&mut self, _columns: u16, rows: u16, _now: Instant) -> Vec<u8> {
        self.modes.handle_resize(rows);
        Vec::new()
    }

    /// When [`Self::handle_timeout`] is due, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// Takes the present. Output that has arrived by now must have been passed on already.
    pub fn handle_timeout(&mut self, _now: Instant) -> Vec<u8> {
        Vec::new()
    }

    /// The bytes that bring the terminal back to what it was: they erase the overlay and switch off every mode that the
    /// program left on. Nothing if there is nothing to undo.
    pub fn restore(&mut self) -> Vec<u8> {
        self.modes.restore()
    }

    /// The modes that the program has set.
    pub fn modes(&self) -> &ModeTracker {
        &self.modes
    }
}
