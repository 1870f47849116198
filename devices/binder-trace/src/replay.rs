//! A recording given to a fresh domain, which must answer as the recorded one did.
//!
//! A recording holds the domain that it begins with, every message, what the core read from
//! guest pages, every answer, and every event that was handed out ([`Step`]). A [`Replay`] takes the
//! records one by one, gives the inputs to its own domain, and compares: answers, events for sleeping
//! threads, and every trace event where they were recorded, too. The first difference is a [`Divergence`]. Where trace
//! events were not recorded, those that the replay makes are what happened ([`Replay::made`]).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::time::Duration;

use binder::replay::{Reads, Step};
use binder::trace::TraceEvent;
use binder::{Answer, Domain, GuestId, Limits, Message, NotRam, PageByte, Pages, Pfn};

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
    /// A message whose answer was not read yet.
    message: Option<Message>,
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

    fn step(&mut self, at: Duration, guest: GuestId, step: &Step<'_>) -> Result<(), ReplayError> {
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
                self.message = Some(message.as_ref().clone());
                self.recorded.clear();
            }
            Step::Answer { reads, answer } => self.answer(at, guest, reads, answer)?,
            Step::Event(event) => {
                let domain = self.domain.as_mut().ok_or_else(no_start)?;
                let replayed = domain.next_event(guest);
                if replayed.as_ref() != event.as_deref() {
                    return Err(self.differs(
                        "an event for a thread",
                        format!("{event:?}"),
                        format!("{replayed:?}"),
                    ));
                }
                self.compared.completions += u64::from(event.is_some());
            }
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

    fn answer(
        &mut self,
        at: Duration,
        guest: GuestId,
        reads: &Reads,
        answer: &Answer,
    ) -> Result<(), ReplayError> {
        let message =
            self.message.take().ok_or_else(|| invalid("an answer comes before its message".to_owned()))?;
        let domain = self.domain.as_mut().ok_or_else(no_start)?;
        let pages = ReplayedPages::new(&self.ram, reads);
        let mut events: Vec<TraceEvent> = Vec::new();
        let replayed = domain.handle_on(&pages, guest, &message, &mut events);
        let (read, wrong) = (pages.next.get(), pages.wrong.into_inner());
        domain.take_signals(guest);
        match self.has_events {
            true => self.same_events(&events)?,
            false => self.make(at, guest, events),
        }
        if replayed != *answer {
            return Err(self.differs("an answer", format!("{answer:?}"), format!("{replayed:?}")));
        }
        if wrong.is_some() || read != reads.count() {
            let recorded = format!("{} reads of guest pages", reads.count());
            let replayed = wrong.unwrap_or_else(|| format!("{read} reads"));
            return Err(self.differs("what was read from guest pages", recorded, replayed));
        }
        self.compared.messages += 1;
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
    use binder::{Body, Header, Open, Pid, Profile, Tid};
    use std::borrow::Cow;

    const GUEST: GuestId = GuestId(0);

    /// Records what a domain does with a few messages: two opens, a close, a reset.
    pub(crate) fn recording() -> Vec<Record> {
        let mut domain = Domain::new(Limits::default(), Profile::default());
        domain.attach(GUEST);
        let mut records =
            vec![step(Step::Start(Box::new(domain.clone()))), step(Step::Ram(vec![(Pfn(0), 16)]))];
        let ram = BTreeMap::from([(GUEST, vec![(Pfn(0), 16)])]);
        let open =
            |tgid| Body::Open(Open { tgid: Pid(tgid), context: b"binder".to_vec(), ..Open::default() });
        for (proc, tid, body) in [(0, 5, open(5)), (0, 6, open(6)), (1, 0, Body::Release)] {
            let header = Header { proc, tid: Tid(tid), ..Header::default() };
            let message = Message { header, body };
            records.push(step(Step::Message(Cow::Owned(message.clone()))));
            let reads = Reads::default();
            let pages = ReplayedPages::new(&ram, &reads);
            let mut events: Vec<TraceEvent> = Vec::new();
            let answer = domain.handle_on(&pages, GUEST, &message, &mut events);
            records.extend(stamped(events));
            records.push(step(Step::Answer { reads: Cow::Owned(reads), answer: Cow::Owned(answer) }));
        }
        let mut events: Vec<TraceEvent> = Vec::new();
        assert!(events.enabled());
        domain.reset(GUEST, &mut events);
        records.push(step(Step::Reset));
        records.extend(stamped(events));
        records.push(step(Step::Event(None)));
        records
    }

    fn stamped(events: Vec<TraceEvent>) -> impl Iterator<Item = Record> {
        events.into_iter().map(|event| Record::Event(Stamped { at: Duration::ZERO, guest: GUEST, event }))
    }

    fn step(step: Step<'static>) -> Record {
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
        assert_eq!((compared.messages, compared.events), (3, events));
        assert!(events > 8);
    }

    #[test]
    fn any_change_is_found() {
        let records = recording();
        for index in 2..records.len() {
            let mut changed = records.clone();
            match &mut changed[index] {
                Record::Event(event) => event.event = TraceEvent::NodeReleased { node: binder::DebugId(77) },
                Record::Step { step: Step::Answer { answer, .. }, .. } => answer.to_mut().idle_pages += 1,
                Record::Step { step: Step::Message(message), .. } => message.to_mut().header.tid = Tid(99),
                Record::Step { step: Step::Event(_) | Step::Reset, .. } => {
                    changed.remove(index);
                }
                _ => continue,
            }
            let result = replay(&changed);
            // Nobody looks for an event that nobody waits for.
            let harmless = matches!(&records[index], Record::Step { step: Step::Event(_), .. });
            assert!(harmless || matches!(result, Err(ReplayError::Divergence(_))), "{index}: {result:?}");
        }
    }

    #[test]
    fn a_recording_without_steps_says_what_to_do() {
        let events: Vec<Record> =
            recording().into_iter().filter(|record| matches!(record, Record::Event(_))).collect();
        assert!(replay(&events).unwrap_err().to_string().contains("the domain's own `trace`"));
        let answer = step(Step::Answer { reads: Cow::default(), answer: Cow::default() });
        assert!(matches!(replay(&[answer]), Err(ReplayError::Invalid(_))));
    }
}
