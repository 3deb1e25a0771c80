//! Service managers that run one unit: systemd itself where one can be had, and a stand-in by its documentation.
//!
//! Neither knows bowline. A test that passes under both holds for the protocol and not for one reading of it.

#![allow(unused_imports, reason = "each test crate uses its own part of this module")]

mod launch;
mod private;
mod stand_in;
mod store;
mod systemd;
mod unit;

pub use stand_in::StandIn;
pub use systemd::Systemd;
pub use unit::{KillMode, Unit};

use std::time::Duration;

/// Longer than any order here may take.
const ORDER: Duration = Duration::from_secs(60);

/// What `systemctl` can be told of one unit, and asked. Orders wait for their end as systemctl does.
pub trait Manager: Send {
    /// Starts the unit, and waits until it says that it is ready.
    ///
    /// # Errors
    /// It ended before, or in `timeout_start` it did not say so.
    fn start(&self) -> Result<(), String>;

    /// Ends all its processes and forgets what it has stored.
    ///
    /// # Errors
    /// The manager's own message.
    fn stop(&self) -> Result<(), String>;

    /// Ends all its processes and starts it anew with what it has stored.
    ///
    /// # Errors
    /// As `start`.
    fn restart(&self) -> Result<(), String>;

    /// Ends all units, as on the way to a power-off.
    ///
    /// # Errors
    /// The manager's own message.
    fn shut_down(&self) -> Result<(), String>;

    /// A stop that a start overtakes before the unit has ended.
    ///
    /// # Errors
    /// As `start`.
    fn stop_and_start_at_once(&self) -> Result<(), String>;

    /// A restart that a stop overtakes before the unit has ended.
    ///
    /// # Errors
    /// As `stop`.
    fn restart_and_stop_at_once(&self) -> Result<(), String>;

    /// Reads the unit anew (`daemon-reload`), which has changed.
    fn change_unit(&self, change: UnitChange);

    /// SIGHUP for the main process; does not wait for what follows from it.
    ///
    /// # Errors
    /// There is no main process.
    fn reload(&self) -> Result<(), String>;

    /// The main process, as this process sees its id.
    fn main_pid(&self) -> Option<u32>;

    /// How many descriptors are in the store.
    fn stored(&self) -> usize;

    /// What the unit has last said of itself (`STATUS=`).
    fn status(&self) -> String;

    /// How often the unit was started again because it had died.
    fn restarts(&self) -> u32;

    /// What the unit has written to its standard output and error.
    fn log(&self) -> String;
}

/// What becomes of a unit's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitChange {
    /// Another `FileDescriptorStoreMax=`.
    StoreMax(usize),
    /// There is none any more.
    Gone,
    /// It is there again, as it was at first.
    Back,
}

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Ours, for tests.
    StandIn,
    /// The real one.
    Systemd,
}

impl Kind {
    /// The real one, or with a line that says why not the other: for a test that takes too long to run under both.
    pub fn systemd_if_possible(test: &str) -> Kind {
        match Systemd::possible(test) {
            true => Kind::Systemd,
            false => Kind::StandIn,
        }
    }

    /// Takes charge of a unit, without starting it; `None`, with a line that says why, where there is no such manager.
    pub fn manage(self, test: &str, unit: Unit) -> Option<Box<dyn Manager>> {
        match self {
            Kind::StandIn => Some(Box::new(StandIn::new(unit))),
            Kind::Systemd => Systemd::possible(test).then(|| Box::new(Systemd::boot(unit)) as Box<dyn Manager>),
        }
    }
}

/// Tests that take a `Kind`, each once under the stand-in and once under systemd.
#[macro_export]
macro_rules! under_both_managers {
    ($($test:ident),* $(,)?) => {
        mod stand_in {
            $(#[test] fn $test() { super::$test($crate::support::manager::Kind::StandIn); })*
        }
        mod systemd {
            $(#[test] fn $test() { super::$test($crate::support::manager::Kind::Systemd); })*
        }
    };
}
pub use under_both_managers;
