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
    Stamp {
        at: Duration,
        guest: GuestId,
    },
    Event(E),
    /// Any other record.
    Record(R),
    Step(S),
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
        match step {
            Step::Message(message) => self.like = Some(message.header.tid.0),
            Step::Answer { .. } | Step::Turn | Step::Reset => self.holds.messages += 1,
            _ => {}
        }
        self.push(&Entry::Step(step));
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
            self.append(&Entry::Stamp { at, guest });
        }
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
    /// Puts the block into `to` as a file has it that has told what `likeness` remembers.
    pub fn told(&self, likeness: &mut Likeness, to: &mut Vec<u8>) {
        to.clear();
        to.extend([0; HEAD]);
        likeness.encode(self.padded, self.padded.len() - GROUP, self.like, to);
        seal(to);
    }
}

/// Writes the head of a block before its bytes.
fn seal(block: &mut [u8]) {
    let (head, stored) =
        block.split_first_chunk_mut::<HEAD>().expect("a block begins with room for its head");
    head[..4].copy_from_slice(&(stored.len() as u32).to_le_bytes());
    head[4..].copy_from_slice(&crc32fast::hash(stored).to_le_bytes());
}
