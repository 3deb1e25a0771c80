//! A client that asks for a server half: a stream to it, and the splice.

use super::House;
use super::counters::count;
use super::listings::{Listing, Order};
use super::quota::SplicePlace;
use super::reception::refuse;
use super::splice::splice;
use crate::carrier::via::{Guest, ViaStream, send_word};
use crate::clock;
use crate::wire::{KeyDigest, RelayRefusalCode, RelayWord};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::timeout;
use tracing::debug;

/// For a server half to take a stream that it is given, and one who is asked to dial back.
const GIVE: Duration = Duration::from_secs(3);
const DIAL_BACK: Duration = Duration::from_secs(10);

pub(super) async fn reach(house: &House, guest: Guest, fingerprints: &[KeyDigest]) {
    let Guest { mut stream, remote, .. } = guest;
    let found = match find(house, remote, fingerprints).await {
        Ok(found) => found,
        Err((code, message)) => {
            debug!(%remote, %code, "a client is refused");
            return refuse(house, stream, code, message).await;
        }
    };
    let Found {
        mut server,
        host_key,
        place: _place,
    } = found;
    if let Some(connection) = stream.connection() {
        connection.set_receive_window(house.window.times(1));
    }
    count(&house.counters.splices);
    if send_word(&mut stream, &RelayWord::Reached).await.is_ok() {
        let (all, entry) = (
            &house.counters,
            house.splices.enter(remote, stream.transport(), host_key, clock::now()),
        );
        let own = entry.splice();
        let (up, down) = ([&all.bytes_up, &own.up], [&all.bytes_down, &own.down]);
        if let Err(error) = splice(&mut stream, &mut server, up, down).await {
            debug!(%remote, %error, "a splice broke");
            // Neither end may take the break for an end in good order.
            stream.abort();
            server.abort();
        }
    }
}

type Refused = (RelayRefusalCode, &'static str);

/// A server half that answers.
struct Found {
    /// A stream to it, ready for the client's bytes.
    server: ViaStream,
    /// Under which it is listed.
    host_key: KeyDigest,
    place: SplicePlace,
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
        if let Some(server) = stream_to(house, &listing, source).await {
            return Ok(Found {
                server,
                host_key,
                place,
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
