//! The server half as its own program: `bowline serve` in front of a `TestSshd`.

use super::lab::pair;
use super::place::Place;
use super::process::{Outcome, Running, Usage, usage};
use super::server_half::{MARK, ServerHalf, signal};
use super::sshd::{TestSshd, program};
use super::{BOWLINE, Scratch, wait_for};
use rustix::process::Signal;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

/// How a server half is to be started.
pub struct ServeOptions {
    pub place: Place,
    /// Which `bowline`.
    pub program: PathBuf,
    /// More arguments, after those that every server half here gets.
    pub arguments: Vec<OsString>,
    pub environment: Vec<(String, String)>,
}

impl ServeOptions {
    /// On loopback, nothing special.
    pub fn here() -> ServeOptions {
        ServeOptions {
            place: Place::here(),
            program: BOWLINE.into(),
            arguments: vec![],
            environment: vec![],
        }
    }

    /// With one more argument.
    pub fn argument(mut self, argument: impl Into<OsString>) -> ServeOptions {
        self.arguments.push(argument.into());
        self
    }

    /// Another copy of the program.
    pub fn program(mut self, program: impl Into<PathBuf>) -> ServeOptions {
        self.program = program.into();
        self
    }

    /// With a fault injected into the process (`close-carrier-after=500ms`).
    pub fn fault(mut self, fault: &str) -> ServeOptions {
        self.environment.push(("BOWLINE_FAULT".into(), fault.into()));
        self
    }
}

/// A running server half; all its processes end with their owner.
pub struct Serve {
    running: Running,
    half: ServerHalf,
    scratch: Scratch,
    target: SocketAddr,
    options: ServeOptions,
    udp: SocketAddr,
    ready: String,
}

impl Serve {
    /// In front of a sshd, with all its host keys.
    pub fn start(sshd: &TestSshd, options: ServeOptions) -> Serve {
        let mut options = options;
        let mut arguments: Vec<OsString> = sshd_arguments(sshd);
        for key in sshd.host_keys() {
            arguments.extend(["--host-key".into(), key.into()]);
        }
        arguments.append(&mut options.arguments);
        options.arguments = arguments;
        Serve::start_before(sshd.address(), options)
    }

    /// In front of any TCP service; `options` says everything else.
    ///
    /// # Panics
    /// When no `ready` line comes within seconds, with its log.
    pub fn start_before(target: SocketAddr, options: ServeOptions) -> Serve {
        let scratch = Scratch::new();
        let anywhere = SocketAddr::from((options.place.address, 0));
        let (running, ready) = start(&scratch, anywhere, target, &options);
        let udp = field(&ready, "udp").and_then(|address| address.parse().ok());
        Serve {
            running,
            half: ServerHalf::of(scratch.path()),
            udp: udp.unwrap_or_else(|| panic!("bowline serve says \"{ready}\", not ready udp=ADDR:PORT")),
            scratch,
            target,
            options,
            ready,
        }
    }

    /// Starts it once more, at the same address with the same state, as an administrator would. Kills nobody.
    ///
    /// # Panics
    /// When no `ready` line comes within seconds, with its log.
    pub fn start_again(&mut self) {
        (self.running, self.ready) = start(&self.scratch, self.udp, self.target, &self.options);
    }

    /// Has another take its place by `--replace`, with more arguments and the same or another service behind it; how the
    /// one before ended.
    ///
    /// # Panics
    /// When no `ready` line comes within seconds, with its log.
    pub fn replace(&mut self, target: Option<SocketAddr>, more: &[&str]) -> Outcome {
        let more = more.iter().map(OsString::from).chain(["--replace".into()]);
        let known: Vec<OsString> = self.options.arguments.clone();
        self.options
            .arguments
            .extend(more.filter(|argument| !known.contains(argument)));
        self.target = target.unwrap_or(self.target);
        let (running, ready) = start(&self.scratch, self.udp, self.target, &self.options);
        self.ready = ready;
        std::mem::replace(&mut self.running, running).finish(Duration::from_secs(10))
    }

    /// The same program once more, with the same folders and settings, at an address of its own.
    pub fn another(&self, listen: SocketAddr, more: &[&str]) -> std::process::Command {
        let mut command = command(&self.scratch, listen, self.target, &self.options);
        command.args(more);
        command
    }

