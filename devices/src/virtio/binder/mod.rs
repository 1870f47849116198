//! virtio-binder: what stands before a binder world.
//!
//! The device moves messages to the [`Domain`] and the answers back, strictly in the order in which they
//! were posted, and events with them. A message comes through a register and is answered within its write, with the
//! events that there are (`F_DIRECT`); or through the request queue, and then events take the event queue.
//! `guest/shim/PROTOCOL.md` is the specification, [`binder_wire`] its byte layout. The core judges everything else.
//!
//! With `F_INLINE` the queues, too, are served inside the doorbell write: when it returns, every message
//! posted before it is answered, and no interrupt was raised, because the shim looks at both rings
//! itself. [`Timing::Late`] is the same device as a slow and unsteady backend, for tests of the
//! shim: it answers when the host gets round to it, with interrupts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use binder::faults::Signal;
use binder::ids::{GuestId, Pfn, Pid, Tid};
use binder::limits::{Limits, LsmMode, Profile};
use binder::message::MAX_INSTALL_FILES;
use binder::replay::{Reads, Step};
use binder::trace::TraceEvent;
use binder::{Census, Domain};
use binder_wire as wire;
use serde::{Deserialize, Serialize};
use virtio_queue::QueueT;
use zerocopy::IntoBytes;

use self::late::Late;
use self::queues::Active;
use self::world::World;
use super::{ActivateError, ActiveQueues, DeviceError, VirtioDevice};
use super::{NotRestored, NotSaved, SavedDevice, SavedQueue};

mod direct;
mod late;
mod names;
mod queues;
#[cfg(test)]
mod replay_tests;
mod saved;
mod shared;
#[cfg(test)]
mod tests;
mod world;

pub use saved::SavedBinder;
pub use shared::SharedDomain;

/// Where a device gets guest time from, and where its trace goes.
pub trait Recorder: Send {
    /// Guest time now, for the stamps of what follows.
    fn now(&self) -> Duration;
    /// False: the core need not make trace events at all.
    fn enabled(&self) -> bool;
    /// Takes one event of `guest`.
    fn record(&mut self, at: Duration, guest: GuestId, event: &TraceEvent);
    /// What was told since the last time belongs together, and is all that one message caused: it may be written.
    fn commit(&mut self) {}
    /// Takes the name of a thread, which is new or has changed. 16 bytes, padded with NUL. Of one that
    /// opens a device also where nothing is [`enabled`](Self::enabled): a recording may begin later.
    fn name(&mut self, _guest: GuestId, _pid: Pid, _tid: Tid, _name: [u8; 16]) {}
    /// The domain has been put in the place of the one before: the guest goes on from a snapshot.
    fn goes_on(&mut self, _guest: GuestId, _domain: &Domain) {}
    /// The guest's kernel is to send a process a signal: a fault that was asked for.
    fn signal(&mut self, _guest: GuestId, _pid: Pid, _signal: Signal) {}
    /// True: [`step`](Self::step) and the three behind it want all that goes into the domain and comes out of it.
    fn replays(&self) -> bool {
        false
    }
    /// Takes one step, which was done for `guest`. One that is not a message, a turn or a reset has the time of the one
    /// before.
    fn step(&mut self, _at: Duration, _guest: GuestId, _step: &Step) {}
    /// Takes a [`Step::Message`], of which each call has some: so it is not made first.
    fn message(&mut self, _at: Duration, _guest: GuestId, _bytes: &[u8]) {}
    /// Takes a [`Step::Answer`].
    fn answer(&mut self, _at: Duration, _guest: GuestId, _reads: &Reads, _page: &[u8]) {}
    /// Takes a [`Step::Event`].
    fn sent_event(&mut self, _at: Duration, _guest: GuestId, _bytes: &[u8]) {}
    /// Whether some of what it was told is missing in the recording, which could go on if it were [told](Self::mend) the
    /// domain. Asked before each message.
    fn has_gap(&self) -> bool {
        false
    }
    /// Goes on behind what is missing: with the domain as it is now, and the RAM of its guests as [`Step::Ram`] has it.
    fn mend(&mut self, _at: Duration, _guest: GuestId, _domain: &Domain, _rams: &[(GuestId, Ram)]) {}
}

/// RAM of a guest: first page and number of pages of each piece.
pub type Ram = Vec<(Pfn, u64)>;

/// Asks for a call of [`VirtioDevice::service`] soon.
pub type Waker = Box<dyn Fn() + Send>;

/// When messages are answered.
pub enum Timing {
    /// Inside the doorbell write, without an interrupt.
    Inline,
    /// Some time later, some at a time, with interrupts.
    Late {
        /// Decides how late, and how many at a time.
        seed: u64,
        /// How the device gets its turn.
        waker: Waker,
    },
}

