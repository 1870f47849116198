//! A binder world that guests of a group share.

use std::cell::Cell;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use binder::faults::Signal;
use binder::replay::{Reads, Step};
use binder::trace::TraceEvent;
use binder::{Domain, GuestId, Limits, Pid, Profile, Tid};
use binder_trace::recording::{GuestName, Header, Writer};
use devices::virtio::binder::{Ram, Recorder, SharedDomain};
use engine::{GuestClock, Kind};

use super::binder::load_faults;
use super::record::{Recording, Tap};
use super::sink::Sink;
use super::verdict::trace_failure;
use crate::args::TraceTarget;
use crate::exit::{Code, Failure};

/// What is out of the ordinary about a domain.
#[derive(Clone, Debug, Default)]
pub struct DomainSpec {
    /// Where it is recorded.
    pub trace: Option<TraceTarget>,
    /// A file of faults.
    pub faults: Option<PathBuf>,
}

/// A world before and while its guests run. Clones are the same world.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    name: String,
    guests: Vec<GuestName>,
    spec: DomainSpec,
    /// Since when its recording counts.
    began: Instant,
    made: Mutex<Option<Made>>,
}

/// The world as its first guest made it.
#[derive(Clone)]
struct Made {
    domain: SharedDomain,
    limits: Limits,
    profile: Profile,
    recording: Option<Recording>,
}

/// A guest of a world.
#[derive(Clone)]
pub struct Membership {
    /// The world.
    pub world: World,
    /// Which guest.
    pub guest: GuestId,
}

impl World {
    /// A world of these guests.
    pub fn new(name: &str, guests: Vec<GuestName>, spec: DomainSpec) -> World {
        let made = Mutex::default();
        World(Arc::new(Inner { name: name.to_owned(), guests, spec, began: Instant::now(), made }))
    }

    /// Everybody in it.
    pub fn guests(&self) -> &[GuestName] {
        &self.0.guests
    }

    /// The domain, which the first guest that asks makes; its seed is that of the faults, and its `engine` decides
    /// whether the recording may drop. The others must ask for the same; `header` is how a recording begins.
    pub fn domain(
        &self,
        limits: &Limits,
        profile: Profile,
        header: Header,
        engine: Kind,
        seed: u64,
    ) -> Result<(SharedDomain, Option<Recording>), Failure> {
        let mut made = self.lock();
        if let Some(made) = &*made {
            if (made.limits.lsm, made.profile) != (limits.lsm, profile) {
                let message = format!(
                    "the guests of domain {} have one binder driver: give them the same binder-profile and lsm",
                    self.0.name
                );
                return Err(Failure::new(Code::Usage, message));
            }
            return Ok((made.domain.clone(), made.recording.clone()));
        }
        let mut limits = limits.clone();
        let recording = match &self.0.spec.trace {
            None => None,
            Some(target) => {
                limits.trace_payload = limits.trace_payload.max(target.payload);
                let header = Header {
                    payload: target.payload,
                    host_clock: target.host_times.then(super::record::host_clock),
                    replay: target.replay,
                    has_end: true,
                    ..header
                };
                let writer = Writer::create(&target.path, &header).map_err(trace_failure)?;
                let sink = Sink::new(writer, engine).map_err(trace_failure)?;
                // The guests' clocks have nothing to do with each other.
                let clock = GuestClock::host(self.0.began);
                Some(Recording::new(clock, Some(sink), Some(target), false, false))
            }
        };
        let mut domain = Domain::new(limits.clone(), profile);
        if let Some(path) = &self.0.spec.faults {
            domain.set_faults(Some(load_faults(path, seed)?));
        }
        let domain = SharedDomain::new(domain);
        *made = Some(Made { domain: domain.clone(), limits, profile, recording: recording.clone() });
        Ok((domain, recording))
    }

    /// Writes the rest of the recording, and says what it lacks.
    pub fn finish(&self) -> Result<(), Failure> {
        let Some(recording) = self.lock().as_ref().and_then(|made| made.recording.clone()) else {
            return Ok(());
        };
        recording.finish().map_err(trace_failure)?;
        if let Some(lost) = recording.lost() {
            eprintln!("bindervm: domain {}: {lost}", self.0.name);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<Made>> {
        // It is written once, in one step.
        self.0.made.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A guest's own recording, and that of its world, if there is one, which has a clock of its own.
pub struct Recorders {
    own: Tap,
    world: Option<Tap>,
    /// The world's time for what follows.
    at: Cell<Duration>,
}

impl Recorders {
    /// Records to both.
    pub fn new(own: &Recording, world: Option<&Recording>) -> Recorders {
        Recorders { own: own.tap(), world: world.map(Recording::tap), at: Cell::default() }
    }
}

impl Recorder for Recorders {
    fn now(&self) -> Duration {
        self.at.set(self.world.as_ref().map_or(Duration::ZERO, Recorder::now));
        self.own.now()
    }

    fn enabled(&self) -> bool {
        self.own.enabled() || self.world.as_ref().is_some_and(Recorder::enabled)
    }

    fn record(&mut self, at: Duration, guest: GuestId, event: &TraceEvent) {
        if self.own.enabled() {
            self.own.record(at, guest, event);
        }
        if let Some(world) = self.world.as_mut().filter(|world| world.enabled()) {
            world.record(self.at.get(), guest, event);
        }
    }

    fn commit(&mut self) {
        self.own.commit();
        if let Some(world) = &mut self.world {
            world.commit();
        }
    }

    fn name(&mut self, guest: GuestId, pid: Pid, tid: Tid, name: [u8; 16]) {
        self.own.name(guest, pid, tid, name);
        if let Some(world) = &mut self.world {
            world.name(guest, pid, tid, name);
        }
    }

    fn signal(&mut self, guest: GuestId, pid: Pid, signal: Signal) {
        self.own.signal(guest, pid, signal);
    }

    fn replays(&self) -> bool {
        self.world.as_ref().is_some_and(Recorder::replays)
    }

    fn step(&mut self, _at: Duration, guest: GuestId, step: &Step) {
        if let Some(world) = &mut self.world {
            world.step(self.at.get(), guest, step);
        }
    }

    fn message(&mut self, _at: Duration, guest: GuestId, bytes: &[u8]) {
        if let Some(world) = &mut self.world {
            world.message(self.at.get(), guest, bytes);
        }
    }

    fn answer(&mut self, _at: Duration, guest: GuestId, reads: &Reads, page: &[u8]) {
        if let Some(world) = &mut self.world {
            world.answer(self.at.get(), guest, reads, page);
        }
    }

    fn sent_event(&mut self, _at: Duration, guest: GuestId, bytes: &[u8]) {
        if let Some(world) = &mut self.world {
            world.sent_event(self.at.get(), guest, bytes);
        }
    }

    fn has_gap(&self) -> bool {
        self.own.has_gap() || self.world.as_ref().is_some_and(Recorder::has_gap)
    }

    fn mend(&mut self, at: Duration, guest: GuestId, domain: &Domain, rams: &[(GuestId, Ram)]) {
        if self.own.has_gap() {
            self.own.mend(at, guest, domain, rams);
        }
        if let Some(world) = self.world.as_mut().filter(|world| world.has_gap()) {
            world.mend(self.at.get(), guest, domain, rams);
        }
    }
}
