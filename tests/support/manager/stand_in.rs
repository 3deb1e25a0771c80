//! A service manager for one unit, by the documentation of systemd 252 and in its own words.
//!
//! One thread owns the unit, as systemd's one thread owns all; the test gives it orders and looks at what it shows.

use super::launch::{LISTEN_FDS_START, Run};
use super::private::PrivateSocket;
use super::store::{Notice, NotifySocket, Store};
use super::unit::{KillMode, Unit};
use super::{Manager, ORDER, UnitChange};
use crate::support::{Scratch, now, process};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::process::Signal;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a unit that is ending is looked at: nothing tells when the last process of many is gone.
const LOOK: Duration = Duration::from_millis(2);

/// A unit under its management. Dropping it kills all processes of the unit.
pub struct StandIn {
    orders: Sender<(Order, Sender<Result<(), String>>)>,
    wake: Arc<OwnedFd>,
    seen: Arc<Mutex<Seen>>,
    scratch: Scratch,
    thread: Option<JoinHandle<()>>,
    _private: Option<PrivateSocket>,
}

/// What can be asked for at any time.
#[derive(Clone, Default)]
pub struct Seen {
    main_pid: Option<u32>,
    pub stored: usize,
    pub store_max: usize,
    pub preserves: bool,
    /// The type of the unit's job.
    pub job: Option<&'static str>,
    /// What takes the place of the job once somebody has asked about it.
    pub overtaken_by: Option<&'static str>,
    pub questions_about_job: u32,
    status: String,
    restarts: u32,
    refused: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Start,
    Stop,
    Restart,
    StopAndStart,
    RestartAndStop,
    Reload,
    ChangeUnit(UnitChange),
    /// Kill everything, and end.
    Quit,
}

impl StandIn {
    pub fn new(unit: Unit) -> StandIn {
        // A store of thousands is more than the usual soft limit.
        process::raise_descriptor_limit();
        let scratch = Scratch::new();
        let (orders, ordered) = channel();
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd"));
        let seen = Arc::new(Mutex::new(Seen {
            preserves: unit.preserves_store,
            store_max: unit.store_max,
            ..Seen::default()
        }));
        let private = unit.private_socket.then(|| {
            let socket = PrivateSocket::at(&scratch.join("private"), seen.clone());
            socket.expect("a socket in the scratch folder")
        });
        let notify = NotifySocket::at(&scratch.join("notify")).expect("a socket in the scratch folder");
        let mut service = Service {
            store: Store::new(unit.store_max),
            unit,
            notify,
            wake: wake.clone(),
            log: scratch.join("log"),
            phase: Phase::Dead,
            run: None,
            watchdog: None,
            waiting: vec![],
            seen: seen.clone(),
        };
        let thread = std::thread::spawn(move || service.manage(&ordered));
        StandIn {
            orders,
            wake,
            seen,
            scratch,
            thread: Some(thread),
            _private: private,
        }
    }

    /// How many messages came from others than the main process.
    pub fn refused(&self) -> u32 {
        self.seen().refused
    }

    fn seen(&self) -> Seen {
        self.seen.lock().expect("the manager does not panic").clone()
    }

    fn order(&self, order: Order) -> Result<(), String> {
        let (done, answer) = channel();
        let _ = self.orders.send((order, done));
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
        answer
            .recv_timeout(ORDER)
            .map_err(|_| format!("{order:?} does not end"))?
    }
}

impl Manager for StandIn {
    fn start(&self) -> Result<(), String> {
        self.order(Order::Start)
    }

    fn stop(&self) -> Result<(), String> {
        self.order(Order::Stop)
    }

    fn restart(&self) -> Result<(), String> {
        self.order(Order::Restart)
    }

    fn shut_down(&self) -> Result<(), String> {
        self.order(Order::Stop)
    }

    fn stop_and_start_at_once(&self) -> Result<(), String> {
        self.order(Order::StopAndStart)
    }

    fn restart_and_stop_at_once(&self) -> Result<(), String> {
        self.order(Order::RestartAndStop)
    }

    fn change_unit(&self, change: UnitChange) {
        self.order(Order::ChangeUnit(change)).expect("nothing can hinder it");
    }

    fn reload(&self) -> Result<(), String> {
        self.order(Order::Reload)
    }

    fn main_pid(&self) -> Option<u32> {
        self.seen().main_pid
    }

    fn stored(&self) -> usize {
        self.seen().stored
    }

    fn status(&self) -> String {
        self.seen().status
    }

    fn restarts(&self) -> u32 {
        self.seen().restarts
    }

    fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.order(Order::Quit);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Where the unit is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Dead,
    /// Until `READY=1`.
    Starting {
        until: Instant,
    },
    Running,
    /// Until no process is left; those that are still there at the time are killed.
    Ending {
        until: Instant,
        then: Then,
    },
    /// Died: started again at the time.
    Waiting {
        until: Instant,
    },
}

/// What follows an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Nothing; the store is let go.
    Rest,
    Start,
    /// A start after RestartSec.
    StartLater,
}

