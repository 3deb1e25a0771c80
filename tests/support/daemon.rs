//! A `bowline serve` or `bowline sshd` started by hand, as whoever runs the tests or as nobody, with a home of its own.

use super::process::{Running, run};
use super::sshd::make_key;
use super::{BOWLINE, Scratch, wait_for};
use rustix::process::Signal;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The user id of nobody, as the kernel has it.
const NOBODY: u32 = 65534;

/// A user's folders: `.ssh` with the key `user`, which may log in, the state and the log.
pub struct Home {
    scratch: Scratch,
    /// Of whoever runs the tests, who is root perhaps and keeps nothing in another's folder.
    client: Scratch,
    is_nobody: bool,
}

impl Home {
    /// Of whoever runs the tests.
    pub fn mine() -> Home {
        Home::of(false)
    }

    /// Of a user without any rights; where the tests have no rights themselves, of their own user.
    pub fn of_nobody() -> Home {
        Home::of(rustix::process::geteuid().is_root())
    }

    fn of(is_nobody: bool) -> Home {
        let home = Home {
            scratch: Scratch::new(),
            client: Scratch::new(),
            is_nobody,
        };
        fs::create_dir(home.path(".ssh")).expect("the scratch folder");
        for name in ["user", "stranger"] {
            make_key(&home.path(name), "ed25519");
        }
        fs::copy(home.path("user.pub"), home.authorized_keys()).expect("the scratch folder");
        // The user that a login shell is wanted of must have one.
        let passwd = "tester:x:65534:65534::/:/bin/sh\nroot:x:0:0::/root:/bin/sh\n";
        fs::write(home.path("passwd"), passwd).expect("the scratch folder");
        if is_nobody {
            for path in [
                home.scratch.path().to_owned(),
                home.path(".ssh"),
                home.authorized_keys(),
            ] {
                chown(path, Some(NOBODY), Some(NOBODY)).expect("root gives files away");
            }
        }
        home
    }

    /// A path inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// Where a login looks for keys.
    pub fn authorized_keys(&self) -> PathBuf {
        self.path(".ssh/authorized_keys")
    }

    /// The user's name.
    pub fn user(&self) -> String {
        let out = run(Command::new("id").arg("-un"), Duration::from_secs(5)).out();
        let own = out.trim();
        if self.is_nobody { "tester" } else { own }.to_owned()
    }

    /// bowline as this user, with the state in this home.
    pub fn bowline<A: AsRef<OsStr>>(&self, arguments: &[A]) -> Command {
        let mut command = if self.is_nobody {
            // In a room where nobody has a shell. Everything before the program execs the next: one process id.
            let script =
                "mount --bind \"$0\" /etc/passwd && exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$@\"";
            let mut command = Command::new("unshare");
            command
                .args(["--mount", "sh", "-c", script])
                .arg(self.path("passwd"))
                .arg(BOWLINE);
            command
        } else {
            Command::new(BOWLINE)
        };
        command.args(arguments).arg("--state-dir").arg(self.path("state"));
        command.env("HOME", self.scratch.path()).env_remove("SSH_AUTH_SOCK");
        command
    }

    /// ssh as whoever runs the tests, with the key `user` (or another), to a port where this home's host key is known.
    pub fn ssh(&self, port: u16, key: &str, proxy: bool, arguments: &[&str]) -> Command {
        let host_key = run(
            Command::new("ssh-keygen")
                .arg("-yf")
                .arg(self.path("state/ssh_host_ed25519_key")),
            Duration::from_secs(5),
        );
        let known_hosts = self.path("known_hosts");
        fs::write(&known_hosts, format!("[127.0.0.1]:{port} {}", host_key.out())).expect("the scratch folder");
        let config = self.path("ssh_config");
        let proxy = match proxy {
            true => format!(
                "ProxyCommand {BOWLINE} proxy -F {} --state-dir {} %r@%n %p",
                config.display(),
                self.client.join("state").display()
            ),
            false => String::new(),
        };
        let text = format!(
            "Host box\n {proxy}\n HostName 127.0.0.1\n Port {port}\n User {}\n IdentityFile {}\n IdentitiesOnly yes\n \
             UserKnownHostsFile {}\n GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking yes\n BatchMode yes\n",
            self.user(),
            self.path(key).display(),
            known_hosts.display(),
        );
        fs::write(&config, text).expect("the scratch folder");
        let mut command = Command::new("ssh");
        command.arg("-F").arg(config).arg("box").args(arguments);
        command.env_remove("SSH_AUTH_SOCK");
        command
    }
}

/// A running one; it ends, with all it started, when dropped.
pub struct Daemon {
    running: Running,
    ready: String,
    log: PathBuf,
}

impl Daemon {
    /// Waits for its `ready` line.
    ///
    /// # Panics
    /// When none comes within seconds, with its log.
    pub fn start<A: AsRef<OsStr>>(home: &Home, arguments: &[A]) -> Daemon {
        let (out, log) = (home.path("stdout"), home.path("log"));
        let file = |path: &Path| File::create(path).expect("the scratch folder");
        let mut command = home.bowline(arguments);
        command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&log));
        let mut running = Running::spawn(&mut command);
        let ready = wait_for(Duration::from_secs(15), || {
            let text = fs::read_to_string(&out).unwrap_or_default();
            let whole = text.ends_with('\n') || running.ended(Duration::ZERO);
            whole.then_some(text)
        });
        let ready = ready.unwrap_or_default();
        let said = fs::read_to_string(&log).unwrap_or_default();
        assert!(ready.starts_with("ready "), "it says {ready:?}\n{said}");
        Daemon { running, ready, log }
    }

    /// A field of its `ready` line.
    pub fn field(&self, name: &str) -> String {
        let mut fields = self.ready.split_whitespace();
        let found = fields.find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found
            .unwrap_or_else(|| panic!("no {name} in {:?}", self.ready))
            .to_owned()
    }

    /// The port of its first `udp` or `tcp` address.
    pub fn port(&self, kind: &str) -> u16 {
        let address: SocketAddr = self.field(kind).parse().expect("ADDR:PORT");
        address.port()
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.running.id()
    }

    /// Its exit code, when it ends by itself.
    pub fn ended(self) -> Option<i32> {
        self.running.finish(Duration::from_secs(30)).code
    }

    /// SIGTERM, and its exit code.
    pub fn stop(self) -> Option<i32> {
        self.running.signal(Signal::TERM);
        self.running.finish(Duration::from_secs(20)).code
    }
}
