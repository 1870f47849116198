//! A binder device with its world as plain data, for snapshots (PROTOCOL.md 35).
//!
//! What waits in the request queue is in RAM, what waits for an event buffer is in the domain: between
//! two calls of the device there is nothing else.

use std::sync::PoisonError;

use binder::replay::Step;
use binder::{Domain, Limits};
use serde::{Deserialize, Serialize};

use super::late::Late;
use super::names::Names;
use super::{BinderDevice, Counters, config};
use crate::virtio::{NotRestored, NotSaved};

/// A binder device without its queues.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedBinder {
    epoch: u32,
    counters: Counters,
    /// The plan of a device that answers late.
    late: Option<Late>,
    domain: Domain,
    names: Names,
}

impl BinderDevice {
    pub(super) fn to_saved(&self) -> Result<SavedBinder, NotSaved> {
        let shared = self.world.domain.lock().map_err(|error| NotSaved(error.to_string()))?;
        if !shared.domain.guests().eq([self.world.guest]) {
            // A part of a world makes no sense without the other guests.
            return Err(NotSaved("a guest that shares its binder world cannot be saved".to_owned()));
        }
        Ok(SavedBinder {
            epoch: self.world.config.epoch.get(),
            counters: *self.world.counters.lock().unwrap_or_else(PoisonError::into_inner),
            late: self.late.as_ref().map(|(late, _)| late.clone()),
            domain: shared.domain.clone(),
            names: self.world.names.clone(),
        })
    }

    /// Takes the world and its limits over; `self` may have been made with others.
    pub(super) fn take_saved(&mut self, saved: SavedBinder) -> Result<(), NotRestored> {
        let SavedBinder { epoch, counters, late, mut domain, names } = saved;
        domain.check(&Limits::default()).map_err(|error| NotRestored(error.to_string()))?;
        if !domain.guests().eq([self.world.guest]) {
            return Err(NotRestored::new("its binder world is not of one guest"));
        }
        match (&mut self.late, late) {
            (None, None) => {}
            (Some((own, waker)), Some(late)) => {
                *own = late;
                // It may have been in the middle of its work.
                waker();
            }
            (own, _) => {
                let how = if own.is_some() { "late" } else { "inline" };
                return Err(NotRestored(format!("its binder device did not answer {how}")));
            }
        }
        self.world.config = config(domain.limits(), domain.profile(), epoch);
        *self.world.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters;
        // What is recorded, and which faults there are, is this run's choice, not the saved one's.
        let world = &mut self.world;
        world.domain.with(|own| {
            domain.trace_payloads(own.limits().trace_payload);
            domain.set_faults(own.take_faults());
        });
        world.wants_turns = domain.wants_turns();
        names.tell(world.recorder.as_mut(), &mut domain, world.guest);
        world.names = names;
        world.recorder.goes_on(world.guest, &domain);
        world.recorder.commit();
        if self.world.replay_begun {
            self.world.step(&Step::Start(Box::new(domain.clone())));
        }
        self.world.domain.lock_anyway().domain = domain;
        self.ask_for_turn();
        Ok(())
    }
}
