//! The user's side: ssh_config, known_hosts, and the real ssh, scp, sftp, rsync and git run with them.

use super::place::Place;
use super::process::{Outcome, run};
use super::sshd::{TestSshd, public_key};
use super::{BOWLINE, Scratch};
use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The name under which the configuration knows the host.
pub const HOST: &str = "box";
/// The same sshd without any proxy, for what lies behind a jump.
pub const INNER: &str = "inner";

/// What to write into the files.
pub struct SshSetup {
    place: Place,
    user: String,
    address: SocketAddr,
    identity: Option<PathBuf>,
    known_hosts: String,
    options: String,
    proxy: Option<Vec<String>>,
    proxy_user: String,
    log_file: Option<PathBuf>,
    environment: Vec<(String, String)>,
}

impl SshSetup {
    /// Straight over TCP: the measure for everything else.
    pub fn plain(sshd: &TestSshd) -> SshSetup {
        let address = sshd.address();
        let mut known_hosts = String::new();
        for key in sshd.host_keys() {
            writeln!(
                known_hosts,
                "[{}]:{} {}",
                address.ip(),
                address.port(),
                public_key(&key)
            )
            .expect("a String");
        }
        SshSetup {
            place: Place::of_clients(),
            user: sshd.user(),
            address,
            identity: Some(sshd.user_key()),
            known_hosts,
            options: String::new(),
            proxy: None,
            proxy_user: "%r".into(),
            log_file: None,
            environment: vec![],
        }
    }

    /// Through `bowline proxy` to a server half's UDP port.
    pub fn bowline(sshd: &TestSshd, udp_port: u16) -> SshSetup {
        let mut setup = SshSetup::plain(sshd);
        setup.proxy = Some(vec!["--port".into(), udp_port.to_string()]);
        setup
    }

    /// ssh runs there.
    pub fn at(mut self, place: Place) -> SshSetup {
        self.place = place;
        self
    }

    /// One more line of ssh_config for the host; it stands first, so it wins.
    pub fn option(mut self, line: &str) -> SshSetup {
        self.options += &format!("  {line}\n");
        self
    }

    /// More arguments for `bowline proxy`; nothing happens over plain TCP.
    pub fn proxy_arguments(mut self, arguments: &[&str]) -> SshSetup {
        if let Some(proxy) = &mut self.proxy {
            proxy.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        }
        self
    }

    /// The client halves open for this user, whoever logs in.
    pub fn proxy_user(self, user: &str) -> SshSetup {
        SshSetup {
            proxy_user: user.into(),
            ..self
        }
    }

    /// The client halves log there, not into the scratch folder.
    pub fn log_file(mut self, path: PathBuf) -> SshSetup {
        self.log_file = Some(path);
        self
    }

    /// A fault injected into every client half (`close-carrier-after=500ms`).
    pub fn fault(self, fault: &str) -> SshSetup {
        self.environment("BOWLINE_FAULT", fault)
    }

    /// A variable for everything that is run.
    pub fn environment(mut self, name: &str, value: &str) -> SshSetup {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Another user than the one who may log in.
    pub fn user(mut self, user: &str) -> SshSetup {
        self.user = user.into();
        self
    }

    /// Another key, or none.
    pub fn identity(mut self, key: Option<PathBuf>) -> SshSetup {
        self.identity = key;
        self
    }

    /// Another known_hosts; `KEY_NAME` in it stands for the name under which ssh looks this host up.
    pub fn known_hosts(mut self, text: &str) -> SshSetup {
        self.known_hosts = text.replace("KEY_NAME", &format!("[{}]:{}", self.address.ip(), self.address.port()));
        self
    }

    /// Writes the files.
    pub fn write(self) -> SshFiles {
        let files = SshFiles {
            setup: self,
            scratch: Scratch::new(),
        };
        fs::write(files.known_hosts(), &files.setup.known_hosts).expect("the scratch folder");
        fs::write(files.config(), files.config_text()).expect("the scratch folder");
        files
    }
}

/// The files, and the programs run with them. Everything ends with its owner.
pub struct SshFiles {
    setup: SshSetup,
    scratch: Scratch,
}

impl SshFiles {
    fn config_text(&self) -> String {
        let SshSetup {
            user,
            address,
            identity,
            options,
            ..
        } = &self.setup;
        let identity = identity.as_ref().map_or("none".into(), |key| key.display().to_string());
        let proxy = if self.setup.proxy.is_some() {
            let words = self.proxy_words(&self.proxy_log_file());
            format!("  ProxyCommand {} {}@%n %p\n", words.join(" "), self.setup.proxy_user)
        } else {
            String::new()
        };
        format!(
            "Host {HOST}\n{options}{proxy}\
             Host *\n  HostName {}\n  Port {}\n  User {user}\n  IdentityFile {identity}\n  IdentitiesOnly yes\n\
             \x20 UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n\
             \x20 UpdateHostKeys no\n  BatchMode yes\n  ServerAliveInterval 0\n  ConnectTimeout 30\n  LogLevel ERROR\n",
            address.ip(),
            address.port(),
            self.known_hosts().display(),
        )
    }

