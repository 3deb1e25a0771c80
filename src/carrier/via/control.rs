//! The connection on which a server half is registered at a relay, until it closes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::codec::{RelayStreamError, read_message, send_message};
use super::keepalive::{Keepalive, KeepaliveAction};
use super::register::{RegisterError, RegistrationDialer};
use super::stream::{LiveStream, ViaStream};
use super::{IncomingStream, RelayTransport};
use crate::clock;
use crate::wire::{DialToken, RelayMessage};

/// Longest wait for the first message of a new stream, for the relay to accept a message, and for
/// one step of a dial-back.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most streams whose first message is awaited. No working relay opens more at once.
const MAX_PENDING_STREAMS: usize = 256;

/// How long a connection that is being left still accepts streams.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// An event of a control connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ControlEvent {
    /// The relay does not answer.
    Suspect,
    /// The relay answered after all.
    Recovered,
    /// The relay is about to stop.
    Draining,
}

/// Why a control connection was closed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlClosed {
    /// This end replaced it by another one.
    #[error("replaced by another connection")]
    Left,
    /// The relay replaced it by another one.
    #[error("the relay registered another connection with the same key instead")]
    Replaced,
    /// The relay does not answer.
    #[error("the relay does not answer")]
    Silent,
    /// The connection failed, or the relay violated the protocol.
    #[error(transparent)]
    Stream(#[from] RelayStreamError),
}

/// A connection on which the relay accepted the registration.
pub(super) struct ControlConnection {
    pub(super) control: ViaStream,
    /// The address at which the relay was dialled.
    pub(super) address: SocketAddr,
    /// Round trip of the registration.
    pub(super) rtt: Duration,
    /// Number of registered keys.
    pub(super) keys: u64,
}

/// What a control connection needs to be served.
pub(super) struct ControlContext {
    pub(super) dialer: Arc<RegistrationDialer>,
    pub(super) incoming: mpsc::Sender<IncomingStream>,
    pub(super) events: mpsc::Sender<(u64, ControlEvent)>,
    /// Number of this control connection.
    pub(super) generation: u64,
    /// Cancelled to leave the connection.
    pub(super) leave: CancellationToken,
}

/// What happened next.
enum Event {
    Message(Result<RelayMessage, RelayStreamError>),
    Stream(Result<(quinn::SendStream, quinn::RecvStream), quinn::ConnectionError>),
    StreamReady,
    Due,
    Leave,
}

impl ControlConnection {
    pub(super) fn transport(&self) -> RelayTransport {
        self.control.transport()
    }

    /// Serves the connection until it closes, and forwards the relay's streams.
    pub(super) async fn serve(self, context: ControlContext) -> ControlClosed {
        let connection = self.control.connection().cloned();
        let mut task = ControlTask {
            keepalive: Keepalive::new(clock::now(), self.rtt, context.dialer.is_needed()),
            address: self.address,
            control: self.control,
            connection,
            pending: JoinSet::new(),
            context,
        };
        let closed = task.run().await;
        if matches!(closed, ControlClosed::Left | ControlClosed::Replaced) {
            task.leave().await;
        }
        closed
    }
}

struct ControlTask {
    control: ViaStream,
    connection: Option<quinn::Connection>,
    address: SocketAddr,
    keepalive: Keepalive,
    pending: JoinSet<()>,
    context: ControlContext,
}

impl ControlTask {
    async fn run(&mut self) -> ControlClosed {
        let mut inbox = BytesMut::new();
        let mut timer = clock::Timer::new();
        loop {
            timer.set(Some(self.keepalive.poll_timeout()));
            let event = tokio::select! {
                message = read_message(&mut self.control, &mut inbox) => Event::Message(message),
                stream = accept(self.connection.as_ref()) => Event::Stream(stream),
                Some(_) = self.pending.join_next() => Event::StreamReady,
                () = std::future::poll_fn(|cx| timer.poll(cx)) => Event::Due,
                () = self.context.leave.cancelled() => Event::Leave,
            };
            let handled = match event {
                Event::Message(message) => self.handle_message(message).await,
                Event::Stream(Ok(streams)) => {
                    self.receive(streams);
                    Ok(())
                }
                Event::Stream(Err(error)) => Err(lost(error)),
                Event::StreamReady => Ok(()),
                Event::Due => self.handle_timeout().await,
                Event::Leave => Err(ControlClosed::Left),
            };
            if let Err(closed) = handled {
                return closed;
            }
        }
    }

    async fn handle_message(&mut self, message: Result<RelayMessage, RelayStreamError>) -> Result<(), ControlClosed> {
        match message? {
            RelayMessage::Pong => {
                if self
                    .keepalive
                    .handle_pong(clock::now(), self.context.dialer.is_needed())
                {
                    self.report(ControlEvent::Recovered);
                }
            }
            RelayMessage::Ping => self.send(&RelayMessage::Pong).await?,
            RelayMessage::Dial { token, source } => self.dial_back(token, source),
            RelayMessage::Draining => self.report(ControlEvent::Draining),
            RelayMessage::Replaced => return Err(ControlClosed::Replaced),
            message => {
                debug!(relay = %self.context.dialer.name, received = ?message, "unexpected message from the relay")
            }
        }
        Ok(())
    }

