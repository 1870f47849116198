//! The way to the core: decoding, the domain's lock, and what the recording gets.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use binder::GuestPages;
use binder::errno::Errno;
use binder::ids::GuestId;
use binder::message::{Answer, Body, EventKind, Header, Ioctl};
use binder::replay::{Reads, RecordedPages, Step};
use binder::trace::{TraceEvent, TraceSink};
use guest_ram::GuestRam;

use super::super::{DeviceError, Interrupt};
use super::names::Names;
use super::shared::{Shared, SharedDomain, pieces};
use super::wire::decode::{self, Malformed};
use super::wire::{self, encode};
use super::{Counters, Handling, Recorder};

/// The way to the core, and what is noted on it.
pub(super) struct World {
    pub domain: SharedDomain,
    pub guest: GuestId,
    pub config: wire::Config,
    pub recorder: Box<dyn Recorder>,
    pub names: Names,
    /// The recording has the domain that it begins with.
    pub replay_begun: bool,
    /// Time of the last message, which the recording has for what follows from it.
    pub at: Duration,
    /// What the domain said last.
    pub wants_turns: bool,
    pub counters: Arc<Mutex<Counters>>,
    pub handling: Arc<Mutex<Handling>>,
    /// Messages until one is timed.
    pub until_sample: u32,
    /// The memory of the last ioctl, for the next one.
    spare: Ioctl,
    /// What the core said last, and the page that says so to the guest: both are filled again and again.
    reply: Answer,
    page: Vec<u8>,
    /// What the core read from guest pages for it, where that is recorded.
    reads: Reads,
}

/// One message of so many is timed: to read the clock of a thread is a system call.
const SAMPLE: u32 = 64;

/// What became of the page of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// The core answered it.
    Handled,
    /// The core's answer has no room in a page.
    Unanswerable,
    /// A message of an epoch that is over.
    Stale,
    Malformed,
}

impl Sent {
    /// Whether the core had it, and the recording too.
    fn reached_core(self) -> bool {
        matches!(self, Sent::Handled | Sent::Unanswerable)
    }
}

/// Passes the core's trace events on with one stamp: all that a message causes happens at one time.
pub(super) struct Stamped<'a> {
    pub recorder: &'a mut dyn Recorder,
    pub at: Duration,
    pub guest: GuestId,
}

impl TraceSink for Stamped<'_> {
    fn enabled(&self) -> bool {
        self.recorder.enabled()
    }

    fn event(&mut self, event: &TraceEvent) {
        self.recorder.record(self.at, self.guest, event);
    }
}

impl World {
    pub fn new(
        domain: SharedDomain,
        guest: GuestId,
        config: wire::Config,
        recorder: Box<dyn Recorder>,
    ) -> World {
        World {
            domain,
            guest,
            config,
            recorder,
            names: Names::default(),
            replay_begun: false,
            at: Duration::ZERO,
            wants_turns: false,
            counters: Arc::default(),
            handling: Arc::default(),
            until_sample: SAMPLE,
            spare: Ioctl::default(),
            reply: Answer::default(),
            page: Vec::new(),
            reads: Reads::default(),
        }
    }

    /// The driver is ready: its guest's RAM may be used. The recording, if it is for replay, gets that and
    /// the domain as it is now.
    pub fn enter(&mut self, ram: &Arc<GuestRam>, attempt_acquire: bool) {
        let mut shared = self.domain.lock_anyway();
        shared.enter(self.guest, ram.clone(), attempt_acquire);
        self.at = self.recorder.now();
        if !self.recorder.replays() {
            return;
        }
        if !self.replay_begun {
            self.recorder.step(self.at, self.guest, &Step::Start(Box::new(shared.domain.clone())));
            self.replay_begun = true;
        }
        self.recorder.step(self.at, self.guest, &Step::Features { attempt_acquire });
        self.recorder.step(self.at, self.guest, &Step::Ram(pieces(ram)));
        self.recorder.commit();
    }

