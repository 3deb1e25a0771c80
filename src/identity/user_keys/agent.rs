//! The ssh agent, with limits on its time. A connection for each request: after a time-out nothing is out of step.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_encoding::Decode;
use russh::keys::ssh_key::{HashAlg, Signature};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::SkipReason;

/// Longest wait for an answer that needs nobody's touch. A hung or forwarded agent must not hold up the login.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// An agent that may or may not be there.
pub(super) struct Agent {
    socket: PathBuf,
    deadline: Duration,
}

impl Agent {
    /// The agent at a socket.
    pub(super) fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            deadline: ANSWER_DEADLINE,
        }
    }

    #[cfg(test)]
    pub(super) fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The keys and certificates that it has.
    pub(super) async fn identities(&self) -> Result<Vec<AgentIdentity>, SkipReason> {
        let request = async { self.connect().await?.request_identities().await };
        timeout(self.deadline, request)
            .await
            .map_err(|_| SkipReason::AgentSilent)?
            .map_err(reason)
    }

    /// A signature over `data`, RSA as `rsa-sha2-512`. Waits without limit for a key that must be touched.
    pub(super) async fn sign(
        &self,
        identity: &AgentIdentity,
        data: &[u8],
        needs_touch: bool,
    ) -> Result<Signature, SkipReason> {
        let request = async {
            let mut agent = self.connect().await?;
            agent.sign_request(identity, Some(HashAlg::Sha512), data.to_vec()).await
        };
        let answer = if needs_touch {
            request.await
        } else {
            timeout(self.deadline, request)
                .await
                .map_err(|_| SkipReason::AgentSilent)?
        };
        let answer = answer.map_err(reason)?;
        decode_signature(&answer, data.len())
    }

    async fn connect(&self) -> Result<AgentClient<UnixStream>, russh::keys::Error> {
        Ok(AgentClient::connect(UnixStream::connect(&self.socket).await?))
    }
}

/// russh answers with the signed data, and after it the signature as one string of the wire format.
fn decode_signature(answer: &[u8], data_len: usize) -> Result<Signature, SkipReason> {
    let confused = |error: russh::keys::Error| SkipReason::AgentConfused(error);
    let mut rest = answer
        .get(data_len..)
        .ok_or_else(|| confused(russh::keys::Error::IndexOutOfBounds))?;
    let blob = Vec::<u8>::decode(&mut rest).map_err(|error| confused(error.into()))?;
    Signature::decode(&mut blob.as_slice()).map_err(|error| confused(error.into()))
}

fn reason(error: russh::keys::Error) -> SkipReason {
    match error {
        russh::keys::Error::AgentFailure => SkipReason::AgentRefused,
        russh::keys::Error::IO(error) => SkipReason::AgentUnreachable(error.kind()),
        russh::keys::Error::BadAuthSock => SkipReason::AgentUnreachable(ErrorKind::NotFound),
        other => SkipReason::AgentConfused(other),
    }
}
