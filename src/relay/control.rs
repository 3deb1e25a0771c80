//! A server half that is listed: proof of its keys, and the talk with it for as long as it stays.

use super::House;
use super::counters::count;
use super::listings::{Listing, ORDERS, Order};
use super::memory::{Part, TLS_LEG};
use super::quota::RegistrationPlace;
use super::reception::refuse;
use super::windows::Windows;
use crate::carrier::via::{Guest, TalkError, ViaStream, read_word, send_word};
use crate::clock;
use crate::identity::known_hosts::tls_key_fingerprint;
use crate::identity::statement::verify_host;
use crate::tasks::off_thread;
use crate::wire::{KeyDigest, RelayRefusalCode, RelayWord, Statement};
use bytes::{Bytes, BytesMut};
use russh::keys::ssh_key::{Fingerprint, HashAlg};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// For a server half to take a word.
const PROMPT: Duration = Duration::from_secs(5);
/// Without a word for so long a server half is gone: it asks each 15 s at least.
const SILENCE: Duration = Duration::from_secs(60);
/// What may wait for one server half, and as much from it, all its streams together: to begin with, and if it keeps moving.
/// 2.7 Gbit/s at 50 ms. What stands still for a client that does not take it is beside that.
const LEAST_WINDOW: u64 = 64 << 10;
const MOST_WINDOW: u64 = 16 << 20;

pub(super) async fn register(house: &Arc<House>, guest: Guest, statements: Vec<Statement>) {
    let Guest {
        stream,
        peer_key,
        remote,
    } = guest;
    let tls_key = peer_key.clone();
    // Beside the threads that join streams: sixteen signatures take some milliseconds.
    let keys = off_thread("verify statements", move || proven(&statements, &tls_key)).await;
    let keys = keys.unwrap_or_default();
    let refusal = match house.quotas.register(remote.ip(), clock::now()) {
        _ if keys.is_empty() => (
            RelayRefusalCode::NotProven,
            "no statement proves the TLS key of this connection",
        ),
        _ if !house.permits(&keys) => (
            RelayRefusalCode::NotAllowed,
            "this relay lists other server halves only",
        ),
        Err(code @ RelayRefusalCode::Quota) => (code, "too many server halves from this address"),
        Err(code) => (code, "too many server halves"),
        Ok(place) => match Leg::of(house, &stream) {
            Some(leg) => return list(house, stream, (peer_key, keys), leg, place).await,
            None => (RelayRefusalCode::Busy, "the relay has no memory left"),
        },
    };
    debug!(%remote, code = %refusal.0, "a server half is refused");
    refuse(house, stream, refusal.0, refusal.1).await;
}

/// How a server half is connected.
struct Leg {
    connection: Option<quinn::Connection>,
    windows: Option<Arc<Windows>>,
    memory: Option<Part>,
}

impl Leg {
    /// With its part of the memory; `None` where there is no more.
    fn of(house: &House, stream: &ViaStream) -> Option<Leg> {
        let Some(connection) = stream.connection().cloned() else {
            return Some(Leg {
                connection: None,
                windows: None,
                memory: Some(house.memory.take(TLS_LEG)?),
            });
        };
        Some(Leg {
            windows: Some(house.windows(&connection, LEAST_WINDOW, MOST_WINDOW)?),
            connection: Some(connection),
            memory: None,
        })
    }
}

async fn list(
    house: &Arc<House>,
    mut stream: ViaStream,
    (server, keys): (Bytes, Vec<KeyDigest>),
    leg: Leg,
    place: RegistrationPlace,
) {
    let (orders, ordered) = mpsc::channel(ORDERS);
    let listing = Arc::new(Listing {
        server,
        keys,
        connection: leg.connection,
        windows: leg.windows,
        _memory: leg.memory,
        orders,
        dismissed: CancellationToken::new(),
        _place: place,
    });
    let registered = RelayWord::Registered {
        keys: listing.keys.len() as u64,
    };
    if said(&mut stream, &registered).await.is_ok() {
        stay(house, &listing, stream, ordered).await;
    }
}

/// Fingerprints of the host keys that vouch for this TLS key, up to the first statement that is not valid, and that of the key
/// itself, which may be pinned too.
fn proven(statements: &[Statement], tls_key: &[u8]) -> Vec<KeyDigest> {
    let mut keys = Vec::new();
    for statement in statements {
        match verify_host(statement, tls_key) {
            Ok(proven) => keys.extend(digest(proven.key.fingerprint(HashAlg::Sha256))),
            Err(error) if error.is_unsupported() => debug!(%error, "a statement is left out"),
            // No server half makes such statements: nothing more is computed for this one.
            Err(error) => {
                debug!(%error, "a statement is not valid");
                break;
            }
        }
    }
    if !keys.is_empty() {
        keys.extend(tls_key_fingerprint(tls_key).and_then(digest));
    }
    keys.sort();
    keys.dedup();
    keys
}

fn digest(fingerprint: Fingerprint) -> Option<KeyDigest> {
    match fingerprint {
        Fingerprint::Sha256(digest) => Some(KeyDigest::new(digest)),
        _ => None,
    }
}

/// Lists it until it goes.
async fn stay(house: &House, listing: &Arc<Listing>, mut stream: ViaStream, mut orders: mpsc::Receiver<Order>) {
    house.listings.add(listing);
    if !house.permits(&listing.keys) {
        // The rules have changed meanwhile, and who was listed then was looked through.
        listing.dismissed.cancel();
    }
    count(&house.counters.registrations);
    house.counters.registered.fetch_add(1, Relaxed);
    let (remote, transport) = (stream.remote(), stream.transport());
    info!(event = "registered", %remote, %transport, keys = listing.keys.len(), "a server half is listed");
    let why = talk(&mut stream, &mut orders, &listing.dismissed).await;
    house.listings.remove(listing);
    house.counters.registered.fetch_sub(1, Relaxed);
    let why = why.err().map(tracing::field::display);
    info!(event = "unregistered", %remote, error = why, "a server half is listed no more");
}

async fn talk(
    stream: &mut ViaStream,
    orders: &mut mpsc::Receiver<Order>,
    dismissed: &CancellationToken,
) -> Result<(), TalkError> {
    let mut inbox = BytesMut::new();
    loop {
        let word = tokio::select! {
            word = timeout(SILENCE, read_word(stream, &mut inbox)) => match word {
                Ok(Ok(RelayWord::Ping)) => RelayWord::Pong,
                Ok(Ok(word)) => {
                    debug!(?word, "a server half says what means nothing here");
                    continue;
                }
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
            },
            () = dismissed.cancelled() => return said(stream, &RelayWord::Draining).await,
            Some(order) = orders.recv() => match order {
                Order::Dial { token, source } => RelayWord::Dial { token, source },
                Order::Leave => RelayWord::Draining,
                Order::Replaced => return said(stream, &RelayWord::Replaced).await,
            },
        };
        said(stream, &word).await?;
    }
}

async fn said(stream: &mut ViaStream, word: &RelayWord) -> Result<(), TalkError> {
    match timeout(PROMPT, send_word(stream, word)).await {
        Ok(said) => Ok(said?),
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}