    async fn handle_timeout(&mut self) -> Result<(), ControlClosed> {
        match self.keepalive.handle_timeout(clock::now()) {
            Some(KeepaliveAction::Ping) => self.send(&RelayMessage::Ping).await?,
            Some(KeepaliveAction::Suspect) => self.report(ControlEvent::Suspect),
            Some(KeepaliveAction::Close) => return Err(ControlClosed::Silent),
            None => {}
        }
        Ok(())
    }

    async fn send(&mut self, message: &RelayMessage) -> Result<(), ControlClosed> {
        // A few bytes: this blocks only if the relay does not read.
        let sent = timeout(MESSAGE_TIMEOUT, send_message(&mut self.control, message)).await;
        sent.map_err(|_| ControlClosed::Silent)?
            .map_err(|error| RelayStreamError::from(error).into())
    }

    fn report(&self, event: ControlEvent) {
        // The channel is never full, because its reader does nothing else. If it were, a later
        // event would do.
        let _ = self.context.events.try_send((self.context.generation, event));
    }

    /// The relay opened a stream.
    fn receive(&mut self, streams: (quinn::SendStream, quinn::RecvStream)) {
        self.keepalive.mark_needed(clock::now());
        let Some(connection) = self.connection.clone() else {
            return;
        };
        let forwarder = self.forwarder();
        if self.pending.len() >= MAX_PENDING_STREAMS {
            return;
        }
        self.pending.spawn(async move {
            let stream = ViaStream::of_quic(connection, streams);
            forwarder.forward(stream).await;
        });
    }

    /// Over TCP the relay cannot open a stream, so it asks this end to connect.
    fn dial_back(&mut self, token: DialToken, source: SocketAddr) {
        self.keepalive.mark_needed(clock::now());
        if self.pending.len() >= MAX_PENDING_STREAMS {
            return;
        }
        let (forwarder, address) = (self.forwarder(), self.address);
        self.pending.spawn(async move {
            match timeout(2 * MESSAGE_TIMEOUT, forwarder.dialer.answer(address, token)).await {
                Ok(Ok(stream)) => forwarder.forward(stream).await,
                Ok(Err(error)) => debug!(%source, %error, "cannot dial back"),
                Err(_) => debug!(%source, "dial-back timed out"),
            }
        });
    }

    fn forwarder(&self) -> StreamForwarder {
        StreamForwarder {
            dialer: Arc::clone(&self.context.dialer),
            incoming: self.context.incoming.clone(),
        }
    }

    /// Unregisters, then accepts streams that are on their way. Streams that were forwarded keep
    /// the connection open.
    async fn leave(&mut self) {
        use tokio::io::AsyncWriteExt;
        let closing = async {
            // This unregisters at the relay.
            let _ = self.control.shutdown().await;
            while let Ok(streams) = accept(self.connection.as_ref()).await {
                self.receive(streams);
            }
        };
        let _ = timeout(LEAVE_TIMEOUT, closing).await;
        let _ = timeout(MESSAGE_TIMEOUT, async {
            while self.pending.join_next().await.is_some() {}
        })
        .await;
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

fn lost(error: quinn::ConnectionError) -> ControlClosed {
    RelayStreamError::from(std::io::Error::from(error)).into()
}

/// Forwards a stream to the server half once its first message has arrived.
struct StreamForwarder {
    dialer: Arc<RegistrationDialer>,
    incoming: mpsc::Sender<IncomingStream>,
}

impl StreamForwarder {
    async fn forward(self, mut stream: ViaStream) {
        let source = match timeout(MESSAGE_TIMEOUT, header(&mut stream)).await {
            Ok(Ok(source)) => source,
            Ok(Err(error)) => {
                debug!(relay = %self.dialer.name, %error, "stream from the relay has no valid first message");
                return stream.abort();
            }
            Err(_) => return stream.abort(),
        };
        let arrived = IncomingStream {
            stream: stream.counted(LiveStream::new(&self.dialer.live)),
            relay: Arc::clone(&self.dialer.name),
            source,
        };
        // Excess load is dropped here; clients dial again.
        if let Err(full) = self.incoming.try_send(arrived) {
            debug!(relay = %self.dialer.name, %source, "stream dropped: too many at once");
            full.into_inner().stream.abort();
        }
    }
}

async fn header(stream: &mut ViaStream) -> Result<SocketAddr, RegisterError> {
    match read_message(stream, &mut BytesMut::new()).await? {
        RelayMessage::Incoming { source } => Ok(source),
        RelayMessage::Refused(refusal) => Err(RegisterError::Refused(refusal)),
        _ => Err(RegisterError::UnexpectedMessage),
    }
}
