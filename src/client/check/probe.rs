//! One path, from the first packet to sshd's banner.

use super::super::dialer::Dialer;
use super::super::path_mtu::SmallMtu;
use super::super::unreachable::unreachable;
use super::super::{ClientConfig, TrustError};
use super::ask::{Asker, Deadline};
use super::{Checked, Verdict};
use crate::carrier::via::RelayTransport;
use crate::carrier::{Carrier, CarrierError, CloseReason, DialError, Dialed, Path, tls};
use crate::clock;
use crate::identity::raw_key::{ServerKey, TlsKey};
use crate::identity::statement::{ProvenKey, verify_host};
use crate::tcp_info::TcpInfo;
use crate::wire::{DecodeError, Host, PeerText, Probed, Refusal, RefusalCode};
use russh::keys::ssh_key::Fingerprint;
use std::error::Error;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout_at};

/// QUIC's search for the MTU takes some round trips; for longer than this nobody waits.
const MTU_TIME: Duration = Duration::from_secs(1);
/// Its steps come a round trip apart, and a little.
const MTU_STEP: Duration = Duration::from_millis(40);

/// A server half that is busy is asked again after this, and a part of it more, so that many clients do not come back
/// together.
const RETRY: Duration = Duration::from_millis(300);

/// A path that is to be probed.
pub(super) struct Probing {
    client: Arc<ClientConfig>,
    asker: Arc<Asker>,
    path: Path,
    dialer: Dialer,
    key: Arc<TlsKey>,
    /// The connection below, for a look at what became of the bytes.
    tcp: Option<OwnedFd>,
}

/// What came of it.
pub(super) struct Finding {
    pub(super) path: Path,
    pub(super) handshake: Option<Duration>,
    pub(super) banner: Option<Duration>,
    pub(super) mtu: Option<u16>,
    pub(super) outcome: Result<Probed, Failure>,
    /// On TCP: connected, and how many segments were never acknowledged.
    pub(super) unacked: Option<u32>,
    /// On UDP: the kernel knows that QUIC's packets do not fit.
    pub(super) small_mtu: Option<SmallMtu>,
}

/// Where it ended.
#[derive(Debug)]
pub(super) enum Failure {
    /// Nothing more came in time.
    Silent,
    /// The server half was still asking sshd.
    StillAsking,
    /// No handshake.
    Dial(DialError),
    /// The carrier was lost after its handshake.
    Lost(CarrierError),
    /// The host is not the one it should be.
    Untrusted(Box<dyn Error + Send + Sync>),
    /// None of the keys is accepted.
    NotAuthorized(Refusal),
    /// Refused for another reason.
    Refused(Refusal),
    /// The answer is none.
    Protocol(DecodeError),
    /// The probe itself panicked.
    Fault,
}

impl Probing {
    pub(super) fn new(client: Arc<ClientConfig>, asker: Arc<Asker>, path: Path, host_keys: &[Fingerprint]) -> Probing {
        // Each path alone: keys and sockets of its own.
        let key = Arc::new(TlsKey::generate());
        let mut dialer = Dialer::new(Arc::clone(&key), client.mtu_cap);
        dialer.know(host_keys.iter().copied());
        Probing {
            client,
            asker,
            path,
            dialer,
            key,
            tcp: None,
        }
    }

    pub(super) async fn run(mut self) -> Finding {
        let mut deadline = Deadline::new(&self.client);
        let mut finding = loop {
            let finding = self.attempt(&mut deadline).await;
            let pause = RETRY.mul_f64(1.0 + f64::from(super::super::opening::random::<1>()[0]) / 256.0);
            if !finding.is_to_be_asked_again() || clock::now() + 2 * pause > deadline.at {
                break finding;
            }
            sleep(pause).await;
        };
        let info = self.tcp.and_then(|tcp| TcpInfo::of(tcp.as_fd()).ok());
        finding.unacked = info.map(|info| info.unacked);
        finding.small_mtu = finding.path.udp_remote().and_then(SmallMtu::of_path_to);
        finding
    }

    async fn attempt(&mut self, deadline: &mut Deadline) -> Finding {
        let (begun, user) = (clock::now(), deadline.user);
        let since = |deadline: &Deadline| {
            clock::now()
                .saturating_duration_since(begun)
                .saturating_sub(deadline.user.saturating_sub(user))
        };
        let mut finding = Finding {
            path: self.path.clone(),
            handshake: None,
            banner: None,
            mtu: None,
            outcome: Err(Failure::Silent),
            unacked: None,
            small_mtu: None,
        };
        match timeout_at(deadline.at.into(), self.dial()).await {
            Ok(Ok(dialed)) => {
                finding.handshake = Some(since(deadline));
                finding.outcome = match self.meet(dialed, deadline).await {
                    Ok((mut carrier, probed)) => {
                        finding.banner = Some(since(deadline));
                        finding.mtu = search_mtu(&mut carrier, deadline.at).await;
                        carrier.finish(CloseReason::Done).await;
                        Ok(probed)
                    }
                    Err(failure) => Err(failure),
                };
            }
            Ok(Err(error)) => finding.outcome = Err(Failure::Dial(error)),
            Err(_) => {}
        }
        finding
    }

