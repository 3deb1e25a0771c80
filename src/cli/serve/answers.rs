//! What the keeper answers its worker: what `sshd -T` says of two addresses, and the open file of keys.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use tracing::warn;

use crate::cli::report::{self, Failure};
use crate::identity::authorized_keys::open_key_file;
use crate::server::keeper::{Answer, Difference, Reply, Request, Response};
use crate::server::sshd_config::{Connection, SshdConfig};

/// What answers are made from.
pub(super) struct Answers {
    pub(super) sshd: SshdConfig,
    /// `--authorized-keys`.
    pub(super) key_file: Option<PathBuf>,
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
    pub(super) fn into_answer(self) -> Answer {
        Box::new(move |request| match request {
            Request::LoopbackMatch {
                user,
                real_address,
                local_address,
                local_port,
            } => {
                let local = SocketAddr::new(local_address, local_port);
                compare_rules(&self.sshd, &user, real_address, local).into()
            }
            Request::OpenKeyFile => open(self.key_file.as_deref()),
        })
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

fn compare_rules(sshd: &SshdConfig, user: &str, real: IpAddr, local: SocketAddr) -> Response {
    let from = |address| Connection { user, address, local };
    let comparison = match sshd.compare(from(real), from(local.ip())) {
        Ok(comparison) => comparison,
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
