//! A recording given to a fresh domain, which must answer as the recorded one did.
//!
//! A replay recording holds the domain that it begins with, every message, what the core read from
//! guest pages, every answer, and every event that was handed out ([`Step`]). A [`Replay`] takes the
//! records one by one, gives the inputs to its own domain, and compares: answers, events for sleeping
//! threads, and every trace event. The first difference is a [`Divergence`].

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use binder::replay::Step;
use binder::trace::TraceEvent;
use binder::{Answer, Domain, GuestId, Limits, Message, NotRam, PageByte, Pages, Pfn};

use crate::event::describe;
use crate::recording::Record;

/// What a replay needs is not there, or the domain did something else.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// It was recorded without `replay`.
    #[error("the recording has no steps to replay: record it with --trace FILE,replay")]
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
}

/// A replay under way.
#[derive(Default)]
pub struct Replay {
    domain: Option<Domain>,
    ram: BTreeMap<GuestId, Vec<(Pfn, u64)>>,
    /// A message whose answer was not read yet.
    message: Option<(GuestId, Message)>,
    /// Events of that message as they were recorded.
    recorded: Vec<TraceEvent>,
    /// Events of a reset or a turn that the recording has yet to tell.
    expected: VecDeque<TraceEvent>,
    events: u64,
    compared: Compared,
}

