//! The life of one session: connect to sshd or go on where a predecessor died, pump, be buried.

use super::super::authority::{chain, refusal};
use super::super::connect_sshd::Client;
use super::super::vault::{Identity, Kept, RecoveredSession};
use super::entry::Entry;
use super::{Registry, lock};
use crate::carrier::Carrier;
use crate::clock;
use crate::fault;
use crate::pump::{Arrival, Held, Ledger, Order, Outcome, Pump, PumpParts, session_memory};
use crate::session::{Session, SessionConfig};
use crate::tasks::{catch_panic, panic_text};
use crate::wire::{CloseCode, Refusal, RefusalCode, SessionId};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

/// As long as sshd waits for a login by default (LoginGraceTime).
const UNCONFIRMED: Duration = Duration::from_secs(120);

/// Everything one session's task owns.
pub(super) struct SessionTask {
    pub(super) registry: Weak<Registry>,
    pub(super) entry: Arc<Entry>,
    pub(super) id: SessionId,
    pub(super) arrivals: mpsc::Receiver<Box<Arrival>>,
    pub(super) standbys: mpsc::Receiver<Carrier>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) beginning: Beginning,
}

/// How a session comes to this process.
pub(super) enum Beginning {
    /// It was opened just now.
    Opened(Opened),
    /// A predecessor left it, and that much memory in it.
    Recovered(Box<RecoveredSession>, Held),
}

/// What is known of a session that begins.
pub(super) struct Opened {
    pub(super) identity: Identity,
    pub(super) client: Client,
    /// Told once upstream is connected and a crash would not lose it any more, or why that cannot be.
    pub(super) ready: watch::Sender<Option<Result<(), Refusal>>>,
}

/// What the pump joins.
struct Ends {
    session: Session,
    input: Box<dyn AsyncRead + Send + Unpin>,
    output: Box<dyn AsyncWrite + Send + Unpin>,
    ledger: Option<Box<dyn Ledger>>,
    detached_since: Instant,
    confirmed: bool,
    /// Until the pump counts for itself.
    held: Option<Held>,
}

/// What is to be done about a session that is over here.
enum Afterwards {
    Bury(String),
    /// The client may ask for the same session again.
    Forget,
    /// A successor goes on with it.
    Leave,
}

impl SessionTask {
    pub(super) async fn run(self) {
        let Some(registry) = self.registry.upgrade() else {
            return;
        };
        let id = self.id;
        // A panic is the end of its own session and of no other.
        let afterwards = catch_panic(Box::pin(self.live(&registry)))
            .await
            .unwrap_or_else(|panic| {
                error!(
                    event = "closed",
                    panic = panic_text(&*panic),
                    "a fault of bowline ended the session"
                );
                Afterwards::Bury("a fault in the server half ended it".to_owned())
            });
        match afterwards {
            Afterwards::Bury(why) => registry.bury(id, &why),
            Afterwards::Forget => registry.forget(id),
            Afterwards::Leave => {}
        }
    }

    async fn live(self, registry: &Registry) -> Afterwards {
        let ends = match self.beginning {
            Beginning::Opened(opened) => {
                let begun = opened.begin(registry, &self.entry).await;
                opened
                    .ready
                    .send_replace(Some(begun.as_ref().map(|_| ()).map_err(Refusal::clone)));
                match begun {
                    Ok(ends) => {
                        registry.counts.handle_opened();
                        ends
                    }
                    Err(_) => return Afterwards::Forget,
                }
            }
            Beginning::Recovered(recovered, held) => {
                let RecoveredSession {
                    kept,
                    detached_since,
                    confirmed,
                    ..
                } = *recovered;
                let local = kept.slot.upstream_from();
                local.map(|local| self.entry.upstream_from.set(local));
                Ends {
                    held: Some(held),
                    ..Ends::kept(kept, &self.entry, detached_since, confirmed)
                }
            }
        };
        let carriers = (self.arrivals, self.standbys);
        let running = ends.join(carriers, self.orders, &self.entry, registry);
        let outcome = tokio::select! {
            outcome = running => outcome,
            () = fault::panic_in_session() => return Afterwards::Leave,
        };
        if outcome == Outcome::HandedOver {
            return Afterwards::Leave;
        }
        let why = describe(&outcome, registry.limits.ttl);
        info!(event = "closed", reason = why, "session closed");
        Afterwards::Bury(why)
    }
}

