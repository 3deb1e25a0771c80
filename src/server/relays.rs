//! Keeps a server half listed at its relays, and takes whoever comes by way of them.
//!
//! Which relays these are is looked up again and again: names lead elsewhere, and fleets grow and shrink.

use crate::carrier::relays::{DEFAULT_RELAYS, RelayAddress, RelayName, RelayResolver};
use crate::carrier::via::{IncomingStream, Registration, RegistrationSettings, Resolved, Way};
use crate::clock;
use crate::tasks::Tasks;
use russh::keys::ssh_key::Fingerprint;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Streams that may wait to be taken: as many as a second of new carriers brings at most.
const WAITING: usize = 64;

/// To tell every relay that this server half stops.
const GOODBYE: Duration = Duration::from_secs(1);

/// At which relays to be listed.
#[derive(Clone, Debug, Default)]
pub struct RelayPlaces {
    /// By name. Where they lead to more than a few, the host keys choose.
    pub names: Vec<RelayName>,
    /// Folder where it is remembered what the names led to. Default: none.
    pub cache: Option<PathBuf>,
}

/// The places at all relays.
pub(super) struct Relays(Tasks);

impl Relays {
    /// Begins to register everywhere. Streams of clients arrive in the receiver, from all relays.
    pub(super) fn start(
        places: RelayPlaces,
        host_keys: Vec<Fingerprint>,
        settings: RegistrationSettings,
    ) -> (Relays, mpsc::Receiver<IncomingStream>) {
        let (incoming, arrived) = mpsc::channel(WAITING);
        let tasks = Tasks::new();
        let keeping = Keeping {
            resolver: RelayResolver::new(places.cache.as_deref()),
            names: places.names,
            host_keys,
            settings,
            incoming,
            listed: BTreeMap::new(),
            failed: Vec::new(),
        };
        let stop = tasks.token();
        tasks.spawn("relays", keeping.run(stop));
        (Relays(tasks), arrived)
    }

    /// Has every relay take this server half off its list; streams that run go on.
    pub(super) async fn stop(self) {
        self.0.shutdown(GOODBYE).await;
    }
}

struct Keeping {
    resolver: RelayResolver,
    names: Vec<RelayName>,
    host_keys: Vec<Fingerprint>,
    settings: RegistrationSettings,
    incoming: mpsc::Sender<IncomingStream>,
    /// By the relay's name.
    listed: BTreeMap<String, Place>,
    /// What could not be looked up the last time, in words: one line for each change.
    failed: Vec<String>,
}

/// A place at one relay.
struct Place {
    way: Arc<Found>,
    stop: CancellationToken,
}

impl Keeping {
    async fn run(mut self, stop: CancellationToken) {
        let registrations = Tasks::under(&stop);
        while !stop.is_cancelled() {
            let looking = self.resolver.resolve(&self.names, &self.host_keys, DEFAULT_RELAYS);
            let Some(found) = stop.run_until_cancelled(looking).await else {
                break;
            };
            let failed: Vec<String> = found.failures.iter().map(ToString::to_string).collect();
            if failed != self.failed {
                failed
                    .iter()
                    .for_each(|failure| warn!(failure, "cannot look a relay up"));
            }
            // What is not answered for now may be as it was.
            let is_whole = failed.is_empty();
            self.failed = failed;
            self.follow(found.relays, is_whole, &registrations);
            let again = clock::now() + found.refresh_after;
            stop.run_until_cancelled(clock::sleep_until(again)).await;
        }
        registrations.shutdown(GOODBYE).await;
    }

    /// Registers at relays that are new, and leaves those that are gone.
    fn follow(&mut self, found: Vec<RelayAddress>, is_whole: bool, registrations: &Tasks) {
        let names: Vec<String> = found.iter().map(|relay| relay.relay.endpoint.to_string()).collect();
        if is_whole {
            self.listed.retain(|name, place| {
                let stays = names.contains(name);
                if !stays {
                    info!(relay = name, "leaving a relay that is not chosen any more");
                    place.stop.cancel();
                }
                stays
            });
        }
        for (name, relay) in names.into_iter().zip(found) {
            match self.listed.get(&name) {
                Some(place) => place.way.is_at(relay.addresses),
                None => self.register(name, &relay, registrations),
            }
        }
    }

    fn register(&mut self, name: String, relay: &RelayAddress, registrations: &Tasks) {
        let way = Arc::new(Found(Mutex::new(relay.addresses.clone())));
        let key = relay.each().find_map(|address| address.key);
        let registration = Registration::new(
            name.as_str(),
            Arc::clone(&way) as Arc<dyn Way>,
            key,
            self.settings.clone(),
        );
        let stop = registrations.token().child_token();
        let (incoming, until) = (self.incoming.clone(), stop.clone());
        registrations.spawn("registration", async move { registration.run(incoming, until).await });
        self.listed.insert(name, Place { way, stop });
    }
}

/// Where a relay was found last.
struct Found(Mutex<Vec<SocketAddr>>);

impl Found {
    fn is_at(&self, addresses: Vec<SocketAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }
}

impl Way for Found {
    fn addresses(&self) -> Resolved<'_, Vec<SocketAddr>> {
        let addresses = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Box::pin(std::future::ready(Ok(addresses)))
    }
}
