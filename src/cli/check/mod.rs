//! `bowline check`: every path to a host, probed end to end, and what would end a session in an outage.

mod json;
mod limits;
mod table;
mod words;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::client::check::{CheckConfig, CheckedPath, Diagnosis, check};
use crate::client::{OpenError, ResolveError};
use crate::identity::ssh_config::{SshConfig, SshConfigError};
use crate::wire::Probed;

use self::limits::Limit;
use self::limits::Obstacle;
use super::args::CheckArgs;
use super::bootstrap::{Record, Running};
use super::proxy::{self, AlternateRoutes, Opening, ProxySettings};
use super::report::{self, Exit, Failure};
use super::settings::{Context, SettingsError};
use super::values::Fallback;
use super::wrap::width;

/// How long each path is given: longer than any round trip with a few losses, and somebody waits.
const PATH_TIMEOUT: Duration = Duration::from_secs(5);

/// What `bowline check` works by.
#[derive(Debug, Clone)]
pub(crate) struct CheckSettings {
    /// How the host is reached.
    pub(crate) proxy: ProxySettings,
    /// Whether programs read the answer.
    pub(crate) json: bool,
}

impl CheckSettings {
    /// As for `bowline proxy`, but for the time that is given to an open.
    ///
    /// # Errors
    /// No folder for the state.
    pub(super) fn new(args: CheckArgs, context: &Context) -> Result<Self, SettingsError> {
        let mut proxy = ProxySettings::new(args.proxy, context)?;
        proxy.connect_timeout.get_or_insert(PATH_TIMEOUT);
        // It would shorten the time, and there is nothing to fall back to.
        proxy.fallback = Fallback::None;
        Ok(CheckSettings { proxy, json: args.json })
    }
}

/// All that is told.
struct Report<'a> {
    host: &'a str,
    ssh: &'a SshConfig,
    paths: Result<&'a [CheckedPath], &'a ResolveError>,
    /// Relays that are no paths, and why.
    unresolved_relays: &'a [String],
    /// The user's keys that were tried or left out, if none was accepted on some path.
    keys: Vec<String>,
    /// Types of the keys that are known for this host, if bowline supports none of them.
    unsupported_types: Vec<String>,
    /// Where sshd itself was connected to.
    asked_sshd: &'a [SocketAddr],
    limits: Vec<Limit>,
    /// Why ssh itself cannot use the paths.
    obstacle: Option<Obstacle>,
    /// Options that ssh gives its proxy, and that were not given here.
    not_given: Vec<&'static str>,
    /// The server half that was checked, if bowline has started it over ssh.
    started: Option<&'a Running>,
}

/// Checks and tells.
///
/// # Errors
/// No path works; then everything was told already.
pub(super) async fn run(settings: CheckSettings) -> Result<(), Failure> {
    let ssh = match proxy::resolve(&settings.proxy).await {
        // What is asked for is the configuration that holds if a path works.
        Err(SshConfigError::AskedAlready { host }) => {
            tracing::debug!(
                host,
                "started by the ssh -G of another bowline for the same host: exiting with 0 \
                without a test"
            );
            return Ok(());
        }
        asked => asked.map_err(|error| report::no_ssh_config(&error))?,
    };
    super::places::make_folder_of_memories(&settings.proxy.folders.state)?;
    let alternate_routes = AlternateRoutes::to(&ssh.hostname, &settings.proxy)?;
    let opening = Opening::new(&settings.proxy, &ssh);
    let started = opening.record().and_then(Record::running);
    let client = match &started {
        Some(running) => opening.config_of(running).await?,
        None => proxy::client_config(&settings.proxy, &ssh, &alternate_routes).await?,
    };
    let config = CheckConfig {
        client,
        ssh_port: ssh.port,
    };
    let host = &settings.proxy.destination.host;
    let (credentials, trust) = (Arc::clone(&config.client.credentials), Arc::clone(&config.client.trust));
    let checked = check(config).await;
    let answer = checked.as_ref().ok().and_then(|checked| answer(&checked.paths));
    let obstacle = limits::find(&ssh);
    let checked_report = Report {
        host,
        ssh: &ssh,
        paths: checked.as_ref().map(|checked| &*checked.paths),
        unresolved_relays: checked.as_ref().map_or(&[], |checked| &*checked.unresolved_relays),
        keys: match checked.as_ref().is_ok_and(|checked| is_key_refused(&checked.paths)) {
            true => credentials.describe(),
            false => Vec::new(),
        },
        unsupported_types: trust.unsupported_types(),
        asked_sshd: checked.as_ref().map_or(&[], |checked| &*checked.asked_sshd),
        limits: limits::all(&ssh, answer, settings.proxy.patience),
        obstacle,
        not_given: limits::not_given(&ssh, &given()),
        started: started.as_ref(),
    };
    let said = if settings.json {
        json::write(&checked_report)
    } else {
        table::write(&checked_report, width())
    };
    // A reader who has seen enough is no error.
    let _ = io::stdout().write_all(said.as_bytes());
    match checked {
        Err(error) if !settings.json => Err(report::cannot_open(host, OpenError::Resolve(error))),
        Err(_) => Err(Failure::silent(Exit::Unavailable as i32)),
        Ok(_) if obstacle.is_some() => Err(Failure::silent(Exit::Unavailable as i32)),
        Ok(checked) => exit(&checked.paths),
    }
}

/// All that this program was given.
fn given() -> Vec<String> {
    let words = std::env::args_os().skip(1);
    words.map(|word| word.to_string_lossy().into_owned()).collect()
}

fn is_key_refused(paths: &[CheckedPath]) -> bool {
    paths.iter().any(|path| path.diagnosis == Diagnosis::KeyRefused)
}

/// The first good one: it is the best path's.
fn answer(paths: &[CheckedPath]) -> Option<&Probed> {
    paths.iter().find_map(|path| path.answer.as_ref())
}

fn exit(paths: &[CheckedPath]) -> Result<(), Failure> {
    let any = |wanted: &[Diagnosis]| paths.iter().any(|path| wanted.contains(&path.diagnosis));
    if any(&[Diagnosis::Works]) {
        Ok(())
    } else if any(&[Diagnosis::WrongKey, Diagnosis::KeyRefused, Diagnosis::OtherMethod]) {
        Err(Failure::silent(Exit::Refused as i32))
    } else {
        Err(Failure::silent(Exit::Unavailable as i32))
    }
}
