//! virtio-binder: the queues before a binder world.
//!
//! The device moves messages from the request queue to the [`Domain`] and the answers back, strictly
//! in ring order, and copies events into the buffers of the event queue. `guest/shim/PROTOCOL.md`
//! is the specification, [`wire`] its byte layout. The core judges everything else.
//!
//! With `F_INLINE` all of this happens inside the doorbell write: when it returns, every message
//! posted before it is answered, and no interrupt was raised, because the shim looks at both rings
//! itself. [`Timing::Late`] is the same device as a slow and unsteady backend, for tests of the
//! shim: it answers when the host gets round to it, with interrupts.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use binder::errno::Errno;
use binder::faults::Signal;
use binder::ids::{GuestId, Pfn, Pid, Tid};
use binder::limits::{Limits, LsmMode, Profile};
use binder::message::{Answer, Body, Header, MAX_INSTALL_FILES, Message};
use binder::replay::{RecordedPages, Step};
use binder::trace::{TraceEvent, TraceSink};
use binder::{Census, Domain, GuestPages};
use guest_ram::GuestRam;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};
use zerocopy::IntoBytes;

use self::late::Late;
use self::names::Names;
use super::{ActivateError, ActiveQueues, DeviceError, Interrupt, VirtioDevice};
use super::{NotRestored, NotSaved, SavedDevice, SavedQueue};

mod decode;
mod encode;
mod late;
mod names;
mod saved;
mod shared;
#[cfg(test)]
mod tests;
pub mod wire;

pub use saved::SavedBinder;
pub use shared::SharedDomain;
use shared::{Guests, Shared};

/// Where a device gets guest time from, and where its trace goes.
pub trait Recorder: Send {
    /// Guest time now, for the stamps of what follows.
    fn now(&self) -> Duration;
    /// False: the core need not make trace events at all.
    fn enabled(&self) -> bool;
    /// Takes one event of `guest`.
    fn record(&mut self, at: Duration, guest: GuestId, event: TraceEvent);
    /// Takes the name of a thread, which is new or has changed. 16 bytes, padded with NUL. Of one that
    /// opens a device also where nothing is [`enabled`](Self::enabled): a recording may begin later.
    fn name(&mut self, _guest: GuestId, _pid: Pid, _tid: Tid, _name: [u8; 16]) {}
    /// The domain has been put in the place of the one before: the guest goes on from a snapshot.
    fn goes_on(&mut self, _guest: GuestId, _domain: &Domain) {}
    /// The guest's kernel is to send a process a signal: a fault that was asked for.
    fn signal(&mut self, _guest: GuestId, _pid: Pid, _signal: Signal) {}
    /// True: [`step`](Self::step) wants all that goes into the domain and comes out of it.
    fn replays(&self) -> bool {
        false
    }
    /// Takes one step.
    fn step(&mut self, _step: Step) {}
}

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

/// The way to the core, and what is noted on it.
struct World {
    domain: SharedDomain,
    guest: GuestId,
    config: wire::Config,
    recorder: Box<dyn Recorder>,
    names: Names,
    /// The recording has the domain that it begins with.
    replay_begun: bool,
    /// What the domain said last.
    wants_turns: bool,
    counters: Arc<Mutex<Counters>>,
    handling: Arc<Mutex<Handling>>,
    /// Messages until one is timed.
    until_sample: u32,
}

/// One message of so many is timed: to read the clock of a thread is a system call.
const SAMPLE: u32 = 64;

/// The queues, while the driver is ready.
struct Active {
    ram: Arc<GuestRam>,
    requests: Queue,
    events: Queue,
    interrupt: Interrupt,
}

/// Passes the core's trace events on with one stamp: all that a message causes happens at one time.
struct Stamped<'a> {
    recorder: &'a mut dyn Recorder,
    at: Duration,
    guest: GuestId,
}

impl TraceSink for Stamped<'_> {
    fn enabled(&self) -> bool {
        self.recorder.enabled()
    }

    fn event(&mut self, event: TraceEvent) {
        self.recorder.record(self.at, self.guest, event);
    }
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
        let world = World {
            domain,
            guest,
            config,
            recorder,
            names: Names::default(),
            replay_begun: false,
            wants_turns: false,
            counters: Arc::default(),
            handling: Arc::default(),
            until_sample: SAMPLE,
        };
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
    }
}

impl VirtioDevice for BinderDevice {
    fn id(&self) -> u32 {
        wire::DEVICE_ID
    }

    fn features(&self) -> u64 {
        let inline = if self.late.is_none() { 1 << wire::F_INLINE } else { 0 };
        inline | 1 << wire::F_BINDERFS | 1 << wire::F_ATTEMPT_ACQUIRE
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

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

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
        self.active = Some(Active { ram: guest.ram, requests, events, interrupt: guest.interrupt });
        Ok(())
    }

