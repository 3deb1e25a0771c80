//! Clients that wait for a server half to dial back.

use crate::carrier::via::ViaStream;
use crate::random;
use crate::wire::DialToken;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashMap;
use tokio::sync::oneshot;

/// Waiting clients by token. Bounded by the number of splices: each waits for at most one
/// dial-back.
#[derive(Default)]
pub(super) struct DialBacks(Mutex<HashMap<DialToken, oneshot::Sender<ViaStream>>>);

/// A client that waits for a dial-back; removed when dropped.
pub(super) struct PendingDialBack<'a> {
    dial_backs: &'a DialBacks,
    /// Sent to the server half, which returns it when it dials back.
    pub(super) token: DialToken,
    /// Receives the server half's stream.
    pub(super) answer: oneshot::Receiver<ViaStream>,
}

impl DialBacks {
    /// Registers a waiting client under a new token.
    pub(super) fn register(&self) -> PendingDialBack<'_> {
        let token = DialToken::new(random::bytes());
        let (sender, answer) = oneshot::channel();
        self.pending().insert(token, sender);
        PendingDialBack {
            dial_backs: self,
            token,
            answer,
        }
    }

    /// Hands a stream to the client that waits for this token. `false` if there is none.
    pub(super) fn answer(&self, token: DialToken, stream: ViaStream) -> bool {
        let waiting = self.pending().remove(&token);
        waiting.is_some_and(|waiting| waiting.send(stream).is_ok())
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<DialToken, oneshot::Sender<ViaStream>>> {
        self.0.lock()
    }
}

impl Drop for PendingDialBack<'_> {
    fn drop(&mut self) {
        self.dial_backs.pending().remove(&self.token);
    }
}
