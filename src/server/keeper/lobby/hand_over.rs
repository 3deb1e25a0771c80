//! How a keeper makes way for another: it hands everything over and ends, without touching the worker.
//!
//! In two steps, so that there is one keeper at any moment. What the asker gets first gives it no power over the worker;
//! the worker comes last, in one packet, and with it all is done. Whoever dies in between leaves the other one keeper, and
//! when both die the worker raises a third.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::{info, warn};

use super::{
    super::{
        Keeper,
        estate::Inventory,
        listener::{Protocol, addresses},
        parcel,
        process::Process,
    },
    Door, Lobby,
    guests::Guest,
    words::{Ask, Refusal, Tell, Who},
};
use crate::fault;

/// How long an asker may take to understand everything and to bind what is missing. What the worker says meanwhile
/// waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it may take to make room for the next packet.
const ROOM: Duration = Duration::from_millis(500);

impl Keeper {
    /// Answers whoever asks. `true`: one of them is the keeper now.
    pub(in super::super) fn attend_lobby(&mut self, now: Instant) -> bool {
        let calls = self.lobby.as_mut().map(|lobby| lobby.calls(now)).unwrap_or_default();
        for (guest, ask) in calls {
            let answered = match ask {
                Ask::Who => guest.tell(&Tell::Here(self.who(now))),
                Ask::GiveUp { parcel } => match self.refusal(parcel) {
                    Some(refusal) => guest.tell(&Tell::Refused(refusal)),
                    None if self.hand_over(&guest) => return true,
                    None => continue,
                },
                Ask::Worker => self.introduce(&guest),
                // Out of turn.
                Ask::Ready => continue,
            };
            if let (Ok(()), Some(lobby)) = (answered, &mut self.lobby) {
                lobby.bring_back(guest, now);
            }
        }
        false
    }

    /// Others find this keeper where they found the one before, unless there is another door by now.
    pub(in super::super) fn inherit_door(&mut self, door: Option<Door>, now: Instant) {
        match (&self.lobby, door) {
            (None, Some(door)) => self.lobby = Some(Lobby::new(door, now)),
            (Some(lobby), Some(old)) if lobby.door().file() != old.file() => old.remove(),
            _ => {}
        }
    }

    fn who(&self, now: Instant) -> Who {
        let age = self
            .lobby
            .as_ref()
            .map(|lobby| now.saturating_duration_since(lobby.since));
        Who {
            keeper: std::process::id(),
            worker: self.worker_pid(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            addresses: addresses(&self.listeners, Protocol::Udp),
            tls_addresses: addresses(&self.listeners, Protocol::Tcp),
            client_address: self.terms.shown.clone(),
            age: age.unwrap_or_default(),
            managed: self.terms.manager.is_some(),
            store_shortage: self.store_shortage(),
            network: super::door::network(),
        }
    }

    fn refusal(&self, parcel: u32) -> Option<Refusal> {
        match () {
            () if parcel != parcel::VERSION => Some(Refusal::Version {
                theirs: parcel::VERSION,
            }),
            () if self.ending.is_some() => Some(Refusal::Ending),
            () if self.terms.manager.is_some() => Some(Refusal::Managed),
            () => None,
        }
    }

    /// Whether the guest is the keeper now.
    fn hand_over(&self, guest: &Guest) -> bool {
        let begun = guest.tell(&Tell::Granted);
        fault::pass("granted");
        let begun = begun.and_then(|()| self.inventory().send(&guest.connection, ROOM));
        if let Err(error) = begun {
            warn!(pid = guest.pid, %error, "cannot hand over, going on");
            return false;
        }
        if !self.wait_until_ready(guest) {
            warn!(pid = guest.pid, "somebody asked to take over and did not, going on");
            return false;
        }
        let mut last = Inventory::new(&self.terms);
        self.worker.list(&mut last);
        match last.send(&guest.connection, Duration::ZERO) {
            Ok(()) => {
                fault::pass("handed-over");
                info!(by = guest.pid, "another keeper has taken over, ending");
                true
            }
            Err(error) => {
                warn!(pid = guest.pid, %error, "cannot hand over the worker, going on");
                false
            }
        }
    }

    /// Nothing may happen meanwhile that the other would not know of: a signal or the worker's end are reasons to go on.
    fn wait_until_ready(&self, guest: &Guest) -> bool {
        let worker = self.worker.process().map(Process::as_fd);
        let companion = self
            .companion
            .as_ref()
            .and_then(super::super::Companion::process)
            .map(AsFd::as_fd);
        let sources = [
            Some(guest.connection.as_fd()),
            Some(self.signals.as_fd()),
            worker,
            companion,
        ];
        let mut fds: Vec<_> = sources
            .into_iter()
            .flatten()
            .map(|source| PollFd::from_borrowed_fd(source, PollFlags::IN))
            .collect();
        let patience = Timespec {
            tv_sec: PATIENCE.as_secs() as _,
            tv_nsec: PATIENCE.subsec_nanos() as _,
        };
        poll(&mut fds, Some(&patience)).is_ok() && matches!(guest.hear(), Ok(Some(Ask::Ready)))
    }
}