    fn notify(&mut self, _queue: u16) -> Result<(), DeviceError> {
        self.world.count(|counters| counters.doorbells += 1);
        if self.trouble.fails_after.is_some_and(|most| self.world.messages() >= most) {
            self.trouble.fails_after = None;
            return Err(DeviceError::Host("it was to fail now".to_owned()));
        }
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

impl Active {
    /// Answers up to `most` messages, in ring order (rule 2). Returns how many.
    fn serve(&mut self, world: &mut World, most: usize) -> Result<usize, DeviceError> {
        let ring = |source| DeviceError::Ring { queue: wire::REQUEST_QUEUE, source };
        let ram = &*self.ram;
        let mut served = 0;
        while served < most {
            let Some(mut chain) = self.requests.iter(ram).map_err(ring)?.next() else { break };
            let head = chain.head_index();
            let timed = world.is_to_be_timed().then(thread_cpu_time);
            let written = match (chain.next(), chain.next()) {
                (Some(out), Some(into)) if !out.is_write_only() && into.is_write_only() => {
                    let mut page = vec![0; (out.len() as usize).min(wire::PAGE)];
                    let bytes = match ram.read_slice(&mut page, out.addr()) {
                        Ok(()) => world.answer(&page)?,
                        Err(_) => world.protocol_error(),
                    };
                    // An in page that is too small or outside RAM: the guest's own loss.
                    let fits =
                        bytes.len() <= into.len() as usize && ram.write_slice(&bytes, into.addr()).is_ok();
                    if fits { bytes.len() as u32 } else { 0 }
                }
                _ => {
                    world.count(|counters| counters.malformed += 1);
                    0
                }
            };
            self.requests.add_used(ram, head, written).map_err(ring)?;
            if let Some(began) = timed {
                world.handled(thread_cpu_time().saturating_sub(began));
            }
            served += 1;
        }
        if served > 0 {
            world.domain.lock()?.wake_others(world.guest);
        }
        Ok(served)
    }

    /// Puts up to `most` events into buffers of the event queue. Returns how many. Events that find
    /// no buffer stay in the core (rule 32).
    fn deliver(&mut self, world: &mut World, most: usize) -> Result<usize, DeviceError> {
        let ring = |source| DeviceError::Ring { queue: wire::EVENT_QUEUE, source };
        let ram = &*self.ram;
        let mut delivered = 0;
        while delivered < most && world.has_events()? {
            let Some(mut chain) = self.events.iter(ram).map_err(ring)?.next() else { break };
            let head = chain.head_index();
            let usable = chain.next().filter(|d| d.is_write_only() && d.len() as usize >= wire::EVENT_SIZE);
            let Some(buffer) = usable else {
                let problem = "an event buffer is not 256 writable bytes";
                return Err(DeviceError::Driver { queue: wire::EVENT_QUEUE, problem });
            };
            // The last buffer says so, whether more is waiting or not: the next event may come before
            // the buffers are back, and only the kick after their reposting brings it (2.9).
            let last_buffer =
                self.events.avail_idx(ram, Ordering::Acquire).map_err(ring)?.0 == self.events.next_avail();
            let Some(event) = world.next_event(last_buffer)? else { break };
            let written = match ram.write_slice(event.as_bytes(), buffer.addr()) {
                Ok(()) => wire::EVENT_SIZE as u32,
                Err(_) => {
                    let problem = "an event buffer is not in RAM";
                    return Err(DeviceError::Driver { queue: wire::EVENT_QUEUE, problem });
                }
            };
            self.events.add_used(ram, head, written).map_err(ring)?;
            delivered += 1;
        }
        world.count(|counters| counters.events += delivered as u64);
        Ok(delivered)
    }
}

impl World {
    /// The driver is ready: its guest's RAM may be used. The recording, if it is for replay, gets that and
    /// the domain as it is now.
    fn enter(&mut self, ram: &Arc<GuestRam>, attempt_acquire: bool) {
        let mut shared = self.domain.lock_anyway();
        shared.enter(self.guest, ram.clone(), attempt_acquire);
        if !self.recorder.replays() {
            return;
        }
        if !self.replay_begun {
            self.recorder.step(Step::Start(Box::new(shared.domain.clone())));
            self.replay_begun = true;
        }
        self.recorder.step(Step::Features { guest: self.guest, attempt_acquire });
        let page = wire::PAGE as u64;
        let pieces = ram.iter().map(|piece| (Pfn(piece.start_addr().0 / page), piece.len() / page));
        self.recorder.step(Step::Ram { guest: self.guest, pieces: pieces.collect() });
    }

    /// Handles the message in `page` and gives the bytes of its answer.
    fn answer(&mut self, page: &[u8]) -> Result<Vec<u8>, DeviceError> {
        let epoch = self.config.epoch.get();
        let Ok(header) = decode::header(page) else { return Ok(self.protocol_error()) };
        if header.epoch.get() != epoch {
            let stale = Answer { errno: Errno::EIO, ..Answer::default() };
            return Ok(self.encode(&stale));
        }
        let guest = self.guest;
        let mut shared = self.domain.lock()?;
        let Shared { domain, guests } = &mut *shared;
        let expects = |core: &Header| domain.expects(guest, core.proc, core.tid);
        let Ok(message) = decode::message(&header, page, expects) else {
            drop(shared);
            return Ok(self.protocol_error());
        };
        if self.recorder.enabled() || domain.faults().is_some() || matches!(message.body, Body::Open(_)) {
            self.names.note(self.recorder.as_mut(), domain, guest, &header, &message);
        }
        let mut sink = Stamped { at: self.recorder.now(), guest, recorder: self.recorder.as_mut() };
        let answer = if self.replay_begun {
            handle_recorded(domain, guests, guest, message, &mut sink)
        } else {
            domain.handle(guests, guest, message, &mut sink)
        };
        let signals = domain.take_signals(guest);
        self.wants_turns = domain.wants_turns();
        drop(shared);
        signals.into_iter().for_each(|(pid, signal)| self.recorder.signal(guest, pid, signal));
        self.count(|counters| {
            counters.messages += 1;
            counters.trimmed_pages += answer.slots.len() as u64;
        });
        Ok(self.encode(&answer))
    }

    /// Gives the domain the turn that it wants, and has the signals sent that another guest's message caused. Tells
    /// whether there was one.
    fn turn(&mut self) -> Result<bool, DeviceError> {
        let guest = self.guest;
        let mut shared = self.domain.lock()?;
        let Shared { domain, guests } = &mut *shared;
        let wanted = domain.wants_turns();
        if wanted {
            if self.replay_begun {
                self.recorder.step(Step::Turn);
            }
            let at = self.recorder.now();
            domain.turn(guests, &mut Stamped { at, guest, recorder: self.recorder.as_mut() });
        }
        let signals = domain.take_signals(guest);
        self.wants_turns = domain.wants_turns();
        shared.wake_others(guest);
        drop(shared);
        signals.into_iter().for_each(|(pid, signal)| self.recorder.signal(guest, pid, signal));
        Ok(wanted)
    }

    fn encode(&self, answer: &Answer) -> Vec<u8> {
        encode::answer(answer, self.config.epoch.get()).unwrap_or_else(|| self.protocol_error())
    }

    /// The answer to what is no message: DONE with EPROTO.
    fn protocol_error(&self) -> Vec<u8> {
        self.count(|counters| counters.malformed += 1);
        let answer = Answer { errno: Errno::EPROTO, ..Answer::default() };
        encode::answer(&answer, self.config.epoch.get()).expect("an answer without lists fits a page")
    }

    /// Whether there may be events that another guest of the world caused, which no doorbell told of.
    fn is_woken_by_others(&self) -> Result<bool, DeviceError> {
        let shared = self.domain.lock()?;
        Ok(shared.guests.has_waker(self.guest) && shared.domain.has_events(self.guest))
    }

    fn has_events(&self) -> Result<bool, DeviceError> {
        Ok(self.domain.lock()?.domain.has_events(self.guest))
    }

    fn next_event(&mut self, last_buffer: bool) -> Result<Option<wire::Event>, DeviceError> {
        let mut shared = self.domain.lock()?;
        let event = shared.domain.next_event(self.guest);
        if self.replay_begun {
            self.recorder.step(Step::Event { guest: self.guest, event: event.clone() });
        }
        Ok(event.map(|event| encode::event(&event, self.config.epoch.get(), last_buffer)))
    }

    fn interrupt(&self, interrupt: &Interrupt) {
        self.count(|counters| counters.interrupts += 1);
        interrupt.used_ring();
    }

    /// Whether the next message is one of those that are timed.
    fn is_to_be_timed(&mut self) -> bool {
        self.until_sample = self.until_sample.checked_sub(1).unwrap_or(SAMPLE - 1);
        self.until_sample == 0
    }

    fn handled(&self, took: Duration) {
        let mut handling = self.handling.lock().unwrap_or_else(PoisonError::into_inner);
        handling.messages += 1;
        handling.cpu_ns += took.as_nanos() as u64;
    }

    fn messages(&self) -> u64 {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).messages
    }

    fn count(&self, f: impl FnOnce(&mut Counters)) {
        // Plain numbers are valid whatever panicked while they were held.
        f(&mut self.counters.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// CPU time of this thread.
fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What the driver of a profile has, as far as the guest's files tell of it.
fn driver_bits(profile: Profile) -> u32 {
    let freeze = if profile.freeze_notifications() { wire::driver::FREEZE_NOTIFICATION } else { 0 };
    let hashed = if profile.has_hashed_logs() { wire::driver::HASHED_LOGS } else { 0 };
    freeze | hashed
}

/// Handles a message, and gives the recording what went in, what was read and what came out.
fn handle_recorded(
    domain: &mut Domain,
    rams: &Guests,
    guest: GuestId,
    message: Message,
    sink: &mut Stamped<'_>,
) -> Answer {
    sink.recorder.step(Step::Message { guest, message: message.clone() });
    let pages = RecordedPages::new(GuestPages(rams));
    let answer = domain.handle_on(&pages, guest, message, sink);
    sink.recorder.step(Step::Answer { reads: pages.into_reads(), answer: answer.clone() });
    answer
}
