//! A client that asks for a server half: a stream to it, and the splice.

use super::House;
use super::counters::count;
use super::listings::{Listing, Order};
use super::memory::{Part, TLS_LEG};
use super::quota::SplicePlace;
use super::reception::refuse;
use super::splice::{BUFFER, Meter, splice};
use super::windows::{Stalled, Windows};
use crate::carrier::via::{Guest, RelayWindow, ViaStream, send_word};
use crate::clock;
use crate::wire::{KeyDigest, RelayRefusalCode, RelayWord};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tracing::debug;

/// For a server half to take a stream that it is given, and one who is asked to dial back.
const GIVE: Duration = Duration::from_secs(3);
const DIAL_BACK: Duration = Duration::from_secs(10);

pub(super) async fn reach(house: &House, guest: Guest, fingerprints: &[KeyDigest]) {
    let Guest { mut stream, remote, .. } = guest;
    let found = match Leg::of(house, &stream) {
        Some(leg) => find(house, remote, fingerprints).await.map(|found| (leg, found)),
        None => Err(NO_MEMORY),
    };
    let (leg, found) = match found {
        Ok(found) => found,
        Err((code, message)) => {
            debug!(%remote, %code, "a client is refused");
            return refuse(house, stream, code, message).await;
        }
    };
    count(&house.counters.splices);
    if send_word(&mut stream, &RelayWord::Reached).await.is_ok() {
        join(house, stream, leg, found).await;
    }
}

/// Carries bytes until one of both ends.
async fn join(house: &House, mut stream: ViaStream, leg: Leg, found: Found) {
    let Found {
        mut server,
        host_key,
        windows,
        ..
    } = found;
    let (all, remote, by) = (&house.counters, stream.remote(), stream.transport());
    let stalled = windows
        .clone()
        .map(|windows| Stalled::new(windows, house.window.bytes()));
    let entry = house.splices.enter(remote, by, host_key, stalled, clock::now());
    let own = entry.splice();
    let up = Meter {
        counts: [&all.bytes_up, &own.up],
        from: leg.windows.as_deref(),
        to: windows.as_deref(),
        stalled: None,
    };
    let down = Meter {
        counts: [&all.bytes_down, &own.down],
        from: windows.as_deref(),
        to: leg.windows.as_deref(),
        stalled: own.stalled(),
    };
    if let Err(error) = splice(&mut stream, &mut server, up, down).await {
        debug!(%remote, %error, "a splice broke");
        // Neither end may take the break for an end in good order.
        stream.abort();
        server.abort();
    }
}

/// How a client is connected.
struct Leg {
    windows: Option<Arc<Windows>>,
    /// For what waits between the legs, and where it comes over TCP for that.
    _memory: Part,
}

impl Leg {
    /// With its part of the memory; `None` where there is no more.
    fn of(house: &House, stream: &ViaStream) -> Option<Leg> {
        let between = 2 * BUFFER as u64;
        Some(match stream.connection() {
            Some(connection) => Leg {
                windows: Some(house.windows(connection, RelayWindow::FIRST, house.window.bytes())?),
                _memory: house.memory.take(between)?,
            },
            None => Leg {
                windows: None,
                _memory: house.memory.take(between + TLS_LEG)?,
            },
        })
    }
}

const NO_MEMORY: Refused = (RelayRefusalCode::Busy, "the relay has no memory left");

type Refused = (RelayRefusalCode, &'static str);

/// A server half that answers.
struct Found {
    /// A stream to it, ready for the client's bytes.
    server: ViaStream,
    /// Under which it is listed.
    host_key: KeyDigest,
    /// Of the connection that it is on, if that is QUIC.
    windows: Option<Arc<Windows>>,
    _memory: Option<Part>,
    _place: SplicePlace,
}

async fn find(house: &House, source: SocketAddr, fingerprints: &[KeyDigest]) -> Result<Found, Refused> {
    let (host_key, listings) = house.listings.find(fingerprints).ok_or((
        RelayRefusalCode::NotRegistered,
        "no server half with such a host key is listed here",
    ))?;
    for listing in listings {
        let place = house.quotas.splice(source.ip(), &listing.server, clock::now());
        let place = place.map_err(|code| match code {
            RelayRefusalCode::Quota => (code, "too many sessions of this address, or of this server half"),
            code => (code, "too many sessions"),
        })?;
        let memory = match &listing.windows {
            Some(_) => None,
            None => Some(house.memory.take(TLS_LEG).ok_or(NO_MEMORY)?),
        };
        if let Some(server) = stream_to(house, &listing, source).await {
            return Ok(Found {
                server,
                host_key,
                windows: listing.windows.clone(),
                _memory: memory,
                _place: place,
            });
        }
    }
    Err((
        RelayRefusalCode::NoAnswer,
        "the server half is listed and does not answer",
    ))
}

async fn stream_to(house: &House, listing: &Listing, source: SocketAddr) -> Option<ViaStream> {
    let mut stream = match &listing.connection {
        Some(connection) => {
            let streams = timeout(GIVE, connection.open_bi()).await.ok()?.ok()?;
            ViaStream::of_quic(connection.clone(), streams)
        }
        None => {
            let mut waiting = house.tokens.wait();
            let token = waiting.token;
            listing.orders.try_send(Order::Dial { token, source }).ok()?;
            timeout(DIAL_BACK, &mut waiting.answer).await.ok()?.ok()?
        }
    };
    let said = timeout(GIVE, send_word(&mut stream, &RelayWord::Incoming { source })).await;
    said.ok()?.ok().map(|()| stream)
}
