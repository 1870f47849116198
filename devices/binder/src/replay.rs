//! All that goes into a domain and comes out of it, so that another domain can be put to the same
//! test offline.
//!
//! A domain is deterministic: what it answers, and every trace event, follows from its state, the message, and the bytes
//! that it read from guest pages. [`Step`]s hold these, in order. Which pages are RAM is told once.
//!
//! Messages, answers and events are in them as they cross between guest and host, byte for byte
//! (`guest/shim/virtio_binder.h`, the crate `binder-wire`): to keep them costs a call of the guest no more than a copy.

use std::cell::RefCell;

use serde::{Deserialize, Serialize, Serializer};

use crate::domain::Domain;
use crate::ids::{GuestId, Pfn};
use crate::memory::{NotRam, PageByte, Pages};

/// Names the sources of this core, and of `binder-wire`. Another core may answer otherwise, and its domains and messages may
/// look otherwise.
pub const CORE: &str = env!("BINDER_CORE");

/// One thing that was done with a domain, for a guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Step {
    /// The domain as it is when the recording begins.
    Start(Box<Domain>),
    /// The guest's RAM: first page and number of pages of each piece.
    Ram(Vec<(Pfn, u64)>),
    /// The guest's driver is ready: what it accepts.
    Features {
        /// [`Domain::accept_attempts`].
        attempt_acquire: bool,
    },
    /// A message of the guest is going to be handled: its bytes, header and all (`struct vb_header`).
    Message(#[serde(serialize_with = "as_bytes")] Vec<u8>),
    /// It was handled.
    Answer {
        /// What each read of guest pages brought, in order.
        reads: Reads,
        /// The bytes of the answer (`struct vb_answer`), and of the events that went with it.
        #[serde(serialize_with = "as_bytes")]
        page: Vec<u8>,
    },
    /// An event went to the guest by itself: the bytes of its buffer that it uses (`struct vb_event`).
    Event(#[serde(serialize_with = "as_bytes")] Vec<u8>),
    /// The guest's machine had a turn ([`Domain::turn`]).
    Turn,
    /// The guest's device was reset.
    Reset,
}

/// Bytes of memory that [`Reads`] keep for the next message.
const KEPT: usize = 16 << 10;

/// Bytes of several reads, one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reads {
    /// Where each ends in `bytes`.
    ends: Vec<u32>,
    #[serde(serialize_with = "as_bytes")]
    bytes: Vec<u8>,
}

impl Reads {
    /// How many reads.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// What a read brought. `None`: there was no such read.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        self.bytes.get(start..end)
    }

    /// Where each ends in [`bytes`](Self::bytes).
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// The bytes of all.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Nothing was read, yet. Keeps its memory, but for what only large payloads need.
    pub fn clear(&mut self) {
        self.ends.clear();
        self.ends.shrink_to(KEPT / size_of::<u32>());
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
    }

    /// One more read. One message reads no more than its guest can name: far below 4 GiB.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len() as u32);
    }
}

/// Pages that remember what was read from them.
pub struct RecordedPages<P> {
    pages: P,
    reads: RefCell<Reads>,
}

impl<P: Pages> RecordedPages<P> {
    /// Remembers what is read from `pages` behind what is in `reads`.
    pub fn new(pages: P, reads: Reads) -> RecordedPages<P> {
        RecordedPages { pages, reads: RefCell::new(reads) }
    }

    /// What was read, in order.
    pub fn into_reads(self) -> Reads {
        self.reads.into_inner()
    }
}

impl<P: Pages> Pages for RecordedPages<P> {
    fn is_ram(&self, guest: GuestId, pfn: Pfn) -> bool {
        self.pages.is_ram(guest, pfn)
    }

    fn read(&self, at: PageByte, to: &mut [u8]) -> Result<(), NotRam> {
        self.pages.read(at, to)?;
        self.reads.borrow_mut().push(to);
        Ok(())
    }

    fn write(&self, at: PageByte, from: &[u8]) -> Result<(), NotRam> {
        self.pages.write(at, from)
    }

    fn copy(&self, from: PageByte, to: PageByte, length: u64) -> Result<(), NotRam> {
        self.pages.copy(from, to, length)
    }

    fn keeps_reads(&self) -> bool {
        true
    }
}

/// At once, and not as a sequence of numbers; what is written is the same.
pub(crate) fn as_bytes<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bytes(bytes)
}
