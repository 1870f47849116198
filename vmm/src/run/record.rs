//! Where the binder device's trace events go: a file, a tally for the summary, both, or nowhere.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, TryLockError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use binder::faults::Signal;
use binder::replay::{Reads, Step};
use binder::trace::TraceEvent;
use binder::{Domain, GuestId, Pid, Tid};
use binder_trace::recording::{Block, Ended, HostClock, Known, Lost, Record, RecordingError, ThreadName};
use binder_trace::tally::Tally;
use devices::virtio::binder::{Ram, Recorder};
use engine::GuestClock;
use rustix::time::{ClockId, clock_gettime};

use super::sink::Sink;
use crate::args::TraceTarget;
use crate::serve::follow::Followers;

/// How long events stay in our buffer at most, while the guest has no more of them: who follows the
/// file sees them then.
const FLUSH: Duration = Duration::from_millis(200);

/// How long the end of a run that failed waits for a slow disk.
const SAVE: Duration = Duration::from_secs(1);

/// Threads whose names are kept at most; of more, all are forgotten and learnt anew.
const MAX_NAMES: usize = 16384;

/// What is recorded of a run. Clones share it: the device fills it through a [`Tap`], the end of the run reads it.
#[derive(Clone)]
pub struct Recording {
    shared: Arc<Mutex<Shared>>,
    clock: GuestClock,
    file: FileHas,
    counts: bool,
    host_times: bool,
    followers: Followers,
    /// Who has signals sent in the guest, for faults.
    signals: Arc<OnceLock<Sender<(Pid, Signal)>>>,
}

struct Shared {
    sink: Option<Sink>,
    tally: Option<Tally>,
    /// What the file does not have.
    lost: Lost,
    /// What threads are called, for those who begin to follow later.
    names: BTreeMap<(GuestId, Tid), ThreadName>,
}

/// What the file of a recording has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileHas {
    /// There is none.
    Nothing,
    /// Trace events: of a guest that has a part in a domain, which nobody can replay alone.
    Events,
    /// What the core was given and what it answered: from these its readers make the events.
    Steps,
    /// Both, to be compared.
    Both,
}

impl FileHas {
    fn events(self) -> bool {
        matches!(self, FileHas::Events | FileHas::Both)
    }

    fn steps(self) -> bool {
        matches!(self, FileHas::Steps | FileHas::Both)
    }
}

/// Where one device's events and steps go in: a block a message, so that the lock is taken and a follower is told once a
/// message.
pub struct Tap {
    recording: Recording,
    /// What the file gets.
    block: Block,
    /// What followers get: events, whatever the file has.
    live: Block,
    /// Guest time of the last host time, to give what has one time one host time.
    last: Option<Duration>,
    /// The last block found no room.
    has_gap: bool,
}

impl Recording {
    /// Records to `sink` what `target` asks for, and counts if `count`. A `part`: what one guest of a domain does.
    pub fn new(
        clock: GuestClock,
        sink: Option<Sink>,
        target: Option<&TraceTarget>,
        count: bool,
        part: bool,
    ) -> Recording {
        let writes = sink.is_some();
        let is_to_be_flushed = sink.as_ref().is_some_and(|sink| !sink.drops());
        let file = match target {
            _ if !writes => FileHas::Nothing,
            _ if part => FileHas::Events,
            Some(TraceTarget { replay: true, .. }) => FileHas::Both,
            _ => FileHas::Steps,
        };
        let tally = count.then(Tally::default);
        let shared = Shared { sink, tally, lost: Lost::default(), names: BTreeMap::new() };
        let shared = Arc::new(Mutex::new(shared));
        if is_to_be_flushed {
            let watched = Arc::downgrade(&shared);
            // Without the thread the file is as complete, only later.
            let _ = thread::Builder::new().name("trace-flush".into()).spawn(move || flush(&watched));
        }
        Recording {
            shared,
            clock,
            file,
            counts: count,
            host_times: writes && target.is_some_and(|target| target.host_times),
            followers: Followers::of(control::wire::Stream::Trace),
            signals: Arc::default(),
        }
    }