    /// `bowline check` of the host, with the options of its proxies and more.
    pub fn check(&self, more: &[&str]) -> Command {
        let words = self.client_words("check", &self.scratch.join("check.log"));
        let mut command = self.command(BOWLINE);
        command.args(&words[1..]).args(more).arg(HOST);
        command
    }

    /// `bowline proxy` with all its options, without the host.
    fn proxy_words(&self, log: &Path) -> Vec<String> {
        self.client_words("proxy", log)
    }

    fn client_words(&self, subcommand: &str, log: &Path) -> Vec<String> {
        let mut words = vec![BOWLINE.to_owned(), subcommand.into()];
        for (option, path) in [
            ("-F", self.config()),
            ("--state-dir", self.state()),
            ("--log-file", log.to_owned()),
        ] {
            words.extend([option.to_owned(), path.display().to_string()]);
        }
        words.extend([
            "--runtime-dir".into(),
            self.scratch.join("run").display().to_string(),
            "-v".into(),
        ]);
        words.extend(self.setup.proxy.iter().flatten().cloned());
        words
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.scratch.join("ssh_config")
    }

    /// The known_hosts file.
    pub fn known_hosts(&self) -> PathBuf {
        self.scratch.join("known_hosts")
    }

    /// The client halves' state folder.
    pub fn state(&self) -> PathBuf {
        self.scratch.join("state")
    }

    /// A path in the scratch folder, gone with the owner.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    fn proxy_log_file(&self) -> PathBuf {
        self.setup
            .log_file
            .clone()
            .unwrap_or_else(|| self.scratch.join("proxy.log"))
    }

    /// What the client halves have logged.
    pub fn proxy_log(&self) -> String {
        fs::read_to_string(self.proxy_log_file()).unwrap_or_default()
    }

    /// How many of their log lines hold a text.
    pub fn proxy_logged(&self, text: &str) -> usize {
        self.proxy_log().lines().filter(|line| line.contains(text)).count()
    }

    /// A program in the environment of these tests: no agent, a home of its own.
    pub fn command(&self, program: &str) -> Command {
        let mut command = self.setup.place.command(program);
        command
            .env_remove("SSH_AUTH_SOCK")
            .env_remove(super::SEED)
            .env("HOME", self.scratch.path())
            .env_remove("DISPLAY");
        for name in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        command.envs(self.setup.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// `ssh -F FILE ARGUMENTS`; the host is one of them.
    pub fn ssh(&self, arguments: &[&str]) -> Command {
        let mut command = self.command("ssh");
        command.arg("-F").arg(self.config()).args(arguments);
        command
    }

    /// Runs a remote command to its end.
    pub fn remote(&self, command: &str, limit: Duration) -> Outcome {
        run(&mut self.ssh(&[HOST, command]), limit)
    }

    /// `scp` with these files.
    pub fn scp<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = self.command("scp");
        command.arg("-q").arg("-F").arg(self.config()).args(arguments);
        command
    }

    /// `sftp` that reads its commands from a file.
    pub fn sftp(&self, batch: &str) -> Command {
        let file = self.scratch.join("sftp-batch");
        fs::write(&file, batch).expect("the scratch folder");
        let mut command = self.command("sftp");
        command
            .arg("-q")
            .arg("-F")
            .arg(self.config())
            .arg("-b")
            .arg(file)
            .arg(HOST);
        command
    }

    /// `rsync -a --whole-file` over ssh: every byte crosses.
    pub fn rsync<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = self.command("rsync");
        command
            .args(["-a", "--whole-file", "-e"])
            .arg(format!("ssh -F {}", self.config().display()))
            .args(arguments);
        command
    }

    /// `git` over ssh, blind to the machine's configuration.
    pub fn git<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = self.command("git");
        command.env("GIT_SSH_COMMAND", format!("ssh -F {}", self.config().display()));
        command
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0");
        command
            .args([
                "-c",
                "user.name=t",
                "-c",
                "user.email=t@t",
                "-c",
                "init.defaultBranch=main",
            ])
            .args(arguments);
        command
    }

    /// The client half by itself, as ssh would run it.
    ///
    /// # Panics
    /// Over plain TCP: there is none.
    pub fn proxy(&self) -> Command {
        self.proxy_that_logs_to(&self.proxy_log_file())
    }

    /// The same with a log of its own.
    ///
    /// # Panics
    /// Over plain TCP: there is none.
    pub fn proxy_that_logs_to(&self, log: &Path) -> Command {
        assert!(self.setup.proxy.is_some(), "plain ssh has no client half");
        let words = self.proxy_words(log);
        let mut command = self.command(&words[0]);
        command
            .args(&words[1..])
            .arg(format!("{}@{HOST}", self.setup.user))
            .arg(self.setup.address.port().to_string());
        command
    }
}
