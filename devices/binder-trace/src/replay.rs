//! A recording given to a fresh domain, which must answer as the recorded one did.
//!
//! A recording holds the domain that it begins with, every message, what the core read from
//! guest pages, every answer, and every event that was handed out ([`Step`]), messages and answers as the bytes that
//! crossed. A [`Replay`] takes the records one by one, gives the inputs to its own domain, and compares: answers, events
//! for sleeping threads, and every trace event where they were recorded, too. The first difference is a [`Divergence`].
//! Where trace events were not recorded, those that the replay makes are what happened ([`Replay::made`]).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use binder::message::Ioctl;
use binder::replay::{Reads, Step};
use binder::trace::TraceEvent;
use binder::{Domain, GuestId, Limits, NotRam, PageByte, Pages, Pfn};
use binder_wire::decode::{self, Malformed};
use binder_wire::{PAGE, encode, event, kind, tell};

use crate::Stamped;
use crate::event::describe;
use crate::recording::{Header, Lost, Record};

/// What a replay needs is not there, or the domain did something else.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It has events alone.
    #[error(
        "the recording has no steps to replay: of guests that share a domain only the domain's own `trace` has them"
    )]
    NoSteps,
    /// The steps make no sense, or the domain at its start does not.
    #[error("the recording cannot be replayed: {0}")]
    Invalid(String),
    /// It did something else.
    #[error(transparent)]
    Divergence(Box<Divergence>),
}

/// The first difference between a recording and its replay.
#[derive(Debug, thiserror::Error)]
pub struct Divergence {
    /// Events of the recording before it.
    pub events: u64,
    /// Messages before the one that was answered otherwise.
    pub messages: u64,
    /// What is different.
    pub what: &'static str,
    /// As recorded.
    pub recorded: String,
    /// As replayed.
    pub replayed: String,
}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Divergence { events, messages, what, recorded, replayed } = self;
        write!(
            f,
            "the replay differs after {events} events and {messages} messages: {what}\n  recorded: {recorded}\n  replayed: \
             {replayed}"
        )
    }
}

/// What was compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// Messages whose answers were the same.
    pub messages: u64,
    /// Trace events that were the same.
    pub events: u64,
    /// Events for sleeping threads that were the same.
    pub completions: u64,
    /// What the recording does not have, so that nobody knows.
    pub lost: Lost,
}

/// A replay under way.
#[derive(Default)]
pub struct Replay {
    domain: Option<Domain>,
    /// It had one, until something is missing.
    has_begun: bool,
    ram: BTreeMap<GuestId, Vec<(Pfn, u64)>>,
    /// The bytes of a message whose answer was not read yet.
    message: Option<Vec<u8>>,
    /// The recording has the events beside the steps.
    has_events: bool,
    /// Events of that message as they were recorded.
    recorded: Vec<TraceEvent>,
    /// Events of a reset or a turn that the recording has yet to tell.
    expected: VecDeque<TraceEvent>,
    /// Events that the recording does not have.
    made: Vec<Stamped>,
    events: u64,
    compared: Compared,
}

impl Replay {
    /// For the records of a recording that begins with `header`.
    pub fn of(header: &Header) -> Replay {
        Replay { has_events: header.replay, ..Replay::default() }
    }

    /// The events that followed from the last step, where the recording does not have them: each is told once.
    pub fn made(&mut self) -> impl Iterator<Item = Stamped> {
        self.made.drain(..)
    }

    /// Takes the next record. Events that a step made are there also where it turns out to be a divergence.
    pub fn record(&mut self, record: &Record) -> Result<(), ReplayError> {
        match record {
            Record::Event(event) => {
                self.events += 1;
                if self.message.is_some() {
                    self.recorded.push(event.event.clone());
                } else if let Some(replayed) = self.expected.pop_front() {
                    self.same_event(&event.event, &replayed)?;
                } else if self.domain.is_some() {
                    return Err(self.differs(
                        "an event that the replay does not have",
                        told(&event.event),
                        none(),
                    ));
                }
                Ok(())
            }
            Record::Step { at, guest, step } => {
                self.made.clear();
                self.step(*at, *guest, step)
            }
            // Rules of faults name processes.
            Record::Name(name) => {
                if let Some(domain) = &mut self.domain {
                    let is_main = name.pid.0 == name.tid.0;
                    let text = String::from_utf8_lossy(&name.name);
                    domain.process_named(name.guest, name.pid, is_main, &text);
                }
                Ok(())
            }
            Record::Lost(lost) => {
                self.lose(lost);
                Ok(())
            }
            Record::HostTime { .. } | Record::Known(_) | Record::End => Ok(()),
        }
    }

