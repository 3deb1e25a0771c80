//! What the keeper answers its worker: whether anything may be opened, what `sshd -T` says, and the open file of keys.

use std::ffi::OsString;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::cli::report::{self, Failure};
use crate::clock;
use crate::identity::authorized_keys::open_key_file;
use crate::server::keeper::{Answer, Reply, Request, Response};
use crate::server::sshd_config::{Connection, LoopbackCheck, Obstacle, SshdConfig, SshdConfigError, is_here};

/// Most lines of sshd's configuration that are named one by one.
const MAX_LINES_NAMED: usize = 20;

/// What answers are made from.
#[derive(Debug, PartialEq)]
pub(super) struct Answers {
    pub(super) sshd: SshdConfig,
    /// `--authorized-keys`.
    pub(super) key_file: Option<PathBuf>,
    /// The sshd that sees all clients on loopback, if that must make no difference to it.
    pub(super) loopback: Option<SocketAddr>,
}

/// The same in a form for another keeper; paths need not be Unicode.
#[derive(Serialize, Deserialize)]
struct Written {
    binary: OsString,
    config: Option<OsString>,
    key_file: Option<OsString>,
    loopback: Option<SocketAddr>,
}

/// That the file of keys can be read now. What is in it is for the worker to parse.
pub(super) fn check_key_file(path: &Path) -> Result<PathBuf, Failure> {
    let is_file = |file: &File| Ok(!file.metadata()?.is_dir());
    match open_key_file(path).and_then(|file| is_file(&file)) {
        Ok(true) => Ok(path.to_owned()),
        Ok(false) => Err(report::cannot_read_keys(path, &Errno::ISDIR.into())),
        Err(error) => Err(report::cannot_read_keys(path, &error)),
    }
}

impl Answers {
    /// As bytes for a keeper that follows.
    pub(super) fn encode(&self) -> Vec<u8> {
        let written = Written {
            binary: self.sshd.binary.clone().into(),
            config: self.sshd.config.clone().map(PathBuf::into),
            key_file: self.key_file.clone().map(PathBuf::into),
            loopback: self.loopback,
        };
        serde_json::to_vec(&written).expect("plain values can be written")
    }

    /// From the bytes of the keeper before.
    pub(super) fn decode(bytes: &[u8]) -> serde_json::Result<Answers> {
        let written: Written = serde_json::from_slice(bytes)?;
        Ok(Answers {
            sshd: SshdConfig {
                binary: written.binary.into(),
                config: written.config.map(PathBuf::from),
            },
            key_file: written.key_file.map(PathBuf::from),
            loopback: written.loopback,
        })
    }

    /// With `looks` it looks at sshd's rules once, to name them before anybody is refused.
    pub(super) fn into_answer(self, looks: bool) -> Answer {
        let mut guard = self.loopback.map(|target| Guard::new(&self.sshd, target));
        if let Some(guard) = guard.as_mut().filter(|_| looks) {
            guard.obstacle();
        }
        Box::new(move |request| match request {
            Request::MayOpen => {
                let obstacle = guard.as_mut().and_then(Guard::obstacle);
                Response::MayOpen { obstacle }.into()
            }
            Request::SshdLimits {
                user,
                local_address,
                local_port,
            } => self.limits(&user, SocketAddr::new(local_address, local_port)).into(),
            Request::OpenKeyFile => open(self.key_file.as_deref()),
            // The keeper asks itself, where sshd is to see another address than the one that the client reached.
            Request::ConnectToSshd { .. } => {
                let obstacle = guard.as_mut().and_then(Guard::local_obstacle);
                Response::MayOpen { obstacle }.into()
            }
        })
    }

    fn limits(&self, user: &str, sshd: SocketAddr) -> Response {
        // The configuration here says nothing of an sshd elsewhere.
        if !is_here(sshd.ip()) {
            return Response::Unavailable;
        }
        let connection = Connection {
            user,
            address: sshd.ip(),
            local: sshd,
        };
        let settings = match self.sshd.settings_for(connection) {
            Err(SshdConfigError::UserName { .. }) => self.sshd.settings(),
            settings => settings,
        };
        match settings {
            Ok(settings) => Response::SshdLimits {
                limits: settings.limits(),
            },
            Err(error) => {
                warn!(%error, "sshd -T gives no answer");
                Response::Unavailable
            }
        }
    }
}

/// Whether anything may be opened, and what the log knows of it.
struct Guard {
    check: LoopbackCheck,
    told: Option<String>,
}

impl Guard {
    fn new(sshd: &SshdConfig, target: SocketAddr) -> Guard {
        let check = LoopbackCheck::new(sshd.clone(), target);
        Guard { check, told: None }
    }

    /// Why sshd may not see another address of this machine than the client reached.
    fn local_obstacle(&mut self) -> Option<String> {
        let obstacle = self.check.obstacle(clock::now);
        let obstacle = obstacle.filter(|obstacle| obstacle.is_about_local_address());
        obstacle.map(|obstacle| report::chain(obstacle).to_string())
    }

    /// Why not; told in the log if it is another than before.
    fn obstacle(&mut self) -> Option<String> {
        let obstacle = self.check.obstacle(clock::now);
        let text = obstacle.map(|obstacle| report::chain(obstacle).to_string());
        if text != self.told {
            tell(obstacle);
            self.told.clone_from(&text);
        }
        text
    }
}

fn tell(obstacle: Option<&Obstacle>) {
    let Some(obstacle) = obstacle else {
        return info!(
            event = "opens-allowed",
            "sshd's configuration allows sessions to be opened again"
        );
    };
    if let Obstacle::Rules { lines } = obstacle {
        for line in lines.iter().take(MAX_LINES_NAMED) {
            warn!(%line, "this line of sshd's configuration may treat clients by where they connect from");
        }
    }
    let hint = report::opens_refused(obstacle);
    let cause = report::chain(obstacle);
    warn!(event = "opens-refused", %cause, hint, "no session is opened: sshd sees all clients on loopback");
}

fn open(key_file: Option<&Path>) -> Reply {
    let Some(path) = key_file else {
        warn!("the worker asks for a file of keys, and there is none");
        return Response::Unavailable.into();
    };
    match open_key_file(path) {
        Ok(file) => Reply {
            response: Response::KeyFile,
            descriptor: Some(OwnedFd::from(file)),
        },
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
            Response::CannotOpen { errno }.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_keeper_reads_what_was_written() {
        let answers = || Answers {
            sshd: SshdConfig {
                binary: "/usr/sbin/sshd".into(),
                config: Some("/etc/ssh/sshd_config".into()),
            },
            key_file: Some("/etc/bowline/keys".into()),
            loopback: Some(([127, 0, 0, 1], 22).into()),
        };
        assert_eq!(Answers::decode(&answers().encode()).expect("as written"), answers());
    }
}
