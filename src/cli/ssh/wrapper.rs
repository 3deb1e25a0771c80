//! bowline in front of ssh: bytes pass unchanged between the user's terminal and ssh, which has a terminal of its own, and
//! a pipe as its stdout.
//!
//! What ssh writes is read only as long as little waits for the user's terminal, and keys likewise, so a terminal that
//! stops reading stops ssh, and memory is bounded. `Display` gets a copy of ssh's output: it knows which modes to
//! switch off at the end, and what is drawn over the program's output.

use std::future::{pending, poll_fn};
use std::io::{self, IsTerminal};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bowline_terminal::{Confirmation, Display, Settings};
use rustix::io::Errno;
use rustix::process::Signal;
use rustix::termios::{LocalModes, tcgetattr, tcsetwinsize};
use tokio::io::Interest;
use tokio::runtime;
use tokio::signal::unix::{Signal as SignalStream, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::coop::consume_budget;

use super::cursor_report::{CursorReport, QUESTION};
use super::decision::Overlay;
use super::flood_meter::FloodMeter;
use super::leader::{Change, Leader};
use super::link_line::LinkLine;
use super::ssh_output::{self, SshOutput};
use super::user_terminal::UserTerminal;
use crate::cli::values::Predict;
use crate::clock::{self, Timer};
use crate::descriptor::Pollable;
use crate::observe::{LinkEvent, LinkListener, LinkReport, LinkRequests};
use crate::tasks::Tasks;

/// Most bytes of one read, and how many may wait in front of the terminal before no more is read. Many times what the
/// kernel takes at once (4 KiB), so that this process has work whenever it runs.
const BUFFER_BYTES: usize = 64 * 1024;

/// How long the terminal's answer is waited for at the end, so that it does not reach the shell as keys.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(100);

/// How ssh ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// What is shown beside the program's output.
pub(super) struct Options {
    pub(super) overlay: Overlay,
    pub(super) shown: Shown,
    pub(super) is_verbose: bool,
    /// ssh may run commands of the user's, whose stdout is to be a terminal.
    pub(super) has_local_commands: bool,
}

/// What is shown by what the client half reports.
pub(super) struct Shown {
    /// Where it reports. Without it nothing is shown.
    pub(super) link: Option<LinkListener>,
    pub(super) has_link_line: bool,
    pub(super) predict: Predict,
    /// The client half's server is not the one that echoes keys, but a jump host on the way.
    pub(super) is_jump: bool,
}

impl Shown {
    pub(super) fn nothing() -> Shown {
        Shown {
            link: None,
            has_link_line: false,
            predict: Predict::Never,
            is_jump: false,
        }
    }
}

/// Runs ssh on a terminal of its own until it ends. Then the user's terminal is as it was.
///
/// # Errors
/// ssh cannot be run, or there is no terminal.
pub(super) fn run(ssh: Command, options: Options) -> io::Result<Ended> {
    let user = UserTerminal::open()?;
    let (ours, theirs) = user.make_inner()?;
    // Before the runtime: signals that are ignored stay ignored for ssh, and there is one thread only.
    let (output, stdout) = match options.has_local_commands {
        true => (None, None),
        false => ssh_output::pipe().map(|(ours, theirs)| (Some(ours), Some(theirs)))?,
    };
    let leader = Leader::start(ssh, &theirs, stdout, io::stderr().is_terminal())?;
    drop(theirs);
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Wrapper::new(user, ours, output, leader, options)?.run().await })
}

struct Wrapper {
    user: UserTerminal,
    outer: Pollable,
    /// It has been hung up.
    is_outer_closed: bool,
    /// Our end of ssh's terminal.
    inner: Pollable,
    ssh_output: SshOutput,
    leader: Leader,
    display: Display,
    flood: FloodMeter,
    timer: Timer,
    link: Link,
    overlay: Overlay,
    cursor: CursorReport,
    /// ssh hands every key on, so the user is logged in.
    is_logged_in: bool,
    /// From the keyboard to ssh.
    keys: Buffer,
    /// From ssh to the screen, with what `Display` draws.
    output: Buffer,
    /// Where bytes are read into.
    room: Box<[u8]>,
    /// What has become of ssh. It is acted on after what ssh wrote before has been shown.
    change: Option<Change>,
    /// The modes of the terminal have been undone.
    is_restored: bool,
}