    /// What is known ends here: it begins anew where the recording goes on.
    fn lose(&mut self, lost: &Lost) {
        self.compared.lost.add(lost);
        (self.domain, self.message) = (None, None);
        self.ram.clear();
        self.recorded.clear();
        self.expected.clear();
        self.made.clear();
    }

    /// The domain as it is now: after the last message that was answered. `None` also where something is missing.
    pub fn domain(&self) -> Option<&Domain> {
        self.domain.as_ref()
    }

    /// Whether the last event belongs to a message that is not answered yet: the domain is as before it.
    pub fn is_inside_message(&self) -> bool {
        self.message.is_some()
    }

    /// Events so far.
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The recording is over.
    pub fn finish(self) -> Result<Compared, ReplayError> {
        if self.has_begun { Ok(self.compared) } else { Err(ReplayError::NoSteps) }
    }

    fn step(&mut self, at: Duration, guest: GuestId, step: &Step) -> Result<(), ReplayError> {
        if let Some(event) = self.expected.pop_front() {
            return Err(self.differs("an event that the recording does not have", none(), told(&event)));
        }
        match step {
            Step::Start(domain) => {
                domain.check(&Limits::default()).map_err(|error| invalid(error.to_string()))?;
                self.domain = Some((**domain).clone());
                self.has_begun = true;
            }
            Step::Ram(pieces) => {
                self.ram.insert(guest, pieces.clone());
            }
            Step::Features { attempt_acquire } => {
                let domain = self.domain.as_mut().ok_or_else(no_start)?;
                domain.accept_attempts(guest, *attempt_acquire);
            }
            Step::Message(message) => {
                is_page(message)?;
                self.message = Some(message.clone());
                self.recorded.clear();
            }
            Step::Answer { reads, page } => self.answer(at, guest, reads, page)?,
            Step::Event(bytes) => self.event(guest, bytes)?,
            Step::Turn => {
                let domain = self.domain.as_mut().ok_or_else(no_start)?;
                // What sleepers are given was copied before.
                let reads = Reads::default();
                let pages = ReplayedPages::new(&self.ram, &reads);
                let mut events: Vec<TraceEvent> = Vec::new();
                domain.turn_on(&pages, &mut events);
                // The device has them sent.
                domain.take_signals(guest);
                self.follow(at, guest, events);
            }
            Step::Reset => {
                let domain = self.domain.as_mut().ok_or_else(no_start)?;
                let mut events: Vec<TraceEvent> = Vec::new();
                domain.reset(guest, &mut events);
                self.follow(at, guest, events);
            }
        }
        Ok(())
    }

    /// Events that no message caused.
    fn follow(&mut self, at: Duration, guest: GuestId, events: Vec<TraceEvent>) {
        match self.has_events {
            true => self.expected = events.into(),
            false => self.make(at, guest, events),
        }
    }

    fn make(&mut self, at: Duration, guest: GuestId, events: Vec<TraceEvent>) {
        self.events += events.len() as u64;
        self.made.extend(events.into_iter().map(|event| Stamped { at, guest, event }));
    }

    /// An event that went to the guest by itself.
    fn event(&mut self, guest: GuestId, recorded: &[u8]) -> Result<(), ReplayError> {
        let domain = self.domain.as_mut().ok_or_else(no_start)?;
        let head = tell::event(recorded).ok_or_else(|| invalid("an event is cut off".to_owned()))?;
        // Which buffer was the last one is nothing that the domain knows.
        let last_buffer = head.flags.get() & event::MORE_EVENTS != 0;
        let replayed =
            domain.next_event(guest).map(|event| encode::event(&event, head.epoch.get(), last_buffer));
        let replayed = replayed.as_ref().map(encode::used).unwrap_or_default();
        if replayed != recorded {
            let [recorded, replayed] = tell::events(recorded, replayed);
            return Err(self.differs("an event for a thread", recorded, replayed));
        }
        self.compared.completions += 1;
        Ok(())
    }

