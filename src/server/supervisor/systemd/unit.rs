//! What systemd says about this process's unit: what follows this process's end, and what the unit's store holds.
//!
//! sd_notify(3) tells a service neither. Signal, `$SERVICE_RESULT` and environment are the same for a stop and a
//! restart; only the unit's job differs.

use std::{path::Path, time::Duration};

use super::bus::{Bus, BusError, MANAGER, MANAGER_PATH, Value};

const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE: &str = "org.freedesktop.systemd1.Service";
const JOB: &str = "org.freedesktop.systemd1.Job";

/// The target of a soft reboot, after which units get their stores back.
const SOFT_REBOOT: &str = "/org/freedesktop/systemd1/unit/soft_2dreboot_2etarget";

/// How often to ask again if a job has ended before its type was read.
const MAX_JOBS: usize = 5;

/// What follows the end of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server::supervisor) enum Next {
    /// The service is started again, with everything in the store.
    Start,
    /// Nothing: the store is cleared.
    Nothing,
}

/// What is in the unit's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server::supervisor) struct Stored {
    /// The number of descriptors in it.
    pub(super) count: usize,
    /// Its capacity, `FileDescriptorStoreMax=`.
    pub(super) most: usize,
}

/// This process's unit, and a connection to its manager.
#[derive(Debug)]
pub(super) struct Unit {
    bus: Bus,
    path: String,
}

impl Unit {
    /// The unit of this process. `notify_address` is the manager's notification socket. `limit` bounds the time of all
    /// questions together.
    ///
    /// # Errors
    /// See [`BusError`]: the manager is not systemd, or this process is not its user and may not ask.
    pub(super) fn of_manager_at(notify_address: &str, limit: Duration) -> Result<Self, BusError> {
        let notify = Path::new(notify_address);
        if !notify.is_absolute() {
            return Err(BusError::NoPrivateSocket);
        }
        // The private socket is beside the notification socket, for the system manager and for user managers.
        let mut bus = Bus::connect(&notify.with_file_name("private"), limit)?;
        let path = bus.own_unit()?;
        Ok(Self { bus, path })
    }

    /// What follows the end of this process, which was told to end.
    pub(super) fn next(&mut self) -> Result<Next, BusError> {
        let follows = match self.job()?.as_deref() {
            // Also if a stop command came during a restart.
            Some("stop") => false,
            // The first half of a restart; or a start that waits until a stop before it has finished.
            Some(_) => true,
            // There is no job: somebody has sent a signal.
            None => matches!(&*self.text(SERVICE, "Restart")?, "always" | "on-success"),
        };
        match follows || self.is_kept_over_a_stop()? {
            true => Ok(Next::Start),
            false => Ok(Next::Nothing),
        }
    }

    /// What is in the store.
    pub(super) fn stored(&mut self) -> Result<Stored, BusError> {
        Ok(Stored {
            count: self.number(SERVICE, "NFileDescriptorStore")?,
            most: self.number(SERVICE, "FileDescriptorStoreMax")?,
        })
    }

    /// The type of the unit's job.
    fn job(&mut self) -> Result<Option<String>, BusError> {
        for _ in 0..MAX_JOBS {
            let Some(job) = self.job_of(&self.path.clone())? else {
                return Ok(None);
            };
            match self.bus.property(&job, JOB, "JobType") {
                Ok(Value::Text(kind)) => return Ok(Some(kind)),
                Ok(_) => return Err(wrong_type()),
                // The job has ended, and there may be another one.
                Err(error) if error.is_unknown() => {}
                Err(error) => return Err(error),
            }
        }
        Err(BusError::NotUnderstood {
            what: "too many jobs in succession",
        })
    }

    fn job_of(&mut self, unit: &str) -> Result<Option<String>, BusError> {
        match self.bus.property(unit, UNIT, "Job")? {
            Value::Object(0, _) => Ok(None),
            Value::Object(_, path) => Ok(Some(path)),
            _ => Err(wrong_type()),
        }
    }

    /// `FileDescriptorStorePreserve=yes`, unless the machine is shutting down.
    fn is_kept_over_a_stop(&mut self) -> Result<bool, BusError> {
        match self.text(SERVICE, "FileDescriptorStorePreserve") {
            Ok(preserve) if preserve == "yes" => {}
            Ok(_) => return Ok(false),
            // Before systemd 254.
            Err(error) if error.is_unknown() => return Ok(false),
            Err(error) => return Err(error),
        }
        match self.bus.property(MANAGER_PATH, MANAGER, "SystemState")? {
            Value::Text(state) if state == "stopping" => Ok(self.job_of(SOFT_REBOOT)?.is_some()),
            Value::Text(_) => Ok(true),
            _ => Err(wrong_type()),
        }
    }

    fn text(&mut self, interface: &str, name: &str) -> Result<String, BusError> {
        match self.bus.property(&self.path, interface, name)? {
            Value::Text(text) => Ok(text),
            _ => Err(wrong_type()),
        }
    }

    fn number(&mut self, interface: &str, name: &str) -> Result<usize, BusError> {
        match self.bus.property(&self.path, interface, name)? {
            Value::Number(number) => Ok(number as usize),
            _ => Err(wrong_type()),
        }
    }
}

const fn wrong_type() -> BusError {
    BusError::NotUnderstood {
        what: "a property of another type",
    }
}
