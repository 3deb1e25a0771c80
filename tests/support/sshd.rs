//! A real sshd with throw-away keys on a port of its own. Never the machine's.

use super::place::Place;
use super::process::{Running, run, tree};
use super::{Scratch, wait_for};
use rustix::process::Signal;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What the addresses begin with that sessions come from when the server half gives sshd loopback addresses.
pub const SESSIONS_FROM: &str = "127.96.";

/// The sshd of the tests: another one by the environment, `BOWLINE_TEST_SSHD=/opt/openssh/sbin/sshd`. It wants to be
/// started by its absolute path.
pub fn program() -> PathBuf {
    std::env::var_os("BOWLINE_TEST_SSHD").map_or_else(|| "/usr/sbin/sshd".into(), PathBuf::from)
}

/// The version of that sshd: 902 for OpenSSH 9.2.
///
/// # Panics
/// When it says none.
pub fn version() -> u32 {
    // OpenSSH 9.2 does not know the option, and says its version with its usage.
    let said = run(Command::new(program()).arg("-V"), Duration::from_secs(5)).err();
    let (_, numbers) = said.split_once("OpenSSH_").expect("OpenSSH's sshd");
    let mut numbers = numbers
        .split(|digit: char| !digit.is_ascii_digit())
        .flat_map(str::parse::<u32>);
    100 * numbers.next().expect("a version") + numbers.next().expect("a version")
}

/// A running sshd; it and its sessions end with their owner.
pub struct TestSshd {
    place: Place,
    port: u16,
    scratch: Scratch,
    running: Option<Running>,
}

impl TestSshd {
    /// On this machine's loopback.
    pub fn start() -> TestSshd {
        TestSshd::start_at(Place::here(), "")
    }

    /// At a place, with more lines of `sshd_config` (they stand first, so they win).
    ///
    /// # Panics
    /// When sshd does not come up within seconds, with its log.
    pub fn start_at(place: Place, more_config: &str) -> TestSshd {
        TestSshd::start_with(place, more_config, "")
    }

    /// The same, with `Match` blocks, which stand last.
    ///
    /// # Panics
    /// When sshd does not come up within seconds, with its log.
    pub fn start_with(place: Place, more_config: &str, match_blocks: &str) -> TestSshd {
        let scratch = Scratch::new();
        for kind in ["ed25519", "ecdsa", "rsa"] {
            make_key(&scratch.join(&format!("host_{kind}")), kind);
        }
        make_key(&scratch.join("user"), "ed25519");
        fs::copy(scratch.join("user.pub"), scratch.join("authorized_keys")).expect("the scratch folder");
        if rustix::process::geteuid().is_root() {
            // Its privilege separation needs that folder, and only the service manager would make it.
            fs::create_dir_all("/run/sshd").expect("root may make /run/sshd");
        }
        let port = Place::free_port();
        let mut sshd = TestSshd {
            place,
            port,
            scratch,
            running: None,
        };
        fs::write(sshd.config(), sshd.config_text(more_config) + match_blocks).expect("the scratch folder");
        sshd.resume_service();
        sshd
    }

    fn config_text(&self, more: &str) -> String {
        let dir = self.scratch.path().display();
        let address = self.place.address;
        let port = self.port;
        format!(
            "{more}\nPort {port}\nListenAddress {address}\n\
             HostKey {dir}/host_ed25519\nHostKey {dir}/host_ecdsa\nHostKey {dir}/host_rsa\n\
             AuthorizedKeysFile {dir}/authorized_keys\nPidFile {dir}/pid\n\
             UsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nMaxStartups 1000:30:2000\nMaxSessions 100\nUseDNS no\n\
             AllowTcpForwarding yes\nGatewayPorts clientspecified\nAllowAgentForwarding yes\nX11Forwarding no\n\
             PrintMotd no\nPrintLastLog no\nAcceptEnv LANG LC_* TEST_*\nSubsystem sftp internal-sftp\n\
             LogLevel VERBOSE\n"
        )
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (self.place.address, self.port).into()
    }

    /// The port of that address.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its `sshd_config`.
    pub fn config(&self) -> PathBuf {
        self.scratch.join("sshd_config")
    }

    /// Has every user read its `sshd_config`, as in `/etc/ssh`; keys are theirs alone who own them.
    pub fn show_configuration(&self) {
        let readable = fs::Permissions::from_mode(0o711);
        fs::set_permissions(self.scratch.path(), readable).expect("the scratch folder");
    }

