//! The unit in which a recording is written and sent: records under one checksum.

use std::time::Duration;

use binder::GuestId;
use binder::replay::Step;
use binder::trace::TraceEvent;
use serde::{Deserialize, Serialize};

use super::encode::Encoder;
use super::likeness::{GROUP, Likeness};
use super::{Lost, Record};
use crate::Stamped;

/// Length and checksum.
const HEAD: usize = 8;

/// Room for the head, and for the word that the entries follow as they are.
const ROOM: usize = HEAD + 1;

/// A block with so many bytes of records takes no more.
const FULL: usize = 32 << 10;

/// Room that is kept for the next block; one with a large payload has more for itself.
const KEPT: usize = 2 * FULL;

/// What stands in a block. What has one time, since one message caused it, tells it once. Written it has references.
#[derive(Serialize, Deserialize)]
pub(super) enum Entry<E, R, S> {
    /// When, and of which guest, the events and steps are that follow in this block.
    Stamp(Stamp),
    Event(E),
    /// Any other record.
    Record(R),
    Step(S),
}

/// What stands before the steps of a call: that an entry is a step, which one, and that there is an event.
mod tag {
    pub const MESSAGE: [u8; 2] = [3, 3];
    pub const ANSWER: [u8; 2] = [3, 4];
    pub const EVENT: [u8; 3] = [3, 5, 1];
}

/// A time and a guest, as bytes of fixed places: every block has one.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Stamp([u8; STAMP]);

/// Nanoseconds, and the guest's number.
const STAMP: usize = 8 + 4;

impl Stamp {
    /// A time that no clock reaches, 584 years, is the last that can be told.
    fn new(at: Duration, guest: GuestId) -> Stamp {
        let mut bytes = [0; STAMP];
        let nanos = at.as_secs().saturating_mul(1_000_000_000).saturating_add(at.subsec_nanos().into());
        bytes[..8].copy_from_slice(&nanos.to_le_bytes());
        bytes[8..].copy_from_slice(&guest.0.to_le_bytes());
        Stamp(bytes)
    }

    /// What it says.
    pub fn told(self) -> (Duration, GuestId) {
        let [nanos @ .., a, b, c, d] = self.0;
        (Duration::from_nanos(u64::from_le_bytes(nanos)), GuestId(u32::from_le_bytes([a, b, c, d])))
    }
}

/// Records that will be written together, encoded one after another in the same memory.
///
/// What is in a block depends on the records alone and not on when somebody looks: the same run leaves the
/// same bytes.
#[derive(Default)]
pub struct Block {
    /// Room for the head, if there is anything, and the entries.
    encoder: Encoder,
    stamp: Option<(Duration, GuestId)>,
    records: u64,
    holds: Lost,
    like: Option<u32>,
}

/// A block that is whole.
pub struct Ended<'a> {
    /// Room for the head, the entries, and a group of zeros.
    padded: &'a mut [u8],
    /// How many records it has.
    pub records: u64,
    /// What is missing where it is left out.
    pub holds: Lost,
    like: Option<u32>,
}

impl Block {
    /// Adds an event.
    pub fn event(&mut self, at: Duration, guest: GuestId, event: &TraceEvent) {
        self.stamp(at, guest);
        self.holds.events += 1;
        self.push(&Entry::Event(event));
    }

    /// Adds a step. Blocks whose messages are of one thread are taken to be like each other.
    pub fn step(&mut self, at: Duration, guest: GuestId, step: &Step<'_>) {
        self.stamp(at, guest);
        // What calls consist of is written at once; the rest by serde, which comes to the same.
        match step {
            Step::Message(message) => {
                self.like = Some(message.header.tid.0);
                self.put(tag::MESSAGE, message.as_ref());
            }
            Step::Answer { reads, answer } => {
                self.holds.messages += 1;
                self.put(tag::ANSWER, &(reads.as_ref(), answer.as_ref()));
            }
            Step::Event(Some(event)) => self.put(tag::EVENT, event.as_ref()),
            Step::Turn | Step::Reset => {
                self.holds.messages += 1;
                self.push(&Entry::Step(step));
            }
            _ => self.push(&Entry::Step(step)),
        }
    }

    /// Adds any record.
    pub fn record(&mut self, record: &Record) {
        match record {
            Record::Event(Stamped { at, guest, event }) => self.event(*at, *guest, event),
            Record::Step { at, guest, step } => self.step(*at, *guest, step),
            record => self.push(&Entry::Record(record)),
        }
    }

    /// Whether it is to be [ended](Self::end) before it takes more.
    pub fn is_full(&self) -> bool {
        self.encoder.len() >= FULL
    }