    /// Gives the recording a step that is no message.
    pub fn step(&mut self, step: &Step) {
        self.recorder.step(self.at, self.guest, step);
        self.recorder.commit();
    }

    /// Handles a message and gives the bytes of its answer. `None`: the message cannot be read.
    pub fn answer(&mut self, message: Option<&[u8]>) -> Result<&[u8], DeviceError> {
        let domain = self.domain.clone();
        let mut shared = domain.lock()?;
        let sent = self.handle(&mut shared, message);
        self.record_answer(sent);
        self.leave(shared);
        self.count_answer(sent, 0);
        Ok(&self.page)
    }

    /// The same, with the events that there are behind the answer, and the other guests of the world woken. Tells also
    /// whether there are more events than the answer has room for.
    pub fn answer_with_events(&mut self, message: Option<&[u8]>) -> Result<(&[u8], bool), DeviceError> {
        let domain = self.domain.clone();
        let mut shared = domain.lock()?;
        let sent = self.handle(&mut shared, message);
        let mut events = 0;
        while encode::has_room_for_event(&self.page)
            && shared.domain.has_events(self.guest)
            && let Some(event) = self.take_event(&mut shared, false)
        {
            encode::append_event(&mut self.page, &event);
            events += 1;
            if !sent.reached_core() {
                // The recording has no answer that it would be a part of.
                self.record_event(&event);
            }
        }
        self.record_answer(sent);
        let left = shared.domain.has_events(self.guest);
        shared.wake_others(self.guest);
        self.leave(shared);
        self.count_answer(sent, events);
        Ok((&self.page, left))
    }

    /// Has a message handled, and its answer written to `page`.
    fn handle(&mut self, shared: &mut Shared, message: Option<&[u8]>) -> Sent {
        let sent = self.ask_core(shared, message.unwrap_or_default()).unwrap_or(Sent::Malformed);
        if !sent.reached_core() {
            self.reply.clear();
            self.reply.errno = if sent == Sent::Stale { Errno::EIO } else { Errno::EPROTO };
        }
        let fits = encode::answer(&mut self.reply, self.config.epoch.get(), &mut self.page);
        if fits { sent } else { Sent::Unanswerable }
    }

    /// Has the core fill in `reply`.
    fn ask_core(&mut self, shared: &mut Shared, page: &[u8]) -> Result<Sent, Malformed> {
        let header = decode::header(page)?;
        if header.epoch.get() != self.config.epoch.get() {
            return Ok(Sent::Stale);
        }
        let guest = self.guest;
        let Shared { domain, guests } = shared;
        let expects = |core: &Header| domain.expects(guest, core.proc, core.tid);
        let message = decode::message(&header, page, expects, &mut self.spare)?;
        self.at = self.recorder.now();
        if self.recorder.has_gap() {
            self.recorder.mend(self.at, guest, domain, &guests.all_ram());
        }
        if self.recorder.enabled()
            || self.replay_begun
            || domain.faults().is_some()
            || matches!(message.body, Body::Open(_))
        {
            self.names.note(self.recorder.as_mut(), domain, guest, &header, &message);
        }
        let mut sink = Stamped { at: self.at, guest, recorder: self.recorder.as_mut() };
        if self.replay_begun {
            sink.recorder.message(sink.at, guest, &page[..header.length.get() as usize]);
            self.reads.clear();
            let pages = RecordedPages::new(GuestPages(guests), std::mem::take(&mut self.reads));
            domain.answer(&pages, guest, &message, &mut sink, &mut self.reply);
            self.reads = pages.into_reads();
        } else {
            domain.answer(&GuestPages(guests), guest, &message, &mut sink, &mut self.reply);
        }
        if let Body::Ioctl(ioctl) = message.body {
            self.spare = ioctl;
        }
        Ok(Sent::Handled)
    }

    /// Gives the recording what is in `page`, if it is the answer to a message that it was given.
    fn record_answer(&mut self, sent: Sent) {
        if self.replay_begun && sent.reached_core() {
            self.recorder.answer(self.at, self.guest, &self.reads, &self.page);
        }
        self.recorder.commit();
    }

