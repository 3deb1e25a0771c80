//! One connection on which a server half is listed at a relay, until it is of no use any more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::pulse::{Beat, Pulse};
use super::registrar::{RegisterError, Registrar};
use super::stream::{Live, ViaStream};
use super::talk::{TalkError, read_word, send_word};
use super::{IncomingStream, RelayTransport};
use crate::clock;
use crate::wire::{DialToken, RelayWord};

/// For the relay to say what a stream is, to take a word, or to take an answer to a `Dial`.
const PROMPT: Duration = Duration::from_secs(5);

/// Most streams that are being made ready at once. A relay that wants more is out of its mind.
const MOST_ARRIVING: usize = 256;

/// How long streams that were under way still come in on a connection that was left.
const LEAVING: Duration = Duration::from_secs(5);

/// What a listing tells its owner while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// The relay is silent.
    Suspect,
    /// It was not dead after all.
    Clear,
    /// It is about to stop.
    Draining,
}

/// Why a listing ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ending {
    /// It was left for another one.
    #[error("left for another connection")]
    Left,
    /// The relay has pushed it out.
    #[error("another connection with the same key was listed instead")]
    Replaced,
    /// The relay does not answer.
    #[error("the relay does not answer")]
    Silent,
    /// The relay is gone, or broke the protocol.
    #[error(transparent)]
    Talk(#[from] TalkError),
}

/// A connection that the relay has listed.
pub(super) struct Listing {
    pub(super) control: ViaStream,
    /// Where the relay was dialled.
    pub(super) address: SocketAddr,
    /// From the registration to its answer.
    pub(super) rtt: Duration,
    /// Under how many keys.
    pub(super) keys: u64,
}

/// What a listing needs beside its connection.
pub(super) struct Serving {
    pub(super) registrar: Arc<Registrar>,
    pub(super) incoming: mpsc::Sender<IncomingStream>,
    pub(super) signs: mpsc::Sender<(u64, Sign)>,
    /// Which listing this is.
    pub(super) generation: u64,
    /// Asked to leave.
    pub(super) leave: CancellationToken,
}

/// What came next.
enum Event {
    Word(Result<RelayWord, TalkError>),
    Stream(Result<(quinn::SendStream, quinn::RecvStream), quinn::ConnectionError>),
    Arrived,
    Due,
    Leave,
}

impl Listing {
    pub(super) fn transport(&self) -> RelayTransport {
        self.control.transport()
    }

    /// Hands on what the relay brings, until the end.
    pub(super) async fn serve(self, serving: Serving) -> Ending {
        let connection = self.control.connection().cloned();
        let mut run = Run {
            pulse: Pulse::new(clock::now(), self.rtt, serving.registrar.is_needed()),
            address: self.address,
            control: self.control,
            connection,
            arriving: JoinSet::new(),
            serving,
        };
        let ending = run.run().await;
        if matches!(ending, Ending::Left | Ending::Replaced) {
            run.leave().await;
        }
        ending
    }
}

struct Run {
    control: ViaStream,
    connection: Option<quinn::Connection>,
    address: SocketAddr,
    pulse: Pulse,
    arriving: JoinSet<()>,
    serving: Serving,
}

impl Run {
    async fn run(&mut self) -> Ending {
        let mut inbox = BytesMut::new();
        let mut timer = clock::Timer::new();
        loop {
            timer.set(Some(self.pulse.poll_timeout()));
            let event = tokio::select! {
                word = read_word(&mut self.control, &mut inbox) => Event::Word(word),
                stream = accept(self.connection.as_ref()) => Event::Stream(stream),
                Some(_) = self.arriving.join_next() => Event::Arrived,
                () = std::future::poll_fn(|cx| timer.poll(cx)) => Event::Due,
                () = self.serving.leave.cancelled() => Event::Leave,
            };
            let handled = match event {
                Event::Word(word) => self.handle_word(word).await,
                Event::Stream(Ok(streams)) => {
                    self.receive(streams);
                    Ok(())
                }
                Event::Stream(Err(error)) => Err(lost(error)),
                Event::Arrived => Ok(()),
                Event::Due => self.handle_timeout().await,
                Event::Leave => Err(Ending::Left),
            };
            if let Err(ending) = handled {
                return ending;
            }
        }
    }

    async fn handle_word(&mut self, word: Result<RelayWord, TalkError>) -> Result<(), Ending> {
        match word? {
            RelayWord::Pong => {
                if self.pulse.handle_pong(clock::now(), self.serving.registrar.is_needed()) {
                    self.tell(Sign::Clear);
                }
            }
            RelayWord::Ping => self.say(&RelayWord::Pong).await?,
            RelayWord::Dial { token, source } => self.dial_back(token, source),
            RelayWord::Draining => self.tell(Sign::Draining),
            RelayWord::Replaced => return Err(Ending::Replaced),
            word => debug!(relay = %self.serving.registrar.name, ?word, "the relay says what means nothing here"),
        }
        Ok(())
    }

