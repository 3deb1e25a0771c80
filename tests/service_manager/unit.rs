//! bowline.service as it is packaged, with the files and the sshd of a test.

use crate::support::echo::TcpEcho;
use crate::support::manager::{Kind, Manager, Unit};
use crate::support::place::Place;
use crate::support::process::{pid_of, tree};
use crate::support::rig::Rig;
use crate::support::ssh::SshSetup;
use crate::support::sshd::TestSshd;
use crate::support::{BOWLINE, Scratch};
use rustix::process::{Signal, kill_process};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A unit file as it is packaged.
pub(crate) fn file(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
    folder.join(name)
}

/// A running unit, and ssh that goes through it.
pub(crate) struct Packaged {
    pub(crate) rig: Rig,
    pub(crate) manager: Box<dyn Manager>,
    config: String,
    scratch: Scratch,
    _echo: Option<TcpEcho>,
}

impl Packaged {
    /// In front of sshd. The unit and its `[serve]` table can be changed before.
    pub(crate) fn start(kind: Kind, adjust: impl FnOnce(&mut Unit, &mut String)) -> Option<Packaged> {
        let sshd = TestSshd::start();
        let target = sshd.address();
        Packaged::before(kind, sshd, target, None, adjust)
    }

    /// In front of a service that sends everything back: sessions cost little, and no login.
    pub(crate) fn before_echo(kind: Kind, adjust: impl FnOnce(&mut Unit, &mut String)) -> Option<Packaged> {
        let echo = TcpEcho::start();
        Packaged::before(kind, TestSshd::start(), echo.address(), Some(echo), adjust)
    }

    fn before(
        kind: Kind,
        sshd: TestSshd,
        target: SocketAddr,
        echo: Option<TcpEcho>,
        adjust: impl FnOnce(&mut Unit, &mut String),
    ) -> Option<Packaged> {
        let scratch = Scratch::new();
        let port = Place::free_port();
        let keys: Vec<_> = sshd.host_keys().iter().map(|key| key.display().to_string()).collect();
        // A unit has an environment of its own, and "real" would change how this machine routes packets.
        let mut config = format!(
            "state-dir = {:?}\nruntime-dir = {:?}\n[serve]\nclient-address = \"loopback\"\n\
             listen = \"127.0.0.1:{port}\"\ntarget = \"{target}\"\nsshd-config = {:?}\nhost-key = {keys:?}\n",
            scratch.join("state"),
            scratch.join("run"),
            sshd.config(),
        );
        let mut unit = Unit::read(&file("bowline.service"));
        let path = scratch.join("bowline.toml");
        unit.command = [
            BOWLINE.as_ref(),
            "serve".as_ref(),
            "--config".as_ref(),
            path.as_os_str(),
        ]
        .map(Into::into)
        .into();
        let program = Path::new(BOWLINE).parent().expect("a program is in a folder");
        let of_sshd = sshd.config();
        let of_sshd = of_sshd.parent().expect("a file is in a folder");
        unit.folders = [scratch.path(), of_sshd, program].map(Path::to_owned).into();
        adjust(&mut unit, &mut config);
        fs::write(&path, &config).expect("the scratch folder");
        let manager = kind.manage("bowline.service", unit)?;
        manager.start().unwrap_or_else(|e| panic!("{e}\n{}", manager.log()));
        let rig = Rig {
            ssh: SshSetup::bowline(&sshd, port).write(),
            serve: None,
            gate: None,
            sshd,
        };
        Some(Packaged {
            rig,
            manager,
            config,
            scratch,
            _echo: echo,
        })
    }

    /// Writes the configuration file anew, with more lines for `[serve]`.
    pub(crate) fn configure(&self, more: &str) {
        fs::write(self.scratch.join("bowline.toml"), format!("{}{more}", self.config)).expect("the scratch folder");
    }

    /// SIGKILL.
    pub(crate) fn kill_keeper(&self) {
        self.signal_keeper(Signal::KILL);
    }

    pub(crate) fn signal_keeper(&self, signal: Signal) {
        let keeper = self.manager.main_pid().expect("the unit runs");
        kill_process(pid_of(keeper), signal).expect("a process of our own");
    }

    /// The keeper's only child.
    pub(crate) fn signal_worker(&self, signal: Signal) {
        let keeper = self.manager.main_pid().expect("the unit runs");
        let worker = tree(keeper).into_iter().find(|pid| *pid != keeper);
        kill_process(pid_of(worker.expect("a worker")), signal).expect("a process of our own");
    }

    /// `bowline status` of this server half.
    pub(crate) fn status(&self) -> Command {
        let mut command = Command::new(BOWLINE);
        let config = self.scratch.join("bowline.toml");
        command.arg("status").arg("--config").arg(config);
        command
    }
}
