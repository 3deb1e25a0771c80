//! The keeper of `bowline serve`: the three ways to start one. No async runtime here.

use std::time::Duration;

use tracing::warn;

use super::answers::Answers;
use super::prepare::{Draft, Prepared};
use super::replace::{self, StartingPoint};
use super::{Predecessor, ServeSettings};
use crate::cli::args::{CommonArgs, ServeOptions};
use crate::cli::logging::{self, LogSettings, Verbosity};
use crate::cli::places::Owner;
use crate::cli::report::{Exit, Failure};
use crate::cli::settings::Context;
use crate::server::handover::Handover;
use crate::server::supervisor::{Keeper, KeeperEnd, KeeperError, ServiceManager};

/// How long a keeper that cannot start waits before it exits, so that its service manager does not restart it at once.
const FAILED_START_DELAY: Duration = Duration::from_millis(500);

/// Serves until told to stop.
///
/// # Errors
/// It could not start, or could not keep the worker running.
pub(in crate::cli) fn run(settings: &ServeSettings, log: &LogSettings) -> Result<(), Failure> {
    let manager = ServiceManager::take();
    let is_managed = manager.is_there();
    let prepared = prepare(settings, log, manager).inspect_err(|_| {
        if is_managed {
            // The service manager starts this program again within milliseconds, when nothing has changed yet.
            std::thread::sleep(FAILED_START_DELAY);
        }
    });
    let (Prepared { plan, request_handler }, handover) = prepared?;
    // From now on the worker's stderr goes to the log; until now errors go to the terminal.
    log.take_stderr();
    keep(match handover {
        Some(handover) => Keeper::resume(handover, Some(plan), request_handler),
        None => Keeper::start(plan, request_handler),
    })
}

fn prepare(
    settings: &ServeSettings,
    log: &LogSettings,
    manager: ServiceManager,
) -> Result<(Prepared, Option<Handover>), Failure> {
    let draft = Draft::new(settings, log.as_arguments(), Predecessor::Manager(manager))?;
    let mut draft = draft.with_client_address()?;
    let StartingPoint { ports, handover } =
        replace::acquire_ports(&draft, settings).inspect_err(|_| draft.abandon())?;
    Ok((draft.finish(ports, handover.as_ref()), handover))
}

/// Runs after SIGHUP, in the same process, as the same program or a newer one. Reads the configuration again; if that
/// fails, continues as before.
///
/// # Errors
/// There was nothing to take over, or the worker could not be kept running.
pub(in crate::cli) fn take_over(args: ServeOptions, common: CommonArgs) -> Result<(), Failure> {
    let by_arguments = LogSettings::of_worker(&common);
    let mut handover = Handover::take().map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    match read_anew(args, common, &mut handover) {
        Ok(Prepared { plan, request_handler }) => keep(Keeper::resume(handover, Some(plan), request_handler)),
        Err(failure) => {
            // The first logger that is started stays: if the configuration could be read, it is the configured one.
            logging::start(&by_arguments);
            warn!(
                "reload failed: {}; continuing with the old settings",
                failure.one_line()
            );
            resume(handover)
        }
    }
}

/// Runs a keeper that a worker has started because its own keeper had died. It prepares nothing.
///
/// # Errors
/// There was nothing to take over, or the worker could not be kept running.
pub(in crate::cli) fn run_keeper(log: &LogSettings) -> Result<(), Failure> {
    let handover = Handover::take().map_err(|error| Failure::from_error(Exit::Usage, &error))?;
    logging::start(log);
    resume(handover)
}

fn read_anew(args: ServeOptions, common: CommonArgs, handover: &mut Handover) -> Result<Prepared, Failure> {
    let context = Context::load(common, Owner::of_daemon())?;
    let settings = ServeSettings::new(args, &context)?;
    let log = context.log(Verbosity::Info);
    logging::start(&log);
    let draft = Draft::new(&settings, log.as_arguments(), Predecessor::Keeper(handover))?.with_client_address()?;
    let ports = draft.ports(None)?;
    log.take_stderr();
    Ok(draft.finish(ports, None))
}

fn resume(handover: Handover) -> Result<(), Failure> {
    let answers =
        Answers::decode(handover.handler_settings()).map_err(|error| Failure::from_error(Exit::Internal, &error))?;
    keep(Keeper::resume(handover, None, answers.into_handler(false)))
}

fn keep(keeper: Result<Keeper, KeeperError>) -> Result<(), Failure> {
    match keeper.and_then(Keeper::run) {
        Ok(KeeperEnd::Stopped | KeeperEnd::Replaced) => Ok(()),
        // The worker has printed the reason to its stderr, which is ours.
        Ok(KeeperEnd::WorkerGaveUp { code }) => Err(Failure::silent(code)),
        Err(error) => Err(Failure::from_error(Exit::Internal, &error)),
    }
}
