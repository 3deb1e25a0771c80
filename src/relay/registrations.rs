//! The registered server halves, by host key.

use super::memory::Reservation;
use super::quota::RegistrationPermit;
use super::windows::Windows;
use crate::fault;
use crate::wire::{DialToken, KeyDigest};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Most connections of one server half that are registered at once: if it doubts a connection, it
/// opens another one.
const MAX_PER_SERVER: usize = 4;

/// Most control messages that wait for a server half.
pub(super) const CONTROL_QUEUE: usize = 64;

/// A message for a server half.
#[derive(Debug)]
pub(super) enum ControlMessage {
    /// A client asks for it: dial back.
    Dial {
        /// Identifies the dial-back.
        token: DialToken,
        /// The client's address.
        source: SocketAddr,
    },
    /// The relay stops.
    Leave,
    /// Newer connections with the same TLS key are registered instead.
    Replaced,
}

/// One connection of a server half.
pub(super) struct RegisteredServer {
    /// TLS key, SPKI DER.
    pub(super) tls_key: Bytes,
    /// Host keys that it proved.
    pub(super) keys: Vec<KeyDigest>,
    /// The connection on which the relay opens streams; `None` over TCP.
    pub(super) connection: Option<quinn::Connection>,
    /// Flow-control windows of that connection.
    pub(super) windows: Option<Arc<Windows>>,
    /// Memory of a TCP connection.
    pub(super) _memory: Option<Reservation>,
    pub(super) messages: mpsc::Sender<ControlMessage>,
    /// Cancelled if the server half may no longer be registered.
    pub(super) revoked: CancellationToken,
    /// Counts the registration.
    pub(super) _permit: RegistrationPermit,
}

/// All registered connections.
#[derive(Default)]
pub(super) struct Registrations(Mutex<HashMap<KeyDigest, Vec<Arc<RegisteredServer>>>>);

impl Registrations {
    /// Registers a connection under all of its keys, as the newest.
    pub(super) fn add(&self, server: &Arc<RegisteredServer>) {
        let mut by_key = self.by_key();
        for key in &server.keys {
            let list = by_key.entry(*key).or_default();
            list.push(Arc::clone(server));
            let own = |other: &&Arc<RegisteredServer>| other.tls_key == server.tls_key;
            if list.iter().filter(own).count() > MAX_PER_SERVER
                && let Some(oldest) = list.iter().find(own)
            {
                // A connection whose queue is full is closed anyway.
                let _ = oldest.messages.try_send(ControlMessage::Replaced);
            }
        }
    }

    /// Removes a connection.
    pub(super) fn remove(&self, server: &Arc<RegisteredServer>) {
        let mut by_key = self.by_key();
        for key in &server.keys {
            if let Some(list) = by_key.get_mut(key) {
                list.retain(|other| !Arc::ptr_eq(other, server));
                if list.is_empty() {
                    by_key.remove(key);
                }
            }
        }
    }

    /// The first of these keys under which a server half is registered, and its connections, newest
    /// first.
    pub(super) fn find(&self, keys: &[KeyDigest]) -> Option<(KeyDigest, Vec<Arc<RegisteredServer>>)> {
        let by_key = self.by_key();
        let mut found = keys.iter().find_map(|key| by_key.get_key_value(key));
        if fault::misleads() {
            // For tests: picks a server half that has none of these keys. Each is registered under
            // all of its keys.
            let is_other = |server: &Arc<RegisteredServer>| server.keys.iter().all(|key| !keys.contains(key));
            found = by_key.iter().find(|(_, list)| list.iter().all(is_other));
        }
        found.map(|(key, list)| (*key, list.iter().rev().cloned().collect()))
    }

    /// Tells all server halves that the relay stops.
    pub(super) fn drain_all(&self) {
        for server in self.by_key().values().flatten() {
            let _ = server.messages.try_send(ControlMessage::Leave);
        }
    }

    /// Removes server halves whose keys are not permitted any more.
    pub(super) fn revoke(&self, is_unwanted: impl Fn(&[KeyDigest]) -> bool) {
        for server in self
            .by_key()
            .values()
            .flatten()
            .filter(|server| is_unwanted(&server.keys))
        {
            server.revoked.cancel();
        }
    }

    fn by_key(&self) -> MutexGuard<'_, HashMap<KeyDigest, Vec<Arc<RegisteredServer>>>> {
        self.0.lock()
    }
}
