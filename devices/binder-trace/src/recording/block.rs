//! The unit in which a recording is written and sent: records under one checksum.

use std::time::Duration;

use binder::GuestId;
use binder::trace::TraceEvent;
use serde::{Deserialize, Serialize};

use super::Record;
use super::encode::Encoder;
use crate::Stamped;

/// Length and checksum.
const HEAD: usize = 8;

/// A block with so many bytes of records takes no more.
const FULL: usize = 32 << 10;

/// Room that is kept for the next block; one with a large payload has more for itself.
const KEPT: usize = 2 * FULL;

/// What stands in a block. Events of one message have one time, which is told once. Written it has references.
#[derive(Serialize, Deserialize)]
pub(super) enum Entry<E, R> {
    /// When, and of which guest, the events are that follow in this block.
    Stamp {
        at: Duration,
        guest: GuestId,
    },
    Event(E),
    /// Any other record.
    Record(R),
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
}

impl Block {
    /// Adds an event.
    pub fn event(&mut self, at: Duration, guest: GuestId, event: &TraceEvent) {
        if self.stamp != Some((at, guest)) {
            self.stamp = Some((at, guest));
            self.push(&Entry::Stamp { at, guest });
        }
        self.records += 1;
        self.push(&Entry::Event(event));
    }

    /// Adds any record.
    pub fn record(&mut self, record: &Record) {
        match record {
            Record::Event(Stamped { at, guest, event }) => self.event(*at, *guest, event),
            record => {
                self.records += 1;
                self.push(&Entry::Record(record));
            }
        }
    }

    /// Whether it is to be [ended](Self::end) before it takes more.
    pub fn is_full(&self) -> bool {
        self.encoder.len() >= FULL
    }

    /// Ends it: gives its bytes, with head, and the number of its records away, unless there is none. Then it is
    /// empty again.
    pub fn end(&mut self, take: impl FnOnce(&[u8], u64)) {
        let block = self.encoder.encoded();
        if let Some((head, entries)) = block.split_first_chunk_mut::<HEAD>() {
            head[..4].copy_from_slice(&(entries.len() as u32).to_le_bytes());
            head[4..].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
            take(block, self.records);
        }
        self.encoder.clear(KEPT);
        (self.stamp, self.records) = (None, 0);
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.encoder.capacity()
    }

    fn push(&mut self, entry: &Entry<&TraceEvent, &Record>) {
        if self.encoder.len() == 0 {
            self.encoder.raw(&[0; HEAD]);
        }
        self.encoder.append(entry);
    }
}
