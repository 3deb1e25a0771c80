//! One session, as its registry sees it.

use crate::carrier::Carrier;
use crate::pump::{Arrival, Epochs, Facts, Order};
use crate::server::authority::Account;
use crate::server::vault::Slot;
use crate::wire::{Epoch, Offset, Refusal};
use bytes::Bytes;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// One session, as others see it.
pub(super) struct Entry {
    pub(super) owner: Bytes,
    pub(super) account: Account,
    pub(super) user: String,
    /// Where the client half was when it opened the session.
    pub(super) opened_from: SocketAddr,
    /// What sshd sees in place of it, once that is connected.
    pub(super) upstream_from: OnceLock<SocketAddr>,
    pub(super) reap_hash: [u8; 32],
    pub(super) arrivals: mpsc::Sender<Box<Arrival>>,
    pub(super) standbys: mpsc::Sender<Carrier>,
    pub(super) orders: mpsc::Sender<Order>,
    pub(super) facts: Arc<Facts>,
    /// The highest epoch that was ever given the lead, by a hello or a frame.
    pub(super) epochs: Arc<Epochs>,
    /// Set once upstream is connected and a crash would not lose it any more, or why that cannot be.
    pub(super) ready: watch::Receiver<Option<Result<(), Refusal>>>,
    /// Set by [`Entry::end`].
    pub(super) is_told_to_end: AtomicBool,
    /// Where it is in the vault.
    pub(super) slot: Mutex<Option<Slot>>,
}

/// What a client half says of its side when it wants a carrier to lead.
pub(super) struct Claim {
    pub(super) epoch: Epoch,
    pub(super) received: Offset,
    pub(super) window: u64,
    pub(super) key: Option<u8>,
    /// What came along with it, from the first byte of the stream on.
    pub(super) first: Bytes,
}

impl Entry {
    pub(super) fn end(&self, why: &str) {
        self.is_told_to_end.store(true, Relaxed);
        self.order(Order::End(why.to_owned()));
    }

    /// Whether it counts: it has not ended, nor was it told to.
    pub(super) fn is_running(&self) -> bool {
        !self.facts.is_ended() && !self.is_told_to_end.load(Relaxed)
    }

    /// How long it has been without a client; `None` while it has one.
    pub(super) fn detached_for(&self) -> Option<Duration> {
        self.facts.snapshot().detached_for
    }

    pub(super) fn order(&self, order: Order) {
        // A full channel holds orders to end already.
        let _ = self.orders.try_send(order);
    }
}