    async fn handle_timeout(&mut self) -> Result<(), Ending> {
        match self.pulse.handle_timeout(clock::now()) {
            Some(Beat::Ping) => self.say(&RelayWord::Ping).await?,
            Some(Beat::Suspect) => self.tell(Sign::Suspect),
            Some(Beat::GiveUp) => return Err(Ending::Silent),
            None => {}
        }
        Ok(())
    }

    async fn say(&mut self, word: &RelayWord) -> Result<(), Ending> {
        // A few bytes: they wait only where the relay reads nothing.
        let said = timeout(PROMPT, send_word(&mut self.control, word)).await;
        said.map_err(|_| Ending::Silent)?
            .map_err(|error| TalkError::from(error).into())
    }

    fn tell(&self, sign: Sign) {
        // Never full: the owner does nothing but hear them. If it were, the next sign would do.
        let _ = self.serving.signs.try_send((self.serving.generation, sign));
    }

    /// A fresh stream from the relay.
    fn receive(&mut self, streams: (quinn::SendStream, quinn::RecvStream)) {
        self.pulse.hurry(clock::now());
        let Some(connection) = self.connection.clone() else {
            return;
        };
        let hand_on = self.hand_on();
        if self.arriving.len() >= MOST_ARRIVING {
            return;
        }
        self.arriving.spawn(async move {
            let stream = ViaStream::of_quic(connection, streams);
            hand_on.after_its_header(stream).await;
        });
    }

    /// The relay has no way to give a stream on this connection: make one.
    fn dial_back(&mut self, token: DialToken, source: SocketAddr) {
        self.pulse.hurry(clock::now());
        if self.arriving.len() >= MOST_ARRIVING {
            return;
        }
        let (hand_on, address) = (self.hand_on(), self.address);
        self.arriving.spawn(async move {
            match timeout(2 * PROMPT, hand_on.registrar.answer(address, token)).await {
                Ok(Ok(stream)) => hand_on.after_its_header(stream).await,
                Ok(Err(error)) => debug!(%source, %error, "cannot dial back"),
                Err(_) => debug!(%source, "the relay does not take an answer"),
            }
        });
    }

    fn hand_on(&self) -> HandOn {
        HandOn {
            registrar: Arc::clone(&self.serving.registrar),
            incoming: self.serving.incoming.clone(),
        }
    }

    /// Streams that were handed on keep the connection; what was under way still comes in.
    async fn leave(&mut self) {
        use tokio::io::AsyncWriteExt;
        let farewell = async {
            // The relay takes this connection off its list.
            let _ = self.control.shutdown().await;
            while let Ok(streams) = accept(self.connection.as_ref()).await {
                self.receive(streams);
            }
        };
        let _ = timeout(LEAVING, farewell).await;
        let _ = timeout(PROMPT, async { while self.arriving.join_next().await.is_some() {} }).await;
    }
}

async fn accept(
    connection: Option<&quinn::Connection>,
) -> Result<(quinn::SendStream, quinn::RecvStream), quinn::ConnectionError> {
    match connection {
        Some(connection) => connection.accept_bi().await,
        None => std::future::pending().await,
    }
}

fn lost(error: quinn::ConnectionError) -> Ending {
    TalkError::from(std::io::Error::from(error)).into()
}

/// Gives a stream to the server half once it is known whose it is.
struct HandOn {
    registrar: Arc<Registrar>,
    incoming: mpsc::Sender<IncomingStream>,
}

impl HandOn {
    async fn after_its_header(self, mut stream: ViaStream) {
        let source = match timeout(PROMPT, header(&mut stream)).await {
            Ok(Ok(source)) => source,
            Ok(Err(error)) => {
                debug!(relay = %self.registrar.name, %error, "a stream from the relay is of no use");
                return stream.abort();
            }
            Err(_) => return stream.abort(),
        };
        let arrived = IncomingStream {
            stream: stream.counted(Live::new(&self.registrar.live)),
            relay: Arc::clone(&self.registrar.name),
            source,
        };
        // Whoever cannot keep up sheds load here: clients come again.
        if let Err(full) = self.incoming.try_send(arrived) {
            debug!(relay = %self.registrar.name, %source, "too many streams at once");
            full.into_inner().stream.abort();
        }
    }
}

async fn header(stream: &mut ViaStream) -> Result<SocketAddr, RegisterError> {
    match read_word(stream, &mut BytesMut::new()).await? {
        RelayWord::Incoming { source } => Ok(source),
        RelayWord::Refused(refusal) => Err(RegisterError::Refused(refusal)),
        _ => Err(RegisterError::OffTopic),
    }
}