struct Service {
    unit: Unit,
    notify: NotifySocket,
    wake: Arc<OwnedFd>,
    log: std::path::PathBuf,
    store: Store,
    phase: Phase,
    run: Option<Run>,
    watchdog: Option<Instant>,
    /// Who waits for the unit to be up, or down.
    waiting: Vec<Sender<Result<(), String>>>,
    seen: Arc<Mutex<Seen>>,
}

impl Service {
    fn manage(&mut self, orders: &Receiver<(Order, Sender<Result<(), String>>)>) {
        loop {
            self.wait();
            // What a process has said counts before its death does.
            while let Some(notice) = self.notify.receive() {
                self.handle_notice(notice);
            }
            self.store.drop_hung_up();
            self.look_after_main();
            self.handle_time(now());
            let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
            while let Ok((order, done)) = orders.try_recv() {
                if order == Order::Quit {
                    self.kill_all();
                    let _ = done.send(Ok(()));
                    return;
                }
                self.handle_order(order, done);
            }
            self.show();
        }
    }

    fn wait(&self) {
        let mut fds = vec![self.notify.poll_fd(), PollFd::new(&*self.wake, PollFlags::IN)];
        fds.extend(self.store.poll_fds());
        if !matches!(self.phase, Phase::Ending { .. }) {
            fds.extend(self.run.iter().map(|run| PollFd::new(run.pidfd(), PollFlags::IN)));
        }
        let deadlines = match self.phase {
            Phase::Dead | Phase::Running => [None, self.watchdog],
            Phase::Starting { until } | Phase::Waiting { until } => [Some(until), None],
            Phase::Ending { .. } => [Some(now() + LOOK), None],
        };
        let timeout = deadlines.into_iter().flatten().min().map(|until| {
            let wait = until.saturating_duration_since(now());
            Timespec::try_from(wait).expect("minutes at most")
        });
        let _ = poll(&mut fds, timeout.as_ref());
    }

    fn handle_notice(&mut self, mut notice: Notice) {
        // Its descriptor is closed with the notice, which is the answer, whoever asks.
        if notice.value("BARRIER").is_some() {
            self.show();
            return;
        }
        let main = self.run.as_ref().map(|run| run.main().as_raw_nonzero().get() as u32);
        if main.is_none() || notice.sender != main || self.store.most() == 0 && self.unit.store_max > 0 {
            self.seen.lock().expect("no reader panics").refused += 1;
            return;
        }
        if let (Some(run), Some(pid)) = (&mut self.run, notice.value("MAINPID").and_then(|pid| pid.parse().ok())) {
            run.set_main(pid);
        }
        if let Some(status) = notice.value("STATUS") {
            self.seen.lock().expect("no reader panics").status = status.to_owned();
        }
        if notice.says("READY") && matches!(self.phase, Phase::Starting { .. }) {
            self.phase = Phase::Running;
            self.feed_watchdog();
            self.answer(Ok(()));
        }
        if notice.says("WATCHDOG") && self.phase == Phase::Running {
            self.feed_watchdog();
        }
        self.store.handle(&mut notice);
    }

