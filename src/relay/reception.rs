//! Who comes in: handshakes, and the first word.

use super::counters::count;
use super::{House, control, reach};
use crate::carrier::gate::{Admission, Gate, Place};
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

/// For the handshake and the first word, each.
const PROMPT: Duration = Duration::from_secs(10);
/// When connections cannot be taken.
const PAUSE: Duration = Duration::from_millis(100);
/// For a refusal to arrive.
const LAST_WORD: Duration = Duration::from_secs(2);

pub(super) async fn accept_quic(door: &QuicDoor, gate: &Gate, house: &Arc<House>, guests: &Tasks) {
    while let Some(incoming) = door.knock().await {
        let source = incoming.remote_address();
        let ip = source.ip().to_canonical();
        let proved = incoming.remote_address_validated();
        match gate.admit(ip, proved) {
            // Whoever may forge an address spends nobody else's credit.
            Admission::Enter(place) if !proved || house.quotas.connect(ip, clock::now()) => {
                house.counters.count_attempt(RelayTransport::Quic);
                let house = Arc::clone(house);
                guests.spawn("guest", async move {
                    welcome(&house, source, place, QuicDoor::enter(incoming)).await;
                });
            }
            Admission::ProveAddress => {
                if let Err(error) = incoming.retry() {
                    error.into_incoming().ignore();
                }
            }
            Admission::Enter(_) | Admission::Ignore => {
                count(&house.counters.turned_away);
                incoming.ignore();
            }
        }
    }
}

pub(super) async fn accept_tls(
    listener: &tokio::net::TcpListener,
    tls: &TlsDoor,
    gate: &Gate,
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
        let ip = source.ip().to_canonical();
        match gate.admit(ip, true) {
            Admission::Enter(place) if house.quotas.connect(ip, clock::now()) => {
                house.counters.count_attempt(RelayTransport::Tls);
                let (house, tls) = (Arc::clone(house), tls.clone());
                guests.spawn("guest", async move {
                    welcome(&house, source, place, tls.enter(stream, source)).await;
                });
            }
            Admission::Enter(_) | Admission::ProveAddress | Admission::Ignore => count(&house.counters.turned_away),
        }
    }
}

/// From the handshake to the end of whatever the guest came for.
async fn welcome(
    house: &Arc<House>,
    source: SocketAddr,
    place: Place,
    entering: impl Future<Output = Result<Guest, TalkError>>,
) {
    let first = async {
        let mut guest = timeout(PROMPT, entering).await.map_err(|_| None)?.map_err(Some)?;
        let mut inbox = BytesMut::new();
        let word = timeout(PROMPT, read_word(&mut guest.stream, &mut inbox));
        let word = word.await.map_err(|_| None)?.map_err(Some)?;
        Ok::<_, Option<TalkError>>((guest, word))
    };
    let (guest, word) = match first.await {
        Ok(heard) => heard,
        Err(error) => {
            count(&house.counters.failed);
            return debug!(%source, error = error.map(tracing::field::display), "said nothing that counts");
        }
    };
    drop(place);
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
