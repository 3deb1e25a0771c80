//! What bowline processes report about their sessions, and how sessions are ended from outside: `bowline status`,
//! `bowline kill` and metrics.
//!
//! Each process that has sessions opens a [`ControlSocket`] in the runtime folder. It serves one connection at a
//! time: a request is one line of JSON, a response one or more lines. The server half's worker has no folder; its
//! keeper passes it connections. Only root and the user of the process are served.

mod control_client;
mod control_socket;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod http;
mod link;
mod marks;
mod messages;
mod metrics;
mod report;
mod state;

pub(crate) use control_client::{ControlError, FoundSocket, control_sockets, remove_stale_sockets, send_request};
pub(crate) use control_socket::{ControlHandler, ControlSocket, serve_connection};
pub(crate) use http::{serve_metrics, serve_metrics_at};
pub(crate) use link::{LinkEvent, LinkListener, LinkReport, LinkReporter, LinkRequests, Terminal, report_plain_tcp};
pub(crate) use messages::{KillRequest, Request, Response};
pub(crate) use metrics::{Metrics, MetricsPage};
pub(crate) use report::{Half, PathReport, RelayReport, Report, SessionReport, milliseconds};
pub(crate) use state::{State, query_all};

use std::future::Future;
use std::pin::Pin;

/// A boxed future.
pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[cfg(test)]
mod tests;
