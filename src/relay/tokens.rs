//! Clients that wait for a server half to dial back.

use crate::carrier::via::ViaStream;
use crate::wire::DialToken;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// By token; bounded by the splices that there may be, each of which waits for one at most.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<DialToken, oneshot::Sender<ViaStream>>>);

/// One that waits; forgotten when dropped.
pub(super) struct Waiting<'a> {
    tokens: &'a Tokens,
    /// For the server half.
    pub(super) token: DialToken,
    /// Brings its stream.
    pub(super) answer: oneshot::Receiver<ViaStream>,
}

impl Tokens {
    /// A fresh token.
    pub(super) fn wait(&self) -> Waiting<'_> {
        let mut random = [0; 32];
        aws_lc_rs::rand::fill(&mut random).expect("the system gives random bytes");
        let token = DialToken::new(random);
        let (sender, answer) = oneshot::channel();
        self.waiting().insert(token, sender);
        Waiting {
            tokens: self,
            token,
            answer,
        }
    }

    /// Hands over the stream of whoever knows a token; whether there was one.
    pub(super) fn answer(&self, token: DialToken, stream: ViaStream) -> bool {
        let waiting = self.waiting().remove(&token);
        waiting.is_some_and(|waiting| waiting.send(stream).is_ok())
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<DialToken, oneshot::Sender<ViaStream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.tokens.waiting().remove(&self.token);
    }
}