    /// Has the keeper replace its worker, and waits until the next one serves. It may well be of the same process id.
    ///
    /// # Panics
    /// When none does within seconds, with its log.
    #[track_caller]
    pub fn reload(&self) {
        let served = || self.logged("event=\"ready\"");
        let before = served();
        signal(self.half.keeper(), Signal::HUP);
        let serves = wait_for(Duration::from_secs(15), || (served() > before).then_some(()));
        assert!(serves.is_some(), "no worker serves after SIGHUP: {}", self.log());
    }

    /// All its processes.
    pub fn half(&self) -> &ServerHalf {
        &self.half
    }

    /// A path in its scratch folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// Where it listens.
    pub fn udp(&self) -> SocketAddr {
        self.udp
    }

    /// A field of its `ready` line, such as `fingerprint`.
    pub fn ready_field(&self, name: &str) -> Option<&str> {
        field(&self.ready, name)
    }

    /// Everything it and its worker have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }

    /// How many log lines hold a text.
    pub fn logged(&self, text: &str) -> usize {
        self.log().lines().filter(|line| line.contains(text)).count()
    }

    /// What the keeper and its worker use together.
    pub fn usage(&self) -> Usage {
        usage(self.running.id())
    }

    /// The process id of the keeper.
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// Sends the keeper a signal.
    pub fn signal(&self, signal: Signal) {
        self.running.signal(signal);
    }

    /// A graceful stop; the exit code of the one that was started last.
    pub fn stop(self, limit: Duration) -> Option<i32> {
        self.running.signal(Signal::TERM);
        self.running.finish(limit).code
    }
}

/// What every server half in front of a sshd is told of it.
pub fn sshd_arguments(sshd: &TestSshd) -> Vec<OsString> {
    let config = sshd.config().into();
    vec!["--sshd-config".into(), config, "--sshd-binary".into(), program().into()]
}

/// The process, and its `ready` line.
fn start(scratch: &Scratch, listen: SocketAddr, target: SocketAddr, options: &ServeOptions) -> (Running, String) {
    let file = |name| {
        let file = File::options().create(true).append(true).open(scratch.join(name));
        file.expect("the scratch folder")
    };
    let (out, log) = (scratch.join("stdout"), scratch.join("log"));
    let before = fs::read_to_string(&out).unwrap_or_default().len();
    let mut command = command(scratch, listen, target, options);
    command.stdin(Stdio::null()).stdout(file("stdout")).stderr(file("log"));
    let mut running = Running::spawn(&mut command);
    let ready = wait_for(Duration::from_secs(15), || {
        let text = fs::read_to_string(&out).unwrap_or_default();
        let text = text.get(before..).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("ready ")).map(str::to_owned);
        line.filter(|_| text.ends_with('\n'))
            .or_else(|| running.ended(Duration::ZERO).then(String::new))
    });
    let ready = ready.unwrap_or_default();
    let log = fs::read_to_string(log).unwrap_or_default();
    assert!(
        field(&ready, "udp").is_some(),
        "bowline serve says \"{ready}\", not ready udp=ADDR:PORT\n{log}"
    );
    // A suite that runs with clients' own addresses must not pass on loopback's.
    let shown = field(&ready, "client-address").unwrap_or_default();
    let is_chosen = options.arguments.iter().any(|argument| argument == "--client-address");
    assert!(
        !pair::is_wanted() || is_chosen || shown.starts_with("real"),
        "sshd sees {shown:?} in place of clients' own addresses\n{log}"
    );
    (running, ready)
}

fn command(scratch: &Scratch, listen: SocketAddr, target: SocketAddr, options: &ServeOptions) -> std::process::Command {
    let mut command = options.place.command(&options.program);
    command.arg("serve").arg("--listen").arg(listen.to_string());
    command.arg("--target").arg(target.to_string());
    command
        .arg("--state-dir")
        .arg(scratch.join("state"))
        .arg("--runtime-dir")
        .arg(scratch.join("run"));
    command
        .args(&options.arguments)
        .env(MARK, scratch.path())
        // An argument of the test's own wins. Whatever it is, the network of this machine is left alone.
        .env("BOWLINE_CLIENT_ADDRESS", pair::word())
        .env_remove(super::SEED)
        .envs(options.environment.iter().map(|(key, value)| (key, value)));
    command
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}