impl Replay {
    /// Takes the next record.
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
            Record::Step(step) => self.step(step),
            // Rules of faults name processes.
            Record::Name(name) => {
                if let Some(domain) = &mut self.domain {
                    let is_main = name.pid.0 == name.tid.0;
                    let text = String::from_utf8_lossy(&name.name);
                    domain.process_named(name.guest, name.pid, is_main, &text);
                }
                Ok(())
            }
            Record::HostTime { .. } | Record::Lost { .. } | Record::Known(_) | Record::End => Ok(()),
        }
    }

    /// The domain as it is now: after the last message that was answered.
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
        match self.domain {
            Some(_) => Ok(self.compared),
            None => Err(ReplayError::NoSteps),
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), ReplayError> {
        if let Some(event) = self.expected.pop_front() {
            return Err(self.differs("an event that the recording does not have", none(), told(&event)));
        }
        match step {
            Step::Start(domain) => {
                domain.check(&Limits::default()).map_err(|error| invalid(error.to_string()))?;
                self.domain = Some((**domain).clone());
            }
            Step::Ram { guest, pieces } => {
                self.ram.insert(*guest, pieces.clone());
            }
            Step::Features { guest, attempt_acquire } => {
                let domain = self.domain.as_mut().ok_or_else(no_start)?;
                domain.accept_attempts(*guest, *attempt_acquire);
            }
            Step::Message { guest, message } => {
                self.message = Some((*guest, message.clone()));
                self.recorded.clear();
            }
            Step::Answer { reads, answer } => self.answer(reads, answer)?,
            Step::Event { guest, event } => {
                let domain = self.domain.as_mut().ok_or_else(no_start)?;
                let replayed = domain.next_event(*guest);
                if replayed != *event {
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
                let pages = ReplayedPages {
                    ram: &self.ram,
                    reads: &[],
                    next: Cell::new(0),
                    wrong: RefCell::default(),
                };
                let mut events: Vec<TraceEvent> = Vec::new();
                domain.turn_on(&pages, &mut events);
                self.expected = events.into();
            }
            Step::Reset { guest } => {
                let domain = self.domain.as_mut().ok_or_else(no_start)?;
                let mut events: Vec<TraceEvent> = Vec::new();
                domain.reset(*guest, &mut events);
                self.expected = events.into();
            }
        }
        Ok(())
    }

    fn answer(&mut self, reads: &[Vec<u8>], answer: &Answer) -> Result<(), ReplayError> {
        let (guest, message) =
            self.message.take().ok_or_else(|| invalid("an answer comes before its message".to_owned()))?;
        let domain = self.domain.as_mut().ok_or_else(no_start)?;
        let pages = ReplayedPages { ram: &self.ram, reads, next: Cell::new(0), wrong: RefCell::default() };
        let mut events: Vec<TraceEvent> = Vec::new();
        let replayed = domain.handle_on(&pages, guest, message, &mut events);
        let (read, wrong) = (pages.next.get(), pages.wrong.into_inner());
        let recorded = std::mem::take(&mut self.recorded);
        for (recorded, replayed) in recorded.iter().zip(&events) {
            self.same_event(recorded, replayed)?;
        }
        if let Some(event) = recorded.get(events.len()) {
            return Err(self.differs("an event that the replay does not have", told(event), none()));
        }
        if let Some(event) = events.get(recorded.len()) {
            return Err(self.differs("an event that the recording does not have", none(), told(event)));
        }
        if replayed != *answer {
            return Err(self.differs("an answer", format!("{answer:?}"), format!("{replayed:?}")));
        }
        if wrong.is_some() || read != reads.len() {
            let recorded = format!("{} reads of guest pages", reads.len());
            let replayed = wrong.unwrap_or_else(|| format!("{read} reads"));
            return Err(self.differs("what was read from guest pages", recorded, replayed));
        }
        self.compared.messages += 1;
        Ok(())
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
    reads: &'a [Vec<u8>],
    next: Cell<usize>,
    wrong: RefCell<Option<String>>,
}

impl ReplayedPages<'_> {
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
mod tests {
    use super::*;
    use binder::trace::TraceSink;
    use binder::{Body, Header, Open, Pid, Profile, Tid};
    use std::time::Duration;

    const GUEST: GuestId = GuestId(0);

    /// Records what a domain does with a few messages: two opens, a close, a reset.
    fn recording() -> Vec<Record> {
        let mut domain = Domain::new(Limits::default(), Profile::default());
        domain.attach(GUEST);
        let mut records = vec![
            Record::Step(Step::Start(Box::new(domain.clone()))),
            Record::Step(Step::Ram { guest: GUEST, pieces: vec![(Pfn(0), 16)] }),
        ];
        let ram = BTreeMap::from([(GUEST, vec![(Pfn(0), 16)])]);
        let open =
            |tgid| Body::Open(Open { tgid: Pid(tgid), context: b"binder".to_vec(), ..Open::default() });
        for (proc, tid, body) in [(0, 5, open(5)), (0, 6, open(6)), (1, 0, Body::Release)] {
            let header = Header { proc, tid: Tid(tid), ..Header::default() };
            let message = Message { header, body };
            records.push(Record::Step(Step::Message { guest: GUEST, message: message.clone() }));
            let pages =
                ReplayedPages { ram: &ram, reads: &[], next: Cell::new(0), wrong: RefCell::default() };
            let mut events: Vec<TraceEvent> = Vec::new();
            let answer = domain.handle_on(&pages, GUEST, message, &mut events);
            records.extend(stamped(events));
            records.push(Record::Step(Step::Answer { reads: vec![], answer }));
        }
        let mut events: Vec<TraceEvent> = Vec::new();
        assert!(events.enabled());
        domain.reset(GUEST, &mut events);
        records.push(Record::Step(Step::Reset { guest: GUEST }));
        records.extend(stamped(events));
        records.push(Record::Step(Step::Event { guest: GUEST, event: None }));
        records
    }

    fn stamped(events: Vec<TraceEvent>) -> impl Iterator<Item = Record> {
        events
            .into_iter()
            .map(|event| Record::Event(crate::Stamped { at: Duration::ZERO, guest: GUEST, event }))
    }

    fn replay(records: &[Record]) -> Result<Compared, ReplayError> {
        let mut replay = Replay::default();
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
                Record::Step(Step::Answer { answer, .. }) => answer.idle_pages += 1,
                Record::Step(Step::Message { message, .. }) => message.header.tid = Tid(99),
                Record::Step(Step::Event { .. } | Step::Reset { .. }) => {
                    changed.remove(index);
                }
                _ => continue,
            }
            let result = replay(&changed);
            // Nobody looks for an event that nobody waits for.
            let harmless = matches!(&records[index], Record::Step(Step::Event { .. }));
            assert!(harmless || matches!(result, Err(ReplayError::Divergence(_))), "{index}: {result:?}");
        }
    }

    #[test]
    fn a_recording_without_steps_says_what_to_do() {
        let events: Vec<Record> =
            recording().into_iter().filter(|record| matches!(record, Record::Event(_))).collect();
        assert!(replay(&events).unwrap_err().to_string().contains("--trace FILE,replay"));
        let answer = Record::Step(Step::Answer { reads: vec![], answer: Answer::default() });
        assert!(matches!(replay(&[answer]), Err(ReplayError::Invalid(_))));
    }
}
