//! Answers the worker's requests to its keeper: whether sessions may be opened, what `sshd -T` prints, and the open
//! file of keys.

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
use crate::server::ipc::{Reply, Request, Response};
use crate::server::sshd_config::{Connection, LoopbackCheck, Obstacle, SshdConfig, SshdConfigError, is_here};
use crate::server::supervisor::RequestHandler;
use crate::wire::ErrorChain;

/// The most lines of sshd's configuration that are logged one by one.
const MAX_LINES_NAMED: usize = 20;

/// The settings that answers depend on.
#[derive(Debug, PartialEq)]
pub(super) struct Answers {
    pub(super) sshd: SshdConfig,
    /// `--authorized-keys`.
    pub(super) key_file: Option<PathBuf>,
    /// The address of the sshd that sees all clients on loopback, if that must not make a difference to it.
    pub(super) loopback: Option<SocketAddr>,
}

/// The serialized form; paths need not be Unicode.
#[derive(Serialize, Deserialize)]
struct Written {
    binary: OsString,
    config: Option<OsString>,
    key_file: Option<OsString>,
    loopback: Option<SocketAddr>,
}

/// Checks that the file of keys can be read. The worker parses it.
pub(super) fn check_key_file(path: &Path) -> Result<PathBuf, Failure> {
    let is_file = |file: &File| Ok(!file.metadata()?.is_dir());
    match open_key_file(path).and_then(|file| is_file(&file)) {
        Ok(true) => Ok(path.to_owned()),
        Ok(false) => Err(report::cannot_read_keys(path, &Errno::ISDIR.into())),
        Err(error) => Err(report::cannot_read_keys(path, &error)),
    }
}

impl Answers {
    /// Encodes it for the next keeper.
    pub(super) fn encode(&self) -> Vec<u8> {
        let written = Written {
            binary: self.sshd.binary.clone().into(),
            config: self.sshd.config.clone().map(PathBuf::into),
            key_file: self.key_file.clone().map(PathBuf::into),
            loopback: self.loopback,
        };
        serde_json::to_vec(&written).expect("plain values can be written")
    }

    /// Decodes what the previous keeper has encoded.
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

    /// With `looks` it checks sshd's rules once, so that they are logged before any client is refused.
    pub(super) fn into_handler(self, looks: bool) -> RequestHandler {
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
            // The keeper itself answers that.
            Request::StopIdle => Response::Unavailable.into(),
            Request::OpenKeyFile => open(self.key_file.as_deref()),
            // The keeper asks itself, when sshd is going to see another local address than the one that the client
            // reached.
            Request::ConnectToSshd { .. } => {
                let obstacle = guard.as_mut().and_then(Guard::local_obstacle);
                Response::MayOpen { obstacle }.into()
            }
        })
    }

    fn limits(&self, user: &str, sshd: SocketAddr) -> Response {
        // The configuration on this machine says nothing about an sshd elsewhere.
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
                warn!(%error, "cannot read sshd's settings from sshd -T");
                Response::Unavailable
            }
        }
    }
}

/// Whether sessions may be opened, and what of that was logged.
struct Guard {
    check: LoopbackCheck,
    logged: Option<String>,
}

impl Guard {
    fn new(sshd: &SshdConfig, target: SocketAddr) -> Guard {
        let check = LoopbackCheck::new(sshd.clone(), target);
        Guard { check, logged: None }
    }

    /// Why sshd must not see another local address than the one that the client reached.
    fn local_obstacle(&mut self) -> Option<String> {
        let obstacle = self.check.obstacle(clock::now);
        let obstacle = obstacle.filter(|obstacle| obstacle.is_about_local_address());
        obstacle.map(|obstacle| ErrorChain(obstacle).to_string())
    }

    /// Why no session may be opened. Logged if it has changed.
    fn obstacle(&mut self) -> Option<String> {
        let obstacle = self.check.obstacle(clock::now);
        let text = obstacle.map(|obstacle| ErrorChain(obstacle).to_string());
        if text != self.logged {
            log_obstacle(obstacle);
            self.logged.clone_from(&text);
        }
        text
    }
}

fn log_obstacle(obstacle: Option<&Obstacle>) {
    let Some(obstacle) = obstacle else {
        return info!(
            event = "opens-allowed",
            "sshd's configuration allows sessions to be opened again"
        );
    };
    if let Obstacle::Rules { lines } = obstacle {
        for line in lines.iter().take(MAX_LINES_NAMED) {
            warn!(%line, "this line of sshd's configuration may depend on the address that a client connects from");
        }
    }
    let hint = report::opens_refused(obstacle);
    let cause = ErrorChain(obstacle);
    warn!(event = "opens-refused", %cause, hint, "no session is opened: sshd sees all clients on loopback");
}

fn open(key_file: Option<&Path>) -> Reply {
    let Some(path) = key_file else {
        warn!("the worker requested a file of keys, but there is none");
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
