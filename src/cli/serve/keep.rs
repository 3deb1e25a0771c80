//! The keeper's side of `bowline serve`: three ways to become one. No async runtime here.

use std::time::Duration;

use tracing::warn;

use super::answers::Answers;
use super::prepare::{Draft, Prepared};
use super::replace::{self, Place};
use super::{Before, ServeSettings};
use crate::cli::args::{CommonArgs, ServeArgs};
use crate::cli::logging::{self, LogSettings, Verbosity};
use crate::cli::places::Owner;
use crate::cli::report::{Exit, Failure};
use crate::cli::settings::Context;
use crate::server::keeper::{Estate, Keeper, KeeperEnd, KeeperError, ServiceManager};

/// How long a keeper that cannot start leaves its service manager in peace.
const PAUSE: Duration = Duration::from_millis(500);

/// Serves until it is told to stop.
///
/// # Errors
/// It could not start, or the worker could not be kept running.
pub(in crate::cli) fn run(settings: &ServeSettings, log: &LogSettings) -> Result<(), Failure> {
    let manager = ServiceManager::take();
    let is_managed = manager.is_there();
    let prepared = prepare(settings, log, manager).inspect_err(|_| {
        if is_managed {
            // It starts us again within milliseconds, and by then nothing will have changed.
            std::thread::sleep(PAUSE);
        }
    });
    let (Prepared { plan, answer }, estate) = prepared?;
    // From here on what the worker says belongs into the log; until here errors are for the terminal.
    log.take_stderr();
    keep(match estate {
        Some(estate) => Keeper::go_on(estate, Some(plan), answer),
        None => Keeper::start(plan, answer),
    })
}

fn prepare(
    settings: &ServeSettings,
    log: &LogSettings,
    manager: ServiceManager,
) -> Result<(Prepared, Option<Estate>), Failure> {
    let draft = Draft::new(settings, log.as_arguments(), Before::Manager(manager))?;
    let mut draft = draft.with_client_address()?;
    let Place { ports, estate } = replace::take_place(&draft, settings).inspect_err(|_| draft.abandon())?;
    Ok((draft.finish(ports, estate.as_ref()), estate))
}

/// The same program as before or a newer one, in the same process, after SIGHUP. All is read anew; where that fails,
/// it goes on as it was.
///
/// # Errors
/// There was nothing to take over, or the worker could not be kept running.
pub(in crate::cli) fn take_over(args: ServeArgs, common: CommonArgs) -> Result<(), Failure> {
    let by_arguments = LogSettings::of_worker(&common);
    let mut estate = Estate::take().map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    match read_anew(args, common, &mut estate) {
        Ok(Prepared { plan, answer }) => keep(Keeper::go_on(estate, Some(plan), answer)),
        Err(failure) => {
            // The first one to be started stays: where the configuration could be read, it is that of the configuration.
            logging::start(&by_arguments);
            warn!("reload failed: {}, going on with the old settings", failure.one_line());
            go_on(estate)
        }
    }
}

/// A keeper that was raised by its worker, whose own had died. It prepares nothing.
///
/// # Errors
/// There was nothing to take over, or the worker could not be kept running.
pub(in crate::cli) fn run_keeper(log: &LogSettings) -> Result<(), Failure> {
    let estate = Estate::take().map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    logging::start(log);
    go_on(estate)
}

fn read_anew(args: ServeArgs, common: CommonArgs, estate: &mut Estate) -> Result<Prepared, Failure> {
    let context = Context::load(common, Owner::of_daemon())?;
    let settings = ServeSettings::new(args, &context)?;
    let log = context.log(Verbosity::Info);
    logging::start(&log);
    let draft = Draft::new(&settings, log.as_arguments(), Before::Keeper(estate))?.with_client_address()?;
    let ports = draft.ports(None)?;
    log.take_stderr();
    Ok(draft.finish(ports, None))
}

fn go_on(estate: Estate) -> Result<(), Failure> {
    let answers = Answers::decode(estate.answers()).map_err(|error| Failure::from_error(Exit::Internal, &error))?;
    keep(Keeper::go_on(estate, None, answers.into_answer(false)))
}

fn keep(keeper: Result<Keeper, KeeperError>) -> Result<(), Failure> {
    match keeper.and_then(Keeper::run) {
        Ok(KeeperEnd::Stopped | KeeperEnd::Replaced) => Ok(()),
        // The worker has said why on its stderr, which is ours.
        Ok(KeeperEnd::WorkerGaveUp { code }) => Err(Failure::silent(code)),
        Err(error) => Err(Failure::from_error(Exit::Internal, &error)),
    }
}
