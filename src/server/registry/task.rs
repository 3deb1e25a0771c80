//! The life of one session: connect to sshd, pump, be buried.

use super::super::authority::Account;
use super::Registry;
use crate::clock;
use crate::pump::{Arrival, Facts, Order, Outcome, Pump, PumpParts, session_memory};
use crate::session::Session;
use crate::wire::{CloseCode, Refusal, SessionId};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tracing::info;

/// As long as sshd waits for a login by default (LoginGraceTime).
const UNCONFIRMED: Duration = Duration::from_secs(120);

/// Everything one session's task owns.
pub(super) struct SessionTask {
    pub(super) registry: Weak<Registry>,
    pub(super) id: SessionId,
    pub(super) user: String,
    pub(super) account: Account,
    pub(super) remote: SocketAddr,
    pub(super) arrivals: mpsc::Receiver<Arrival>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) facts: Arc<Facts>,
    pub(super) ready: watch::Sender<Option<Result<(), Refusal>>>,
}

impl SessionTask {
    pub(super) async fn run(self) {
        let Some(registry) = self.registry.upgrade() else {
            return;
        };
        let (id, ready) = (self.id, self.ready.clone());
        match registry.upstream.connect(self.remote).await {
            Ok(stream) => {
                ready.send_replace(Some(Ok(())));
                let local = stream.local_addr().ok();
                info!(event = "opened", user = self.user, key = self.account.0, remote = %self.remote,
                    upstream_from = local.map(tracing::field::display), "session opened");
                let why = self.pump(&registry, stream).await;
                registry.bury(id, &why);
            }
            Err(refusal) => {
                // Not buried: the client may ask for the same session again once sshd is back.
                registry.known().sessions.remove(&id);
                ready.send_replace(Some(Err(refusal)));
            }
        }
    }

    async fn pump(self, registry: &Registry, stream: TcpStream) -> String {
        let (input, output) = stream.into_split();
        let pump = Pump::new(PumpParts {
            session: Session::new(session_memory(&registry.session)),
            input,
            output,
            pipe_closed: CloseCode::UpstreamClosed,
            arrivals: self.arrivals,
            orders: self.orders,
            facts: self.facts,
            vigil: None,
            ledger: None,
            detached_since: clock::now(),
            confirmed: false,
            patience: registry.limits.ttl,
            unconfirmed_patience: UNCONFIRMED,
            budget: Arc::clone(&registry.budget),
        });
        let outcome = pump.run().await;
        let why = describe(&outcome, registry.limits.ttl);
        info!(event = "closed", reason = why, "session closed");
        why
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
