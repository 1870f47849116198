//! A binder world and the guests in it, behind one lock.
//!
//! A device handles its guest's messages on that guest's vCPU thread. With several guests in a world
//! these threads take turns: whoever holds the lock may read and write the pages of all of them, since
//! the core copies a payload straight from one guest's pages to another's. What a message causes in
//! another guest is an event there; that guest's [`Waker`] is called, and its own device delivers it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use binder::ids::{GuestId, Pfn};
use binder::replay::Step;
use binder::{Census, Domain, GuestRams};
use guest_ram::GuestRam;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::world::Stamped;
use super::{Ram, Recorder, Waker, wire};
use crate::virtio::DeviceError;

/// A binder world that devices of one or more guests share. Clones are the same world.
#[derive(Clone)]
pub struct SharedDomain(Arc<Mutex<Shared>>);

/// The world, while it is locked.
pub(super) struct Shared {
    pub(super) domain: Domain,
    pub(super) guests: Guests,
}

/// What a world knows of its guests' machines.
#[derive(Default)]
pub(super) struct Guests {
    /// RAM of the guests whose drivers are ready.
    rams: BTreeMap<GuestId, Arc<GuestRam>>,
    /// How guests that share the world get their devices served.
    wakers: BTreeMap<GuestId, Waker>,
}

impl Guests {
    /// Whether the guest shares the world.
    pub(super) fn has_waker(&self, guest: GuestId) -> bool {
        self.wakers.contains_key(&guest)
    }

    /// The RAM of all guests, as a recording has it.
    pub(super) fn all_ram(&self) -> Vec<(GuestId, Ram)> {
        self.rams.iter().map(|(guest, ram)| (*guest, pieces(ram))).collect()
    }
}

/// The pieces of a guest's RAM, as a recording has them.
pub(super) fn pieces(ram: &GuestRam) -> Ram {
    let page = wire::PAGE as u64;
    ram.iter().map(|piece| (Pfn(piece.start_addr().0 / page), piece.len() / page)).collect()
}

impl GuestRams for Guests {
    type Ram = GuestRam;

    fn ram(&self, guest: GuestId) -> Option<&GuestRam> {
        self.rams.get(&guest).map(|ram| &**ram)
    }
}

impl SharedDomain {
    /// Puts devices in front of `domain`.
    pub fn new(domain: Domain) -> SharedDomain {
        SharedDomain(Arc::new(Mutex::new(Shared { domain, guests: Guests::default() })))
    }

    /// Lets a guest take part that shares the world with others: `waker` is called when one of them
    /// caused something in it. All guests of a world are to join before one of them runs.
    pub fn join(&self, guest: GuestId, waker: Waker) {
        let mut shared = self.lock_anyway();
        shared.domain.attach(guest);
        shared.guests.wakers.insert(guest, waker);
    }

    /// Takes a guest out whose machine is gone: its processes die, as far as the other guests can
    /// tell, and its RAM is let go. Gives what it had left.
    pub fn leave(&self, guest: GuestId, recorder: &mut dyn Recorder) -> Census {
        let mut shared = self.lock_anyway();
        shared.guests.wakers.remove(&guest);
        let replays = recorder.replays();
        shared.reset(guest, recorder, replays)
    }

    /// Lets go of the RAM of a guest whose machine is gone, where nobody else is left to hear of it: what still looks at
    /// the world does not keep it.
    pub fn let_go(&self, guest: GuestId) {
        self.lock_anyway().guests.rams.remove(&guest);
    }

    /// Looks at the world, or sets it up, while nothing happens in it.
    pub fn with<T>(&self, f: impl FnOnce(&mut Domain) -> T) -> T {
        f(&mut self.lock_anyway().domain)
    }

    /// Counts a guest's objects.
    pub fn census(&self, guest: GuestId) -> Census {
        self.lock_anyway().domain.census(guest)
    }

    /// A domain whose lock is poisoned had a fault of ours in it: its devices are out of order with it.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, Shared>, DeviceError> {
        self.0.lock().map_err(|_| DeviceError::Panicked("the binder core failed before".to_owned()))
    }

    /// For what must be done, or may be looked at, even then.
    pub(super) fn lock_anyway(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// The guest's driver is ready, and accepts attempt-acquire or not.
    pub(super) fn enter(&mut self, guest: GuestId, ram: Arc<GuestRam>, attempt_acquire: bool) {
        self.guests.rams.insert(guest, ram);
        self.domain.accept_attempts(guest, attempt_acquire);
    }

    /// The guest's driver is gone; from here on nobody touches its pages. Gives what it had left.
    pub(super) fn reset(&mut self, guest: GuestId, recorder: &mut dyn Recorder, replays: bool) -> Census {
        let left = self.domain.census(guest);
        self.guests.rams.remove(&guest);
        let at = recorder.now();
        if replays {
            recorder.step(at, guest, &Step::Reset);
        }
        self.domain.reset(guest, &mut Stamped { at, guest, recorder });
        recorder.commit();
        self.wake_others(guest);
        left
    }

    /// Calls the guests beside `guest` that have events waiting, or are to send signals.
    pub(super) fn wake_others(&self, guest: GuestId) {
        let others = self.guests.wakers.iter().filter(|(other, _)| **other != guest);
        let due = |other: GuestId| self.domain.has_events(other) || self.domain.has_signals(other);
        others.filter(|(other, _)| due(**other)).for_each(|(_, waker)| waker());
    }
}
