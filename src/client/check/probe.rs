//! Probes one path, from the first packet to sshd's banner.

use super::super::dialer::Dialer;
use super::super::dialer::icmp_error;
use super::super::failures::SmallMtu;
use super::super::{ClientConfig, TrustError};
use super::authorization::{Authorizer, Deadline};
use super::{CheckedPath, Diagnosis};
use crate::carrier::via::RelayTransport;
use crate::carrier::{Carrier, CarrierError, CloseReason, ConnectError, DialError, Dialed, Path, dial_tls};
use crate::clock;
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::identity::statement::{ProvenKey, verify_host};
use crate::random;
use crate::tcp_info::TcpInfo;
use crate::transport::tls;
use crate::wire::{DecodeError, Host, PeerText, Probed, Refusal, RefusalCode};
use russh::keys::ssh_key::Fingerprint;
use std::error::Error;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout_at};

/// Limit for QUIC's path MTU discovery, which takes a few round trips.
const MTU_TIMEOUT: Duration = Duration::from_secs(1);
/// Its steps are one round trip apart; this is added for processing.
const MTU_STEP_DELAY: Duration = Duration::from_millis(40);

/// Delay before a busy server half is probed again. A random part is added, so that many clients do not return at the
/// same moment.
const RETRY_DELAY: Duration = Duration::from_millis(300);

/// The probe of one path.
pub(super) struct PathProbe {
    client: Arc<ClientConfig>,
    authorizer: Arc<Authorizer>,
    path: Path,
    dialer: Dialer,
    key: Arc<TlsKey>,
    /// The TCP connection, for its `TCP_INFO`.
    tcp: Option<OwnedFd>,
}

/// The result of a probe.
pub(super) struct ProbeResult {
    pub(super) path: Path,
    pub(super) handshake: Option<Duration>,
    pub(super) banner: Option<Duration>,
    pub(super) mtu: Option<u16>,
    /// All keys have signed, because the server half does not support key queries.
    pub(super) all_keys_sign: bool,
    pub(super) outcome: Result<Probed, ProbeFailure>,
    /// For TCP: the connection was established; the number of segments never acknowledged.
    pub(super) unacked: Option<u32>,
    /// For UDP: the path MTU that the kernel knows is too small.
    pub(super) small_mtu: Option<SmallMtu>,
}

/// Why a probe failed.
#[derive(Debug)]
pub(super) enum ProbeFailure {
    /// No answer in time.
    Silent,
    /// The server half was still waiting for sshd.
    AwaitingSshd,
    /// The handshake failed.
    Dial(DialError),
    /// The carrier was lost after the handshake.
    Lost(CarrierError),
    /// The host could not be verified.
    Untrusted(Box<dyn Error + Send + Sync>),
    /// None of the keys was accepted.
    NotAuthorized(Refusal),
    /// The server half does not support key queries, and has closed the carrier.
    NoKeyQueries(Refusal),
    /// The server half refused for another reason.
    Refused(Refusal),
    /// The answer was invalid.
    Protocol(DecodeError),
    /// The probe panicked.
    Fault,
}

impl PathProbe {
    pub(super) fn new(
        client: Arc<ClientConfig>,
        authorizer: Arc<Authorizer>,
        path: Path,
        host_keys: &[Fingerprint],
    ) -> PathProbe {
        // Each path has its own keys and sockets.
        let key = Arc::new(TlsKey::generate());
        let mut dialer = Dialer::new(Arc::clone(&key), client.mtu_cap);
        dialer.add_host_keys(host_keys.iter().copied());
        PathProbe {
            client,
            authorizer,
            path,
            dialer,
            key,
            tcp: None,
        }
    }

    pub(super) async fn run(mut self) -> ProbeResult {
        let mut deadline = Deadline::new(&self.client);
        let mut result = loop {
            let result = self.attempt(&mut deadline).await;
            if result.lacks_key_queries() && clock::now() < deadline.at {
                continue;
            }
            let pause = RETRY_DELAY.mul_f64(1.0 + f64::from(random::bytes::<1>()[0]) / 256.0);
            if !result.should_retry() || clock::now() + 2 * pause > deadline.at {
                break result;
            }
            sleep(pause).await;
        };
        let info = self.tcp.and_then(|tcp| TcpInfo::of(tcp.as_fd()).ok());
        result.unacked = info.map(|info| info.unacked);
        result.small_mtu = result.path.udp_remote().and_then(SmallMtu::of_path_to);
        result
    }

    async fn attempt(&mut self, deadline: &mut Deadline) -> ProbeResult {
        let (begun, user) = (clock::now(), deadline.user);
        let since = |deadline: &Deadline| {
            clock::now()
                .saturating_duration_since(begun)
                .saturating_sub(deadline.user.saturating_sub(user))
        };
        let mut result = ProbeResult {
            path: self.path.clone(),
            handshake: None,
            banner: None,
            mtu: None,
            all_keys_sign: false,
            outcome: Err(ProbeFailure::Silent),
            unacked: None,
            small_mtu: None,
        };
        match timeout_at(deadline.at.into(), self.dial()).await {
            Ok(Ok(dialed)) => {
                result.handshake = Some(since(deadline));
                result.outcome = match self.verify_and_probe(dialed, deadline).await {
                    Ok((mut carrier, probed)) => {
                        result.banner = Some(since(deadline));
                        result.all_keys_sign = self.authorizer.all_keys_sign(&carrier.info().peer_key);
                        result.mtu = search_mtu(&mut carrier, deadline.at).await;
                        carrier.finish(CloseReason::Done).await;
                        Ok(probed)
                    }
                    Err(failure) => Err(failure),
                };
            }
            Ok(Err(error)) => result.outcome = Err(ProbeFailure::Dial(error)),
            Err(_) => {}
        }
        result
    }