    /// A host key's private file: `ed25519`, `ecdsa` or `rsa`.
    pub fn host_key(&self, kind: &str) -> PathBuf {
        self.scratch.join(&format!("host_{kind}"))
    }

    /// All of them.
    pub fn host_keys(&self) -> Vec<PathBuf> {
        ["ed25519", "ecdsa", "rsa"].map(|kind| self.host_key(kind)).into()
    }

    /// The private key of the one user who may log in.
    pub fn user_key(&self) -> PathBuf {
        self.scratch.join("user")
    }

    /// The file of keys that may log in.
    pub fn authorized_keys(&self) -> PathBuf {
        self.scratch.join("authorized_keys")
    }

    /// The name of that user: whoever runs the tests.
    pub fn user(&self) -> String {
        run(Command::new("id").arg("-un"), Duration::from_secs(5))
            .out()
            .trim()
            .to_owned()
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }

    /// How many connections came from an address that starts with `from` ("127.0.0.1 " for that one alone).
    pub fn connections_from(&self, from: &str) -> usize {
        let wanted = format!("Connection from {from}");
        self.log().lines().filter(|line| line.contains(&wanted)).count()
    }

    /// How many logins it has accepted.
    pub fn logins(&self) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains("Accepted publickey"))
            .count()
    }

    /// How many of its processes run, the listener included.
    pub fn processes(&self) -> usize {
        self.running.as_ref().map_or(0, |running| tree(running.id()).len())
    }

    /// Ends the listener; sessions go on, and new connections are refused until `resume_service`.
    pub fn stop_listening(&mut self) {
        if let Some(running) = self.running.take() {
            running.signal(Signal::TERM);
            running.finish(Duration::from_secs(5));
        }
    }

    /// Stops the listener in its tracks: the system goes on to take connections for it, and nobody says a word there.
    pub fn freeze(&self) {
        self.running.as_ref().expect("a running sshd").signal(Signal::STOP);
    }

    /// Adds lines to the end of its `sshd_config`, and starts it anew if it takes them.
    ///
    /// # Panics
    /// When it does not come up with them.
    pub fn configure(&mut self, lines: &str) {
        let text = fs::read_to_string(self.config()).expect("the scratch folder");
        fs::write(self.config(), text + lines + "\n").expect("the scratch folder");
        self.stop_listening();
        self.resume_service();
    }

    /// Starts the listener, again on the same port.
    ///
    /// # Panics
    /// When it does not come up, with its log.
    pub fn resume_service(&mut self) {
        let before = self.log().matches("Server listening").count();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.scratch.join("log"))
            .expect("the scratch folder");
        let mut command = self.place.command(program());
        command.args(["-D", "-e", "-f"]).arg(self.config());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.running = Some(Running::spawn(&mut command));
        let up = wait_for(Duration::from_secs(10), || {
            (self.log().matches("Server listening").count() > before).then_some(())
        });
        assert!(
            up.is_some(),
            "sshd does not come up on {}: {}",
            self.address(),
            self.log()
        );
    }
}

/// Makes a key pair without passphrase: `ed25519`, `ecdsa` or `rsa`.
///
/// # Panics
/// With ssh-keygen's own message.
pub fn make_key(path: &Path, kind: &str) {
    make_locked_key(path, kind, "");
}

/// Makes a key pair with a passphrase.
///
/// # Panics
/// With ssh-keygen's own message.
pub fn make_locked_key(path: &Path, kind: &str, passphrase: &str) {
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-q", "-t", kind, "-N", passphrase, "-C", "bowline test", "-f"])
        .arg(path);
    if kind == "rsa" {
        command.args(["-b", "2048"]); // a tenth of the time of the default
    }
    run(&mut command, Duration::from_secs(60)).expect_code(0);
}

/// `TYPE BASE64` of a public key file, without the comment.
pub fn public_key(private: &Path) -> String {
    let text = fs::read_to_string(private.with_extension("pub")).expect("a key has its public half beside it");
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

/// `SHA256:..` of a key, as ssh prints it.
pub fn fingerprint(private: &Path) -> String {
    let out = run(
        Command::new("ssh-keygen").arg("-lf").arg(private.with_extension("pub")),
        Duration::from_secs(5),
    );
    out.out()
        .split_whitespace()
        .nth(1)
        .expect("ssh-keygen -l: BITS FINGERPRINT COMMENT")
        .to_owned()
}
