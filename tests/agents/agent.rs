//! The real ssh-agent, and an agent that lists keys which a real one cannot hold.

use super::support::process::{Running, run};
use super::support::{Scratch, wait_for, write_program};
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

const REQUEST_IDENTITIES: u8 = 11;

/// A real ssh-agent, stopped when dropped.
pub(crate) struct Agent {
    scratch: Scratch,
    _running: Running,
}

impl Agent {
    /// An agent without keys. It confirms the use of keys with this shell script: exit status 0 is
    /// yes.
    ///
    /// # Panics
    /// If it does not listen within some seconds.
    pub(crate) fn asking(script: &str) -> Agent {
        let scratch = Scratch::new();
        let (socket, askpass) = (scratch.join("socket"), scratch.join("askpass"));
        let asked = scratch.join("asked");
        write_program(&askpass, &format!("echo \"$1\" >> '{}'\n{script}", asked.display()));
        let mut command = Command::new("ssh-agent");
        command.arg("-D").arg("-a").arg(&socket);
        command.env("SSH_ASKPASS", &askpass).env("DISPLAY", ":none");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let running = Running::spawn(&mut command);
        let listens = wait_for(Duration::from_secs(10), || socket.exists().then_some(()));
        assert!(listens.is_some(), "ssh-agent listens");
        Agent {
            scratch,
            _running: running,
        }
    }

    /// An agent that confirms immediately.
    pub(crate) fn start() -> Agent {
        Agent::asking("exit 0")
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.scratch.join("socket")
    }

    /// `ssh-add ARGUMENTS`.
    pub(crate) fn add<A: AsRef<OsStr>>(&self, arguments: &[A]) {
        let mut command = Command::new("ssh-add");
        command.arg("-q").args(arguments).env("SSH_AUTH_SOCK", self.socket());
        run(&mut command, Duration::from_secs(20)).expect_code(0);
    }

    /// What it has asked, one line per question.
    pub(crate) fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.scratch.join("asked")).unwrap_or_default();
        text.lines()
            .filter(|line| line.starts_with("Key fingerprint"))
            .map(str::to_owned)
            .collect()
    }
}

/// A proxy in front of an agent that lists additional keys before the agent's own: a real agent
/// cannot hold them.
pub(crate) struct AgentWithExtraKeys {
    scratch: Scratch,
}

impl AgentWithExtraKeys {
    /// # Panics
    /// If the socket cannot be created.
    pub(crate) fn before(agent: &Agent, blobs: Vec<Vec<u8>>) -> AgentWithExtraKeys {
        let scratch = Scratch::new();
        let listener = UnixListener::bind(scratch.join("socket")).expect("a new folder");
        let real = agent.socket();
        // Ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (real, blobs) = (real.clone(), blobs.clone());
                std::thread::spawn(move || pass_on(stream, &real, &blobs));
            }
        });
        AgentWithExtraKeys { scratch }
    }

    /// Its socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.scratch.join("socket")
    }
}

fn pass_on(mut client: UnixStream, real: &Path, blobs: &[Vec<u8>]) -> io::Result<()> {
    let mut real = UnixStream::connect(real)?;
    loop {
        let request = read_message(&mut client)?;
        write_message(&mut real, &request)?;
        let mut answer = read_message(&mut real)?;
        if request.first() == Some(&REQUEST_IDENTITIES) {
            let count = u32::from_be_bytes(answer[1..5].try_into().expect("four bytes"));
            let mut longer = vec![answer[0]];
            longer.extend((count + u32::try_from(blobs.len()).expect("a few")).to_be_bytes());
            for blob in blobs {
                longer.extend(string(blob));
                longer.extend(string(b"a comment"));
            }
            longer.extend(&answer[5..]);
            answer = longer;
        }
        write_message(&mut client, &answer)?;
    }
}

fn read_message(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut message)?;
    Ok(message)
}

fn write_message(stream: &mut UnixStream, message: &[u8]) -> io::Result<()> {
    stream.write_all(&string(message))
}

/// RFC 4251 section 5.
pub(crate) fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("short").to_be_bytes()[..], bytes].concat()
}
