//! Where others ask a running keeper who it is, and ask it to make way: a socket in the runtime folder.
//!
//! The folder is its owner's alone, and the kernel says who asks: root or the keeper's own user, nobody else is heard.
//! A keeper never waits for an asker, but for a moment while it hands everything over, when nothing else may happen.

mod door;
mod guests;
mod hand_over;
mod introduce;
mod visit;
mod words;

pub(super) use self::guests::Lobby;
pub use self::{
    door::Door,
    visit::{Neighbour, Neighbours, Offer, TakeOverError, neighbours},
    words::{Refusal, Who},
};
