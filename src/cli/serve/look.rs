//! Inspects the SSH server at the target in a process of its own: the keeper parses nothing that comes from a network.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use russh::keys::ssh_key::PublicKey;
use serde::{Deserialize, Serialize};

use super::holders::holders;
use crate::cli::report::{self, Exit, Failure};
use crate::server::ask_sshd::{self, INSPECT_TIMEOUT, INSPECT_USER};
use crate::server::connect_sshd::FromLoopback;
use crate::server::handover::Endpoint;
use crate::server::sshd_config::run_bounded;
use crate::server::worker_user::WorkerUser;

/// The subcommand of that process.
const COMMAND: &str = "look-at-target";

/// How long the inspection may take with the start of the process.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(6);

/// The name of OpenSSH's server.
const SSHD: &str = "sshd";

/// The result.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct InspectedServer {
    /// The identification line.
    pub(super) identification: String,
    /// The host key that it proved, as in known_hosts.
    host_key: Option<String>,
    /// Whether it accepts keys that nobody knows.
    pub(super) accepts_any_key: bool,
}

impl InspectedServer {
    /// The host key that it proved.
    pub(super) fn host_key(&self) -> Option<PublicKey> {
        PublicKey::from_openssh(self.host_key.as_deref()?).ok()
    }
}

/// Inspects the server at `target`, unless it is the sshd whose settings say that it listens there: then
/// it gives `None`.
///
/// # Errors
/// No SSH server answers there.
pub(super) fn look_unless_known(
    program: &Path,
    user: Option<&WorkerUser>,
    target: SocketAddr,
    is_listed: bool,
) -> io::Result<Option<InspectedServer>> {
    let others = holders(Endpoint::tcp(target));
    if is_listed && others.iter().all(|holder| holder.name == SSHD) {
        return Ok(None);
    }
    look(program, user, target).map(Some)
}

fn look(program: &Path, user: Option<&WorkerUser>, target: SocketAddr) -> io::Result<InspectedServer> {
    let mut command = Command::new(program);
    command
        .args([OsString::from(COMMAND), target.to_string().into()])
        .env_clear();
    if let Some(user) = user {
        command.uid(user.uid()).gid(user.gid());
    }
    let output = run_bounded(&mut command, PROCESS_TIMEOUT)?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Runs the inspection.
///
/// # Errors
/// There is no SSH server.
pub(in crate::cli) async fn run(target: SocketAddr) -> Result<(), Failure> {
    let sshd = FromLoopback::new(target);
    let seen = ask_sshd::inspect(&sshd, INSPECT_USER, INSPECT_TIMEOUT).await;
    let seen = seen.map_err(|error| Failure::from_error(Exit::Unavailable, &error))?;
    let told = InspectedServer {
        identification: seen.server.identification.to_string(),
        host_key: seen.server.host_key.and_then(|key| key.to_openssh().ok()),
        accepts_any_key: seen.accepts_any_key,
    };
    serde_json::to_writer(io::stdout(), &told).map_err(|error| report::cannot_start(&error.into()))
}
