//! The ways in which the demo breaks the path.

use std::time::Duration;

use super::DemoError;
use super::path::{Condition, Path};

/// Time between two rounds of resets. A session that has just been resumed is reset again.
const RESET_INTERVAL: Duration = Duration::from_millis(250);

/// What happens to the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outage {
    /// Everything vanishes and nobody is told: a dead relay, a tunnel, a lift.
    BlackHole,
    /// The client's address changes under way: a NAT forgot it.
    NewAddress,
    /// Every connection is reset, again and again.
    ResetStorm,
    /// The server half's address refuses everything.
    Unreachable,
    /// No network for a while, then another one.
    OtherNetwork,
}

impl Outage {
    /// In the order of the show.
    pub(super) const ALL: [Outage; 5] = [
        Outage::BlackHole,
        Outage::NewAddress,
        Outage::ResetStorm,
        Outage::Unreachable,
        Outage::OtherNetwork,
    ];

    /// A few words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Outage::BlackHole => "black hole",
            Outage::NewAddress => "new address",
            Outage::ResetStorm => "reset storm",
            Outage::Unreachable => "address unreachable",
            Outage::OtherNetwork => "offline, then new address",
        }
    }

    /// What that means, in half a line.
    pub(super) fn meaning(self) -> &'static str {
        match self {
            Outage::BlackHole => "every packet is lost, without an error",
            Outage::NewAddress => "the NAT gives the client a new port",
            Outage::ResetStorm => "every connection is reset, four times a second",
            Outage::Unreachable => "the server half's port refuses every packet",
            Outage::OtherNetwork => "no network, then another address",
        }
    }

    /// How long it lasts.
    pub(super) fn length(self) -> Duration {
        match self {
            Outage::BlackHole => Duration::from_secs(4),
            Outage::NewAddress => Duration::ZERO,
            Outage::ResetStorm => Duration::from_secs(3),
            Outage::Unreachable => Duration::from_millis(2500),
            Outage::OtherNetwork => Duration::from_secs(2),
        }
    }

    /// Does it, and returns once it is over.
    ///
    /// # Errors
    /// `DemoError::Socket`: the path will not do it.
    pub(super) async fn inflict(self, path: &Path) -> Result<(), DemoError> {
        match self {
            Outage::BlackHole => self.apply(path, Condition::BlackHole).await,
            Outage::Unreachable => self.apply(path, Condition::Unreachable).await,
            Outage::NewAddress => {
                path.take_new_address();
                Ok(())
            }
            Outage::OtherNetwork => {
                path.set(Condition::BlackHole).map_err(DemoError::Socket)?;
                tokio::time::sleep(self.length()).await;
                path.take_new_address();
                path.set(Condition::Normal).map_err(DemoError::Socket)
            }
            Outage::ResetStorm => {
                for _ in 0..self.length().div_duration_f64(RESET_INTERVAL) as u32 {
                    path.reset_connections();
                    tokio::time::sleep(RESET_INTERVAL).await;
                }
                Ok(())
            }
        }
    }

    async fn apply(self, path: &Path, condition: Condition) -> Result<(), DemoError> {
        path.set(condition).map_err(DemoError::Socket)?;
        tokio::time::sleep(self.length()).await;
        path.set(Condition::Normal).map_err(DemoError::Socket)
    }
}