/// The client half, and the line about it.
struct Link {
    line: LinkLine,
    has_line: bool,
    /// The line on the screen.
    shown: Option<String>,
    requests: Arc<LinkRequests>,
    /// `None` if it does not report.
    events: Option<mpsc::Receiver<LinkEvent>>,
    is_jump: bool,
    /// How it is known that a key has been echoed; `None` until the client half has reported. Without one nothing is
    /// predicted: ssh may use the connection of another ssh (ControlMaster).
    confirmation: Option<Confirmation>,
    /// Reads from the keyboard that were predicted, which is the mark of the last.
    typed: u64,
    /// The client half does not have that mark yet.
    is_unmarked: bool,
    _tasks: Tasks,
}

impl Link {
    fn new(shown: Shown, is_verbose: bool) -> Link {
        let (requests, tasks) = (Arc::new(LinkRequests::default()), Tasks::new());
        let events = shown.link.map(|listener| {
            let (sender, events) = LinkListener::channel();
            tasks.spawn("link", listener.run(Arc::clone(&requests), sender));
            events
        });
        Link {
            line: LinkLine::new(is_verbose, clock::now()),
            has_line: shown.has_link_line,
            shown: None,
            requests,
            events,
            is_jump: shown.is_jump,
            confirmation: None,
            typed: 0,
            is_unmarked: false,
            _tasks: tasks,
        }
    }

    fn handle_report(&mut self, report: LinkReport, now: Instant) {
        self.confirmation = Some(match report.is_plain_tcp || self.is_jump {
            true => Confirmation::Estimated,
            false => Confirmation::Exact,
        });
        self.line.handle_report(report, now);
    }

    fn handle_closed(&mut self) {
        self.confirmation = None;
        self.line.handle_closed();
    }

    /// The round-trip time to the server that echoes keys.
    fn rtt(&self, reported_us: Option<u64>) -> Option<Duration> {
        reported_us.filter(|_| !self.is_jump).map(Duration::from_micros)
    }

    /// What the last line says now.
    fn poll_line(&mut self, now: Instant) -> Option<String> {
        self.line.poll_line(now).filter(|_| self.has_line)
    }

    async fn recv(&mut self) -> LinkEvent {
        let Some(events) = &mut self.events else {
            return pending().await;
        };
        match events.recv().await {
            Some(event) => event,
            None => {
                self.events = None;
                LinkEvent::Closed
            }
        }
    }
}

impl Wrapper {
    fn new(
        user: UserTerminal,
        ours: OwnedFd,
        output: Option<OwnedFd>,
        leader: Leader,
        options: Options,
    ) -> io::Result<Wrapper> {
        let size = user.size()?;
        // Without the client half there is nothing to show.
        let overlay = match options.shown.link {
            Some(_) => options.overlay,
            None => Overlay::Impossible,
        };
        let display = Display::new(Settings {
            columns: size.ws_col,
            rows: size.ws_row,
            predict: options.shown.predict.into(),
            confirmation: Confirmation::default(),
            overlays: overlay == Overlay::Possible,
        });
        Ok(Wrapper {
            outer: Pollable::new(user.device()?, Interest::READABLE | Interest::WRITABLE)?,
            is_outer_closed: false,
            inner: Pollable::new(ours, Interest::READABLE | Interest::WRITABLE)?,
            ssh_output: SshOutput::new(output)?,
            flood: FloodMeter::default(),
            timer: Timer::new(),
            user,
            leader,
            display,
            link: Link::new(options.shown, options.is_verbose),
            overlay,
            cursor: CursorReport::default(),
            is_logged_in: false,
            keys: Buffer::default(),
            output: Buffer::default(),
            room: vec![0; BUFFER_BYTES].into(),
            change: None,
            is_restored: false,
        })
    }

