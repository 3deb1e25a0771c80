//! The life of one session: connect to sshd or restore, run the pump, close.

use super::super::authority::refusal;
use super::super::connect_sshd::Client;
use super::super::session_store::{Identity, RecoveredSession, StoredSession};
use super::Registry;
use super::session_table::Entry;
use crate::clock;
use crate::fault;
use crate::pump::{
    CheckpointStore, Outcome, PathEvent, Pump, PumpParts, Reservation, Role, SessionCommand, session_memory,
};
use crate::session::{Session, SessionConfig};
use crate::tasks::{catch_panic, panic_text};
use crate::wire::{CloseCode, ErrorChain, Refusal, RefusalCode, SessionId};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

/// As long as sshd waits for a login by default (LoginGraceTime). A client that is killed while its open waits for sshd leaves a
/// session that nobody knows; for this time it counts among the sessions of its key.
const UNCONFIRMED_TTL: Duration = Duration::from_secs(120);

/// What the task of one session owns.
pub(super) struct SessionTask {
    pub(super) registry: Weak<Registry>,
    pub(super) entry: Arc<Entry>,
    pub(super) id: SessionId,
    pub(super) path_events: mpsc::Receiver<PathEvent>,
    pub(super) commands: mpsc::Receiver<SessionCommand>,
    pub(super) start: SessionStart,
}

/// How a session starts in this process.
pub(super) enum SessionStart {
    /// It was just opened.
    Opened(NewSession),
    /// A previous worker left it, with this much memory in use.
    Recovered(Box<RecoveredSession>, Reservation),
}

/// A session that is being opened.
pub(super) struct NewSession {
    pub(super) identity: Identity,
    pub(super) client: Client,
    /// Set once the session is connected to sshd and stored, or has failed.
    pub(super) ready: watch::Sender<Option<Result<(), Refusal>>>,
}

/// What the pump connects.
struct PumpEnds {
    session: Session,
    input: Box<dyn AsyncRead + Send + Unpin>,
    output: Box<dyn AsyncWrite + Send + Unpin>,
    checkpoints: Option<Box<dyn CheckpointStore>>,
    detached_since: Instant,
    confirmed: bool,
    /// Dropped once the pump counts its memory itself.
    held: Option<Reservation>,
}

/// What to do when a session's task ends.
enum Disposition {
    Close(String),
    /// The client may open the same session again.
    Forget,
    /// The next worker continues it.
    Leave,
}

impl SessionTask {
    pub(super) async fn run(self) {
        let Some(registry) = self.registry.upgrade() else {
            return;
        };
        let id = self.id;
        // A panic ends its own session only.
        let disposition = catch_panic(Box::pin(self.live(&registry)))
            .await
            .unwrap_or_else(|panic| {
                error!(
                    event = "closed",
                    panic = panic_text(&*panic),
                    "a bug in bowline ended the session"
                );
                Disposition::Close("a bug in the server half ended it".to_owned())
            });
        match disposition {
            Disposition::Close(why) => registry.close(id, &why),
            Disposition::Forget => registry.forget(id),
            Disposition::Leave => {}
        }
    }

    async fn live(self, registry: &Registry) -> Disposition {
        let ends = match self.start {
            SessionStart::Opened(opened) => {
                let begun = opened.begin(registry, &self.entry).await;
                opened
                    .ready
                    .send_replace(Some(begun.as_ref().map(|_| ()).map_err(Refusal::clone)));
                match begun {
                    Ok(ends) => {
                        registry.counts.handle_opened();
                        ends
                    }
                    Err(_) => return Disposition::Forget,
                }
            }
            SessionStart::Recovered(recovered, held) => {
                let RecoveredSession {
                    kept,
                    detached_since,
                    confirmed,
                    ..
                } = *recovered;
                let local = kept.slot.upstream_from();
                local.map(|local| self.entry.upstream_from.set(local));
                PumpEnds {
                    held: Some(held),
                    ..PumpEnds::kept(kept, &self.entry, detached_since, confirmed)
                }
            }
        };
        let running = ends.join(self.path_events, self.commands, &self.entry, registry);
        let outcome = tokio::select! {
            outcome = running => outcome,
            () = fault::panic_in_session() => return Disposition::Leave,
        };
        if outcome == Outcome::HandedOver {
            return Disposition::Leave;
        }
        let why = describe(&outcome, registry.limits.ttl);
        info!(event = "closed", reason = why, "session closed");
        Disposition::Close(why)
    }
}

