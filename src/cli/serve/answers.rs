//! What the keeper answers its worker: what `sshd -T` says of two addresses, and the open file of keys.

use std::ffi::OsString;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::cli::report::{self, Failure};
use crate::identity::authorized_keys::open_key_file;
use crate::server::keeper::{Answer, Difference, Reply, Request, Response};
use crate::server::sshd_config::{Connection, SshdConfig, SshdConfigError};

/// What answers are made from.
#[derive(Debug, PartialEq)]
pub(super) struct Answers {
    pub(super) sshd: SshdConfig,
    /// `--authorized-keys`.
    pub(super) key_file: Option<PathBuf>,
    /// sshd had no rules by address when the configuration was read: what a keeper without root's rights goes by, that
    /// cannot ask sshd.
    pub(super) knows_no_rules: bool,
}

/// The same in a form for another keeper; paths need not be Unicode.
#[derive(Serialize, Deserialize)]
struct Written {
    binary: OsString,
    config: Option<OsString>,
    key_file: Option<OsString>,
    knows_no_rules: bool,
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
            knows_no_rules: self.knows_no_rules,
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
            knows_no_rules: written.knows_no_rules,
        })
    }

    pub(super) fn into_answer(self) -> Answer {
        Box::new(move |request| match request {
            Request::LoopbackMatch {
                user,
                real_address,
                local_address,
                local_port,
            } => {
                let local = SocketAddr::new(local_address, local_port);
                self.compare_rules(&user, real_address, local).into()
            }
            Request::SshdLimits {
                user,
                local_address,
                local_port,
            } => self.limits(&user, SocketAddr::new(local_address, local_port)).into(),
            Request::OpenKeyFile => open(self.key_file.as_deref()),
        })
    }

    fn limits(&self, user: &str, sshd: SocketAddr) -> Response {
        // The configuration here says nothing of an sshd elsewhere; an address can be bound where it is.
        if UdpSocket::bind((sshd.ip(), 0)).is_err() {
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

    fn compare_rules(&self, user: &str, real: IpAddr, local: SocketAddr) -> Response {
        let from = |address| Connection { user, address, local };
        let comparison = match self.sshd.compare(from(real), from(local.ip())) {
            Ok(comparison) => comparison,
            Err(_) if self.knows_no_rules && !rustix::process::geteuid().is_root() => {
                return Response::LoopbackMatch {
                    differences: Vec::new(),
                };
            }
            Err(error) => {
                warn!(%error, "sshd -T gives no answer");
                return Response::Unavailable;
            }
        };
        let line = comparison
            .lines
            .first()
            .map(|line| format!("{} ({}:{})", line.text, line.path.display(), line.line));
        let differences = comparison.differences.into_iter().map(|difference| Difference {
            keyword: difference.keyword,
            real: difference.real.join(" "),
            loopback: difference.loopback.join(" "),
            match_line: line.clone(),
        });
        Response::LoopbackMatch {
            differences: differences.collect(),
        }
    }
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
            knows_no_rules: true,
        };
        assert_eq!(Answers::decode(&answers().encode()).expect("as written"), answers());
    }
}
