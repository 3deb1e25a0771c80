//! The user's keys, from the agent and from files, and the order in which they are tried.
//!
//! This module finds the keys and signs with them; the exchange with the server half is elsewhere.
//! A private key is read from its file for one signature, and not kept.

mod agent;
mod gather;
mod key_file;
mod passphrase;
mod signing;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use russh::keys::ssh_key::{Algorithm, Certificate, Fingerprint, HashAlg, PrivateKey, PublicKey};
use thiserror::Error;

pub use self::agent::AgentAnswerError;
pub use self::passphrase::Prompter;
use super::ssh_config::SshConfig;
use super::sshsig::{self as signature, MAX_RSA_BITS, MIN_RSA_BITS};
use crate::wire::{MAX_HELLO, MAX_USER};

/// SSHSIG namespace of signatures that open sessions.
pub const NAMESPACE: &str = "bowline-open";

/// Most authorizations in one `Open`.
pub const MAX_AUTHORIZATIONS: usize = 8;

/// Bytes for authorizations in a hello: without its other fields, of which the user name is the
/// longest.
const MAX_AUTHORIZATIONS_LEN: usize = MAX_HELLO - MAX_USER - 128;

/// Bytes of the two length fields of an authorization.
const LENGTHS: usize = 8;

/// The keys with which the user may open a session, best first.
#[derive(Debug)]
pub struct UserKeys {
    keys: Vec<UserKey>,
    /// What could not be used: an agent that does not answer, a file that cannot be read.
    unusable: Vec<Skipped>,
    last_used: Option<Fingerprint>,
    prompter: Prompter,
    passphrase_tries: u32,
    ssh_keygen: PathBuf,
}

/// One key pair, and in which forms it is offered.
#[derive(Debug, Clone)]
pub struct UserKey {
    public: PublicKey,
    /// Its certificates, which are offered before the plain key.
    certificates: Vec<Certificate>,
    /// Whether the plain key is offered too. It is not if the agent has only a certificate.
    offers_plain: bool,
    source: KeySource,
    encrypted: bool,
    /// Set once the passphrase was entered, so that a repeated open does not ask again.
    unlocked: OnceLock<PrivateKey>,
}

/// Who signs.
#[derive(Debug, Clone)]
enum KeySource {
    /// The agent at this socket, with this key or certificate.
    Agent { socket: PathBuf, blob: Vec<u8> },
    /// bowline, with the private key in this file.
    File(PathBuf),
}

/// One attempt to open a session. The next round is needed only if the server half accepted no key
/// of this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// The key that opened the last session, unless it needs a touch or a passphrase.
    LastUsed,
    /// As many keys as fit into one `Open`, none of which needs the user. The index of the round,
    /// from 0.
    Unattended(usize),
    /// One key that needs a touch or a passphrase. The index of the round, from 0.
    Interactive(usize),
}

/// The result of a round.
#[derive(Debug, Default)]
pub struct SignedRound {
    /// At most [`MAX_AUTHORIZATIONS`]; empty if no key could sign.
    pub authorizations: Vec<SignedKey>,
    /// Descriptions of the keys about which the server half was asked. In its own round, at most
    /// one of these has signed.
    pub asked: Vec<String>,
    /// Keys of the round that could not sign.
    pub skipped: Vec<Skipped>,
}

/// A key and its signature over the message.
#[derive(Debug, Clone)]
pub struct SignedKey {
    /// The public key or certificate in wire format.
    pub key: Vec<u8>,
    /// SSHSIG blob by the plain key, namespace [`NAMESPACE`].
    pub signature: Vec<u8>,
    /// Fingerprint of the plain key.
    pub fingerprint: Fingerprint,
    /// Description of the key.
    pub description: String,
}

/// A key that was not used, and why.
#[derive(Debug)]
pub struct Skipped {
    /// Description of the key, the file or the agent.
    pub description: String,
    /// The reason.
    pub reason: SkipReason,
}