impl NewSession {
    /// Connects to sshd and stores the connection, so that a crash does not lose it.
    async fn begin(&self, registry: &Registry, entry: &Entry) -> Result<PumpEnds, Refusal> {
        let Identity {
            user, account, remote, ..
        } = &self.identity;
        // The entry has one receiver; the others belong to carriers that wait. Without one the client has given up, and would
        // only take room in sshd from others. A client that comes back opens the session again.
        let is_wanted = || self.ready.receiver_count() > 1 && !entry.is_told_to_end.load(Relaxed);
        let stream = registry.upstream.connect(self.client, is_wanted).await?;
        let local = stream.local_addr().ok();
        info!(event = "opened", user, key = account.0, %remote,
            upstream_from = local.map(tracing::field::display), "session opened");
        local.map(|local| entry.upstream_from.set(local));
        let Some(session_store) = &registry.session_store else {
            return Ok(PumpEnds::without_store(&registry.session, stream));
        };
        let kept = session_store
            .create(self.identity.clone(), stream, &registry.session)
            .await;
        let kept = kept.map_err(|error| {
            warn!(event = "refused", error = %ErrorChain(&error), "cannot store the session");
            refusal(
                RefusalCode::RetryLater,
                "the server half cannot store another session now",
            )
        })?;
        Ok(PumpEnds::kept(kept, entry, clock::now(), false))
    }
}

impl PumpEnds {
    /// Runs the pump.
    fn join(
        self,
        path_events: mpsc::Receiver<PathEvent>,
        commands: mpsc::Receiver<SessionCommand>,
        entry: &Entry,
        registry: &Registry,
    ) -> impl Future<Output = Outcome> + use<> {
        let pump = Pump::new(PumpParts {
            session: self.session,
            input: self.input,
            output: self.output,
            pipe_closed: CloseCode::UpstreamClosed,
            input_ends_itself: true,
            role: Role::Server,
            path_events,
            epochs: Arc::clone(&entry.epochs),
            commands,
            stats: Arc::clone(&entry.stats),
            checkpoints: self.checkpoints,
            detached_since: self.detached_since,
            confirmed: self.confirmed,
            detach_timeout: registry.limits.ttl,
            unconfirmed_timeout: UNCONFIRMED_TTL,
            budget: Arc::clone(&registry.budget),
        });
        drop(self.held);
        pump.run()
    }

    fn without_store(config: &SessionConfig, stream: TcpStream) -> PumpEnds {
        let (input, output) = stream.into_split();
        PumpEnds {
            session: Session::new(session_memory(config)),
            input: Box::new(input),
            output: Box::new(output),
            checkpoints: None,
            detached_since: clock::now(),
            confirmed: false,
            held: None,
        }
    }

    fn kept(kept: StoredSession, entry: &Entry, detached_since: Instant, confirmed: bool) -> PumpEnds {
        *entry.slot.lock() = Some(kept.slot);
        PumpEnds {
            session: kept.session,
            input: Box::new(kept.input),
            output: Box::new(kept.output),
            checkpoints: Some(kept.checkpoints),
            detached_since,
            confirmed,
            held: None,
        }
    }
}

fn describe(outcome: &Outcome, ttl: Duration) -> String {
    match outcome {
        Outcome::Finished => "ended normally".to_owned(),
        Outcome::ClosedByPeer(_, message) => format!("closed by the client half: {message}"),
        Outcome::Unfinished => "ended, but the client half did not confirm the last bytes".to_owned(),
        Outcome::Ended(why) | Outcome::Lost(why) => why.clone(),
        Outcome::HandedOver => "handed over to the next worker".to_owned(),
        Outcome::Expired => format!("no client connected for {} s", ttl.as_secs()),
        Outcome::Unconfirmed(after) => format!("the client half said nothing within {} s", after.as_secs()),
        Outcome::Desync(error) => format!("protocol error: {error}"),
    }
}
