//! A machine without a server half: a real sshd in a mount namespace with an account of its own, and a client that knows it.

use rustix::process::Signal;
use std::fs::{self, File, Permissions};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::support::lab::wire::Wire;
use crate::support::place::Place;
use crate::support::process::{Outcome, Running, pid_of, run};
use crate::support::sshd::{make_key, program, public_key};
use crate::support::{BOWLINE, Scratch, wait_for};

pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// The user's name there.
pub(crate) const USER: &str = "ann";

pub(crate) const PASSWORD: &str = "a long password";

/// What `bowline ssh` says before it logs in to start a server half.
pub(crate) const LOGS_IN: &str = "logging in to start one there";

/// What is special about a machine.
pub(crate) struct Special<'a> {
    pub(crate) shell: &'a str,
    /// More lines of `sshd_config`; `{dir}` is a folder of this machine.
    pub(crate) sshd: String,
    /// Options of a tmpfs that is mounted over the home.
    pub(crate) home: Option<&'a str>,
    /// Whether client and server are two machines with a cable between them.
    pub(crate) has_cable: bool,
}

impl Default for Special<'_> {
    fn default() -> Self {
        Special {
            shell: "/bin/sh",
            sshd: String::new(),
            home: None,
            has_cable: false,
        }
    }
}

/// The machine, and a client beside it. All processes of its user end with their owner.
pub(crate) struct Server {
    pub(crate) there: Scratch,
    pub(crate) here: Scratch,
    uid: u32,
    port: u16,
    sshd: Running,
    cable: Option<Wire>,
}

impl Server {
    pub(crate) fn start() -> Server {
        Server::with(Special::default())
    }

    /// # Panics
    /// When sshd does not come up.
    pub(crate) fn with(special: Special<'_>) -> Server {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let uid = 40_000 + (std::process::id() % 400) * 50 + NEXT.fetch_add(1, Ordering::Relaxed);
        let (there, here) = (Scratch::new(), Scratch::new());
        let cable = special.has_cable.then(Wire::lay);
        let place = cable
            .as_ref()
            .map_or_else(|| Place::on_this_machine(Ipv4Addr::LOCALHOST.into()), Wire::server);
        let (home, port) = (there.join("home"), Place::free_port());
        fs::set_permissions(there.path(), Permissions::from_mode(0o711)).expect("the scratch folder");
        fs::create_dir_all("/run/sshd").expect("root may make /run/sshd");
        fs::create_dir(&home).expect("the scratch folder");
        chown(&home, Some(uid), Some(uid)).expect("root gives folders away");
        fs::set_permissions(&home, Permissions::from_mode(0o700)).expect("the scratch folder");
        for name in ["host", "user"] {
            make_key(&there.join(name), "ed25519");
        }
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let account = format!("{USER}:x:{uid}:{uid}::{}:{}\n", home.display(), special.shell);
        fs::write(there.join("passwd"), text("/etc/passwd") + &account).expect("the scratch folder");
        let hash = run(Command::new("openssl").args(["passwd", "-6", PASSWORD]), LIMIT)
            .expect_code(0)
            .out();
        let shadow = format!("{USER}:{}:19000:0:99999:7:::\n", hash.trim());
        fs::write(there.join("shadow"), text("/etc/shadow") + &shadow).expect("the scratch folder");
        let dir = there.path().display();
        let config = format!(
            "{}\nPort {port}\nListenAddress {address}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/user.pub\n\
             PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication yes\nLogLevel VERBOSE\nUseDNS no\n",
            special.sshd.replace("{dir}", &dir.to_string()),
            address = place.address
        );
        fs::write(there.join("sshd_config"), config).expect("the scratch folder");
        let mount = special.home.map_or_else(String::new, |options| {
            format!(
                "mount -t tmpfs -o uid={uid},gid={uid},mode=700,{options} tmpfs {} && ",
                home.display()
            )
        });
        let script = format!(
            "mount --bind {dir}/passwd /etc/passwd && mount --bind {dir}/shadow /etc/shadow && {mount}\
             exec \"$0\" -D -e -f {dir}/sshd_config 2>{dir}/log"
        );
        let mut command = place.command("unshare");
        command.args(["--mount", "sh", "-c", &script]).arg(program());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let server = Server {
            sshd: Running::spawn(&mut command),
            there,
            here,
            uid,
            port,
            cable,
        };
        let up = wait_for(LIMIT, || server.log().contains("Server listening").then_some(()));
        assert!(up.is_some(), "sshd does not come up: {}", server.log());
        server.write_client_files(SocketAddr::new(place.address, port));
        server
    }

    /// With the program in place: to send one as large as that of the tests takes long on a busy machine.
    pub(crate) fn with_program(self) -> Server {
        let folder = self.home().join(".local/bin");
        fs::create_dir_all(&folder).expect("the scratch folder");
        fs::copy(BOWLINE, folder.join("bowline")).expect("the scratch folder");
        for path in [self.home().join(".local"), folder.clone(), folder.join("bowline")] {
            self.give(&path);
        }
        self
    }

    fn write_client_files(&self, sshd: SocketAddr) {
        let (address, port) = (sshd.ip(), sshd.port());
        let here = self.here.path().display();
        let key = public_key(&self.there.join("host"));
        fs::write(self.here.join("known_hosts"), format!("[{address}]:{port} {key}\n")).expect("the scratch folder");
        let config = format!(
            "Host box inner\n  HostName {address}\n  Port {port}\n  User {USER}\nHost *\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {here}/known_hosts\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  \
             UpdateHostKeys no\n"
        );
        fs::write(self.here.join("ssh_config"), config).expect("the scratch folder");
    }

