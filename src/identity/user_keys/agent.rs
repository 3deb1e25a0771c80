//! The ssh agent protocol (draft-ietf-sshm-ssh-agent), with timeouts. Each request uses a new
//! connection, so that a late answer is not taken for the next one.
//!
//! Two of its messages are needed. Keys are handled as bytes: russh's client rejects the whole list
//! if it does not know the type of one key.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, BufMut};
use russh::keys::ssh_encoding::Decode;
use russh::keys::ssh_key::Signature;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::SkipReason;
use crate::wire::Quoting;

/// Longest wait for an answer. The agent may ask the user for a PIN, a fingerprint or a
/// confirmation, and ssh waits as long as sshd does: two minutes by its LoginGraceTime.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// Largest answer, and most keys in one, as in OpenSSH.
const MAX_ANSWER: usize = 256 * 1024;
const MAX_KEYS: u32 = 2048;

const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// RSA keys sign with SHA-512. For other keys the flag has no effect.
const RSA_SHA2_512: u32 = 4;

/// The agent's answer is invalid.
#[derive(Debug, Error)]
pub enum AgentAnswerError {
    /// The answer is too long.
    #[error("an answer of {length} bytes, at most {MAX_ANSWER} are allowed")]
    TooLong {
        /// Its length.
        length: usize,
    },
    /// The answer ends inside a field, or has bytes after the last one.
    #[error("a malformed answer")]
    Malformed,
    /// The answer is another message than expected.
    #[error("an answer of the unexpected type {kind}")]
    UnexpectedType {
        /// Its type.
        kind: u8,
    },
    /// The signature cannot be decoded.
    #[error("not a signature")]
    Signature(#[source] Quoting<russh::keys::ssh_key::Error>),
}

/// An agent, whether or not it is running.
pub(super) struct Agent {
    socket: PathBuf,
    deadline: Duration,
}

/// A public key or certificate of the agent, in wire format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AgentKey {
    pub(super) blob: Vec<u8>,
    /// The comment.
    pub(super) comment: String,
}

impl Agent {
    /// The agent at a socket.
    pub(super) fn at(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
            deadline: ANSWER_TIMEOUT,
        }
    }

    #[cfg(test)]
    pub(super) fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The keys and certificates of the agent, of all types.
    pub(super) async fn keys(&self) -> Result<Vec<AgentKey>, SkipReason> {
        let answer = self.request(&[REQUEST_IDENTITIES], IDENTITIES_ANSWER).await?;
        read_keys(&answer).ok_or(SkipReason::AgentProtocol(AgentAnswerError::Malformed))
    }

    /// A signature over `data` by the key in `blob`, RSA as `rsa-sha2-512`.
    pub(super) async fn sign(&self, blob: &[u8], data: &[u8]) -> Result<Signature, SkipReason> {
        let mut request = vec![SIGN_REQUEST];
        put_string(&mut request, blob);
        put_string(&mut request, data);
        request.put_u32(RSA_SHA2_512);
        let answer = self.request(&request, SIGN_RESPONSE).await?;
        let mut rest = &answer[..];
        let signature = take_string(&mut rest).filter(|_| rest.is_empty());
        let mut signature = signature.ok_or(SkipReason::AgentProtocol(AgentAnswerError::Malformed))?;
        let decoded = Signature::decode(&mut signature);
        decoded.map_err(|error| SkipReason::AgentProtocol(AgentAnswerError::Signature(error.into())))
    }

    /// Sends `request`, and returns the fields of the answer if it has the expected type.
    async fn request(&self, request: &[u8], expected: u8) -> Result<Vec<u8>, SkipReason> {
        let answer = timeout(self.deadline, self.exchange(request)).await;
        let answer = answer.map_err(|_| SkipReason::AgentTimeout)??;
        match answer.split_first() {
            Some((kind, fields)) if *kind == expected => Ok(fields.to_vec()),
            Some((&FAILURE, _)) => Err(SkipReason::AgentRefused),
            Some((kind, _)) => Err(SkipReason::AgentProtocol(AgentAnswerError::UnexpectedType {
                kind: *kind,
            })),
            None => Err(SkipReason::AgentProtocol(AgentAnswerError::Malformed)),
        }
    }

    async fn exchange(&self, request: &[u8]) -> Result<Vec<u8>, SkipReason> {
        let unreachable = |error: io::Error| SkipReason::AgentUnreachable(error.kind());
        let mut stream = UnixStream::connect(&self.socket).await.map_err(unreachable)?;
        let mut message = Vec::with_capacity(4 + request.len());
        put_string(&mut message, request);
        stream.write_all(&message).await.map_err(unreachable)?;
        let length = stream.read_u32().await.map_err(unreachable)? as usize;
        if length > MAX_ANSWER {
            return Err(SkipReason::AgentProtocol(AgentAnswerError::TooLong { length }));
        }
        let mut answer = vec![0; length];
        stream.read_exact(&mut answer).await.map_err(unreachable)?;
        Ok(answer)
    }
}

/// The fields of IDENTITIES_ANSWER.
fn read_keys(mut fields: &[u8]) -> Option<Vec<AgentKey>> {
    let count = fields.try_get_u32().ok().filter(|count| *count <= MAX_KEYS)?;
    let mut keys = Vec::new();
    for _ in 0..count {
        let blob = take_string(&mut fields)?.to_owned();
        let comment = String::from_utf8_lossy(take_string(&mut fields)?).into_owned();
        keys.push(AgentKey { blob, comment });
    }
    fields.is_empty().then_some(keys)
}

/// RFC 4251 section 5.
fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).expect("keys and messages are short"));
    out.put_slice(bytes);
}

fn take_string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = rest.try_get_u32().ok()? as usize;
    let (string, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(string)
}