/// Why a key was not used.
#[derive(Debug, Error)]
pub enum SkipReason {
    /// The agent's socket cannot be connected to, or the connection was closed.
    #[error("the agent cannot be reached ({0})")]
    AgentUnreachable(std::io::ErrorKind),
    /// The agent did not answer, although it had time to ask the user.
    #[error("the agent did not answer within {} s", agent::ANSWER_TIMEOUT.as_secs())]
    AgentTimeout,
    /// The agent refused: it is locked, the key is constrained to certain hosts, or the user did
    /// not confirm.
    #[error("the agent refused to sign")]
    AgentRefused,
    /// The agent violated the protocol.
    #[error("the agent sent an invalid answer")]
    AgentProtocol(#[source] AgentAnswerError),
    /// The file does not exist.
    #[error("no such file")]
    Missing,
    /// The file cannot be read.
    #[error("cannot be read ({0})")]
    Unreadable(std::io::ErrorKind),
    /// Others may read the private key; ssh ignores it too.
    #[error("permissions {mode:04o} are too open")]
    TooOpen {
        /// Permission bits of the file.
        mode: u32,
    },
    /// Not a private key in a supported format and of a supported type.
    #[error("not a private key that bowline supports")]
    Unsupported,
    /// The type of the key is not supported by bowline; OpenSSH may support it.
    #[error("keys of type {name} are not supported by this version of bowline")]
    UnsupportedType {
        /// The name of the type.
        name: String,
    },
    /// The key is longer than a hello allows.
    #[error("too long for an open: key and signature take {length} bytes, and at most {limit} fit")]
    TooLong {
        /// The length.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// The size of the RSA key is not supported.
    #[error("an RSA key of {bits} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} can be used")]
    RsaSize {
        /// The size of its modulus in bits.
        bits: usize,
    },
    /// Keys in a PKCS#11 library, which bowline does not use.
    #[error("bowline uses no PKCS#11 library, but an agent can (ssh-add -s)")]
    Pkcs11,
    /// An invalid key of a supported type.
    #[error("not a valid key")]
    UnreadableKey,
    /// There is only the public key, and the agent does not have the key.
    #[error("no private key for it")]
    NoPrivateKey,
    /// An encrypted key in a format that also encrypts the public key, without a `.pub` file.
    #[error("encrypted, and there is no .pub file beside it")]
    NoPublicHalf,
    /// There is neither a terminal nor an askpass program.
    #[error("encrypted, and there is no way to ask for the passphrase")]
    NoPrompt,
    /// The user entered none.
    #[error("encrypted, no passphrase given")]
    NoPassphrase,
    /// All attempts were wrong.
    #[error("encrypted, {tries} wrong passphrases given")]
    WrongPassphrase {
        /// Number of attempts.
        tries: u32,
    },
    /// The user interrupted the prompt.
    #[error("the passphrase prompt was interrupted")]
    Interrupted,
    /// The prompt failed.
    #[error("cannot ask for the passphrase ({0})")]
    PromptFailed(std::io::ErrorKind),
    /// The private key does not match the public key.
    #[error("the .pub file beside it belongs to another key")]
    OtherKey,
    /// `ssh-keygen`, which signs with security keys in files, failed.
    #[error("ssh-keygen did not sign")]
    KeygenFailed,
    /// The signature or the certificate is invalid.
    #[error("the signature or the certificate is not valid")]
    BadSignature,
}

impl SkipReason {
    /// Whether ssh may be able to use the key although bowline is not.
    pub fn may_work_with_ssh(&self) -> bool {
        matches!(
            self,
            SkipReason::UnsupportedType { .. }
                | SkipReason::TooLong { .. }
                | SkipReason::RsaSize { .. }
                | SkipReason::Pkcs11
                // Keys constrained to certain hosts (ssh-add -h) sign only for ssh, and the agent
                // gives no reason.
                | SkipReason::AgentRefused
        )
    }
}

impl UserKeys {
    /// Finds the keys that ssh would offer to this host. `extra` files (as with `-i`) come first
    /// among the files.
    ///
    /// Order: agent keys that the files name, other agent keys (unless `IdentitiesOnly`), files.
    /// Problems with a key are recorded, and are not errors. Asks the agent, which may take up to 5
    /// s, and reads the files.
    pub async fn gather(config: &SshConfig, extra: &[PathBuf], last_used: Option<&Fingerprint>) -> Self {
        let gathered = gather::gather(config, extra).await;
        Self {
            keys: gathered.keys,
            unusable: gathered.unusable,
            last_used: last_used.copied(),
            prompter: Prompter::from_environment(config.batch_mode),
            passphrase_tries: config.password_prompts,
            ssh_keygen: PathBuf::from("ssh-keygen"),
        }
    }

    /// Prompts for passphrases by `prompter` instead of as the environment says.
    #[must_use]
    pub fn with_prompter(mut self, prompter: Prompter) -> Self {
        self.prompter = prompter;
        self
    }

    /// All keys, best first.
    pub fn keys(&self) -> &[UserKey] {
        &self.keys
    }

    /// All keys and certificates in wire format, in the order in which ssh offers them.
    pub fn blobs(&self) -> Vec<Vec<u8>> {
        let offers = self.keys.iter().flat_map(|key| key.offers().map(|offer| offer.blob()));
        offers.collect()
    }

    /// What could not be used.
    pub fn unusable(&self) -> &[Skipped] {
        &self.unusable
    }

    /// The rounds in their order; none is empty.
    pub fn rounds(&self) -> Vec<Round> {
        let last_used = self.silent_winner().map(|_| Round::LastUsed);
        let silent = (0..self.unattended_groups().len()).map(Round::Unattended);
        let interactive = (0..self.interactive().len()).map(Round::Interactive);
        last_used.into_iter().chain(silent).chain(interactive).collect()
    }

    /// The keys of a round, to be shown to the user before an interactive one.
    pub fn keys_of(&self, round: Round) -> Vec<&UserKey> {
        match round {
            Round::LastUsed => self.silent_winner().into_iter().collect(),
            Round::Unattended(page) => self.unattended_groups().into_iter().nth(page).unwrap_or_default(),
            Round::Interactive(index) => self.interactive().into_iter().skip(index).take(1).collect(),
        }
    }

    /// The keys of the round about which to ask the server half before signing, in wire format and
    /// as descriptions: all of them if an agent or the user may have to confirm a signature. The
    /// key of the last session is expected to be accepted, and signs at once.
    pub fn to_ask(&self, round: Round) -> Vec<(Vec<u8>, String)> {
        let keys = self.keys_of(round);
        let may_ask = |key: &&UserKey| key.is_interactive() || key.file().is_none();
        if round == Round::LastUsed || !keys.iter().any(may_ask) {
            return Vec::new();
        }
        let offers = keys
            .iter()
            .flat_map(|key| key.offers().map(|offer| (offer.blob(), key.describe(&offer))));
        offers.collect()
    }

    /// Signs `message` with each key of the round, or with the one in `only` (a key or a
    /// certificate). Prompts only in interactive rounds.
    pub async fn sign_round(&self, round: Round, only: Option<&[u8]>, message: &[u8]) -> SignedRound {
        let mut signed = SignedRound::default();
        let mut agent_timed_out = false;
        for key in self.keys_of(round) {
            if only.is_some_and(|only| !key.offers_blob(only)) {
                continue;
            }
            let in_agent = matches!(key.source, KeySource::Agent { .. });
            let signature = if in_agent && agent_timed_out {
                Err(SkipReason::AgentTimeout)
            } else {
                signing::sign(self, key, message).await
            };
            match signature {
                Ok(signature) => signed.add(key, only, &signature, message),
                Err(reason) => {
                    // An agent that does not answer would delay each of its keys by the timeout.
                    agent_timed_out |= matches!(reason, SkipReason::AgentTimeout);
                    signed.skipped.push(Skipped {
                        description: key.to_string(),
                        reason,
                    });
                }
            }
        }
        signed
    }

    /// One line for each key that was tried or could not be, for the message that no key was
    /// accepted.
    pub fn describe(&self, rounds: &[SignedRound]) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for round in rounds {
            lines.extend(round.asked.iter().cloned());
            lines.extend(round.authorizations.iter().map(|signed| signed.description.clone()));
            lines.extend(round.skipped.iter().map(Skipped::to_string));
        }
        lines.extend(self.unusable.iter().map(Skipped::to_string));
        let mut seen = std::collections::HashSet::new();
        lines.retain(|line| seen.insert(line.clone()));
        lines
    }

    fn silent_winner(&self) -> Option<&UserKey> {
        let last_used = self.last_used?;
        self.keys
            .iter()
            .find(|key| key.fingerprint() == last_used && !key.is_interactive())
    }

    /// The keys that need no user, without the key of the last session, in groups that fit into one
    /// `Open`.
    fn unattended_groups(&self) -> Vec<Vec<&UserKey>> {
        let mut pages: Vec<Vec<&UserKey>> = Vec::new();
        let (mut room, mut bytes) = (0, 0);
        for key in self
            .keys
            .iter()
            .filter(|key| !key.is_interactive() && Some(key.fingerprint()) != self.last_used)
        {
            let (needed, length) = (key.offers().count(), key.wire_length());
            match pages.last_mut() {
                Some(page) if needed <= room && length <= bytes => page.push(key),
                _ => {
                    pages.push(vec![key]);
                    (room, bytes) = (MAX_AUTHORIZATIONS, MAX_AUTHORIZATIONS_LEN);
                }
            }
            (room, bytes) = (room - needed, bytes.saturating_sub(length));
        }
        pages
    }

    /// The keys that need the user; the key of the last session comes first.
    fn interactive(&self) -> Vec<&UserKey> {
        let mut keys: Vec<&UserKey> = self.keys.iter().filter(|key| key.is_interactive()).collect();
        keys.sort_by_key(|key| Some(key.fingerprint()) != self.last_used);
        keys
    }
}

impl UserKey {
    /// SHA-256 fingerprint of the public key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.public.fingerprint(HashAlg::Sha256)
    }

