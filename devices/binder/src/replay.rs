//! All that goes into a domain and comes out of it, so that another domain can be put to the same
//! test offline.
//!
//! A domain is deterministic: what it answers, and every trace event, follows from its state, the message, and the bytes
//! that it read from guest pages. [`Step`]s hold these, in order. Which pages are RAM is told once.

use std::borrow::Cow;
use std::cell::RefCell;

use serde::{Deserialize, Serialize, Serializer};

use crate::domain::Domain;
use crate::ids::{GuestId, Pfn};
use crate::memory::{NotRam, PageByte, Pages};
use crate::message::{Answer, Event, Message};

/// Names the sources of this core. Another core may answer otherwise, and its domains may look otherwise.
pub const CORE: &str = env!("BINDER_CORE");

/// One thing that was done with a domain, for a guest. Written it borrows, read it owns.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Step<'a> {
    /// The domain as it is when the recording begins.
    Start(Box<Domain>),
    /// The guest's RAM: first page and number of pages of each piece.
    Ram(Vec<(Pfn, u64)>),
    /// The guest's driver is ready: what it accepts.
    Features {
        /// [`Domain::accept_attempts`].
        attempt_acquire: bool,
    },
    /// A message of the guest is going to be handled.
    Message(Cow<'a, Message>),
    /// It was handled.
    Answer {
        /// What each read of guest pages brought, in order.
        reads: Cow<'a, Reads>,
        /// The answer.
        answer: Cow<'a, Answer>,
    },
    /// The next event was asked for; this came.
    Event(Option<Cow<'a, Event>>),
    /// The guest's machine had a turn ([`Domain::turn`]).
    Turn,
    /// The guest's device was reset.
    Reset,
}

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

    /// One more read. One message reads no more than its guest can name: far below 4 GiB.
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        self.ends.push(self.bytes.len() as u32);
    }
}

/// Pages that remember what was read from them.
pub struct RecordedPages<P> {
    pages: P,
    reads: RefCell<Reads>,
}

impl<P: Pages> RecordedPages<P> {
    /// Remembers what is read from `pages`.
    pub fn new(pages: P) -> RecordedPages<P> {
        RecordedPages { pages, reads: RefCell::default() }
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
