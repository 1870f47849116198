//! All that goes into a domain and comes out of it, so that another domain can be put to the same
//! test offline.
//!
//! A domain is deterministic: what it answers follows from its state, the message, and the bytes that
//! it read from guest pages. [`Step`]s hold these, in order. Which pages are RAM is told once.

use std::cell::RefCell;

use serde::{Deserialize, Serialize};

use crate::domain::Domain;
use crate::ids::{GuestId, Pfn};
use crate::memory::{NotRam, PageByte, Pages};
use crate::message::{Answer, Event, Message};

/// One thing that was done with a domain.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Step {
    /// The domain as it is when the recording begins.
    Start(Box<Domain>),
    /// The RAM of a guest: first page and number of pages of each piece.
    Ram {
        /// Whose.
        guest: GuestId,
        /// Where.
        pieces: Vec<(Pfn, u64)>,
    },
    /// The guest's driver is ready: what it accepts.
    Features {
        /// Whose driver.
        guest: GuestId,
        /// [`Domain::accept_attempts`].
        attempt_acquire: bool,
    },
    /// A message is going to be handled.
    Message {
        /// From which guest.
        guest: GuestId,
        /// What.
        message: Message,
    },
    /// It was handled.
    Answer {
        /// What each read of guest pages brought, in order.
        reads: Vec<Vec<u8>>,
        /// The answer.
        answer: Answer,
    },
    /// The next event was asked for.
    Event {
        /// For which guest.
        guest: GuestId,
        /// What came.
        event: Option<Event>,
    },
    /// The machine had a turn ([`Domain::turn`]).
    Turn,
    /// The guest's device was reset.
    Reset {
        /// Which guest.
        guest: GuestId,
    },
}

/// Pages that remember what was read from them.
pub struct RecordedPages<P> {
    pages: P,
    reads: RefCell<Vec<Vec<u8>>>,
}

impl<P: Pages> RecordedPages<P> {
    /// Remembers what is read from `pages`.
    pub fn new(pages: P) -> RecordedPages<P> {
        RecordedPages { pages, reads: RefCell::default() }
    }

    /// What was read, in order.
    pub fn into_reads(self) -> Vec<Vec<u8>> {
        self.reads.into_inner()
    }
}

impl<P: Pages> Pages for RecordedPages<P> {
    fn is_ram(&self, guest: GuestId, pfn: Pfn) -> bool {
        self.pages.is_ram(guest, pfn)
    }

    fn read(&self, at: PageByte, to: &mut [u8]) -> Result<(), NotRam> {
        self.pages.read(at, to)?;
        self.reads.borrow_mut().push(to.to_vec());
        Ok(())
    }

    fn write(&self, at: PageByte, from: &[u8]) -> Result<(), NotRam> {
        self.pages.write(at, from)
    }

    fn copy(&self, from: PageByte, to: PageByte, length: u64) -> Result<(), NotRam> {
        self.pages.copy(from, to, length)
    }
}