    fn look_after_main(&mut self) {
        let Some(run) = &self.run else { return };
        let mut fds = [PollFd::new(run.pidfd(), PollFlags::IN)];
        let has_ended = matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..));
        match self.phase {
            Phase::Starting { .. } | Phase::Running if has_ended => {
                self.end(Then::StartLater, None);
            }
            _ => {}
        }
    }

    fn handle_time(&mut self, now: Instant) {
        match self.phase {
            Phase::Starting { until } if now >= until => {
                self.end(Then::StartLater, Some(Signal::TERM));
            }
            Phase::Running if self.watchdog.is_some_and(|until| now >= until) => {
                self.end(Then::StartLater, Some(Signal::KILL));
            }
            Phase::Ending { until, then } => self.handle_ending(now, until, then),
            Phase::Waiting { until } if now >= until => {
                self.seen.lock().expect("no reader panics").restarts += 1;
                self.start();
            }
            _ => {}
        }
    }

    fn handle_ending(&mut self, now: Instant, until: Instant, then: Then) {
        let Some(run) = &mut self.run else { return };
        let mut fds = [PollFd::new(run.pidfd(), PollFlags::IN)];
        let main_has_ended = matches!(poll(&mut fds, Some(&Timespec::default())), Ok(1..));
        let is_over = now >= until || (main_has_ended && self.unit.kill_mode == KillMode::Mixed);
        let are_left = match self.unit.kill_mode {
            KillMode::Process => false,
            KillMode::ControlGroup | KillMode::Mixed => run.signal_all(is_over.then_some(Signal::KILL)) > 0,
        };
        if are_left || !main_has_ended {
            return;
        }
        self.run = None;
        match self.what_overtook().unwrap_or(then) {
            Then::Rest => {
                if !self.unit.preserves_store {
                    self.store.clear();
                }
                self.phase = Phase::Dead;
                self.answer(Ok(()));
            }
            Then::Start => self.start(),
            Then::StartLater => {
                self.phase = Phase::Waiting {
                    until: now + self.unit.restart_after,
                };
                self.answer(Err("it was not ready, in time or at all".into()));
            }
        }
    }

    fn handle_order(&mut self, order: Order, done: Sender<Result<(), String>>) {
        let is_up = matches!(self.phase, Phase::Starting { .. } | Phase::Running);
        match order {
            Order::Reload => {
                let told = self
                    .run
                    .as_ref()
                    .filter(|_| is_up)
                    .map(|run| run.signal_main(Signal::HUP));
                let _ = done.send(told.ok_or_else(|| "it is not running".into()));
            }
            Order::ChangeUnit(change) => {
                self.store.limit(match change {
                    UnitChange::StoreMax(most) => most,
                    UnitChange::Gone => 0,
                    UnitChange::Back => self.unit.store_max,
                });
                self.show();
                let _ = done.send(Ok(()));
            }
            Order::Start if self.phase == Phase::Running => drop(done.send(Ok(()))),
            Order::Stop if self.phase == Phase::Dead => drop(done.send(Ok(()))),
            _ => {
                self.waiting.push(done);
                let then = match order {
                    Order::Stop | Order::StopAndStart => Then::Rest,
                    _ => Then::Start,
                };
                let mut seen = self.seen.lock().expect("no reader panics");
                seen.questions_about_job = 0;
                seen.overtaken_by = match order {
                    Order::StopAndStart => Some("start"),
                    Order::RestartAndStop => Some("stop"),
                    _ => None,
                };
                drop(seen);
                match &mut self.phase {
                    Phase::Starting { .. } if order == Order::Start => {}
                    Phase::Ending { then: next, .. } => *next = then,
                    _ if is_up => self.end(then, Some(Signal::TERM)),
                    // A unit that waits to be started again has no process to be ended.
                    _ if order == Order::Stop => {
                        self.store.clear();
                        self.phase = Phase::Dead;
                        self.answer(Ok(()));
                    }
                    _ => self.start(),
                }
            }
        }
    }

    fn start(&mut self) {
        self.watchdog = None;
        // Their numbers stay clear of those that the service will have them at.
        let stored = self.store.duplicates(LISTEN_FDS_START + self.store.len() as i32);
        let log = File::options().create(true).append(true).open(&self.log);
        let started = stored.and_then(|stored| Run::start(&self.unit, self.notify.path(), &stored, log?));
        match started {
            Ok(run) => {
                self.run = Some(run);
                self.phase = Phase::Starting {
                    until: now() + self.unit.timeout_start,
                };
            }
            Err(error) => {
                self.store.clear();
                self.phase = Phase::Dead;
                self.answer(Err(error.to_string()));
            }
        }
    }

    /// Signals whoever the unit says; the rest follows in `handle_ending`.
    fn end(&mut self, then: Then, signal: Option<Signal>) {
        self.phase = Phase::Ending {
            until: now() + self.unit.timeout_stop,
            then,
        };
        // Whoever gets the signal may ask at once.
        self.show();
        let all = self.unit.kill_mode == KillMode::ControlGroup || signal == Some(Signal::KILL);
        if let Some(run) = &mut self.run {
            match signal {
                Some(signal) if !all => run.signal_main(signal),
                None if self.unit.kill_mode == KillMode::Process => {}
                // A main process that has died leaves others behind, who get the signal that it missed.
                _ => drop(run.signal_all(Some(signal.unwrap_or(Signal::TERM)))),
            }
        }
    }

    /// What is to follow by the job that somebody was told of last.
    fn what_overtook(&self) -> Option<Then> {
        let mut seen = self.seen.lock().expect("no reader panics");
        let job = seen.overtaken_by.take()?;
        let was_asked = seen.questions_about_job > 0;
        was_asked.then_some(if job == "stop" { Then::Rest } else { Then::Start })
    }

    fn feed_watchdog(&mut self) {
        self.watchdog = self.unit.watchdog.map(|within| now() + within);
    }

    fn answer(&mut self, answer: Result<(), String>) {
        self.show();
        for waiting in self.waiting.drain(..) {
            let _ = waiting.send(answer.clone());
        }
    }

    fn show(&self) {
        let mut seen = self.seen.lock().expect("no reader panics");
        seen.main_pid = self.run.as_ref().map(|run| run.main().as_raw_nonzero().get() as u32);
        seen.stored = self.store.len();
        seen.store_max = self.store.most();
        if seen.overtaken_by.is_none() || seen.questions_about_job == 0 {
            seen.job = match self.phase {
                Phase::Ending { then: Then::Rest, .. } => Some("stop"),
                Phase::Ending { then: Then::Start, .. } => Some("restart"),
                Phase::Starting { .. } => Some("start"),
                _ => None,
            };
        }
    }

    fn kill_all(&mut self) {
        if let Some(run) = &mut self.run {
            while run.signal_all(Some(Signal::KILL)) > 0 {
                std::thread::sleep(LOOK);
            }
        }
    }
}
