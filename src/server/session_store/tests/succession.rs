//! A session between a real pump of a client half and successive workers that die at every possible point.

use super::*;
use crate::carrier::in_process;
use crate::connection::{Accepted, Role};
use crate::fault::rehearsal::{Crashed, crash_after};
use crate::pump::{Budget, MAX_COMMANDS, MAX_PATH_EVENTS, NewLead, PathEvent, Pump, PumpParts, SessionStats};
use crate::session::SessionMemory;
use crate::tasks::catch_panic;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::mpsc;

/// What sshd does after its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manners {
    /// Closes its direction, and reads what the client sends.
    Ends,
    /// Waits for the client's end first.
    Waits,
    /// Closes the connection without having read anything: its bytes arrive, the client's do not.
    Resets,
}

/// Bytes that differ at every other position.
fn pattern(len: usize, salt: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 7) ^ (at >> 13) ^ salt) as u8).collect()
}

struct Scene {
    manners: Manners,
    from_sshd: usize,
    from_client: usize,
}

/// The result.
struct Played {
    client: Outcome,
    heard: Vec<u8>,
    sshd_heard: Vec<u8>,
    workers: u64,
}

async fn sshd(stream: TcpStream, scene: &Scene) -> Vec<u8> {
    let (mut read, mut write) = stream.into_split();
    let mut heard = Vec::new();
    let says = async {
        for piece in pattern(scene.from_sshd, 1).chunks(3001) {
            write.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        if scene.manners == Manners::Ends {
            write.shutdown().await.unwrap();
        }
    };
    match scene.manners {
        Manners::Resets => {
            says.await;
            // A reset discards what was not delivered.
            while counters::unacked(read.as_ref().as_fd()).unwrap() > 0 {
                tokio::task::yield_now().await;
            }
            socket2::SockRef::from(read.as_ref())
                .set_linger(Some(Duration::ZERO))
                .unwrap();
            // It must not be ended by a FIN of this half.
            write.forget();
        }
        _ => {
            let (_, read) = tokio::join!(says, read.read_to_end(&mut heard));
            read.unwrap();
        }
    }
    heard
}

struct Client {
    stats: Arc<SessionStats>,
    path_events: mpsc::Sender<PathEvent>,
}

type Pipe = (ReadHalf<DuplexStream>, WriteHalf<DuplexStream>);

impl Client {
    /// A client half, and the other end of its pipe.
    fn new() -> (Client, impl Future<Output = Outcome>, Pipe) {
        let (path_events, received) = mpsc::channel(MAX_PATH_EVENTS);
        let stats = Arc::new(SessionStats::new(config().receive_window as u64));
        let (ours, theirs) = duplex(16 * 1024);
        let (input, output) = split(theirs);
        let session = Session::new(SessionMemory::heap(&config()));
        let parts = parts(session, (input, output), received, Arc::clone(&stats));
        let client = Client { stats, path_events };
        (client, Pump::new(parts).run(), split(ours))
    }
}

fn parts<R, W>(
    session: Session,
    (input, output): (R, W),
    path_events: mpsc::Receiver<PathEvent>,
    stats: Arc<SessionStats>,
) -> PumpParts<R, W>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    PumpParts {
        session,
        input,
        output,
        pipe_closed: CloseCode::UpstreamClosed,
        input_ends_itself: true,
        role: Role::Server,
        path_events,
        epochs: Arc::default(),
        commands: mpsc::channel(MAX_COMMANDS).1,
        stats,
        checkpoints: None,
        detached_since: clock::now(),
        confirmed: false,
        detach_timeout: Duration::from_secs(20),
        unconfirmed_timeout: Duration::from_secs(20),
        budget: Budget::new(usize::MAX),
    }
}

/// Runs one worker. Returns how the session ended; `None` if the worker died before.
async fn worker(client: &Client, kept: StoredSession, session_store: &SessionStore, epoch: u32) -> Option<Outcome> {
    let (path_events, received) = mpsc::channel(MAX_PATH_EVENTS);
    let stats = Arc::new(SessionStats::restored(&kept.session, clock::now()));
    let (ours, theirs) = duplex(64 * 1024);
    let lead = |stream, (received, window)| {
        PathEvent::Lead(Box::new(NewLead {
            carrier: in_process(stream, Bytes::new(), [0; 32]),
            accepted: Accepted {
                epoch: Epoch::new(epoch),
                received,
                window,
            },
            first: Bytes::new(),
        }))
    };
    let _ = client.path_events.try_send(lead(theirs, stats.room()));
    let _ = path_events.try_send(lead(ours, client.stats.room()));
    let StoredSession {
        session,
        input,
        output,
        checkpoints,
        slot,
    } = kept;
    let parts = PumpParts {
        checkpoints: Some(checkpoints),
        // A client whose last bytes were lost with a worker does not come back for them.
        detach_timeout: Duration::from_millis(200),
        ..parts(session, (input, output), received, stats)
    };
    let life = async {
        let outcome = Pump::new(parts).run().await;
        session_store.forget(slot);
        outcome
    };
    match catch_panic(life).await {
        Ok(outcome) => Some(outcome),
        Err(panic) => {
            assert!(panic.is::<Crashed>(), "{}", crate::tasks::panic_text(&*panic));
            None
        }
    }
}

