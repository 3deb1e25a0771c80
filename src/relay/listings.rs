//! Which server halves are here, and under which host keys.

use super::memory::Part;
use super::quota::RegistrationPlace;
use super::windows::Windows;
use crate::fault;
use crate::wire::{DialToken, KeyDigest};
use bytes::Bytes;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Connections of one server half that are listed at once: it races fresh ones against doubtful ones.
const MOST_PER_SERVER: usize = 4;

/// Words that may wait for a server half: as many as clients that come in the time it takes one to leave.
pub(super) const ORDERS: usize = 64;

/// What a control connection is to tell its server half.
#[derive(Debug)]
pub(super) enum Order {
    /// Somebody came; dial back.
    Dial {
        /// Proves that it is the one who was asked.
        token: DialToken,
        /// Where the client is.
        source: SocketAddr,
    },
    /// The relay stops.
    Leave,
    /// Newer connections with the same TLS key have taken all places.
    Replaced,
}

/// One connection of a server half.
pub(super) struct Listing {
    /// TLS key, SPKI DER.
    pub(super) server: Bytes,
    /// Host keys that it has proved.
    pub(super) keys: Vec<KeyDigest>,
    /// What can be given streams; `None` over TCP.
    pub(super) connection: Option<quinn::Connection>,
    /// Of that connection.
    pub(super) windows: Option<Arc<Windows>>,
    /// What a connection over TCP needs.
    pub(super) _memory: Option<Part>,
    pub(super) orders: mpsc::Sender<Order>,
    /// It may not be listed any more.
    pub(super) dismissed: CancellationToken,
    /// Held for as long as it is listed.
    pub(super) _place: RegistrationPlace,
}

/// All of them.
#[derive(Default)]
pub(super) struct Listings(Mutex<HashMap<KeyDigest, Vec<Arc<Listing>>>>);

impl Listings {
    /// Lists a connection under all of its keys, as the newest.
    pub(super) fn add(&self, listing: &Arc<Listing>) {
        let mut lists = self.lists();
        for key in &listing.keys {
            let list = lists.entry(*key).or_default();
            list.push(Arc::clone(listing));
            let own = |other: &&Arc<Listing>| other.server == listing.server;
            if list.iter().filter(own).count() > MOST_PER_SERVER
                && let Some(oldest) = list.iter().find(own)
            {
                // Full of orders, it is of no use anyway.
                let _ = oldest.orders.try_send(Order::Replaced);
            }
        }
    }

    /// Takes a connection off the lists.
    pub(super) fn remove(&self, listing: &Arc<Listing>) {
        let mut lists = self.lists();
        for key in &listing.keys {
            if let Some(list) = lists.get_mut(key) {
                list.retain(|other| !Arc::ptr_eq(other, listing));
                if list.is_empty() {
                    lists.remove(key);
                }
            }
        }
    }

    /// The first of these keys that anybody is listed under, and who is, the newest first.
    pub(super) fn find(&self, keys: &[KeyDigest]) -> Option<(KeyDigest, Vec<Arc<Listing>>)> {
        let lists = self.lists();
        let mut found = keys.iter().find_map(|key| lists.get_key_value(key));
        if fault::misleads() {
            // Of a server half that has none of these keys: each is listed under all of its own.
            let is_other = |listing: &Arc<Listing>| listing.keys.iter().all(|key| !keys.contains(key));
            found = lists.iter().find(|(_, list)| list.iter().all(is_other));
        }
        found.map(|(key, list)| (*key, list.iter().rev().cloned().collect()))
    }

    /// The relay stops.
    pub(super) fn tell_all_to_leave(&self) {
        for listing in self.lists().values().flatten() {
            let _ = listing.orders.try_send(Order::Leave);
        }
    }

    /// Those with keys that are not wanted any more go.
    pub(super) fn dismiss(&self, is_unwanted: impl Fn(&[KeyDigest]) -> bool) {
        for listing in self
            .lists()
            .values()
            .flatten()
            .filter(|listing| is_unwanted(&listing.keys))
        {
            listing.dismissed.cancel();
        }
    }

    fn lists(&self) -> MutexGuard<'_, HashMap<KeyDigest, Vec<Arc<Listing>>>> {
        // Plain values: a panic elsewhere cannot have left them half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