    async fn run(mut self) -> io::Result<Ended> {
        let mut signals = Signals::new()?;
        self.user.make_raw()?;
        // Both may have happened before the signals were watched.
        self.resize();
        if self.overlay == Overlay::Possible {
            // Without the answer nothing is drawn until the program has cleared the screen.
            self.output.push(QUESTION);
            self.cursor.handle_asked(clock::now());
        }
        self.change = self.leader.poll_change();
        loop {
            if self.change == Some(Change::Stopped) && self.output.is_empty() {
                self.await_answer().await;
            }
            if let Some(ended) = self.handle_change()? {
                self.await_answer().await;
                return Ok(ended);
            }
            let (shows, types) = (!self.output.is_empty(), !self.keys.is_empty());
            let reads = self.output.len() < BUFFER_BYTES && !self.ssh_output.is_closed();
            // Not before what the terminal has still to read.
            self.timer.set(if shows { None } else { self.poll_timeout() });
            tokio::select! {
                ready = self.outer.writable(), if shows => {
                    drop(ready?);
                    self.write_output();
                }
                () = self.ssh_output.readable(&self.inner), if reads => {
                    let count = self.read_ssh();
                    self.handle_output(count);
                    if !shows {
                        self.write_output();
                    }
                }
                ready = self.inner.writable(), if types => {
                    drop(ready?);
                    if self.keys.write_to(&self.inner) {
                        self.ssh_output.handle_terminal_closed();
                    }
                }
                ready = self.outer.readable(), if !types && !self.is_outer_closed && !self.has_ended() => {
                    drop(ready?);
                    self.read_keys();
                }
                signal = signals.recv() => self.handle_signal(signal),
                // Not before what the terminal has still to read: predictions are judged by what it shows.
                event = self.link.recv(), if !shows => self.handle_link(event),
                () = poll_fn(|cx| self.timer.poll(cx)) => {
                    self.handle_timeout();
                    consume_budget().await;
                }
            }
            self.show_more();
            self.discard();
        }
    }

    fn read_keys(&mut self) {
        let (count, is_closed) = ssh_output::read_all(&self.outer, &mut self.room);
        self.handle_keys(count);
        if is_closed {
            self.is_outer_closed = true;
            // ssh is told as the kernel would tell it.
            self.handle_signal(Signal::HUP);
        }
    }

    /// As much as the terminal takes now.
    fn write_output(&mut self) {
        self.is_outer_closed |= self.output.write_to(&self.outer);
        if self.output.is_empty() {
            self.cursor.handle_written(clock::now());
        }
    }

    /// How much there was.
    fn read_ssh(&mut self) -> usize {
        // If nothing was read while ssh had its terminal in raw mode, the session has begun and ended.
        let (is_logged_in, inner) = (self.is_logged_in, &self.inner);
        let has_session = || is_logged_in || !is_raw(inner);
        self.ssh_output.read(inner, has_session, &mut self.room)
    }

    /// The first bytes of `room` are ssh's.
    fn handle_output(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        if !self.is_logged_in && is_raw(&self.inner) {
            self.is_logged_in = true;
            self.display.handle_login();
            self.link.line.handle_login(clock::now());
        }
        let now = clock::now();
        self.cursor.handle_output(&self.room[..count], now);
        self.link.line.handle_output(now);
        let output = &self.room[..count];
        let shown = match self.flood.is_flood(count, now) {
            true => self.display.handle_flood(output, now),
            false => self.display.handle_server_output(output, now),
        };
        self.output.push(&shown);
    }