    fn answer(
        &mut self,
        at: Duration,
        guest: GuestId,
        reads: &Reads,
        recorded: &[u8],
    ) -> Result<(), ReplayError> {
        is_page(recorded)?;
        let bytes =
            self.message.take().ok_or_else(|| invalid("an answer comes before its message".to_owned()))?;
        let domain = self.domain.as_mut().ok_or_else(no_start)?;
        let no_message = |error: Malformed| invalid(format!("a message cannot be read: {error}"));
        let header = decode::header(&bytes).map_err(no_message)?;
        let expects = |core: &binder::message::Header| domain.expects(guest, core.proc, core.tid);
        let message = match decode::message(&header, &bytes, expects, &mut Ioctl::default()) {
            Ok(message) => message,
            // Its lists are read as what was asked for.
            Err(error) if header.kind.get() == kind::CONTINUE => {
                let recorded = format!("a CONTINUE of thread {}", header.tid);
                return Err(self.differs(
                    "a message",
                    recorded,
                    format!("something else was asked for: {error}"),
                ));
            }
            Err(error) => return Err(no_message(error)),
        };
        let pages = ReplayedPages::new(&self.ram, reads);
        let mut events: Vec<TraceEvent> = Vec::new();
        let mut answer = domain.handle_on(&pages, guest, &message, &mut events);
        let (read, wrong) = (pages.next.get(), pages.wrong.into_inner());
        domain.take_signals(guest);
        let epoch = header.epoch.get();
        let mut page = Vec::new();
        encode::answer(&mut answer, epoch, &mut page);
        let completions = encode::events_in(recorded);
        for _ in 0..completions {
            let Some(event) = domain.next_event(guest) else { break };
            encode::append_event(&mut page, &encode::event(&event, epoch, false));
        }
        match self.has_events {
            true => self.same_events(&events)?,
            false => self.make(at, guest, events),
        }
        if page != recorded {
            let [recorded, replayed] = tell::answers(recorded, &page);
            return Err(self.differs("an answer", recorded, replayed));
        }
        if wrong.is_some() || read != reads.count() {
            let recorded = format!("{} reads of guest pages", reads.count());
            let replayed = wrong.unwrap_or_else(|| format!("{read} reads"));
            return Err(self.differs("what was read from guest pages", recorded, replayed));
        }
        self.compared.messages += 1;
        self.compared.completions += completions as u64;
        Ok(())
    }

    /// Compares the events of a message.
    fn same_events(&mut self, events: &[TraceEvent]) -> Result<(), ReplayError> {
        let recorded = std::mem::take(&mut self.recorded);
        for (recorded, replayed) in recorded.iter().zip(events) {
            self.same_event(recorded, replayed)?;
        }
        if let Some(event) = recorded.get(events.len()) {
            return Err(self.differs("an event that the replay does not have", told(event), none()));
        }
        match events.get(recorded.len()) {
            Some(event) => {
                Err(self.differs("an event that the recording does not have", none(), told(event)))
            }
            None => Ok(()),
        }
    }

    fn same_event(&mut self, recorded: &TraceEvent, replayed: &TraceEvent) -> Result<(), ReplayError> {
        if recorded != replayed {
            return Err(self.differs("an event", told(recorded), told(replayed)));
        }
        self.compared.events += 1;
        Ok(())
    }

    fn differs(&self, what: &'static str, recorded: String, replayed: String) -> ReplayError {
        let Compared { messages, events, .. } = self.compared;
        ReplayError::Divergence(Box::new(Divergence { events, messages, what, recorded, replayed }))
    }
}

fn invalid(problem: String) -> ReplayError {
    ReplayError::Invalid(problem)
}

/// No message and no answer is longer than a page. What its offsets name may be many times as much, so a longer one would
/// cost far more than its bytes.
fn is_page(bytes: &[u8]) -> Result<(), ReplayError> {
    let problem = || invalid(format!("a message or an answer has {} bytes", bytes.len()));
    if bytes.len() <= PAGE { Ok(()) } else { Err(problem()) }
}

fn no_start() -> ReplayError {
    invalid("a step comes before the domain that it is about".to_owned())
}

fn none() -> String {
    "nothing".to_owned()
}

/// An event in a line.
fn told(event: &TraceEvent) -> String {
    let described = describe(event);
    let cmd = described.cmd.as_deref().unwrap_or_default();
    format!("{} {cmd} {:?}", described.event, event)
}

/// Guest pages as the recorded run read them.
struct ReplayedPages<'a> {
    ram: &'a BTreeMap<GuestId, Vec<(Pfn, u64)>>,
    reads: &'a Reads,
    next: Cell<usize>,
    wrong: RefCell<Option<String>>,
}

