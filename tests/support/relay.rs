//! A relay process: `bowline relay`.

use super::place::Place;
use super::process::{Running, Usage, cpu_seconds, usage};
use super::{BOWLINE, Scratch, wait_for};
use rustix::process::Signal;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// By then a server half has registered at a relay that was started or restarted.
pub const REGISTERED: Duration = Duration::from_secs(20);

/// A relay, running or killed. Its process ends when it is dropped.
pub struct Relay {
    place: Place,
    arguments: Vec<String>,
    scratch: Scratch,
    address: SocketAddr,
    running: Option<Running>,
    fingerprint: String,
    fault: Option<String>,
}

impl Relay {
    /// Starts a relay that accepts all server halves: on a host of the lab at UDP and TCP port 443,
    /// on loopback at a free port.
    ///
    /// # Panics
    /// If it does not serve within some seconds; the message contains its log.
    pub fn start(place: Place) -> Relay {
        Relay::with(place, &["--open"])
    }

    /// The same with more arguments.
    pub fn with(place: Place, arguments: &[&str]) -> Relay {
        let port = if place.address.is_loopback() {
            Place::free_port()
        } else {
            443
        };
        let address = SocketAddr::new(place.address, port);
        let mut all = vec!["--listen".to_owned(), address.to_string()];
        all.extend(["--listen-tls".to_owned(), address.to_string()]);
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let mut relay = Relay {
            place,
            arguments: all,
            scratch: Scratch::new(),
            address,
            running: None,
            fingerprint: String::new(),
            fault: None,
        };
        relay.start_again();
        relay
    }

    /// Kills it and starts it again with a fault injected, or without.
    ///
    /// # Panics
    /// As [`Relay::start`].
    pub fn start_faulty(&mut self, fault: Option<&str>) {
        self.kill();
        self.fault = fault.map(str::to_owned);
        self.start_again();
    }

    /// Starts it again with the same key on the same ports.
    ///
    /// # Panics
    /// As [`Relay::start`].
    pub fn start_again(&mut self) {
        let (out, log) = (self.scratch.join("stdout"), self.scratch.join("log"));
        let append = |path| File::options().create(true).append(true).open(path);
        let mut command = self.place.command(BOWLINE);
        command.arg("relay").args(&self.arguments);
        command.arg("--state-dir").arg(self.scratch.join("state"));
        command.arg("--runtime-dir").arg(self.scratch.join("run"));
        command.envs(self.fault.iter().map(|fault| ("BOWLINE_FAULT", fault)));
        command
            .stdin(Stdio::null())
            .stdout(File::create(&out).expect("the scratch folder"));
        command.stderr(append(&log).expect("the scratch folder"));
        let mut running = Running::spawn(&mut command);
        let ready = wait_for(Duration::from_secs(15), || {
            let text = fs::read_to_string(&out).unwrap_or_default();
            let line = text.lines().find(|line| line.starts_with("ready ")).map(str::to_owned);
            line.filter(|_| text.ends_with('\n'))
                .or_else(|| running.ended(Duration::ZERO).then(String::new))
        });
        let ready = ready.unwrap_or_default();
        let fingerprint = ready
            .split_whitespace()
            .find_map(|word| word.strip_prefix("fingerprint="));
        let said = || {
            format!(
                "bowline relay says {ready:?}\n{}",
                fs::read_to_string(&log).unwrap_or_default()
            )
        };
        self.fingerprint = fingerprint.unwrap_or_else(|| panic!("{}", said())).to_owned();
        self.running = Some(running);
    }

    /// Its name for the other halves: address and key.
    pub fn name(&self) -> String {
        format!("{}#{}", self.address, self.fingerprint)
    }

    /// The address of its UDP and TCP ports.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The runtime directory in which `bowline status` finds it.
    pub fn runtime_dir(&self) -> PathBuf {
        self.scratch.join("run")
    }

    /// Resource usage.
    pub fn usage(&self) -> Usage {
        usage(self.running.as_ref().expect("a running relay").id())
    }

    /// Processor time used, in seconds.
    pub fn cpu(&self) -> f64 {
        cpu_seconds(self.running.as_ref().expect("a running relay").id())
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.signal(Signal::KILL);
            running.ended(Duration::from_secs(5));
        }
    }

    /// Sends SIGHUP, so that it reads its settings again.
    pub fn hang_up(&self) {
        self.running.as_ref().expect("a running relay").signal(Signal::HUP);
    }

    /// Sends SIGTERM, and returns its exit code.
    pub fn stop(&mut self, limit: Duration) -> Option<i32> {
        let running = self.running.take()?;
        running.signal(Signal::TERM);
        running.finish(limit).code
    }

    /// How often its log contains a text.
    pub fn logged(&self, what: &str) -> usize {
        self.log().matches(what).count()
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }
}