    /// What sshd has logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.there.join("log")).unwrap_or_default()
    }

    pub(crate) fn logins(&self) -> usize {
        let log = self.log();
        log.matches("Accepted publickey").count() + log.matches("Accepted password").count()
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.there.join("home")
    }

    /// The program that is run on the client's machine, with a home of its own.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = match &self.cable {
            Some(cable) => cable.client().command(program),
            None => Command::new(program),
        };
        for variable in [
            "SSH_AUTH_SOCK",
            "XDG_STATE_HOME",
            "XDG_CONFIG_HOME",
            "XDG_RUNTIME_DIR",
            "DISPLAY",
        ] {
            command.env_remove(variable);
        }
        command.env("HOME", self.here.path()).current_dir(self.here.path());
        command
    }

    /// `bowline ssh` with a key, without a terminal; long options (`--name=value`) come first. To compress a program as large
    /// as that of the tests takes long.
    pub(crate) fn ssh(&self, arguments: &[&str]) -> Command {
        let is_short = |argument: &&str| !argument.starts_with("--");
        let long = arguments.iter().position(is_short).unwrap_or(arguments.len());
        let mut command = self.command(BOWLINE);
        command
            .env("BOWLINE_INSTALL", "yes")
            .arg("ssh")
            .args(&arguments[..long]);
        command.arg("-F").arg(self.here.join("ssh_config"));
        command.arg("-i").arg(self.there.join("user"));
        command.args(["-o", "Compression=no", "-o", "BatchMode=yes"]);
        command.args(&arguments[long..]);
        command
    }

    /// The session went over a server half: sshd saw an address that each client of one has for itself.
    #[track_caller]
    pub(crate) fn expect_session(&self, arguments: &[&str]) -> Outcome {
        let outcome = self.session(arguments);
        assert!(
            self.is_over_bowline(&outcome),
            "{}\n{}\n{}",
            outcome.out(),
            outcome.err(),
            self.log()
        );
        outcome
    }

    /// It went over plain TCP, and one line of bowline's says why.
    #[track_caller]
    pub(crate) fn expect_plain(&self, arguments: &[&str], why: &str) -> Outcome {
        let outcome = self.session(arguments);
        assert!(!self.is_over_bowline(&outcome), "{}\n{}", outcome.out(), outcome.err());
        let said = outcome.err();
        let lines: Vec<&str> = said.lines().filter(|line| line.contains("using plain TCP")).collect();
        assert!(lines.len() == 1 && lines[0].contains(why), "{why}: {said}");
        outcome
    }

    #[track_caller]
    fn session(&self, arguments: &[&str]) -> Outcome {
        let command = [arguments, &["box", "echo from $SSH_CONNECTION; exit 7"]].concat();
        run(&mut self.ssh(&command), LIMIT).expect_code(7)
    }

    fn is_over_bowline(&self, outcome: &Outcome) -> bool {
        let out = outcome.out();
        out.contains("from 127.") && !out.contains("from 127.0.0.1 ")
    }

    /// The keepers of the server halves of this user that run.
    pub(crate) fn keepers(&self) -> Vec<u32> {
        let all = self.processes().into_iter();
        all.filter(|pid| arguments_of(*pid).contains(" serve ")).collect()
    }

    /// All processes of this user.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let line = format!("\nUid:\t{}\t", self.uid);
        let all = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            status.contains(&line) && !status.contains("\nState:\tZ")
        })
        .collect()
    }

    /// To all processes of this user.
    pub(crate) fn signal_all(&self, signal: Signal) {
        for pid in self.processes() {
            rustix::process::kill_process(pid_of(pid), signal).expect("it runs");
        }
    }

    /// Everything of this user ends at once, as in a reboot.
    pub(crate) fn reboot(&self) {
        let gone = wait_for(LIMIT, || {
            let all = self.processes();
            for pid in &all {
                let _ = rustix::process::kill_process(pid_of(*pid), Signal::KILL);
            }
            all.is_empty().then_some(())
        });
        assert!(
            gone.is_some() || std::thread::panicking(),
            "processes stay: {:?}",
            self.processes()
        );
    }

    /// Between the two machines.
    pub(crate) fn cable(&self) -> &Wire {
        self.cable.as_ref().expect("a machine with a cable")
    }

    /// Of sshd.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Gives a file there to the user.
    pub(crate) fn give(&self, path: &Path) {
        chown(path, Some(self.uid), Some(self.uid)).expect("root gives files away");
    }

    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// Everything below a folder.
    pub(crate) fn files(folder: &Path) -> Vec<String> {
        let found = run(Command::new("find").arg(folder).args(["-mindepth", "1"]), LIMIT).expect_code(0);
        found.out().lines().map(str::to_owned).collect()
    }
}

fn arguments_of(pid: u32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).replace('\0', " ")
}

impl Drop for Server {
    fn drop(&mut self) {
        self.reboot();
        self.sshd.signal(Signal::TERM);
    }
}

/// `None`, and told, without root.
pub(crate) fn may_run() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        crate::support::measured("accounts of their own", "SKIPPED, only root can make them");
    }
    is_root
}

/// Writes to a file of the user's.
pub(crate) fn write_for(server: &Server, name: &str, text: &str) {
    let path = server.home().join(name);
    File::create(&path).expect("the scratch folder");
    fs::write(&path, text).expect("the scratch folder");
    server.give(&path);
}
