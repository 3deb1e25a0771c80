//! Who may open a session: sshd's verdict, a file's, or nobody's.

use super::ask_sshd::{AskError, AskLimits, AskSshd, Proof, Verdict};
use super::connect_sshd::Client;
use super::failures::Failures;
use crate::carrier::handshake_limiter;
use crate::identity::statement::ProvenKey;
use crate::wire::{PeerText, Refusal, RefusalCode};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;
use tracing::{info, warn};

/// Whether anything may be opened at all, whoever asks.
pub trait OpenCheck: Send + Sync {
    /// Why not, in words for the log.
    fn obstacle(&self) -> Pin<Box<dyn Future<Output = Option<String>> + Send + '_>>;
}

/// Decides an `Open`.
#[allow(clippy::large_enum_variant, reason = "there is one of them")]
pub enum Authority {
    /// sshd is asked whether it would accept the key.
    Sshd {
        /// The sshd to ask.
        ask: AskSshd,
    },
    /// A file in the form of `authorized_keys` decides, for every user.
    Keys(Box<dyn KeyList>),
    /// The inner login decides alone.
    Anyone,
}

/// A list of keys that is looked up at each open.
pub trait KeyList: Send + Sync {
    /// Index of the first key that is permitted; `None` also when the list cannot be had.
    fn permitted<'a>(
        &'a self,
        user: &'a str,
        keys: &'a [ProvenKey],
        remote: IpAddr,
    ) -> Pin<Box<dyn Future<Output = Option<usize>> + Send + 'a>>;
}

/// An `Open` or `Probe` that may be.
pub(super) struct Judged {
    pub(super) account: Account,
    /// Which of the keys counted.
    pub(super) key: Option<usize>,
    /// What sshd said of itself meanwhile, where it was asked.
    pub(super) greeting: Option<Greeting>,
}

/// sshd's identification line.
#[derive(Clone, Debug)]
pub(super) struct Greeting {
    pub(super) line: PeerText,
    /// When it was read.
    pub(super) at: Instant,
}

/// Whose session it is: what limits count by, and logs name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Account(pub(crate) String);

impl Authority {
    /// Whether keys decide: if not, nobody needs to prove any.
    pub(super) fn is_about_keys(&self) -> bool {
        match self {
            Authority::Sshd { .. } | Authority::Keys(_) => true,
            Authority::Anyone => false,
        }
    }

    /// What counts opens that fail, by network.
    pub(super) fn failures(&self) -> Arc<Failures> {
        match self {
            Authority::Sshd { ask, .. } => ask.failures(),
            Authority::Keys(_) | Authority::Anyone => Arc::new(Failures::new(AskLimits::default().budget())),
        }
    }

    /// The client has signed with a key that was accepted before it did.
    pub(super) fn handle_signed(&self, client: Client) {
        if let Authority::Sshd { ask } = self {
            ask.handle_signed(client);
        }
    }

    /// Decides for keys whose signatures were verified, or are still to come.
    pub(super) async fn judge(
        &self,
        user: &str,
        keys: &[ProvenKey],
        client: Client,
        proof: Proof,
    ) -> Result<Judged, Refusal> {
        let (remote, mut greeting) = (client.remote, None);
        let accepted = match self {
            Authority::Anyone => {
                // Keys that nobody checks can be made by the thousand; addresses cannot.
                let account = format!("anyone from {}", handshake_limiter::network(remote.ip()));
                return Ok(Judged {
                    account: Account(account),
                    key: None,
                    greeting,
                });
            }
            // Whoever proved no key is nobody's, and not worth a question.
            Authority::Keys(_) | Authority::Sshd { .. } if keys.is_empty() => None,
            Authority::Keys(list) => list.permitted(user, keys, remote.ip()).await,
            Authority::Sshd { ask, .. } => {
                let (accepted, verdict) = ask_sshd(ask, user, keys, client, proof).await?;
                greeting = verdict.map(|verdict| Greeting {
                    line: verdict.upstream.identification,
                    at: verdict.greeted,
                });
                accepted
            }
        };
        let Some((index, key)) = accepted.and_then(|index| Some((index, keys.get(index)?))) else {
            let tried: Vec<String> = keys.iter().map(ProvenKey::fingerprint).collect();
            info!(event = "refused", user, %remote, ?tried, "no key was accepted");
            // The same words for an unknown user and an unknown key; the log knows which.
            return Err(refusal(
                RefusalCode::NotAuthorized,
                "none of the keys offered is accepted for this user",
            ));
        };
        Ok(Judged {
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
) -> Result<(Option<usize>, Option<Verdict>), Refusal> {
    match ask.accepts_any(user, keys, client, proof).await {
        Ok(answered) => Ok(answered),
        Err(error) => {
            let code = match &error {
                AskError::UpstreamDown { .. } | AskError::NotSsh { .. } => RefusalCode::UpstreamDown,
                AskError::NoCommonAlgorithm { .. } | AskError::HangsUp { .. } => RefusalCode::UpstreamUnfit,
                AskError::OtherMethod { .. } => RefusalCode::OtherMethod,
                // It listens on loopback alone, and is to be asked from elsewhere.
                AskError::Elsewhere(cause) if matches!(**cause, AskError::UpstreamDown { .. }) => {
                    RefusalCode::UpstreamUnfit
                }
                _ => RefusalCode::RetryLater,
            };
            warn!(event = "refused", user, remote = %client.remote, error = %chain(&error), "sshd gave no verdict");
            Err(refusal(code, error.to_string()))
        }
    }
}

pub(super) fn refusal(code: RefusalCode, message: impl Into<PeerText>) -> Refusal {
    Refusal {
        code,
        message: message.into(),
    }
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
