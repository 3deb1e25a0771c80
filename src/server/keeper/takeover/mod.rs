//! Takeover: a socket in the runtime folder on which a running keeper says who it is and hands over to another keeper.
//!
//! Only the owner can enter the folder, and the kernel names the user of each connection: requests of root and of the
//! keeper's own user are answered, others are refused. A keeper never waits for a client, except for a moment during a
//! handover, when nothing else may happen.

mod client;
mod connections;
mod hand_over;
mod listener;
mod messages;
mod worker_connection;

pub(super) use self::connections::TakeoverServer;
pub use self::{
    client::{Offer, RunningKeeper, RunningKeepers, TakeoverError, find_running_keepers},
    listener::TakeoverListener,
    messages::{KeeperInfo, TakeoverRefusal},
};
