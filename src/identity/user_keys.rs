//! The user's keys, from the agent and from files, and the order they are tried in.
//!
//! Which keys there are and who can sign with them; talking to the server half about them is not done here. Keys
//! stay where they are: a private key is read for one signature and forgotten.

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

/// Namespace of the signatures that open sessions.
pub const NAMESPACE: &str = "bowline-open";

/// Most authorizations in one `Open`.
pub const MAX_AUTHORIZATIONS: usize = 8;

/// Bytes for authorizations in a hello: without its other fields, of which the user's name is the longest.
const ROOM: usize = MAX_HELLO - MAX_USER - 128;

/// Bytes of the two lengths of an authorization.
const LENGTHS: usize = 8;

/// The keys that the user could open a session with, best first.
#[derive(Debug)]
pub struct UserKeys {
    keys: Vec<UserKey>,
    /// What could not be used at all: an agent that is down, an unreadable file.
    unusable: Vec<Skipped>,
    winner: Option<Fingerprint>,
    prompter: Prompter,
    passphrase_tries: u32,
    ssh_keygen: PathBuf,
}

/// One key pair, with what may be offered for it.
#[derive(Debug, Clone)]
pub struct UserKey {
    public: PublicKey,
    /// Certificates for it; offered before the plain key.
    certificates: Vec<Certificate>,
    /// Whether the plain key is offered too. Not where the agent has nothing but a certificate.
    offers_plain: bool,
    source: KeySource,
    encrypted: bool,
    /// Once its passphrase was given: an open that has to be repeated does not ask again.
    unlocked: OnceLock<PrivateKey>,
}

/// Who signs.
#[derive(Debug, Clone)]
enum KeySource {
    /// The agent at this socket, asked by this of its keys or certificates.
    Agent { socket: PathBuf, blob: Vec<u8> },
    /// We, with the private key in this file.
    File(PathBuf),
}

/// One attempt to open a session. Later rounds only matter when the server half took no key of the earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// The key that opened the last session, alone; only if it needs neither touch nor passphrase.
    Winner,
    /// Keys that sign unnoticed, as many as one `Open` takes; the index counts such rounds from 0.
    Silent(usize),
    /// One key that needs a touch or a passphrase; the index counts them from 0.
    Interactive(usize),
}

/// What a round gave.
#[derive(Debug, Default)]
pub struct SignedRound {
    /// At most [`MAX_AUTHORIZATIONS`]; empty if no key of the round could sign.
    pub authorizations: Vec<SignedKey>,
    /// Keys that were asked about, in words; of these at most one has signed, in a round of its own.
    pub asked: Vec<String>,
    /// Keys of the round that could not.
    pub skipped: Vec<Skipped>,
}

/// A key and its signature over the message.
#[derive(Debug, Clone)]
pub struct SignedKey {
    /// SSH wire blob of the public key or of the certificate.
    pub key: Vec<u8>,
    /// Raw SSHSIG blob by the plain key, namespace [`NAMESPACE`].
    pub signature: Vec<u8>,
    /// Fingerprint of the key, the same with and without a certificate.
    pub fingerprint: Fingerprint,
    /// The key in words.
    pub description: String,
}

/// A key that was not used, and why.
#[derive(Debug)]
pub struct Skipped {
    /// The key (or the file, or the agent) in words.
    pub description: String,
    /// Why.
    pub reason: SkipReason,
}