/// What is out of the ordinary about a device, for tests of the shim.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Queues of four entries: the shim waits for room, and events wait for buffers.
    pub tight: bool,
    /// The device fails for good, once, when it has answered so many messages.
    pub fails_after: Option<u64>,
}

/// What the device saw since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Doorbell writes.
    pub doorbells: u64,
    /// Messages answered.
    pub messages: u64,
    /// Messages that were not of the protocol; each is a bug of the guest's shim.
    pub malformed: u64,
    /// Events delivered.
    pub events: u64,
    /// Interrupts raised.
    pub interrupts: u64,
    /// Pages of mappings that the guest got back before their process ended: by TRIM, under memory pressure or by age.
    pub trimmed_pages: u64,
    /// Objects of the guest that still existed when it last reset the device: none, if all its
    /// processes had ended before.
    pub left: Census,
}

/// What handling messages took the host, as some of them show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Handling {
    /// Messages that were timed, one of 64.
    pub messages: u64,
    /// CPU time of the host's thread for these, from the queue to the answer's last byte, in nanoseconds.
    pub cpu_ns: u64,
}

/// The device.
pub struct BinderDevice {
    world: World,
    late: Option<(Late, Waker)>,
    /// Asks for the turns that faults want.
    turns: Option<Waker>,
    trouble: Trouble,
    active: Option<Active>,
}

impl BinderDevice {
    /// A device for `guest`, which is attached to `domain` here. `limits` are the domain's.
    pub fn new(
        domain: SharedDomain,
        guest: GuestId,
        limits: &Limits,
        timing: Timing,
        recorder: Box<dyn Recorder>,
    ) -> BinderDevice {
        let profile = {
            let mut shared = domain.lock_anyway();
            shared.domain.attach(guest);
            shared.domain.profile()
        };
        let config = config(limits, profile, 1);
        let late = match timing {
            Timing::Inline => None,
            Timing::Late { seed, waker } => Some((Late::new(seed), waker)),
        };
        let world = World::new(domain, guest, config, recorder);
        BinderDevice { world, late, turns: None, trouble: Trouble::default(), active: None }
    }

    /// The same device with a trouble of its own.
    pub fn with(self, trouble: Trouble) -> BinderDevice {
        BinderDevice { trouble, ..self }
    }

    /// The same device with somebody who gives it turns: without, what faults hold back is held until more is
    /// sent. A turn is a [`service`](VirtioDevice::service) at a moment of guest time: the end of a slice, or
    /// when the guest has nothing to do.
    pub fn with_turns(self, waker: Waker) -> BinderDevice {
        BinderDevice { turns: Some(waker), ..self }
    }

    fn ask_for_turn(&self) {
        if let (true, Some(waker)) = (self.world.wants_turns, &self.turns) {
            waker();
        }
    }

    /// The counters, to be read while the device is in use.
    pub fn counters(&self) -> Arc<Mutex<Counters>> {
        self.world.counters.clone()
    }

    /// What handling messages takes, to be read while the device is in use.
    pub fn handling(&self) -> Arc<Mutex<Handling>> {
        self.world.handling.clone()
    }
}

/// The configuration space of a device whose domain has `limits`.
fn config(limits: &Limits, profile: Profile, epoch: u32) -> wire::Config {
    let lsm: u32 = match limits.lsm {
        LsmMode::Off => 0,
        LsmMode::Cache => 1,
        LsmMode::Ask => 2,
    };
    wire::Config {
        version: wire::VERSION.into(),
        epoch: epoch.into(),
        lsm: lsm.into(),
        max_procs: limits.max_procs.into(),
        max_threads: limits.max_threads.into(),
        max_files: limits.max_files.min(MAX_INSTALL_FILES).into(),
        driver: driver_bits(profile).into(),
        post: 0.into(),
    }
}

impl VirtioDevice for BinderDevice {
    fn id(&self) -> u32 {
        wire::DEVICE_ID
    }

    fn features(&self) -> u64 {
        let inline = if self.late.is_none() { 1 << wire::F_INLINE } else { 0 };
        // What troubles queues has to go through them.
        let direct = if self.late.is_none() && !self.trouble.tight { 1 << wire::F_DIRECT } else { 0 };
        inline | direct | 1 << wire::F_BINDERFS | 1 << wire::F_ATTEMPT_ACQUIRE
    }

