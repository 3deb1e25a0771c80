//! Keeps a server half listed at all of its relays, and takes whoever comes by way of them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::carrier::via::{IncomingStream, Registration, RegistrationSettings, RegistrationState, Way};
use crate::tasks::Tasks;
use crate::wire::KeyDigest;

/// Streams that may wait to be taken: as many as a second of new carriers brings at most.
const WAITING: usize = 64;

/// To tell every relay that this server half stops.
const GOODBYE: Duration = Duration::from_secs(1);

/// A relay that a server half is to be listed at.
pub struct RelayPlace {
    /// What people know it by.
    pub name: Arc<str>,
    /// How to get there.
    pub way: Arc<dyn Way>,
    /// SHA-256 over the SPKI of its TLS key, where that is pinned.
    pub key: Option<KeyDigest>,
}

/// How it stands with one relay: its name, and a look at its state.
pub type RelayStatus = (Arc<str>, watch::Receiver<RegistrationState>);

/// The places at all relays.
pub struct Relays {
    tasks: Tasks,
    states: Vec<RelayStatus>,
}

impl Relays {
    /// Begins to register everywhere. Streams of clients arrive in the receiver, from all relays.
    pub fn start(places: Vec<RelayPlace>, settings: &RegistrationSettings) -> (Relays, mpsc::Receiver<IncomingStream>) {
        let (incoming, arrived) = mpsc::channel(WAITING);
        let tasks = Tasks::new();
        let mut states = Vec::new();
        for RelayPlace { name, way, key } in places {
            let registration = Registration::new(Arc::clone(&name), way, key, settings.clone());
            states.push((name, registration.state()));
            let (incoming, stop) = (incoming.clone(), tasks.token());
            tasks.spawn("registration", async move { registration.run(incoming, stop).await });
        }
        (Relays { tasks, states }, arrived)
    }

    /// How it stands with each relay.
    pub fn states(&self) -> &[RelayStatus] {
        &self.states
    }

    /// Has every relay take this server half off its list; streams that run go on.
    pub async fn stop(self) {
        self.tasks.shutdown(GOODBYE).await;
    }
}