    /// Has signals sent by what is at the other end of `sender`.
    pub fn signals_by(&self, sender: Sender<(Pid, Signal)>) {
        // Once for each run.
        let _ = self.signals.set(sender);
    }

    /// Clients that follow it, whether or not it goes to a file.
    pub fn followers(&self) -> &Followers {
        &self.followers
    }

    /// Writes what is buffered, and gives the counts.
    pub fn finish(&self) -> Result<Option<Tally>, RecordingError> {
        let mut shared = lock(&self.shared);
        shared.sink.as_mut().map_or(Ok(()), Sink::finish)?;
        Ok(shared.tally.clone())
    }

    /// Tells what the file does not have, if it lacks anything.
    pub fn lost(&self) -> Option<String> {
        let lost = lock(&self.shared).lost;
        let tell = || format!("{lost} are not in the trace: writing it was too slow for them");
        (lost != Lost::default()).then(tell)
    }

    /// Writes what is buffered, for a run that did not end. Does not wait long: it may sit in a write of the recording.
    pub fn save(&self) {
        let until = Instant::now() + SAVE;
        let mut shared = loop {
            match self.shared.try_lock() {
                Ok(shared) => break shared,
                Err(TryLockError::Poisoned(poisoned)) => break poisoned.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() > until => return,
                Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
            }
        };
        // The run failed already, and says so. Its recording has no end.
        if let Some(sink) = &mut shared.sink {
            sink.save(SAVE);
        }
    }

    /// What a recording that begins now is to know of a guest.
    pub fn known(&self, guest: GuestId, domain: &Domain) -> Vec<Record> {
        let names = lock(&self.shared).names.values().cloned().map(Record::Name).collect::<Vec<_>>();
        names.into_iter().chain(facts(guest, domain)).collect()
    }

    /// A way in, for one device.
    pub fn tap(&self) -> Tap {
        let recording = self.clone();
        Tap { recording, block: Block::default(), live: Block::default(), last: None, has_gap: false }
    }
}

impl Shared {
    /// Writes a block. False: it is left out.
    fn write(&mut self, block: &Ended<'_>) -> bool {
        let taken = self.sink.as_mut().is_none_or(|sink| sink.block(block));
        if !taken {
            self.lost.add(&block.holds);
        }
        taken
    }
}

impl Tap {
    /// What follows in the file happens now by the host's clock.
    fn stamp_host_time(&mut self, at: Duration) {
        if self.recording.host_times && self.last != Some(at) {
            self.last = Some(at);
            self.block.record(&Record::HostTime { boottime: host_clock().boottime });
        }
    }
}

