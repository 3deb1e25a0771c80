//! Who comes in: handshakes, and the first word.

use super::counters::count;
use super::{House, control, reach};
use crate::carrier::handshake_limiter::{Admission, HandshakeLimiter, Origin, Permit};
use crate::carrier::tls as tls_carrier;
use crate::carrier::via::{Guest, QuicDoor, RelayTransport, TalkError, TlsDoor, ViaStream, read_word, send_word};
use crate::clock;
use crate::tasks::Tasks;
use crate::wire::{RelayRefusal, RelayRefusalCode, RelayWord};
use bytes::BytesMut;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tracing::{debug, warn};

/// For the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the first word, which every half says at once.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// When connections cannot be taken.
const PAUSE: Duration = Duration::from_millis(100);
/// For a refusal to arrive.
const LAST_WORD: Duration = Duration::from_secs(2);

pub(super) async fn accept_quic(door: &QuicDoor, limiter: &HandshakeLimiter, house: &Arc<House>, guests: &Tasks) {
    while let Some(incoming) = door.knock().await {
        let source = incoming.remote_address();
        let (ip, now) = (source.ip().to_canonical(), clock::now());
        let is_proved = incoming.remote_address_validated();
        // Whoever may forge an address spends nobody else's credit: it is charged once the address is proved, by Retry or by the
        // handshake. An address without credit has to prove itself first, and is then turned away before any work.
        if is_proved && !house.quotas.connect(ip, now) {
            count(&house.counters.turned_away);
            incoming.refuse();
            continue;
        }
        let admission = match limiter.admit(Origin::direct(ip), is_proved, now) {
            Admission::Admitted(_) if !is_proved && !house.quotas.may_connect(ip, now) => Admission::ProveAddress,
            admission => admission,
        };
        match admission {
            Admission::Admitted(permit) => {
                house.counters.count_attempt(RelayTransport::Quic);
                let house = Arc::clone(house);
                guests.spawn("guest", async move {
                    let charge = |ip| is_proved || house.quotas.connect(ip, clock::now());
                    welcome(&house, source, permit, QuicDoor::enter(incoming, charge)).await;
                });
            }
            Admission::ProveAddress => {
                if let Err(error) = incoming.retry() {
                    error.into_incoming().ignore();
                }
            }
            Admission::Refused => {
                count(&house.counters.turned_away);
                incoming.refuse();
            }
        }
    }
}

pub(super) async fn accept_tls(
    listener: &tokio::net::TcpListener,
    tls: &TlsDoor,
    limiter: &HandshakeLimiter,
    house: &Arc<House>,
    guests: &Tasks,
) {
    loop {
        let (stream, source) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, mostly: those who wait are still there when some are free again.
                warn!(%error, "cannot take a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (ip, now) = (source.ip().to_canonical(), clock::now());
        let admission = match house.quotas.connect(ip, now) {
            true => limiter.admit(Origin::direct(ip), true, now),
            false => Admission::Refused,
        };
        match admission {
            Admission::Admitted(permit) => {
                house.counters.count_attempt(RelayTransport::Tls);
                let (house, tls) = (Arc::clone(house), tls.clone());
                guests.spawn("guest", async move {
                    welcome(&house, source, permit, tls.enter(stream, source)).await;
                });
            }
            Admission::ProveAddress | Admission::Refused => {
                count(&house.counters.turned_away);
                tls_carrier::turn_away(stream);
            }
        }
    }
}

/// From the handshake to the end of whatever the guest came for.
async fn welcome(
    house: &Arc<House>,
    source: SocketAddr,
    permit: Permit,
    entering: impl Future<Output = Result<Guest, TalkError>>,
) {
    let first = async {
        let mut guest = timeout(HANDSHAKE, entering).await.map_err(|_| None)?.map_err(Some)?;
        let mut inbox = BytesMut::new();
        let word = timeout(FIRST_WORD, read_word(&mut guest.stream, &mut inbox));
        let word = word.await.map_err(|_| None)?.map_err(Some)?;
        Ok::<_, Option<TalkError>>((guest, word))
    };
    let first = tokio::select! {
        first = first => first,
        () = permit.revoked() => {
            count(&house.counters.failed);
            return debug!(%source, "gave way to another connection");
        }
    };
    let (guest, word) = match first {
        Ok(heard) => heard,
        Err(error) => {
            count(&house.counters.failed);
            return debug!(%source, error = error.map(tracing::field::display), "said nothing that counts");
        }
    };
    drop(permit);
    match word {
        RelayWord::Register { statements } => control::register(house, guest, statements).await,
        RelayWord::Reach { fingerprints } => reach::reach(house, guest, &fingerprints).await,
        RelayWord::Answer { token } => {
            if !house.tokens.answer(token, guest.stream) {
                debug!(%source, "an answer that nobody waits for");
            }
        }
        word => {
            debug!(%source, ?word, "no first word");
            refuse(
                house,
                guest.stream,
                RelayRefusalCode::Malformed,
                "expected Register, Reach or Answer",
            )
            .await;
        }
    }
}

/// Says no, and counts it.
pub(super) async fn refuse(house: &House, mut stream: ViaStream, code: RelayRefusalCode, message: &str) {
    house.counters.count_refusal(code);
    let refusal = RelayRefusal {
        code,
        message: message.into(),
    };
    let said = async {
        send_word(&mut stream, &RelayWord::Refused(refusal)).await?;
        stream.shutdown().await
    };
    // Whoever does not listen hears nothing.
    let _ = timeout(LAST_WORD, said).await;
}