impl<'a> ReplayedPages<'a> {
    fn new(ram: &'a BTreeMap<GuestId, Vec<(Pfn, u64)>>, reads: &'a Reads) -> Self {
        ReplayedPages { ram, reads, next: Cell::new(0), wrong: RefCell::default() }
    }

    fn covers(&self, at: PageByte, length: u64) -> Result<(), NotRam> {
        let fits = at.offset.checked_add(length).is_some_and(|end| end <= 4096);
        if fits && self.is_ram(at.guest, at.pfn) { Ok(()) } else { Err(NotRam) }
    }
}

impl Pages for ReplayedPages<'_> {
    fn is_ram(&self, guest: GuestId, pfn: Pfn) -> bool {
        let pieces = self.ram.get(&guest).map(Vec::as_slice).unwrap_or_default();
        pieces.iter().any(|(first, count)| pfn.0.checked_sub(first.0).is_some_and(|index| index < *count))
    }

    fn read(&self, at: PageByte, to: &mut [u8]) -> Result<(), NotRam> {
        self.covers(at, to.len() as u64)?;
        let next = self.next.get();
        self.next.set(next + 1);
        match self.reads.get(next) {
            Some(bytes) if bytes.len() == to.len() => to.copy_from_slice(bytes),
            other => {
                let length = other.map_or("nothing".to_owned(), |bytes| format!("{} bytes", bytes.len()));
                let note = format!("read {} asks for {} bytes where {length} were read", next + 1, to.len());
                self.wrong.borrow_mut().get_or_insert(note);
            }
        }
        Ok(())
    }

    fn write(&self, at: PageByte, from: &[u8]) -> Result<(), NotRam> {
        self.covers(at, from.len() as u64)
    }

    fn copy(&self, from: PageByte, to: PageByte, length: u64) -> Result<(), NotRam> {
        self.covers(from, length)?;
        self.covers(to, length)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use binder::trace::TraceSink;
    use binder::{Body, Header, Message, Open, Pid, Profile, Tid};
    use binder_wire::request;
    use std::mem::offset_of;

    const GUEST: GuestId = GuestId(0);
    const EPOCH: u32 = 2;

    /// Records what a domain does with a few messages: two opens, a close, a reset.
    pub(crate) fn recording() -> Vec<Record> {
        let mut domain = Domain::new(Limits::default(), Profile::default());
        domain.attach(GUEST);
        let mut records =
            vec![step(Step::Start(Box::new(domain.clone()))), step(Step::Ram(vec![(Pfn(0), 16)]))];
        let ram = BTreeMap::from([(GUEST, vec![(Pfn(0), 16)])]);
        let open =
            |tgid| Body::Open(Open { tgid: Pid(tgid), context: b"binder".to_vec(), ..Open::default() });
        let messages = [
            (0, 5, open(5)),
            (0, 6, open(6)),
            (1, 5, Body::Poll),
            (1, 0, Body::Flush),
            (2, 6, Body::Poll),
            (2, 0, Body::Flush),
            (1, 0, Body::Release),
        ];
        for (proc, tid, body) in messages {
            let header = Header { proc, tid: Tid(tid), ..Header::default() };
            let message = Message { header, body };
            records.push(step(Step::Message(request::message(&message, EPOCH, [0; 16]))));
            let reads = Reads::default();
            let pages = ReplayedPages::new(&ram, &reads);
            let mut events: Vec<TraceEvent> = Vec::new();
            let mut answer = domain.handle_on(&pages, GUEST, &message, &mut events);
            records.extend(stamped(events));
            let mut page = Vec::new();
            assert!(encode::answer(&mut answer, EPOCH, &mut page));
            let woken = domain.next_event(GUEST).map(|event| encode::event(&event, EPOCH, proc == 2));
            assert_eq!(woken.is_some(), message.body == Body::Flush);
            // With the answer, or by itself.
            if let Some(event) = woken.filter(|_| proc == 1) {
                encode::append_event(&mut page, &event);
            }
            records.push(step(Step::Answer { reads, page }));
            if let Some(event) = woken.filter(|_| proc == 2) {
                records.push(step(Step::Event(encode::used(&event).to_vec())));
            }
        }
        let mut events: Vec<TraceEvent> = Vec::new();
        assert!(events.enabled());
        domain.reset(GUEST, &mut events);
        records.push(step(Step::Reset));
        records.extend(stamped(events));
        records
    }

    fn stamped(events: Vec<TraceEvent>) -> impl Iterator<Item = Record> {
        events.into_iter().map(|event| Record::Event(Stamped { at: Duration::ZERO, guest: GUEST, event }))
    }

    fn step(step: Step) -> Record {
        Record::Step { at: Duration::ZERO, guest: GUEST, step }
    }

    fn replay(records: &[Record]) -> Result<Compared, ReplayError> {
        let mut replay = Replay { has_events: true, ..Replay::default() };
        records.iter().try_for_each(|record| replay.record(record))?;
        replay.finish()
    }

    #[test]
    fn a_recording_replays_to_the_same() {
        let records = recording();
        let events = records.iter().filter(|record| matches!(record, Record::Event(_))).count() as u64;
        let compared = replay(&records).unwrap();
        assert_eq!((compared.messages, compared.completions, compared.events), (7, 2, events));
        assert!(events > 8);
    }

    #[test]
    fn any_change_is_found() {
        let records = recording();
        for index in 2..records.len() {
            let mut changed = records.clone();
            match &mut changed[index] {
                Record::Event(event) => event.event = TraceEvent::NodeReleased { node: binder::DebugId(77) },
                Record::Step { step: Step::Answer { page, .. }, .. } => {
                    page[offset_of!(binder_wire::Answer, idle_pages)] += 1;
                }
                Record::Step { step: Step::Message(message), .. } => {
                    message[offset_of!(binder_wire::Header, proc)] += 1;
                }
                Record::Step { step: Step::Event(event), .. } => {
                    event[offset_of!(binder_wire::Event, tid)] += 1;
                }
                Record::Step { step: Step::Reset, .. } => {
                    changed.remove(index);
                }
                _ => continue,
            }
            let result = replay(&changed);
            assert!(matches!(result, Err(ReplayError::Divergence(_))), "{index}: {result:?}");
        }
    }

    #[test]
    fn an_event_that_did_not_come_is_found() {
        let mut records = recording();
        let answer = records.iter_mut().find_map(|record| match record {
            Record::Step { step: Step::Answer { page, .. }, .. } if encode::events_in(page) == 1 => {
                Some(page)
            }
            _ => None,
        });
        let page = answer.unwrap();
        page.truncate(size_of::<binder_wire::Answer>());
        page[offset_of!(binder_wire::Answer, event_offset)..][..4].fill(0);
        // It is still there when the next one is asked for.
        let divergence = replay(&records).unwrap_err().to_string();
        assert!(divergence.contains("an event for a thread"), "{divergence}");
    }

    #[test]
    fn bytes_that_are_no_message_or_event_are_refused() {
        let start = recording();
        for wrong in [Step::Event(b"short".to_vec()), Step::Event(vec![0; 300])] {
            let error = replay(&[start[0].clone(), step(wrong)]).unwrap_err();
            assert!(matches!(error, ReplayError::Invalid(_)), "{error:?}");
        }
        let whole =
            request::message(&Message { header: Header::default(), body: Body::Flush }, EPOCH, [0; 16]);
        let long = [whole.as_slice(), &[0; PAGE]].concat();
        for (message, page) in [(b"short".to_vec(), vec![]), (long, vec![]), (whole, vec![0; PAGE + 1])] {
            let answer = step(Step::Answer { reads: Reads::default(), page });
            let error = replay(&[start[0].clone(), step(Step::Message(message)), answer]).unwrap_err();
            assert!(matches!(error, ReplayError::Invalid(_)), "{error:?}");
        }
    }

    #[test]
    fn a_continue_that_nobody_waits_for_is_a_difference() {
        let body = Body::Continue(binder::message::Continue::default());
        let message = request::message(&Message { header: Header::default(), body }, EPOCH, [0; 16]);
        let answer = step(Step::Answer { reads: Reads::default(), page: Vec::new() });
        let error = replay(&[recording()[0].clone(), step(Step::Message(message)), answer]).unwrap_err();
        assert!(matches!(error, ReplayError::Divergence(_)), "{error:?}");
    }

    #[test]
    fn a_recording_without_steps_says_what_to_do() {
        let events: Vec<Record> =
            recording().into_iter().filter(|record| matches!(record, Record::Event(_))).collect();
        assert!(replay(&events).unwrap_err().to_string().contains("the domain's own `trace`"));
        let answer = step(Step::Answer { reads: Reads::default(), page: Vec::new() });
        assert!(matches!(replay(&[answer]), Err(ReplayError::Invalid(_))));
    }
}
