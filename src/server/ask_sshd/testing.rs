//! A real sshd with temporary keys, for tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use russh::keys::ssh_key::PublicKey;
use tempfile::TempDir;

use crate::identity::statement::{ProvenKey, parse_key};

/// sshd in the foreground, on a port of its own on all of loopback; stopped when dropped.
pub(in crate::server) struct TestSshd {
    pub(in crate::server) address: SocketAddr,
    pub(in crate::server) folder: TempDir,
    child: Child,
}

impl TestSshd {
    /// Starts it with these lines before a configuration that accepts the keys in `authorized_keys` in its folder.
    pub(in crate::server) fn start(lines: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), lines)
    }

    /// Like [`start`](Self::start), in a folder with existing files.
    pub(in crate::server) fn start_in(folder: TempDir, lines: &str) -> Self {
        if !folder.path().join("host").exists() {
            keygen(folder.path(), "host", "ed25519");
        }
        // Another process may take a free port before sshd binds it.
        for _ in 0..5 {
            if let Some((child, address)) = spawn(folder.path(), lines) {
                return Self { address, folder, child };
            }
        }
        let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        panic!("sshd did not start: {log}");
    }

    /// Creates a user key and adds it to `authorized_keys`, after `options`.
    pub(in crate::server) fn authorize(&self, name: &str, kind: &str, options: &str) -> ProvenKey {
        let path = keygen(self.folder.path(), name, kind);
        let public = std::fs::read_to_string(path.with_extension("pub")).unwrap();
        let file = self.folder.path().join("authorized_keys");
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        std::fs::write(file, format!("{before}{options} {public}")).unwrap();
        proven(&path)
    }

    /// What sshd has logged so far.
    pub(in crate::server) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for TestSshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The name of the user who runs the tests: the only one that sshd can log in if it is not root.
pub(in crate::server) fn this_user() -> String {
    let output = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A new key that is in no file.
pub(in crate::server) fn strange_key(kind: &str) -> ProvenKey {
    let folder = tempfile::tempdir().unwrap();
    proven(&keygen(folder.path(), "stranger", kind))
}

/// The public half of the private key at `path`, as if its signature had been verified.
pub(in crate::server) fn proven(path: &Path) -> ProvenKey {
    let key = PublicKey::read_openssh_file(path.with_extension("pub")).unwrap();
    proven_blob(key.to_bytes().unwrap())
}

pub(in crate::server) fn proven_blob(blob: Vec<u8>) -> ProvenKey {
    let (key, certificate) = parse_key(&blob).unwrap();
    ProvenKey {
        blob: blob.into(),
        key,
        certificate,
    }
}

pub(in crate::server) fn keygen(folder: &Path, name: &str, kind: &str) -> PathBuf {
    let path = folder.join(name);
    ssh_keygen(&["-q", "-t", kind, "-N", "", "-f", path.to_str().unwrap()]);
    path
}

pub(in crate::server) fn ssh_keygen(arguments: &[&str]) {
    let done = Command::new("ssh-keygen").args(arguments).output().unwrap();
    assert!(done.status.success(), "{arguments:?}: {done:?}");
}

fn spawn(folder: &Path, lines: &str) -> Option<(Child, SocketAddr)> {
    if rustix::process::geteuid().is_root() {
        std::fs::create_dir_all("/run/sshd").unwrap();
    }
    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let config = format!(
        "Port {}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nStrictModes no\nUsePAM no\n\
         PermitRootLogin yes\nLogLevel VERBOSE\nAuthorizedKeysFile {folder}/authorized_keys\n{lines}\n",
        address.port(),
        folder = folder.display(),
    );
    let path = folder.join("sshd_config");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new("/usr/sbin/sshd");
    command.args(["-D", "-E"]).arg(folder.join("log")).arg("-f").arg(path);
    let mut child = command.stdin(Stdio::null()).spawn().unwrap();
    for _ in 0..1000 {
        // Read from the log: a connection would count as one without a login.
        let log = std::fs::read_to_string(folder.join("log")).unwrap_or_default();
        if log.contains("Server listening") {
            return Some((child, address));
        }
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}