/// Why a key was not used.
#[derive(Debug, Error)]
pub enum SkipReason {
    /// Nobody listens at the agent's socket, or it hung up.
    #[error("the agent cannot be reached ({0})")]
    AgentUnreachable(std::io::ErrorKind),
    /// No answer for as long as somebody may have been asked.
    #[error("the agent did not answer within {} s", agent::ANSWER_DEADLINE.as_secs())]
    AgentSilent,
    /// The agent said no: locked, destination-constrained, or confirmation denied.
    #[error("the agent refused to sign")]
    AgentRefused,
    /// The agent's answer makes no sense.
    #[error("the agent gave an answer that is not understood")]
    AgentConfused(#[source] AgentAnswerError),
    /// There is no such file.
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
    /// No private key in a format and of a kind that we can use.
    #[error("not a private key that can be used here")]
    Unsupported,
    /// A type of key that neither half of bowline has support for; OpenSSH may.
    #[error("keys of type {name} are not supported by this version of bowline")]
    UnsupportedType {
        /// The name of the type.
        name: String,
    },
    /// Longer than what a hello of the protocol has room for.
    #[error("too long for an open: it takes {length} bytes with its signature, {limit} are left for it")]
    TooLong {
        /// Its length, or what it would take.
        length: usize,
        /// The most that there may be.
        limit: usize,
    },
    /// An RSA key whose signatures do not count.
    #[error("an RSA key of {bits} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} can be used")]
    RsaSize {
        /// Bits of its modulus.
        bits: usize,
    },
    /// Keys in a token, by a library that is not asked.
    #[error("bowline asks no PKCS#11 library, an agent can (ssh-add -s)")]
    Pkcs11,
    /// A key of a supported type that does not decode.
    #[error("not a key that can be read here")]
    UnreadableKey,
    /// Only the public half is in the files, and the agent does not have the key.
    #[error("no private key for it")]
    NoPrivateKey,
    /// An encrypted key in a format that hides the public half, without a `.pub` file.
    #[error("encrypted, and there is no .pub file beside it")]
    NoPublicHalf,
    /// There is neither a terminal nor an askpass program.
    #[error("encrypted, and there is no way to ask for the passphrase")]
    NobodyToAsk,
    /// The user gave none.
    #[error("encrypted, no passphrase given")]
    NoPassphrase,
    /// All tries were used up.
    #[error("encrypted, {tries} wrong passphrases given")]
    WrongPassphrase {
        /// How many.
        tries: u32,
    },
    /// The user interrupted the prompt.
    #[error("the passphrase prompt was interrupted")]
    Interrupted,
    /// The prompt failed.
    #[error("cannot ask for the passphrase ({0})")]
    PromptFailed(std::io::ErrorKind),
    /// The private key is not the other half of the public one.
    #[error("the .pub file beside it belongs to another key")]
    OtherKey,
    /// `ssh-keygen`, which signs with security keys in files, did not.
    #[error("ssh-keygen did not sign")]
    KeygenFailed,
    /// The signature, or the certificate, does not verify.
    #[error("the signature or the certificate is not valid")]
    BadSignature,
}

impl SkipReason {
    /// Whether ssh itself may be able to use such a key.
    pub fn is_ours_alone(&self) -> bool {
        matches!(
            self,
            SkipReason::UnsupportedType { .. }
                | SkipReason::TooLong { .. }
                | SkipReason::RsaSize { .. }
                | SkipReason::Pkcs11
                // Those for certain hosts only (ssh-add -h) sign for ssh alone, and the agent gives no reasons.
                | SkipReason::AgentRefused
        )
    }
}

impl UserKeys {
    /// Finds the keys that ssh would offer to this host, `extra` files (as for `-i`) first among the files.
    ///
    /// Order: agent keys that the files name, other agent keys (unless `IdentitiesOnly`), files. What is in the way
    /// of a key is recorded, never an error. Asks the agent, for 5 s at most, and reads the files.
    pub async fn gather(config: &SshConfig, extra: &[PathBuf], winner: Option<&Fingerprint>) -> Self {
        let gathered = gather::gather(config, extra).await;
        Self {
            keys: gathered.keys,
            unusable: gathered.unusable,
            winner: winner.copied(),
            prompter: Prompter::from_environment(config.batch_mode),
            passphrase_tries: config.password_prompts,
            ssh_keygen: PathBuf::from("ssh-keygen"),
        }
    }

    /// Asks for passphrases in another way than the environment says.
    #[must_use]
    pub fn with_prompter(mut self, prompter: Prompter) -> Self {
        self.prompter = prompter;
        self
    }

    /// All keys, best first.
    pub fn keys(&self) -> &[UserKey] {
        &self.keys
    }

    /// What could not be used at all.
    pub fn unusable(&self) -> &[Skipped] {
        &self.unusable
    }

    /// The rounds to go through, in order; none is empty.
    pub fn rounds(&self) -> Vec<Round> {
        let winner = self.silent_winner().map(|_| Round::Winner);
        let silent = (0..self.silent_pages().len()).map(Round::Silent);
        let interactive = (0..self.interactive().len()).map(Round::Interactive);
        winner.into_iter().chain(silent).chain(interactive).collect()
    }

    /// The keys of a round: what to tell the user before an interactive one.
    pub fn keys_of(&self, round: Round) -> Vec<&UserKey> {
        match round {
            Round::Winner => self.silent_winner().into_iter().collect(),
            Round::Silent(page) => self.silent_pages().into_iter().nth(page).unwrap_or_default(),
            Round::Interactive(index) => self.interactive().into_iter().skip(index).take(1).collect(),
        }
    }

