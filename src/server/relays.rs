//! Keeps a server half registered with its relays, and accepts the streams of clients that come through them.
//!
//! The relays' names are resolved again from time to time: addresses change, and relays are added and removed.

use crate::carrier::relays::{DEFAULT_RELAYS, RelayName, RelayResolver, ResolvedRelay};
use crate::carrier::via::{AddressSource, IncomingStream, Registration, RegistrationSettings, ResolveFuture};
use crate::clock;
use crate::tasks::Tasks;
use parking_lot::Mutex;
use russh::keys::ssh_key::Fingerprint;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The most streams that may wait to be accepted: no more new carriers than this come in a second.
const MAX_WAITING_STREAMS: usize = 64;

/// How long deregistering from all relays may take.
const DEREGISTER_TIMEOUT: Duration = Duration::from_secs(1);

/// The relays to register with.
#[derive(Clone, Debug, Default)]
pub struct RelaySettings {
    /// Their names. If these resolve to more than a few relays, the host keys choose among them.
    pub names: Vec<RelayName>,
    /// Folder that caches what the names resolved to. Default: none.
    pub cache: Option<PathBuf>,
}

/// The registrations with all relays.
pub(super) struct Relays(Tasks);

impl Relays {
    /// Starts to register. The receiver yields the streams of clients from all relays.
    pub(super) fn start(
        relays: RelaySettings,
        host_keys: Vec<Fingerprint>,
        settings: RegistrationSettings,
    ) -> (Relays, mpsc::Receiver<IncomingStream>) {
        let (incoming, arrived) = mpsc::channel(MAX_WAITING_STREAMS);
        let tasks = Tasks::new();
        let registrar = Registrar {
            resolver: RelayResolver::new(relays.cache.as_deref()),
            names: relays.names,
            host_keys,
            settings,
            incoming,
            listed: BTreeMap::new(),
            failed: Vec::new(),
        };
        let stop = tasks.token();
        tasks.spawn("relays", registrar.run(stop));
        (Relays(tasks), arrived)
    }

    /// Deregisters from every relay. Open streams continue.
    pub(super) async fn stop(self) {
        self.0.shutdown(DEREGISTER_TIMEOUT).await;
    }
}

struct Registrar {
    resolver: RelayResolver,
    names: Vec<RelayName>,
    host_keys: Vec<Fingerprint>,
    settings: RegistrationSettings,
    incoming: mpsc::Sender<IncomingStream>,
    /// By the relay's name.
    listed: BTreeMap<String, RegisteredRelay>,
    /// The last failed lookups, so that each change is logged once.
    failed: Vec<String>,
}

/// The registration with one relay.
struct RegisteredRelay {
    addresses: Arc<KnownAddresses>,
    stop: CancellationToken,
}

impl Registrar {
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
                    .for_each(|failure| warn!(failure, "cannot look up a relay"));
            }
            // Relays whose lookup failed keep their registrations.
            let is_whole = failed.is_empty();
            self.failed = failed;
            self.follow(found.relays, is_whole, &registrations);
            let again = clock::now() + found.refresh_after;
            stop.run_until_cancelled(clock::sleep_until(again)).await;
        }
        registrations.shutdown(DEREGISTER_TIMEOUT).await;
    }

    /// Registers with new relays, and deregisters from those that are no longer listed.
    fn follow(&mut self, found: Vec<ResolvedRelay>, is_whole: bool, registrations: &Tasks) {
        let names: Vec<String> = found.iter().map(|relay| relay.relay.endpoint.to_string()).collect();
        if is_whole {
            self.listed.retain(|name, place| {
                let stays = names.contains(name);
                if !stays {
                    info!(relay = name, "deregistering from a relay that is no longer chosen");
                    place.stop.cancel();
                }
                stays
            });
        }
        for (name, relay) in names.into_iter().zip(found) {
            match self.listed.get(&name) {
                Some(place) => place.addresses.set(relay.addresses),
                None => self.register(name, &relay, registrations),
            }
        }
    }

    fn register(&mut self, name: String, relay: &ResolvedRelay, registrations: &Tasks) {
        let addresses = Arc::new(KnownAddresses(Mutex::new(relay.addresses.clone())));
        let key = relay.each().find_map(|address| address.key);
        let registration = Registration::new(
            name.as_str(),
            Arc::clone(&addresses) as Arc<dyn AddressSource>,
            key,
            self.settings.clone(),
        );
        let stop = registrations.token().child_token();
        let (incoming, until) = (self.incoming.clone(), stop.clone());
        registrations.spawn("registration", async move { registration.run(incoming, until).await });
        self.listed.insert(name, RegisteredRelay { addresses, stop });
    }
}

/// The addresses at which a relay was found last.
struct KnownAddresses(Mutex<Vec<SocketAddr>>);

impl KnownAddresses {
    fn set(&self, addresses: Vec<SocketAddr>) {
        *self.0.lock() = addresses;
    }
}

impl AddressSource for KnownAddresses {
    fn addresses(&self) -> ResolveFuture<'_, Vec<SocketAddr>> {
        let addresses = self.0.lock().clone();
        Box::pin(std::future::ready(Ok(addresses)))
    }
}