    async fn dial(&mut self) -> Result<Dialed, DialError> {
        match self.path.clone() {
            Path::Tls(address) => {
                let stream = tls::connect(address).await.map_err(DialError::Unreachable)?;
                self.tcp = stream.as_fd().try_clone_to_owned().ok();
                tls::dial(Box::new(stream), Some(address), &self.key, ServerKey::Any).await
            }
            Path::Quic(address) => self.dial_udp(address).await,
            Path::Relayed(relay, RelayTransport::Quic) => self.dial_udp(relay.address).await,
            path => self.dialer.dial(&path, ServerKey::Any).await,
        }
    }

    /// A dial that also ends when the network says that nothing is at `remote`.
    async fn dial_udp(&mut self, remote: SocketAddr) -> Result<Dialed, DialError> {
        tokio::select! {
            dialed = self.dialer.dial(&self.path, ServerKey::Any) => dialed,
            error = unreachable(remote) => Err(DialError::Unreachable(error)),
        }
    }

    /// Checks the host, and asks.
    async fn meet(&self, dialed: Dialed, deadline: &mut Deadline) -> Result<(Carrier, Probed), Failure> {
        let (mut carrier, host) = match timeout_at(deadline.at.into(), dialed.host()).await {
            Ok(Ok(introduced)) => introduced,
            Ok(Err(CarrierError::Protocol(error))) => return Err(Failure::Protocol(error)),
            Ok(Err(error)) => return Err(Failure::Lost(error)),
            Err(_) => return Err(Failure::Silent),
        };
        let proven = proven(&host, &carrier.info().peer_key);
        let judged = self.client.trust.judge(&proven, &carrier.info().peer_key).await;
        judged.map_err(Failure::Untrusted)?;
        let probed = self.asker.ask(&mut carrier, self.key.spki(), deadline).await?;
        Ok((carrier, probed))
    }
}

fn proven(host: &Host, tls_key: &[u8]) -> Vec<ProvenKey> {
    let statements = host.statements.iter();
    statements
        .filter_map(|statement| verify_host(statement, tls_key).ok())
        .collect()
}

/// Waits until the MTU that QUIC finds grows no more.
async fn search_mtu(carrier: &mut Carrier, deadline: Instant) -> Option<u16> {
    let end = deadline.min(clock::now() + MTU_TIME);
    let mut found = carrier.mtu()?;
    let mut grown = clock::now();
    loop {
        let step = carrier.rtt().unwrap_or_default() + MTU_STEP;
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

impl Finding {
    /// What is known when the probe did not live to tell.
    pub(super) fn fault(path: Path) -> Finding {
        Finding {
            path,
            handshake: None,
            banner: None,
            mtu: None,
            outcome: Err(Failure::Fault),
            unacked: None,
            small_mtu: None,
        }
    }

    /// The server half itself says that it would answer another time.
    fn is_to_be_asked_again(&self) -> bool {
        matches!(&self.outcome, Err(Failure::Refused(refusal)) if refusal.code == RefusalCode::RetryLater)
    }

    pub(super) fn checked(self, verdict: Verdict, is_unknown_host: bool) -> Checked {
        let (answer, detail, recorded) = match self.outcome {
            Ok(probed) => (Some(probed), None, None),
            Err(Failure::Silent) => {
                let small = self.small_mtu.as_ref().map(|small| PeerText::of_error(small));
                (None, small, None)
            }
            Err(failure) => (None, failure.detail(), failure.recorded()),
        };
        Checked {
            path: self.path,
            handshake: self.handshake,
            banner: self.banner,
            mtu: self.mtu,
            verdict,
            detail,
            answer,
            is_unknown_host,
            recorded,
        }
    }
}

impl Failure {
    /// Where other keys are recorded.
    fn recorded(&self) -> Option<(String, PathBuf)> {
        let Failure::Untrusted(error) = self else { return None };
        match error.downcast_ref::<TrustError>()? {
            TrustError::Changed { name, place, .. } => Some((name.clone(), place.file.to_path_buf())),
            _ => None,
        }
    }

    /// In the words of the one who saw it.
    fn detail(&self) -> Option<PeerText> {
        let error: &(dyn Error + 'static) = match self {
            Failure::Silent | Failure::StillAsking => return None,
            Failure::Fault => return Some("a fault of bowline itself: -v tells more, please report it".into()),
            Failure::Dial(error) => error,
            Failure::Lost(error) => error,
            Failure::Untrusted(error) => &**error,
            Failure::NotAuthorized(refusal) | Failure::Refused(refusal) => return Some(refusal.message.clone()),
            Failure::Protocol(error) => error,
        };
        Some(PeerText::of_error(error))
    }
}