    /// The first bytes of `room` are the keyboard's.
    fn handle_keys(&mut self, count: usize) {
        let (keys, cursor) = self.cursor.take(&self.room[..count]);
        if let Some(cursor) = cursor {
            self.display.handle_cursor_report(cursor);
        }
        let now = clock::now();
        self.keys.push(&keys);
        self.link.line.handle_keys(&keys, now);
        if !keys.is_empty() {
            self.link.requests.handle_key(now);
        }
        if self.link.confirmation.is_some() && !keys.is_empty() {
            self.link.typed += 1;
            self.output.push(&self.display.handle_key(&keys, self.link.typed, now));
            self.link.is_unmarked = self.display.is_acknowledgement_awaited();
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let cursor = self.cursor.poll_timeout().filter(|_| self.wants_cursor());
        let timeouts = [self.display.poll_timeout(), self.link.line.poll_timeout(), cursor];
        timeouts.into_iter().flatten().min()
    }

    fn handle_timeout(&mut self) {
        // Predictions are judged by all that has come.
        let count = self.read_ssh();
        self.handle_output(count);
        self.output.push(&self.display.handle_timeout(clock::now()));
    }

    /// Whether the terminal is to be asked where its cursor is.
    fn wants_cursor(&self) -> bool {
        let can_ask = self.overlay == Overlay::Possible && !self.display.is_flooded();
        let is_lost = can_ask && !self.display.screen().is_cursor_certain();
        is_lost && self.display.modes().is_between_sequences()
    }

    /// What there is to show or to ask now. Between the pieces of a flood there is nothing.
    fn show_more(&mut self) {
        if self.output.is_empty() || !self.display.is_flooded() {
            self.update_link();
            self.ask_cursor();
        }
    }

    /// Asks where the cursor is, if that is not known any more and nothing is on its way to the terminal.
    fn ask_cursor(&mut self) {
        let is_quiet = self.output.is_empty() && self.change.is_none();
        if is_quiet && self.wants_cursor() && self.cursor.is_due(clock::now()) {
            self.output.push(QUESTION);
            self.cursor.handle_asked(clock::now());
        }
    }

    /// Takes the answer, which the shell would get as keys. Keys behind it are left to the shell; those before it are lost.
    async fn await_answer(&mut self) {
        let end = clock::now() + ANSWER_TIMEOUT;
        while self.cursor.is_expected(clock::now()) && !self.is_outer_closed {
            tokio::select! {
                ready = self.outer.readable() => {
                    let Ok(mut ready) = ready else { return };
                    if !take_answer(&self.outer, &mut self.cursor) {
                        ready.clear_ready();
                    }
                }
                () = clock::sleep_until(end) => return,
            }
        }
    }

    fn handle_link(&mut self, event: LinkEvent) {
        let now = clock::now();
        let rtt_us = match event {
            LinkEvent::Report(report) => {
                let rtt_us = report.rtt_us;
                self.link.handle_report(report, now);
                self.display
                    .set_confirmation(self.link.confirmation.unwrap_or_default());
                rtt_us
            }
            LinkEvent::Arrived(arrival) => {
                self.display.handle_acknowledged(arrival.mark, now);
                arrival.rtt_us
            }
            LinkEvent::Closed => {
                self.link.handle_closed();
                None
            }
        };
        if let Some(rtt) = self.link.rtt(rtt_us) {
            self.display.set_rtt(rtt);
        }
        self.display.handle_link(self.link.line.is_up(), now);
    }

    /// Asks the client half, and shows what there is to say.
    fn update_link(&mut self) {
        let now = clock::now();
        if self.link.line.poll_request(now) {
            self.link.requests.request_report();
        }
        // Not before ssh can have read the key.
        if self.keys.is_empty() && std::mem::take(&mut self.link.is_unmarked) {
            self.link.requests.mark(self.link.typed);
        }
        let line = self.link.poll_line(now).filter(|_| self.is_logged_in);
        // Not before what the terminal has still to read.
        if self.output.is_empty() && self.change.is_none() && line != self.link.shown {
            self.show_line(line);
        }
    }

    fn show_line(&mut self, line: Option<String>) {
        self.link.shown.clone_from(&line);
        let drawn = self.display.set_link_line(line, clock::now());
        self.output.push(&drawn);
    }

    /// Acts on what has become of ssh.
    fn handle_change(&mut self) -> io::Result<Option<Ended>> {
        let Some(change) = self.change.filter(|_| self.output.is_empty()) else {
            return Ok(None);
        };
        if !self.is_outer_closed {
            let count = self.read_ssh();
            if count > 0 {
                self.handle_output(count);
                return Ok(None);
            }
        }
        let ended = match change {
            // The shell gets a screen without it.
            Change::Stopped if self.display.is_overlay_visible() && !self.is_outer_closed => {
                self.output.push(&self.display.hide());
                return Ok(None);
            }
            Change::Stopped => {
                self.change = None;
                self.suspend()?;
                return Ok(None);
            }
            Change::Exited(code) => Ended::Exited(code),
            Change::Killed(signal) => Ended::Killed(signal),
        };
        if !std::mem::replace(&mut self.is_restored, true) {
            self.output.push(&self.display.restore());
        }
        let is_shown = self.output.is_empty() || self.is_outer_closed;
        Ok(is_shown.then_some(ended))
    }

    /// Stops this process as ssh has stopped, with all of its job, and continues with ssh.
    fn suspend(&mut self) -> io::Result<()> {
        self.user.restore();
        // Returns when the job is continued, or at once if there is nobody to continue it.
        rustix::process::kill_current_process_group(Signal::TSTP)?;
        self.user.make_raw()?;
        self.handle_continued();
        self.leader.signal(Signal::CONT);
        Ok(())
    }

    fn handle_signal(&mut self, signal: Signal) {
        match signal {
            // Once its end is known there is nobody left to ask about.
            Signal::CHILD if self.has_ended() => {}
            Signal::CHILD => self.change = self.leader.poll_change().or(self.change),
            Signal::WINCH => self.resize(),
            Signal::CONT => {
                // Whoever stopped us alone, or gave the terminal to another program, has not told ssh.
                if self.user.make_raw().is_ok() {
                    self.handle_continued();
                }
            }
            // ssh has ended, and the terminal does not read.
            _ if self.has_ended() => self.is_outer_closed = true,
            other => self.leader.signal(other),
        }
    }

    fn has_ended(&self) -> bool {
        matches!(self.change, Some(Change::Exited(_) | Change::Killed(_)))
    }

    /// The terminal belongs to ssh again. Others have written to it.
    fn handle_continued(&mut self) {
        if !self.is_logged_in {
            self.display.handle_foreign_output();
            return self.resize();
        }
        self.resize_by(|display, columns, rows| display.handle_continued(columns, rows));
    }

    fn resize(&mut self) {
        self.resize_by(|display, columns, rows| display.handle_resize(columns, rows, clock::now()));
    }

    /// Takes the size that the terminal has, and shows what `drawn` makes of it.
    fn resize_by(&mut self, drawn: impl FnOnce(&mut Display, u16, u16) -> Vec<u8>) {
        self.cursor.handle_moved(clock::now());
        if let Ok(size) = self.user.size() {
            // ssh gets SIGWINCH if it differs.
            let _ = tcsetwinsize(self.inner.get_ref(), size);
            self.output.push(&drawn(&mut self.display, size.ws_col, size.ws_row));
        }
    }

    /// What has no reader any more.
    fn discard(&mut self) {
        if self.is_outer_closed {
            self.output.clear();
        }
        if self.ssh_output.is_terminal_closed() {
            self.keys.clear();
        }
    }
}

/// Signals that are handled, or forwarded to ssh.
struct Signals(Vec<(Signal, SignalStream)>);

impl Signals {
    fn new() -> io::Result<Signals> {
        let all = [
            Signal::CHILD,
            Signal::WINCH,
            Signal::CONT,
            Signal::HUP,
            Signal::INT,
            Signal::QUIT,
            Signal::TERM,
            Signal::USR1,
            Signal::USR2,
        ];
        let streams = all.map(|kind| Ok((kind, signal(SignalKind::from_raw(kind.as_raw()))?)));
        Ok(Signals(streams.into_iter().collect::<io::Result<_>>()?))
    }

