//! Who may open a session: sshd decides, or a file of keys, or nobody.

use super::ask_sshd::{AskError, AskLimits, AskSshd, Proof, SshdVerdict};
use super::connect_sshd::Client;
use super::failures::Failures;
use crate::identity::statement::ProvenKey;
use crate::transport::handshake_limiter;
use crate::wire::{ErrorChain, PeerText, Refusal, RefusalCode};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tracing::{info, warn};

/// Decides whether sessions may be opened at all, independent of the client.
pub trait OpenCheck: Send + Sync {
    /// Why not; `None`: they may. `shows` says whether sshd sees the client's own address.
    fn obstacle(&self, shows: bool) -> Pin<Box<dyn Future<Output = Option<OpenObstacle>> + Send + '_>>;
}

/// Why no session may be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenObstacle {
    /// It lasts until an administrator acts; a text for the log.
    Standing(String),
    /// It may end by itself; the answer to the client.
    Passing(Refusal),
}

/// Decides about each `Open`.
#[allow(clippy::large_enum_variant, reason = "there is one of them")]
pub enum Authority {
    /// sshd is asked whether it would accept the key.
    Sshd {
        /// The sshd to ask.
        ask: AskSshd,
    },
    /// A file in the format of `authorized_keys` decides, for every user.
    Keys(Box<dyn KeyList>),
    /// The login inside the session decides alone.
    Anyone,
    /// Another one decides for this user. For others it is as if none of their keys was accepted.
    OnlyUser {
        /// The name of the user.
        user: String,
        /// Who decides for this user.
        authority: Box<Authority>,
    },
}

/// A list of keys that is consulted at each open.
pub trait KeyList: Send + Sync {
    /// Index of the first permitted key; `None` also if the list cannot be read.
    fn permitted<'a>(
        &'a self,
        user: &'a str,
        keys: &'a [ProvenKey],
        remote: IpAddr,
    ) -> Pin<Box<dyn Future<Output = Option<usize>> + Send + 'a>>;
}

/// The decision about an accepted `Open` or `Probe`.
pub(super) struct KeyGrant {
    pub(super) account: Account,
    /// Index of the accepted key.
    pub(super) key: Option<usize>,
    /// sshd's identification line, if sshd was asked.
    pub(super) greeting: Option<Greeting>,
}

/// sshd's identification line.
#[derive(Clone, Debug)]
pub(super) struct Greeting {
    pub(super) line: PeerText,
    /// When it was read.
    pub(super) at: Instant,
}

/// The owner of a session, as limits count and logs name him: a key's fingerprint, or a network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Account(pub(crate) String);

impl Authority {
    /// Whether keys decide. If not, clients need not prove any.
    pub(super) fn is_about_keys(&self) -> bool {
        match self {
            Authority::Sshd { .. } | Authority::Keys(_) => true,
            Authority::Anyone => false,
            Authority::OnlyUser { authority, .. } => authority.is_about_keys(),
        }
    }

    /// Counts failed opens by network.
    pub(super) fn failures(&self) -> Arc<Failures> {
        match self {
            Authority::Sshd { ask, .. } => ask.failures(),
            Authority::Keys(_) | Authority::Anyone => Arc::new(Failures::new(AskLimits::default().budget())),
            Authority::OnlyUser { authority, .. } => authority.failures(),
        }
    }

    /// Why questions to sshd for clients at `source` wait, if any does.
    pub(super) fn why_full(&self, source: IpAddr) -> Option<PeerText> {
        match self {
            Authority::Sshd { ask } => ask.why_full(source),
            Authority::Keys(_) | Authority::Anyone => None,
            Authority::OnlyUser { authority, .. } => authority.why_full(source),
        }
    }

    /// Called when a client has signed with a key that was accepted before.
    pub(super) fn handle_signed(&self, client: Client) {
        match self {
            Authority::Sshd { ask } => ask.handle_signed(client),
            Authority::Keys(_) | Authority::Anyone => {}
            Authority::OnlyUser { authority, .. } => authority.handle_signed(client),
        }
    }

    /// Decides about keys whose signatures were verified, or will be.
    pub(super) async fn authorize(
        &self,
        user: &str,
        keys: &[ProvenKey],
        client: Client,
        proof: Proof,
    ) -> Result<KeyGrant, Refusal> {
        let (remote, mut greeting) = (client.remote, None);
        let accepted = match self {
            Authority::OnlyUser { user: only, authority } if only == user => {
                return Box::pin(authority.authorize(user, keys, client, proof)).await;
            }
            Authority::OnlyUser { .. } => None,
            Authority::Anyone => {
                // Without authentication a client can create any number of keys, but not of addresses: limits count by
                // network.
                let account = format!("anyone from {}", handshake_limiter::network(remote.ip()));
                return Ok(KeyGrant {
                    account: Account(account),
                    key: None,
                    greeting,
                });
            }
            // Without a proved key sshd need not be asked.
            Authority::Keys(_) | Authority::Sshd { .. } if keys.is_empty() => None,
            Authority::Keys(list) => list.permitted(user, keys, remote.ip()).await,
            Authority::Sshd { ask, .. } => {
                let (accepted, verdict) = ask_sshd(ask, user, keys, client, proof).await?;
                greeting = verdict.map(|verdict| Greeting {
                    line: verdict.server.identification,
                    at: verdict.greeted,
                });
                accepted
            }
        };
        let Some((index, key)) = accepted.and_then(|index| Some((index, keys.get(index)?))) else {
            let tried: Vec<String> = keys.iter().map(ProvenKey::fingerprint).collect();
            info!(event = "refused", user, %remote, ?tried, "refused: no key was accepted");
            // The same text for an unknown user and an unknown key; the log has the difference.
            return Err(refusal(
                RefusalCode::NotAuthorized,
                "none of the offered keys is accepted for this user",
            ));
        };
        Ok(KeyGrant {
            account: Account(key.fingerprint()),
            key: Some(index),
            greeting,
        })
    }
}

async fn ask_sshd(
    ask: &AskSshd,
    user: &str,
    keys: &[ProvenKey],
    client: Client,
    proof: Proof,
) -> Result<(Option<usize>, Option<SshdVerdict>), Refusal> {
    match ask.accepts_any(user, keys, client, proof).await {
        Ok(answered) => Ok(answered),
        Err(error) => {
            warn!(event = "refused", user, remote = %client.remote, error = %ErrorChain(&error), "cannot learn from sshd whether it accepts the key");
            Err(no_verdict(&error))
        }
    }
}

/// The answer to a client if sshd gave no verdict.
pub(super) fn no_verdict(error: &AskError) -> Refusal {
    let code = match error {
        AskError::UpstreamDown { .. } | AskError::NotSsh { .. } => RefusalCode::UpstreamDown,
        AskError::NoCommonAlgorithm { .. } | AskError::HangsUp { .. } => RefusalCode::UpstreamUnfit,
        AskError::OtherMethod { .. } => RefusalCode::OtherMethod,
        // sshd listens on loopback only, but would have to be asked from another address.
        AskError::Elsewhere(cause) if matches!(**cause, AskError::UpstreamDown { .. }) => RefusalCode::UpstreamUnfit,
        _ => RefusalCode::RetryLater,
    };
    refusal(code, error.to_string())
}

pub(super) fn refusal(code: RefusalCode, message: impl Into<PeerText>) -> Refusal {
    Refusal {
        code,
        message: message.into(),
    }
}
