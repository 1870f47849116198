//! The unit in which a recording is written and sent: records under one checksum.

use std::time::Duration;

use binder::GuestId;
use binder::trace::TraceEvent;
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

use super::Record;
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
    bytes: Vec<u8>,
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
        self.bytes.len() >= FULL
    }

    /// Ends it: gives its bytes, with head, and the number of its records away, unless there is none. Then it is
    /// empty again.
    pub fn end(&mut self, take: impl FnOnce(&[u8], u64)) {
        if let Some((head, entries)) = self.bytes.split_first_chunk_mut::<HEAD>() {
            head[..4].copy_from_slice(&(entries.len() as u32).to_le_bytes());
            head[4..].copy_from_slice(&crc32fast::hash(entries).to_le_bytes());
            take(&self.bytes, self.records);
        }
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        (self.stamp, self.records) = (None, 0);
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    fn push(&mut self, entry: &Entry<&TraceEvent, &Record>) {
        if self.bytes.is_empty() {
            self.bytes.extend([0; HEAD]);
        }
        // Nothing in an entry is of an unknown length, and the memory grows.
        postcard::serialize_with_flavor(entry, Tail(&mut self.bytes)).expect("every record has an encoding");
    }
}

/// Appends to what there is.
struct Tail<'a>(&'a mut Vec<u8>);

impl Flavor for Tail<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        // Most numbers are small, and to copy one byte takes no call.
        match bytes {
            [byte] => self.0.push(*byte),
            bytes => self.0.extend_from_slice(bytes),
        }
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
