//! The unit in which a recording is written and sent: records under one checksum.

use std::time::Duration;

use binder::GuestId;
use binder::replay::{Reads, Step};
use binder::trace::TraceEvent;
use binder_wire::decode;
use serde::{Deserialize, Serialize};

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

/// What stands before the steps of a call: that an entry is a step, and which one. They are written as serde would, at
/// once.
mod tag {
    pub const MESSAGE: [u8; 2] = [3, 3];
    pub const ANSWER: [u8; 2] = [3, 4];
    pub const EVENT: [u8; 2] = [3, 5];
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
    bytes: Vec<u8>,
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

    /// Adds a step.
    pub fn step(&mut self, at: Duration, guest: GuestId, step: &Step) {
        match step {
            Step::Message(bytes) => self.message(at, guest, bytes),
            Step::Answer { reads, page } => self.answer(at, guest, reads, page),
            Step::Event(bytes) => self.sent_event(at, guest, bytes),
            Step::Turn | Step::Reset => {
                self.holds.messages += 1;
                self.other_step(at, guest, step);
            }
            Step::Start(_) | Step::Ram(_) | Step::Features { .. } => self.other_step(at, guest, step),
        }
    }

    fn other_step(&mut self, at: Duration, guest: GuestId, step: &Step) {
        self.stamp(at, guest);
        self.push(&Entry::Step(step));
    }

    /// Adds a [`Step::Message`]. Blocks whose messages are of one thread are taken to be like each other.
    pub fn message(&mut self, at: Duration, guest: GuestId, bytes: &[u8]) {
        self.stamp(at, guest);
        self.like = decode::tid(bytes).map(|tid| tid.0);
        self.put(tag::MESSAGE);
        self.put_bytes(bytes);
    }

    /// Adds a [`Step::Answer`].
    pub fn answer(&mut self, at: Duration, guest: GuestId, reads: &Reads, page: &[u8]) {
        self.stamp(at, guest);
        self.holds.messages += 1;
        self.put(tag::ANSWER);
        self.put_number(reads.count());
        reads.ends().iter().for_each(|end| self.put_number(*end as usize));
        self.put_bytes(reads.bytes());
        self.put_bytes(page);
    }

    /// Adds a [`Step::Event`].
    pub fn sent_event(&mut self, at: Duration, guest: GuestId, bytes: &[u8]) {
        self.stamp(at, guest);
        self.put(tag::EVENT);
        self.put_bytes(bytes);
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
        self.bytes.len() >= FULL
    }

    /// Ends it, and gives it away unless there is nothing in it. Then it is empty again.
    #[inline]
    pub fn end(&mut self, take: impl FnOnce(Ended<'_>)) {
        if self.bytes.is_empty() {
            return;
        }
        let holds = Lost { guest: self.stamp.map(|(_, guest)| guest), ..self.holds };
        self.bytes.extend_from_slice(&[0; GROUP]);
        take(Ended { padded: &mut self.bytes, records: self.records, holds, like: self.like });
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        (self.stamp, self.records, self.like) = (None, 0, None);
        self.holds = Lost::default();
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    #[inline]
    fn stamp(&mut self, at: Duration, guest: GuestId) {
        if self.stamp != Some((at, guest)) {
            self.stamp = Some((at, guest));
            // As serde would have it: the word for a stamp, and its bytes; with room for the head before the first.
            let mut entry = [0; ROOM + 1 + STAMP];
            entry[ROOM + 1..].copy_from_slice(&Stamp::new(at, guest).0);
            let room = if self.bytes.is_empty() { 0 } else { ROOM };
            self.bytes.extend_from_slice(&entry[room..]);
        }
    }

    /// Begins a step by the words for an entry that is one, and for which. A stamp came before.
    #[inline]
    fn put(&mut self, words: [u8; 2]) {
        self.records += 1;
        self.bytes.extend_from_slice(&words);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_number(bytes.len());
        self.bytes.extend_from_slice(bytes);
    }

    /// Seven bits a byte, the lowest first; all but the last have the eighth bit.
    #[inline]
    fn put_number(&mut self, mut number: usize) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    fn push(&mut self, entry: &Entry<&TraceEvent, &Record, &Step>) {
        self.records += 1;
        if self.bytes.is_empty() {
            self.bytes.extend_from_slice(&[0; ROOM]);
        }
        let bytes = std::mem::take(&mut self.bytes);
        self.bytes = postcard::to_extend(entry, bytes).expect("a record is plain data");
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
    use super::*;

    #[test]
    fn steps_are_written_as_serde_would() {
        let mut header = [0; size_of::<binder_wire::Header>()];
        header[12] = 7;
        let page: Vec<u8> = (0..=255).cycle().take(20_000).collect();
        let mut steps = vec![
            (Step::Message(header.to_vec()), 0, Some(7)),
            (Step::Message(b"short".to_vec()), 0, None),
            (Step::Event(page[..200].to_vec()), 0, None),
            (Step::Turn, 1, None),
            (Step::Reset, 1, None),
        ];
        for lengths in [&[][..], &[0], &[1, 126, 1], &[300, 20_000]] {
            let mut reads = Reads::default();
            lengths.iter().for_each(|length| reads.push(&page[..*length]));
            let page = page[..lengths.len() * 120].to_vec();
            steps.push((Step::Answer { reads, page }, 1, None));
        }
        let (at, guest) = (Duration::from_nanos(1_234_567_890_123), GuestId(5));
        for (step, messages, like) in steps {
            let mut block = Block::default();
            block.step(at, guest, &step);
            let stamp: Entry<(), (), ()> = Entry::Stamp(Stamp::new(at, guest));
            let entry: Entry<(), (), &Step> = Entry::Step(&step);
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