impl Opened {
    /// Connects to sshd, and puts the connection where a crash does not lose it.
    async fn begin(&self, registry: &Registry, entry: &Entry) -> Result<Ends, Refusal> {
        let Identity {
            user, account, remote, ..
        } = &self.identity;
        let stream = registry.upstream.connect(self.client).await?;
        let local = stream.local_addr().ok();
        info!(event = "opened", user, key = account.0, %remote,
            upstream_from = local.map(tracing::field::display), "session opened");
        local.map(|local| entry.upstream_from.set(local));
        let Some(vault) = &registry.vault else {
            return Ok(Ends::without_vault(&registry.session, stream));
        };
        let kept = vault.create(self.identity.clone(), stream, &registry.session).await;
        let kept = kept.map_err(|error| {
            warn!(event = "refused", error = %chain(&error), "the session cannot be kept");
            refusal(
                RefusalCode::RetryLater,
                "the server half cannot keep another session now",
            )
        })?;
        Ok(Ends::kept(kept, entry, clock::now(), false))
    }
}

impl Ends {
    /// Runs the pump between them.
    fn join(
        self,
        (arrivals, standbys): (mpsc::Receiver<Box<Arrival>>, mpsc::Receiver<Carrier>),
        orders: mpsc::Receiver<Order>,
        entry: &Entry,
        registry: &Registry,
    ) -> impl Future<Output = Outcome> + use<> {
        let pump = Pump::new(PumpParts {
            session: self.session,
            input: self.input,
            output: self.output,
            pipe_closed: CloseCode::UpstreamClosed,
            input_ends_itself: true,
            arrivals,
            standbys,
            epochs: Arc::clone(&entry.epochs),
            orders,
            facts: Arc::clone(&entry.facts),
            vigil: None,
            ledger: self.ledger,
            detached_since: self.detached_since,
            confirmed: self.confirmed,
            patience: registry.limits.ttl,
            unconfirmed_patience: UNCONFIRMED,
            budget: Arc::clone(&registry.budget),
        });
        drop(self.held);
        pump.run()
    }

    fn without_vault(config: &SessionConfig, stream: TcpStream) -> Ends {
        let (input, output) = stream.into_split();
        Ends {
            session: Session::new(session_memory(config)),
            input: Box::new(input),
            output: Box::new(output),
            ledger: None,
            detached_since: clock::now(),
            confirmed: false,
            held: None,
        }
    }

    fn kept(kept: Kept, entry: &Entry, detached_since: Instant, confirmed: bool) -> Ends {
        *lock(&entry.slot) = Some(kept.slot);
        Ends {
            session: kept.session,
            input: Box::new(kept.input),
            output: Box::new(kept.output),
            ledger: Some(kept.ledger),
            detached_since,
            confirmed,
            held: None,
        }
    }
}

fn describe(outcome: &Outcome, ttl: Duration) -> String {
    match outcome {
        Outcome::Finished => "ended in good order".to_owned(),
        Outcome::ClosedByPeer(_, message) => format!("closed by the client half: {message}"),
        Outcome::Unfinished => "ended without a confirmation".to_owned(),
        Outcome::Ended(why) | Outcome::Lost(why) => why.clone(),
        Outcome::HandedOver => "handed over to a successor".to_owned(),
        Outcome::Expired => format!("no carrier came for {} s", ttl.as_secs()),
        Outcome::Desync(error) => format!("protocol error: {error}"),
    }
}