/// Runs workers until the session is over; `crash` says after how many fault points each of them dies.
async fn workers(client: &Client, ours: TcpStream, mut crash: impl FnMut() -> u64) -> u64 {
    let store = Arc::new(MapStore::default());
    let (session_store, _) = opened(&store).await;
    let mut next = Some((
        session_store.create(identity(1), ours, &config()).await.unwrap(),
        session_store,
    ));
    let mut count = 0;
    while let Some((kept, session_store)) = next.take() {
        count += 1;
        crash_after(crash());
        let outcome = worker(client, kept, &session_store, count).await;
        crash_after(0);
        drop(session_store);
        let (session_store, mut recovery) = opened(&store).await;
        let lost = recovery
            .lost
            .iter()
            .filter(|lost| !matches!(lost.error, LossError::Ended));
        assert_eq!(lost.map(|lost| lost.error.to_string()).next(), None);
        assert!(outcome.is_none() || recovery.sessions.is_empty());
        next = recovery.sessions.pop().map(|session| (session.kept, session_store));
    }
    // Its carriers are closed. It asks for a session that does not exist any more.
    let _ = client.path_events.send(PathEvent::Lost("gone".into())).await;
    count.into()
}

async fn play(scene: &Scene, crash: impl FnMut() -> u64) -> Played {
    let (ours, theirs) = connected().await;
    let (client, pump, (mut from_pump, mut to_pump)) = Client::new();
    let mut heard = Vec::new();
    let user = async {
        let says = async {
            // The pump may have ended: sshd did not accept more.
            let _ = to_pump.write_all(&pattern(scene.from_client, 2)).await;
            let _ = to_pump.shutdown().await;
        };
        let (_, read) = tokio::join!(says, from_pump.read_to_end(&mut heard));
        read.unwrap();
    };
    let all = async { tokio::join!(sshd(theirs, scene), workers(&client, ours, crash), pump, user) };
    let all = tokio::time::timeout(Duration::from_secs(60), all).await;
    let (sshd_heard, workers, client, ()) = all.expect("it ends");
    Played {
        client,
        heard,
        sshd_heard,
        workers,
    }
}

fn judge(scene: &Scene, result: &Played, crash: &str) {
    let Scene { manners, .. } = scene;
    let heard = result.heard == pattern(scene.from_sshd, 1);
    assert!(
        heard,
        "{manners:?}, {crash}: the client heard {} bytes",
        result.heard.len()
    );
    if *manners == Manners::Resets {
        let is_told = matches!(result.client, Outcome::ClosedByPeer(CloseCode::UpstreamClosed, _));
        assert!(is_told, "{manners:?}, {crash}: {:?}", result.client);
    } else {
        assert_eq!(result.client, Outcome::Finished, "{manners:?}, {crash}");
        let heard = result.sshd_heard == pattern(scene.from_client, 2);
        assert!(
            heard,
            "{manners:?}, {crash}: sshd heard {} bytes",
            result.sshd_heard.len()
        );
    }
}

#[tokio::test]
async fn a_crash_at_any_point_loses_nothing() {
    for manners in [Manners::Ends, Manners::Waits, Manners::Resets] {
        let scene = Scene {
            manners,
            from_sshd: 100_000,
            from_client: 60_000,
        };
        for point in 1.. {
            let mut lives = [0, point].to_vec();
            let result = play(&scene, || lives.pop().unwrap_or(0)).await;
            judge(&scene, &result, &format!("crash at point {point}"));
            if result.workers == 1 {
                assert!(point > 15, "{manners:?}: only {point} points");
                break;
            }
        }
    }
}

#[tokio::test]
async fn crash_upon_crash_loses_nothing() {
    let mut state = 7_u64;
    for (round, manners) in [Manners::Ends, Manners::Waits, Manners::Resets]
        .into_iter()
        .cycle()
        .take(30)
        .enumerate()
    {
        let scene = Scene {
            manners,
            from_sshd: 700_000,
            from_client: 300_000,
        };
        let mut workers = 0;
        let crash = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            workers += 1;
            // Long enough for everything to happen.
            8 + (state >> 33) % 120
        };
        let result = play(&scene, crash).await;
        judge(&scene, &result, &format!("round {round}"));
    }
}