    /// Lets the domain go, and has the signals sent that it was asked for.
    fn leave(&mut self, mut shared: MutexGuard<'_, Shared>) {
        let signals = shared.domain.take_signals(self.guest);
        self.wants_turns = shared.domain.wants_turns();
        drop(shared);
        signals.into_iter().for_each(|(pid, signal)| self.recorder.signal(self.guest, pid, signal));
    }

    /// Gives the domain the turn that it wants, and has the signals sent that another guest's message caused. Tells
    /// whether there was one.
    pub fn turn(&mut self) -> Result<bool, DeviceError> {
        let guest = self.guest;
        let world = self.domain.clone();
        let mut shared = world.lock()?;
        let Shared { domain, guests } = &mut *shared;
        let wanted = domain.wants_turns();
        if wanted {
            let at = self.recorder.now();
            self.at = at;
            if self.replay_begun {
                self.recorder.step(at, guest, &Step::Turn);
            }
            domain.turn(guests, &mut Stamped { at, guest, recorder: self.recorder.as_mut() });
        }
        shared.wake_others(guest);
        self.recorder.commit();
        self.leave(shared);
        Ok(wanted)
    }

    /// Counts what was sent, and what went with its answer.
    fn count_answer(&self, sent: Sent, events: u64) {
        self.count(|counters| {
            match sent {
                Sent::Handled => counters.messages += 1,
                Sent::Unanswerable | Sent::Malformed => counters.malformed += 1,
                Sent::Stale => {}
            }
            counters.trimmed_pages += self.reply.slots.len() as u64;
            counters.events += events;
        });
    }

    /// Whether there may be events that another guest of the world caused, which no doorbell told of.
    pub fn is_woken_by_others(&self) -> Result<bool, DeviceError> {
        let shared = self.domain.lock()?;
        Ok(shared.guests.has_waker(self.guest) && shared.domain.has_events(self.guest))
    }

    pub fn has_events(&self) -> Result<bool, DeviceError> {
        Ok(self.domain.lock()?.domain.has_events(self.guest))
    }

    /// The next event, for a buffer of the event queue.
    pub fn next_event(&mut self, last_buffer: bool) -> Result<Option<wire::Event>, DeviceError> {
        let domain = self.domain.clone();
        let mut shared = domain.lock()?;
        let Some(event) = self.take_event(&mut shared, last_buffer) else { return Ok(None) };
        self.record_event(&event);
        // The recording of a world has what happened in it in this order.
        if shared.guests.has_waker(self.guest) {
            self.recorder.commit();
        }
        Ok(Some(event))
    }

    fn take_event(&self, shared: &mut Shared, last_buffer: bool) -> Option<wire::Event> {
        let event = shared.domain.next_event(self.guest)?;
        let encoded = encode::event(&event, self.config.epoch.get(), last_buffer);
        if let EventKind::Done { result, .. } = event.kind {
            shared.domain.reuse(result);
        }
        Some(encoded)
    }

    /// Gives the recording an event that is not a part of an answer.
    fn record_event(&mut self, event: &wire::Event) {
        if self.replay_begun {
            self.recorder.sent_event(self.at, self.guest, encode::used(event));
        }
    }

    pub fn interrupt(&self, interrupt: &Interrupt) {
        self.count(|counters| counters.interrupts += 1);
        interrupt.used_ring();
    }

    /// Whether the next message is one of those that are timed.
    pub fn is_to_be_timed(&mut self) -> bool {
        self.until_sample = self.until_sample.checked_sub(1).unwrap_or(SAMPLE - 1);
        self.until_sample == 0
    }

    pub fn handled(&self, took: Duration) {
        let mut handling = self.handling.lock().unwrap_or_else(PoisonError::into_inner);
        handling.messages += 1;
        handling.cpu_ns += took.as_nanos() as u64;
    }

    pub fn messages(&self) -> u64 {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).messages
    }

    pub fn count(&self, f: impl FnOnce(&mut Counters)) {
        // Plain numbers are valid whatever panicked while they were held.
        f(&mut self.counters.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
