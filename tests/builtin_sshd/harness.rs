//! A built-in server in this process, and real OpenSSH programs that talk to it with throw-away keys.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use bowline::sshd::{Sshd, SshdConfig};
use russh::keys::{PrivateKey, PublicKey};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Nothing here takes that long; a hang becomes a failure (exit code 124).
const PATIENCE: &str = "120";

/// A running server. Dropping it shuts it down and waits until all it started has ended.
pub(crate) struct Server {
    folder: TempDir,
    pub(crate) address: SocketAddr,
    runtime: Option<Runtime>,
    running: Option<JoinHandle<()>>,
    shutdown: CancellationToken,
}

impl Server {
    /// Serves on a free port; the key `user` in the folder may log in, the key `stranger` may not.
    pub(crate) fn start() -> Server {
        let folder = TempDir::new().unwrap();
        for name in ["host", "user", "stranger"] {
            keygen(&folder.path().join(name));
        }
        let authorized = PublicKey::read_openssh_file(folder.path().join("user.pub")).unwrap();
        let config = SshdConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            host_keys: vec![PrivateKey::read_openssh_file(folder.path().join("host")).unwrap()],
            authorize: Arc::new(move |_: &str, key: &PublicKey, _: IpAddr| key.key_data() == authorized.key_data()),
            accept_env: vec!["TEST_*".to_owned()],
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let sshd = runtime.block_on(Sshd::bind(config)).unwrap();
        let address = sshd.local_addrs()[0];
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let running = runtime.spawn(async move { sshd.run(stop).await.unwrap() });
        let server = Server {
            folder,
            address,
            runtime: Some(runtime),
            running: Some(running),
            shutdown,
        };
        server.write_config();
        server
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `program -F config ARGS`, given up after a while. The config knows the server as
    /// `target` and `jump`, with the right key, and as `stranger`, with the wrong one.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("timeout");
        command.arg(PATIENCE).arg(program).arg("-F").arg(self.path("config"));
        command.stdin(Stdio::null());
        command
    }

    /// `ssh OPTIONS target COMMAND`.
    pub(crate) fn ssh(&self, options: &[&str], remote: &str) -> Command {
        let mut command = self.command("ssh");
        command.args(options).arg("target").arg(remote);
        command
    }

    /// Runs `ssh OPTIONS target COMMAND` with this on stdin.
    pub(crate) fn run(&self, options: &[&str], remote: &str, input: &[u8]) -> Output {
        run_with_input(self.ssh(options, remote), input)
    }

    /// Starts `ssh OPTIONS target COMMAND` with pipes and waits for its first line.
    pub(crate) fn start_ssh(&self, options: &[&str], remote: &str) -> Running {
        let mut command = Command::new("ssh");
        command
            .arg("-F")
            .arg(self.path("config"))
            .args(options)
            .arg("target")
            .arg(remote);
        Running::start(command)
    }

    /// Shuts the server down, and waits.
    pub(crate) fn stop(&mut self) {
        self.shutdown.cancel();
        if let (Some(runtime), Some(running)) = (&self.runtime, self.running.take()) {
            runtime.block_on(running).unwrap();
        }
    }

    fn write_config(&self) {
        let (folder, port) = (self.folder.path().display(), self.address.port());
        let user = user_name();
        let host_key = std::fs::read_to_string(self.path("host.pub")).unwrap();
        std::fs::write(self.path("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
        let config = format!(
            "Host stranger\n IdentityFile {folder}/stranger\nHost target jump\n IdentityFile {folder}/user\n\
             Host *\n HostName 127.0.0.1\n Port {port}\n User {user}\n IdentitiesOnly yes\n IdentityAgent none\n UserKnownHostsFile {folder}/known_hosts\n \
             GlobalKnownHostsFile /dev/null\n StrictHostKeyChecking yes\n BatchMode yes\n LogLevel INFO\n"
        );
        std::fs::write(self.path("config"), config).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let (Some(runtime), running) = (self.runtime.take(), self.running.take()) else {
            return;
        };
        if let Some(running) = running {
            let _ = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), running).await });
        }
    }
}

/// A child with pipes, killed when dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdout: BufReader<std::process::ChildStdout>,
    pub(crate) first_line: String,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Running {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut first_line = String::new();
        stdout.read_line(&mut first_line).unwrap();
        Running {
            child,
            stdout,
            first_line: first_line.trim_end().to_owned(),
        }
    }

    pub(crate) fn send(&mut self, input: &[u8]) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(input).unwrap();
        stdin.flush().unwrap();
    }

    /// The rest of stdout and the exit code.
    pub(crate) fn finish(mut self) -> (String, Option<i32>) {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        let status = self.child.wait().unwrap();
        (rest, status.code())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn run_with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = thread::spawn(move || {
        // Whoever does not want it all may say so.
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// Succeeds, or shows why not.
#[track_caller]
pub(crate) fn assert_success(output: &Output) {
    assert!(
        output.status.success(),
        "{:?}: {}",
        output.status.code(),
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(crate) fn user_name() -> String {
    text(&Command::new("id").arg("-un").output().unwrap().stdout)
        .trim()
        .to_owned()
}

fn keygen(path: &Path) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-f"])
        .arg(path)
        .status()
        .unwrap();
    assert!(made.success());
}

/// Bytes that no compression or shift hides, the same every time.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Says "hello " before whatever it is sent, until EOF, which it answers with its own.
pub(crate) fn echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || greet_and_echo(stream.unwrap()));
        }
    });
    port
}

fn greet_and_echo(mut stream: TcpStream) {
    let _ = stream.write_all(b"hello ");
    let mut back = stream.try_clone().unwrap();
    let _ = std::io::copy(&mut stream, &mut back);
    let _ = back.shutdown(std::net::Shutdown::Write);
}

/// What the echo server should say to this.
pub(crate) fn echoed(mut stream: impl Read + Write, shutdown: impl FnOnce(), input: &[u8]) -> String {
    stream.write_all(input).unwrap();
    shutdown();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// As [`echoed`], over TCP.
pub(crate) fn echoed_tcp(stream: TcpStream, input: &[u8]) -> String {
    let end = stream.try_clone().unwrap();
    echoed(stream, move || end.shutdown(std::net::Shutdown::Write).unwrap(), input)
}

/// Waits until it is so; fails after ten seconds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("not within ten seconds: {what}");
}

/// Whether a process lives, as opposed to being gone or a zombie.
pub(crate) fn is_alive(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !status.is_empty() && !status.contains(") Z ")
}