    fn queue_sizes(&self) -> &'static [u16] {
        if self.trouble.tight { &[4, 4] } else { &[wire::QUEUE_SIZE, wire::QUEUE_SIZE] }
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.world.config.as_bytes();
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = usize::try_from(at).ok().and_then(|at| config.get(at)).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let Some(active) = self.active.as_mut().filter(|active| active.direct) else { return Ok(()) };
        let Ok(page) = <[u8; 4]>::try_from(data) else { return Ok(()) };
        if offset == std::mem::offset_of!(wire::Config, post) as u64 {
            ring(&self.world, &mut self.trouble)?;
            if active.serve_direct(&mut self.world, u32::from_le_bytes(page))? {
                self.world.interrupt(&active.interrupt);
            }
            self.ask_for_turn();
        }
        Ok(())
    }

    fn activate(&mut self, guest: ActiveQueues) -> Result<(), ActivateError> {
        let mut queues = guest.queues.into_iter();
        let (Some(requests), Some(events)) = (queues.next(), queues.next()) else {
            return Err(ActivateError::QueueMissing(wire::REQUEST_QUEUE));
        };
        for (queue, index) in [(&requests, wire::REQUEST_QUEUE), (&events, wire::EVENT_QUEUE)] {
            if !queue.ready() {
                return Err(ActivateError::QueueMissing(index));
            }
        }
        if self.late.is_none() && guest.features & (1 << wire::F_INLINE) == 0 {
            // A driver that does not look at the rings after its kick would never see an answer.
            return Err(ActivateError::Features(guest.features));
        }
        self.world.enter(&guest.ram, guest.features & (1 << wire::F_ATTEMPT_ACQUIRE) != 0);
        let direct = guest.features & (1 << wire::F_DIRECT) != 0;
        self.active = Some(Active::new(guest.ram, requests, events, guest.interrupt, direct));
        Ok(())
    }

    fn notify(&mut self, _queue: u16) -> Result<(), DeviceError> {
        ring(&self.world, &mut self.trouble)?;
        match &mut self.late {
            Some((late, waker)) => {
                late.ring();
                waker();
            }
            None => {
                let Some(active) = &mut self.active else { return Ok(()) };
                // Not more than were in the ring when it rang: who posts later rings again.
                active.serve(&mut self.world, wire::QUEUE_SIZE.into())?;
                active.deliver(&mut self.world, usize::MAX)?;
            }
        }
        self.ask_for_turn();
        Ok(())
    }

    fn service(&mut self) -> Result<(), DeviceError> {
        let Some(active) = &mut self.active else { return Ok(()) };
        if self.world.turn()?
            && let Some((late, _)) = &mut self.late
        {
            late.ring();
        }
        let done = match &mut self.late {
            // Events that another guest of the domain caused.
            None => active.deliver(&mut self.world, usize::MAX)?,
            Some((late, waker)) => {
                let mut done = 0;
                if self.world.is_woken_by_others()? {
                    late.ring();
                }
                if let Some(turn) = late.turn() {
                    if turn.events_first {
                        done += active.deliver(&mut self.world, turn.events)?;
                    }
                    let served = active.serve(&mut self.world, turn.messages)?;
                    let delivered = active.deliver(&mut self.world, turn.events)?;
                    done += served + delivered;
                    if served < turn.messages && delivered < turn.events {
                        late.rest();
                    }
                }
                if late.has_work() {
                    waker();
                }
                done
            }
        };
        if done > 0 {
            self.world.interrupt(&active.interrupt);
        }
        self.ask_for_turn();
        Ok(())
    }

    fn saved_queues(&self) -> Option<Vec<SavedQueue>> {
        let active = self.active.as_ref()?;
        Some([&active.requests, &active.events].map(SavedQueue::of).to_vec())
    }

    fn save(&self) -> Result<SavedDevice, NotSaved> {
        self.to_saved().map(|saved| SavedDevice::Binder(Box::new(saved)))
    }

    fn restore(&mut self, saved: SavedDevice) -> Result<(), NotRestored> {
        match saved {
            SavedDevice::Binder(saved) => self.take_saved(*saved),
            _ => Err(NotRestored::new("it was saved as another device")),
        }
    }

    fn reset(&mut self) {
        let world = &mut self.world;
        if let (Some(_), Some(active)) = (&self.late, &mut self.active) {
            // Posted before the reset, so served before it, as inline; nobody waits for the answers.
            let _ = active.serve(world, wire::QUEUE_SIZE.into());
        }
        self.active = None;
        let left = world.domain.lock_anyway().reset(world.guest, world.recorder.as_mut(), world.replay_begun);
        world.count(|counters| counters.left = left);
        world.config.epoch = world.config.epoch.get().wrapping_add(1).into();
    }
}

/// Counts a doorbell of whichever kind. An error: it is the one that the device fails at.
fn ring(world: &World, trouble: &mut Trouble) -> Result<(), DeviceError> {
    world.count(|counters| counters.doorbells += 1);
    if trouble.fails_after.is_some_and(|most| world.messages() >= most) {
        trouble.fails_after = None;
        return Err(DeviceError::Host("it was to fail now".to_owned()));
    }
    Ok(())
}

/// What the driver of a profile has, as far as the guest's files tell of it.
fn driver_bits(profile: Profile) -> u32 {
    let freeze = if profile.freeze_notifications() { wire::driver::FREEZE_NOTIFICATION } else { 0 };
    let hashed = if profile.has_hashed_logs() { wire::driver::HASHED_LOGS } else { 0 };
    freeze | hashed
}
