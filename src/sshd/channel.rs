//! The channels of one connection: which are open, and each as its task sees it.
//!
//! russh's loop calls the handler; tasks do the work. They meet here and nowhere else.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelId, ChannelWriteHalf};
use tokio_util::sync::CancellationToken;

use super::channel_queue::{ChannelQueue, QueueReader};
use super::session::SessionChannel;

/// Most channels of one connection, of all kinds. A browser behind `-D` needs some dozens.
const MAX_CHANNELS: usize = 512;

/// Time for a client that is done to close a channel first: OpenSSH does so within the round trip, but for `-W`,
/// whose end is late by this much.
const CLOSE_DELAY: Duration = Duration::from_millis(300);

/// All open channels of one connection.
#[derive(Clone)]
pub(super) struct Channels {
    open: Arc<Mutex<HashMap<ChannelId, Open>>>,
    /// Cancelled when the connection ends.
    connection: CancellationToken,
}

struct Open {
    queue: Arc<ChannelQueue>,
    closed: CancellationToken,
    /// Whether a task has it; until then it is kept even when the client has closed it, so that the task learns of that.
    claimed: bool,
    session: Option<SessionChannel>,
}

/// One channel, as the task that serves it has it. Dropping it forgets the channel.
pub(super) struct ChannelIo {
    /// What the client sends.
    pub(super) queue: QueueReader,
    /// Waits for the client's window before it sends.
    pub(super) writer: ChannelWriteHalf<Msg>,
    /// Cancelled when the client closes the channel or the connection ends.
    pub(super) closed: CancellationToken,
    entry: Entry,
}

struct Entry {
    id: ChannelId,
    channels: Channels,
}

impl Channels {
    pub(super) fn new(connection: CancellationToken) -> Channels {
        Channels {
            open: Arc::default(),
            connection,
        }
    }

    /// Whether one more would be too many.
    pub(super) fn is_full(&self) -> bool {
        self.with(|open| open.len() >= MAX_CHANNELS)
    }

    /// Whether some channel's reader does not keep up.
    pub(super) fn is_congested(&self) -> bool {
        self.with(|open| open.values().any(|channel| channel.queue.is_congested()))
    }

    /// Makes room for what the client sends on a channel; its task may claim it before or after.
    pub(super) fn expect(&self, id: ChannelId) {
        self.with(|open| {
            open.entry(id).or_insert_with(|| self.fresh());
        });
    }

    /// Gives the channel to the task that serves it.
    ///
    /// russh's own reading half goes: its queue would stop the whole connection when full.
    pub(super) fn claim(&self, channel: Channel<Msg>) -> ChannelIo {
        let (_, writer) = channel.split();
        let id = writer.id();
        let (queue, closed) = self.with(|open| {
            let channel = open.entry(id).or_insert_with(|| self.fresh());
            channel.claimed = true;
            (channel.queue.clone(), channel.closed.clone())
        });
        let entry = Entry {
            id,
            channels: self.clone(),
        };
        ChannelIo {
            queue: QueueReader::new(queue),
            writer,
            closed,
            entry,
        }
    }

    pub(super) fn queue(&self, id: ChannelId) -> Option<Arc<ChannelQueue>> {
        self.with(|open| Some(open.get(&id)?.queue.clone()))
    }

    /// The client has closed the channel.
    pub(super) fn close(&self, id: ChannelId) {
        let gone = self.with(|open| {
            let channel = open.get(&id)?;
            channel.closed.cancel();
            if channel.claimed { open.remove(&id) } else { None }
        });
        drop(gone);
    }

    /// Makes the channel a session, whose requests [`Channels::session`] serves.
    pub(super) fn begin_session(&self, id: ChannelId, session: SessionChannel) {
        let before = self.with(|open| match open.get_mut(&id) {
            Some(channel) => channel.session.replace(session),
            None => Some(session),
        });
        drop(before);
    }

    /// Acts on a session channel; `None` when it is not one. `act` must not drop a [`ChannelIo`].
    pub(super) fn session<T>(&self, id: ChannelId, act: impl FnOnce(&mut SessionChannel) -> T) -> Option<T> {
        self.with(|open| Some(act(open.get_mut(&id)?.session.as_mut()?)))
    }

    /// Ends every session that no task has taken yet: they hold this registry, and it holds them.
    pub(super) fn clear(&self) {
        let all = self.with(std::mem::take);
        drop(all);
    }

    fn fresh(&self) -> Open {
        Open {
            queue: Arc::default(),
            closed: self.connection.child_token(),
            claimed: false,
            session: None,
        }
    }

    // Dropping an `Open` may drop a `ChannelIo`, which comes back here: `act` hands out what it removes.
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<ChannelId, Open>) -> T) -> T {
        act(&mut self.open.lock())
    }
}

impl ChannelIo {
    pub(super) fn id(&self) -> ChannelId {
        self.entry.id
    }

    /// Sends CLOSE. Errors are none of ours: the connection is gone then.
    pub(super) async fn close(self) {
        let _ = self.writer.close().await;
    }

    /// As [`ChannelIo::close`], but lets a client go first that is done too.
    ///
    /// russh 0.65 forgets a channel wholly only when the client closes it first: about 4 KiB stay otherwise, until the
    /// connection ends. A browser opens thousands.
    pub(super) async fn close_last(self) {
        let _ = tokio::time::timeout(CLOSE_DELAY, self.closed.cancelled()).await;
        self.close().await;
    }

    /// Sends EOF, how it ended, and CLOSE.
    pub(super) async fn close_with(self, outcome: Outcome, handle: &Handle) {
        let _ = self.writer.eof().await;
        match outcome {
            Outcome::Exited(code) => {
                let _ = self.writer.exit_status(code).await;
            }
            Outcome::Killed { signal, core_dumped } => {
                let none = String::new;
                let _ = handle
                    .exit_signal_request(self.id(), signal, core_dumped, none(), none())
                    .await;
            }
        }
        let _ = self.writer.close().await;
    }
}

/// How what ran in a session ended.
pub(super) enum Outcome {
    Exited(u32),
    Killed { signal: russh::Sig, core_dumped: bool },
}

impl Drop for Entry {
    fn drop(&mut self) {
        let gone = self.channels.with(|open| open.remove(&self.id));
        drop(gone);
    }
}