    async fn recv(&mut self) -> Signal {
        poll_fn(|cx| {
            let ready = self
                .0
                .iter_mut()
                .find_map(|(kind, stream)| stream.poll_recv(cx).is_ready().then_some(*kind));
            ready.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

/// Takes the answer if the terminal has sent as much, and nothing behind it.
fn take_answer(terminal: &Pollable, cursor: &mut CursorReport) -> bool {
    let count = rustix::io::ioctl_fionread(terminal.get_ref()).unwrap_or(0);
    if count < cursor.missing() as u64 {
        return false;
    }
    while cursor.is_awaited() {
        let mut bytes = [0; 2];
        let mut count = read_now(terminal, &mut bytes[..1]);
        if bytes[0] == 0x1b {
            // Alone it would be taken for a key.
            count += read_now(terminal, &mut bytes[1..]);
        }
        if count == 0 {
            return false;
        }
        cursor.take(&bytes[..count]);
    }
    true
}

/// Reads without waiting. Errors are left for the next read.
fn read_now(device: &Pollable, room: &mut [u8]) -> usize {
    loop {
        match rustix::io::read(device.get_ref(), &mut *room) {
            Ok(count) => return count,
            Err(Errno::INTR) => {}
            Err(_) => return 0,
        }
    }
}

/// Whether keys are handed on as they are typed, as ssh wants it once a program runs there.
fn is_raw(inner: &Pollable) -> bool {
    tcgetattr(inner.get_ref()).is_ok_and(|modes| !modes.local_modes.contains(LocalModes::ICANON))
}

/// Bytes on their way in one direction.
#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    fn push(&mut self, bytes: &[u8]) {
        // What has been written makes room as soon as little is left to move.
        if self.len() <= self.start {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Writes as much as is taken now. Whether nobody reads it any more.
    fn write_to(&mut self, device: &Pollable) -> bool {
        if self.is_empty() {
            return false;
        }
        let written = device.try_io(Interest::WRITABLE, |fd| {
            loop {
                // Less than all may have been taken because of a signal, so only the kernel says that there is no room.
                match rustix::io::write(fd, &self.bytes[self.start..]) {
                    Ok(count) => self.start += count,
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
                if self.is_empty() {
                    return Ok(());
                }
            }
        });
        written.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock)
    }
}