    /// Ends it, and gives it away unless there is nothing in it. Then it is empty again.
    #[inline]
    pub fn end(&mut self, take: impl FnOnce(Ended<'_>)) {
        if self.encoder.len() == 0 {
            return;
        }
        let holds = Lost { guest: self.stamp.map(|(_, guest)| guest), ..self.holds };
        take(Ended { padded: self.encoder.padded(GROUP), records: self.records, holds, like: self.like });
        self.encoder.clear(KEPT);
        (self.stamp, self.records, self.like) = (None, 0, None);
        self.holds = Lost::default();
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.encoder.capacity()
    }

    #[inline]
    fn stamp(&mut self, at: Duration, guest: GuestId) {
        if self.stamp != Some((at, guest)) {
            self.stamp = Some((at, guest));
            // As serde would have it: the word for a stamp, and its bytes; with room for the head before the first.
            let mut entry = [0; ROOM + 1 + STAMP];
            entry[ROOM + 1..].copy_from_slice(&Stamp::new(at, guest).0);
            match self.encoder.len() {
                0 => self.encoder.raw(&entry),
                _ => self.encoder.raw(&entry[ROOM..]),
            }
        }
    }

    /// Adds a step by the words for an entry that is one, and for which. A stamp came before.
    #[inline]
    fn put<const N: usize>(&mut self, words: [u8; N], step: &impl Serialize) {
        self.records += 1;
        self.encoder.raw(&words);
        self.encoder.append(step);
    }

    #[inline]
    fn push(&mut self, entry: &Entry<&TraceEvent, &Record, &Step<'_>>) {
        self.records += 1;
        self.append(entry);
    }

    #[inline]
    fn append(&mut self, entry: &Entry<&TraceEvent, &Record, &Step<'_>>) {
        if self.encoder.len() == 0 {
            self.encoder.raw(&[0; ROOM]);
        }
        self.encoder.append(entry);
    }
}

impl Ended<'_> {
    /// All of it, with its head: it can be read without any other.
    pub fn whole(&mut self) -> &[u8] {
        let length = self.padded.len() - GROUP;
        let block = &mut self.padded[..length];
        seal(block);
        block
    }

    /// As a file gets it.
    pub(super) fn plain(&self) -> Plain<'_> {
        Plain { padded: &self.padded[ROOM..], like: self.like }
    }
}

/// The entries of a block, before they are told as a file has them.
#[derive(Clone, Copy)]
pub(super) struct Plain<'a> {
    /// The entries, and a group of zeros.
    pub padded: &'a [u8],
    /// Other blocks that have this may be like it.
    pub like: Option<u32>,
}

impl Plain<'_> {
    /// The block as a file has it that has told what `likeness` remembers.
    pub fn told<'l>(&self, likeness: &'l mut Likeness) -> &'l [u8] {
        let block = likeness.encode::<HEAD>(self.padded, self.padded.len() - GROUP, self.like);
        seal(block);
        block
    }
}

/// Writes the head of a block before its bytes.
fn seal(block: &mut [u8]) {
    let (head, stored) =
        block.split_first_chunk_mut::<HEAD>().expect("a block begins with room for its head");
    head[..4].copy_from_slice(&(stored.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&crc32fast::hash(stored).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use binder::message::{Answer, Body, Event, EventKind, Header, Message};
    use binder::replay::Reads;
    use binder::{ProcId, Seq, Tid};

    use super::*;

    #[test]
    fn steps_are_written_as_serde_would() {
        let header = Header { tid: Tid(7), ..Header::default() };
        let message = Message { header, body: Body::Poll };
        let (kind, fetch) = (EventKind::Poll, false);
        let event = Event { proc: ProcId(1), tid: Tid(2), seq: Seq(3), fetch, kind, idle_pages: 4 };
        let (reads, answer) = (Cow::Owned(Reads::default()), Cow::Owned(Answer::default()));
        let steps = [
            (Step::Message(Cow::Borrowed(&message)), 0, Some(7)),
            (Step::Answer { reads, answer }, 1, None),
            (Step::Event(Some(Cow::Borrowed(&event))), 0, None),
            (Step::Event(None), 0, None),
            (Step::Turn, 1, None),
            (Step::Reset, 1, None),
        ];
        let (at, guest) = (Duration::from_nanos(1_234_567_890_123), GuestId(5));
        for (step, messages, like) in steps {
            let mut block = Block::default();
            block.step(at, guest, &step);
            let stamp: Entry<(), (), ()> = Entry::Stamp(Stamp::new(at, guest));
            let entry: Entry<(), (), &Step<'_>> = Entry::Step(&step);
            let expected =
                [postcard::to_stdvec(&stamp).unwrap(), postcard::to_stdvec(&entry).unwrap()].concat();
            block.end(|mut block| {
                assert_eq!(block.whole()[ROOM..], expected, "{step:?}");
                assert_eq!(block.holds, Lost { guest: Some(guest), messages, events: 0 });
                assert_eq!((block.records, block.like), (1, like));
            });
        }
        assert_eq!(Stamp::new(at, guest).told(), (at, guest));
    }
}