    /// What of the round the server half is to be asked about before it signs, in wire form and in words: all of it if an
    /// agent or the user may have to be asked for a signature. The winner signs at once; it is expected to do.
    pub fn to_ask(&self, round: Round) -> Vec<(Vec<u8>, String)> {
        let keys = self.keys_of(round);
        let may_ask = |key: &&UserKey| key.is_interactive() || key.file().is_none();
        if round == Round::Winner || !keys.iter().any(may_ask) {
            return Vec::new();
        }
        let offers = keys
            .iter()
            .flat_map(|key| key.offers().map(|offer| (offer.blob(), key.describe(&offer))));
        offers.collect()
    }

    /// Has each key of the round sign `message`, or the one that is in `only` (as itself or as a certificate). Prompts only in
    /// an interactive round.
    pub async fn sign_round(&self, round: Round, only: Option<&[u8]>, message: &[u8]) -> SignedRound {
        let mut signed = SignedRound::default();
        let mut agent_is_silent = false;
        for key in self.keys_of(round) {
            if only.is_some_and(|only| !key.offers_blob(only)) {
                continue;
            }
            let in_agent = matches!(key.source, KeySource::Agent { .. });
            let signature = if in_agent && agent_is_silent {
                Err(SkipReason::AgentSilent)
            } else {
                signing::sign(self, key, message).await
            };
            match signature {
                Ok(signature) => signed.add(key, only, &signature, message),
                Err(reason) => {
                    // A hung agent would hold up each of its keys as long again.
                    agent_is_silent |= matches!(reason, SkipReason::AgentSilent);
                    signed.skipped.push(Skipped {
                        description: key.to_string(),
                        reason,
                    });
                }
            }
        }
        signed
    }

    /// One line for each key tried and each that could not be, for the message that none was accepted.
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
        let winner = self.winner?;
        self.keys
            .iter()
            .find(|key| key.fingerprint() == winner && !key.is_interactive())
    }

    /// The silent keys but for the winner, in portions that one `Open` can carry.
    fn silent_pages(&self) -> Vec<Vec<&UserKey>> {
        let mut pages: Vec<Vec<&UserKey>> = Vec::new();
        let (mut room, mut bytes) = (0, 0);
        for key in self
            .keys
            .iter()
            .filter(|key| !key.is_interactive() && Some(key.fingerprint()) != self.winner)
        {
            let (needed, length) = (key.offers().count(), key.wire_length());
            match pages.last_mut() {
                Some(page) if needed <= room && length <= bytes => page.push(key),
                _ => {
                    pages.push(vec![key]);
                    (room, bytes) = (MAX_AUTHORIZATIONS, ROOM);
                }
            }
            (room, bytes) = (room - needed, bytes.saturating_sub(length));
        }
        pages
    }

    /// The keys that need the user, last time's winner first.
    fn interactive(&self) -> Vec<&UserKey> {
        let mut keys: Vec<&UserKey> = self.keys.iter().filter(|key| key.is_interactive()).collect();
        keys.sort_by_key(|key| Some(key.fingerprint()) != self.winner);
        keys
    }
}

impl UserKey {
    /// SHA-256 fingerprint of the public key.
    pub fn fingerprint(&self) -> Fingerprint {
        self.public.fingerprint(HashAlg::Sha256)
    }

    /// Kind of key.
    pub fn algorithm(&self) -> Algorithm {
        self.public.algorithm()
    }

    /// A security key: somebody must touch it.
    pub fn needs_touch(&self) -> bool {
        matches!(self.algorithm(), Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256)
    }

    /// An encrypted file whose key the agent does not have.
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

    /// Most bytes that its authorizations take in a hello.
    fn wire_length(&self) -> usize {
        let signature = self.signature_length();
        self.offers()
            .map(|offer| offer.blob().len() + signature + LENGTHS)
            .sum()
    }

    /// Most bytes of a SSHSIG blob by it: the key, the signature (two of RSA's numbers at most), and what is around them.
    fn signature_length(&self) -> usize {
        let key = Offer::Plain(&self.public).blob().len();
        2 * key + 256
    }

    fn is_interactive(&self) -> bool {
        self.needs_touch() || self.needs_passphrase()
    }

    /// What the server half is shown: certificates, then the plain key.
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

/// `ED25519 SHA256:.. (agent)` or `RSA SHA256:.. /home/u/.ssh/id_rsa`, kinds named as ssh names them.
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