impl Drop for Tap {
    /// Events that were fetched after the last message wait for the next one.
    fn drop(&mut self) {
        self.commit();
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The open files of a guest, its context managers, and what its nodes are registered as.
fn facts(guest: GuestId, domain: &Domain) -> impl Iterator<Item = Record> {
    let files = domain.open_files(guest).map(move |(proc, pid, context)| Known::File {
        guest,
        proc,
        pid,
        context: context.to_vec(),
    });
    let managers = domain.managers().map(move |node| Known::Manager { guest, node });
    let registered = domain.registrations(guest).cloned().map(Box::new);
    let registered = registered.map(move |record| Known::Registered { guest, record });
    files.chain(managers).chain(registered).map(Record::Known)
}

/// Keeps the file up to date, until the recording is gone.
fn flush(shared: &Weak<Mutex<Shared>>) {
    loop {
        thread::sleep(FLUSH);
        let Some(shared) = shared.upgrade() else { return };
        if let Some(sink) = &mut lock(&shared).sink {
            sink.flush();
        }
    }
}

/// The host's clocks now.
pub fn host_clock() -> HostClock {
    let now = |id| {
        let time = clock_gettime(id);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    HostClock {
        boottime: now(ClockId::Boottime),
        monotonic: now(ClockId::Monotonic),
        realtime: now(ClockId::Realtime),
    }
}

impl Recorder for Tap {
    fn now(&self) -> Duration {
        self.recording.clock.now()
    }

    fn enabled(&self) -> bool {
        self.recording.counts || self.recording.file.events() || self.recording.followers.any()
    }

    fn record(&mut self, at: Duration, guest: GuestId, event: &TraceEvent) {
        if self.recording.counts
            && let Some(tally) = &mut lock(&self.recording.shared).tally
        {
            tally.event(event);
        }
        if self.recording.file.events() {
            self.stamp_host_time(at);
            self.block.event(at, guest, event);
        }
        if self.recording.followers.any() {
            self.live.event(at, guest, event);
        }
        if self.block.is_full() || self.live.is_full() {
            self.commit();
        }
    }

    fn commit(&mut self) {
        let Recording { shared, followers, .. } = &self.recording;
        let has_gap = &mut self.has_gap;
        self.block.end(|block| *has_gap |= !lock(shared).write(&block));
        self.live.end(|mut block| followers.records(block.records, block.whole()));
    }

    fn name(&mut self, guest: GuestId, pid: Pid, tid: Tid, name: [u8; 16]) {
        let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        let name = ThreadName { guest, pid, tid, name: name[..length].to_vec() };
        let mut shared = lock(&self.recording.shared);
        if shared.names.len() >= MAX_NAMES {
            shared.names.clear();
        }
        shared.names.insert((guest, tid), name.clone());
        drop(shared);
        let name = Record::Name(name);
        if self.recording.file != FileHas::Nothing {
            self.block.record(&name);
        }
        if self.recording.followers.any() {
            self.live.record(&name);
        }
    }

    fn goes_on(&mut self, guest: GuestId, domain: &Domain) {
        if self.recording.file != FileHas::Nothing {
            facts(guest, domain).for_each(|record| self.block.record(&record));
        }
    }

    fn signal(&mut self, _guest: GuestId, pid: Pid, signal: Signal) {
        if let Some(sender) = self.recording.signals.get() {
            // The other end outlives the guest.
            let _ = sender.send((pid, signal));
        }
    }

    fn replays(&self) -> bool {
        self.recording.file.steps()
    }

    fn step(&mut self, at: Duration, guest: GuestId, step: &Step) {
        if matches!(step, Step::Message(_) | Step::Turn | Step::Reset) {
            self.stamp_host_time(at);
        }
        self.block.step(at, guest, step);
        if self.block.is_full() {
            self.commit();
        }
    }

    fn message(&mut self, at: Duration, guest: GuestId, bytes: &[u8]) {
        self.stamp_host_time(at);
        self.block.message(at, guest, bytes);
    }

    fn answer(&mut self, at: Duration, guest: GuestId, reads: &Reads, page: &[u8]) {
        self.block.answer(at, guest, reads, page);
    }

    fn sent_event(&mut self, at: Duration, guest: GuestId, bytes: &[u8]) {
        self.block.sent_event(at, guest, bytes);
        if self.block.is_full() {
            self.commit();
        }
    }

    fn has_gap(&self) -> bool {
        self.has_gap && lock(&self.recording.shared).sink.as_ref().is_some_and(Sink::can_mend)
    }

    fn mend(&mut self, at: Duration, guest: GuestId, domain: &Domain, rams: &[(GuestId, Ram)]) {
        // What was told last belongs to what is missing.
        self.commit();
        self.has_gap = false;
        // Held, so that nobody else's block comes first.
        let shared = &mut *lock(&self.recording.shared);
        let Some(lost) = shared.sink.as_ref().and_then(Sink::mend) else { return };
        // One block: all of it is taken, or nothing.
        let block = &mut self.block;
        lost.into_iter().for_each(|lost| block.record(&Record::Lost(lost)));
        shared.names.values().for_each(|name| block.record(&Record::Name(name.clone())));
        if self.recording.file.steps() {
            let guests = domain.guests();
            guests.flat_map(|guest| facts(guest, domain)).for_each(|record| block.record(&record));
            block.step(at, guest, &Step::Start(Box::new(domain.clone())));
            rams.iter().for_each(|(guest, ram)| block.step(at, *guest, &Step::Ram(ram.clone())));
        } else {
            facts(guest, domain).for_each(|record| block.record(&record));
        }
        block.end(|block| _ = shared.write(&block));
    }
}

#[cfg(test)]
mod tests;
