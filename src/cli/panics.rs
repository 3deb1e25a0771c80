//! A fault of bowline's own: told like any other failure, never as a backtrace on the user's screen.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::RefCell;
use std::panic::{PanicHookInfo, catch_unwind, set_hook};

use tracing::error;

use super::report::{self, Failure};

thread_local! {
    /// Where this thread panicked last: the payload does not know.
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs a command. A panic becomes its failure, and stands in the log with all that is known of it.
///
/// # Errors
/// The command's, or the panic.
pub(super) fn guard(command: impl FnOnce() -> Result<(), Failure> + std::panic::UnwindSafe) -> Result<(), Failure> {
    set_hook(Box::new(log));
    catch_unwind(command).unwrap_or_else(|payload| {
        let place = PLACE.take().unwrap_or_default();
        Err(report::internal_fault(&place, text(&*payload)))
    })
}

/// Panics of other threads and of tasks end no more than those: they are only logged.
fn log(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    let what = text(info.payload());
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => error!(place, what, %backtrace, "internal error in bowline: panicked"),
        _ => error!(place, what, "internal error in bowline: panicked"),
    }
    PLACE.set(Some(place));
}

fn text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&'static str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
