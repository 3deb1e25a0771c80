//! What a process of bowline tells of its sessions, and what it is told about them: `bowline status`, `bowline kill`,
//! and metrics.
//!
//! Whoever has sessions keeps a [`ControlSocket`]: a socket in the runtime folder, where one asker at a time says one line of JSON
//! and is answered by lines. The server half's worker has no folder; its keeper brings the askers. Only root and the
//! user whom the process runs as are heard.

mod control_client;
mod control_socket;
mod http;
mod json_lines;
mod messages;
mod metrics;
mod report;
mod state;

pub(crate) use control_client::{ControlError, FoundSocket, control_sockets, remove_stale_sockets, send_request};
pub(crate) use control_socket::{ControlHandler, ControlSocket, serve_connection};
pub(crate) use http::{serve_metrics, serve_metrics_at};
pub(crate) use messages::{KillRequest, Request, Response};
pub(crate) use metrics::{Metrics, MetricsPage};
pub(crate) use report::{Half, PathReport, RelayReport, Report, SessionReport, milliseconds};
pub(crate) use state::{State, query_all};

use std::future::Future;
use std::pin::Pin;

/// What a boxed asynchronous method gives.
pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[cfg(test)]
mod tests;
