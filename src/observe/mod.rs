//! What a process of bowline tells of its sessions, and what it is told about them: `bowline status`, `bowline kill`,
//! and metrics.
//!
//! Whoever has sessions keeps a [`Desk`]: a socket in the runtime folder, where one asker at a time says one line of JSON
//! and is answered by lines. The server half's worker has no folder; its keeper brings the askers. Only root and the
//! user whom the process runs as are heard.

mod ask;
mod desk;
mod http;
mod line;
mod metrics;
mod report;
mod state;
mod words;

pub(crate) use ask::{AskError, Found, ask, desks, sweep};
pub(crate) use desk::{Desk, Source, attend};
pub(crate) use http::{serve_metrics, serve_metrics_at};
pub(crate) use metrics::{Metrics, Page};
pub(crate) use report::{Half, PathReport, RelayReport, Report, SessionReport, milliseconds};
pub(crate) use state::{State, look_at_all};
pub(crate) use words::{Answer, Ending, Request};

use std::future::Future;
use std::pin::Pin;

/// What a boxed asynchronous method gives.
pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

#[cfg(test)]
mod tests;