    async fn dial(&mut self) -> Result<Dialed, DialError> {
        match self.path.clone() {
            Path::Tls(address) => {
                let stream = tls::connect(address).await?;
                self.tcp = stream.as_fd().try_clone_to_owned().ok();
                dial_tls(Box::new(stream), Some(address), &self.key, ServerKey::Any).await
            }
            Path::Quic(address) => self.dial_udp(address).await,
            Path::Relayed(relay, RelayTransport::Quic) => self.dial_udp(relay.address).await,
            path => self.dialer.dial(&path, ServerKey::Any).await,
        }
    }

    /// Dials, and fails early if ICMP reports that `remote` is unreachable.
    async fn dial_udp(&mut self, remote: SocketAddr) -> Result<Dialed, DialError> {
        tokio::select! {
            dialed = self.dialer.dial(&self.path, ServerKey::Any) => dialed,
            error = icmp_error(remote) => Err(ConnectError::Unreachable(error).into()),
        }
    }

    /// Verifies the host and sends the probe.
    async fn verify_and_probe(
        &self,
        dialed: Dialed,
        deadline: &mut Deadline,
    ) -> Result<(Carrier, Probed), ProbeFailure> {
        let (mut carrier, host) = match timeout_at(deadline.at.into(), dialed.host()).await {
            Ok(Ok(introduced)) => introduced,
            Ok(Err(CarrierError::Protocol(error))) => return Err(ProbeFailure::Protocol(error)),
            Ok(Err(error)) => return Err(ProbeFailure::Lost(error)),
            Err(_) => return Err(ProbeFailure::Silent),
        };
        let proven = proven(&host, &carrier.info().peer_key);
        let verified = self.client.trust.verify(&proven, &carrier.info().peer_key).await;
        verified.map_err(ProbeFailure::Untrusted)?;
        let probed = self.authorizer.ask(&mut carrier, self.key.spki(), deadline).await?;
        Ok((carrier, probed))
    }
}

fn proven(host: &Host, tls_key: &[u8]) -> Vec<ProvenKey> {
    let statements = host.statements.iter();
    statements
        .filter_map(|statement| verify_host(statement, tls_key).ok())
        .collect()
}

/// Waits until path MTU discovery makes no more progress.
async fn search_mtu(carrier: &mut Carrier, deadline: Instant) -> Option<u16> {
    let end = deadline.min(clock::now() + MTU_TIMEOUT);
    let mut found = carrier.mtu()?;
    let mut grown = clock::now();
    loop {
        let step = carrier.rtt().unwrap_or_default() + MTU_STEP_DELAY;
        sleep(step / 2).await;
        let now = clock::now();
        match carrier.mtu() {
            Some(more) if more > found => (found, grown) = (more, now),
            _ if now >= grown + 2 * step => return Some(found),
            _ => {}
        }
        if now >= end {
            return Some(found);
        }
    }
}

impl ProbeResult {
    /// The result of a probe that panicked.
    pub(super) fn fault(path: Path) -> ProbeResult {
        ProbeResult {
            path,
            handshake: None,
            banner: None,
            mtu: None,
            all_keys_sign: false,
            outcome: Err(ProbeFailure::Fault),
            unacked: None,
            small_mtu: None,
        }
    }

    /// Whether the path is to be tried again without a question about keys.
    fn lacks_key_queries(&self) -> bool {
        matches!(&self.outcome, Err(ProbeFailure::NoKeyQueries(_)))
    }

    /// Whether the server half asked to retry later.
    fn should_retry(&self) -> bool {
        matches!(&self.outcome, Err(ProbeFailure::Refused(refusal)) if refusal.code == RefusalCode::RetryLater)
    }

    pub(super) fn checked(self, diagnosis: Diagnosis, is_unknown_host: bool) -> CheckedPath {
        let (answer, detail, recorded) = match self.outcome {
            Ok(probed) => (Some(probed), None, None),
            Err(ProbeFailure::Silent) => {
                let small = self.small_mtu.as_ref().map(|small| PeerText::of_error(small));
                (None, small, None)
            }
            Err(failure) => (None, failure.detail(), failure.recorded()),
        };
        CheckedPath {
            path: self.path,
            handshake: self.handshake,
            banner: self.banner,
            mtu: self.mtu,
            all_keys_sign: self.all_keys_sign,
            diagnosis,
            detail,
            answer,
            is_unknown_host,
            recorded,
        }
    }
}

impl ProbeFailure {
    /// The name and file of the recorded keys, if they differ.
    fn recorded(&self) -> Option<(String, PathBuf)> {
        let ProbeFailure::Untrusted(error) = self else {
            return None;
        };
        match error.downcast_ref::<TrustError>()? {
            TrustError::Changed { name, place, .. } => Some((name.clone(), place.file.to_path_buf())),
            _ => None,
        }
    }

    /// The error message.
    fn detail(&self) -> Option<PeerText> {
        let error: &(dyn Error + 'static) = match self {
            ProbeFailure::Silent | ProbeFailure::AwaitingSshd => return None,
            ProbeFailure::Fault => {
                return Some("internal error in bowline; run with -v for details, and please report it".into());
            }
            ProbeFailure::Dial(error) => error,
            ProbeFailure::Lost(error) => error,
            ProbeFailure::Untrusted(error) => &**error,
            ProbeFailure::NotAuthorized(refusal)
            | ProbeFailure::NoKeyQueries(refusal)
            | ProbeFailure::Refused(refusal) => {
                return Some(refusal.message.clone());
            }
            ProbeFailure::Protocol(error) => error,
        };
        Some(PeerText::of_error(error))
    }
}