    /// Type of the key.
    pub fn algorithm(&self) -> Algorithm {
        self.public.algorithm()
    }

    /// Whether it is a security key, which has to be touched.
    pub fn needs_touch(&self) -> bool {
        matches!(self.algorithm(), Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256)
    }

    /// Whether it is an encrypted file and the agent does not have the key.
    pub fn needs_passphrase(&self) -> bool {
        self.encrypted
    }

    /// The file of the private key, unless the agent has it.
    pub fn file(&self) -> Option<&Path> {
        match &self.source {
            KeySource::Agent { .. } => None,
            KeySource::File(path) => Some(path),
        }
    }

    /// Upper bound of the bytes that its authorizations take in a hello.
    fn wire_length(&self) -> usize {
        let signature = self.signature_length();
        self.offers()
            .map(|offer| offer.blob().len() + signature + LENGTHS)
            .sum()
    }

    /// Upper bound of the bytes of its SSHSIG blob: the key, the signature (at most two numbers of
    /// RSA size), and the rest.
    fn signature_length(&self) -> usize {
        let key = Offer::Plain(&self.public).blob().len();
        2 * key + 256
    }

    fn is_interactive(&self) -> bool {
        self.needs_touch() || self.needs_passphrase()
    }

    /// What is offered to the server half: certificates, then the plain key.
    fn offers(&self) -> impl Iterator<Item = Offer<'_>> {
        let plain = self.offers_plain.then_some(Offer::Plain(&self.public));
        self.certificates
            .iter()
            .map(Offer::Certificate)
            .chain(plain)
            .take(MAX_AUTHORIZATIONS)
    }

    /// Whether it is offered in this form.
    pub fn offers_blob(&self, blob: &[u8]) -> bool {
        self.offers().any(|offer| offer.blob() == blob)
    }

    fn describe(&self, offer: &Offer<'_>) -> String {
        match offer {
            Offer::Plain(_) => self.to_string(),
            Offer::Certificate(certificate) => {
                let id = certificate.key_id();
                match certificate.critical_options().get("source-address") {
                    Some(addresses) => format!("{self}, certificate {id:?}, for clients at {addresses} only"),
                    None => format!("{self}, certificate {id:?}"),
                }
            }
        }
    }

    fn authorizations(&self, signature: &[u8]) -> impl Iterator<Item = SignedKey> {
        self.offers().map(move |offer| SignedKey {
            key: offer.blob(),
            signature: signature.to_vec(),
            fingerprint: self.fingerprint(),
            description: self.describe(&offer),
        })
    }
}

/// `ED25519 SHA256:.. (agent)` or `RSA SHA256:.. /home/u/.ssh/id_rsa`, with ssh's type names.
impl fmt::Display for UserKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.algorithm() {
            Algorithm::Ed25519 => "ED25519",
            Algorithm::Ecdsa { .. } => "ECDSA",
            Algorithm::Rsa { .. } => "RSA",
            Algorithm::SkEd25519 => "ED25519-SK",
            Algorithm::SkEcdsaSha2NistP256 => "ECDSA-SK",
            _ => "UNKNOWN",
        };
        write!(f, "{kind} {} ", self.fingerprint())?;
        match &self.source {
            KeySource::Agent { .. } => f.write_str("(agent)"),
            KeySource::File(path) => write!(f, "{}", path.display()),
        }
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.description, self.reason)
    }
}

enum Offer<'a> {
    Plain(&'a PublicKey),
    Certificate(&'a Certificate),
}

impl Offer<'_> {
    fn blob(&self) -> Vec<u8> {
        let blob = match self {
            Self::Plain(key) => key.to_bytes(),
            Self::Certificate(certificate) => certificate.to_bytes(),
        };
        blob.expect("what was decoded can be encoded")
    }
}

#[cfg(test)]
mod tests;
