//! The file of a recording, which is also what a live follower is sent.
//!
//! ```text
//! "BVTRACE\n"            8 bytes
//! header length          u32, little endian
//! header                 JSON: version, guests, what was run
//! then any number of blocks:
//!   length               u32, little endian, of what follows the checksum
//!   checksum             u32, little endian: CRC-32 (IEEE) of that
//!   likeness             0: entries follow; else how they differ from an earlier block's (likeness.rs)
//!   entries              postcard-encoded, one after another: stamps, steps, events, other records
//! ```
//!
//! The header is JSON so that any tool can tell what a file is.
//!
//! A file holds what went into the core and what it answered ([`Step`]): the core is deterministic, so that
//! [`Told`](crate::told::Told) has it make the same events again when they are read. A follower of a running guest, and the
//! file of one guest of several in a domain, have the events themselves; a recording with `replay` has both, to be compared.
//!
//! A block usually has one message of a guest, its answer, and the events that were fetched since the last: one stamp
//! is told once. The last block of a file has one record, which says that nothing follows. A run that was killed leaves a file without it, which may end inside a block;
//! reading tells that apart from damage, after all whole blocks.
//!
//! Where the guest's time goes on while its file is written, blocks may be missing in the middle ([`Spill`]): [`Lost`] says
//! how much, and what follows it begins anew.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use binder::replay::Step;
use binder::trace::TransactionRecord;
use binder::{DebugId, GuestId, Pid, ProcId, Tid};
use serde::{Deserialize, Serialize};

use crate::Stamped;
use crate::replay::Divergence;

mod batch;
mod block;
mod likeness;
mod reader;
mod spill;
mod writer;

pub use block::{Block, Ended};
pub use reader::Reader;
pub use spill::{ROOM, Spill};
pub use writer::{Writer, encode_header, encode_record};

const MAGIC: &[u8; 8] = b"BVTRACE\n";

/// Version of the header and of the records. Records of another version are refused, not guessed.
pub const VERSION: u32 = 9;

/// No header is longer; a length beyond it is damage.
const MAX_HEADER: u32 = 1 << 20;

/// No block is longer; a length beyond it is damage. The longest has the domain that a recording begins with.
const MAX_BLOCK: u32 = 256 << 20;

/// Bytes of each payload that a recording holds if nobody asks for another number: enough for the
/// interface and the names that service managers are given.
pub const DEFAULT_PAYLOAD: u32 = 256;

/// A payload is never longer than a mapping (BINDER.md B006).
pub const MAX_PAYLOAD: u32 = 4 << 20;

/// First part of a recording.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    pub version: u32,
    /// The guests, and what they are called.
    pub guests: Vec<GuestName>,
    /// Image that ran, if one did.
    pub image: Option<String>,
    /// Engine that executed it.
    pub engine: String,
    /// Command in the guest.
    pub command: Vec<String>,
    /// AOSP version of the guest's libbinder, where it is known: it decides which table of methods fits.
    #[serde(default)]
    pub android: Option<u32>,
    /// Bytes of each payload that are recorded at most.
    #[serde(default)]
    pub payload: u32,
    /// The host's clocks when the recording began, if it has host times.
    #[serde(default)]
    pub host_clock: Option<HostClock>,
    /// It has the events beside the steps that they follow from.
    #[serde(default)]
    pub replay: bool,
    /// The core whose steps they are, [`binder::replay::CORE`].
    #[serde(default)]
    pub core: String,
    /// It is a file, whose last record is [`Record::End`] where the run that wrote it was not cut off.
    #[serde(default)]
    pub has_end: bool,
}

impl Header {
    /// The name of a guest.
    pub fn guest_name(&self, guest: GuestId) -> String {
        let known = self.guests.iter().find(|known| known.id == guest);
        known.map_or_else(|| format!("g{guest}"), |known| known.name.clone())
    }
}

/// A guest of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestName {
    /// As its events have it.
    pub id: GuestId,
    /// What its user calls it.
    pub name: String,
}

/// The host's clocks at one moment, each since its own zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostClock {
    /// `CLOCK_BOOTTIME`.
    pub boottime: Duration,
    /// `CLOCK_MONOTONIC`.
    pub monotonic: Duration,
    /// `CLOCK_REALTIME`.
    pub realtime: Duration,
}

/// One item of a recording.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Record {
    /// What the core did.
    Event(Stamped),
    /// A thread's name, new or changed: holds for what follows.
    Name(ThreadName),
    /// When, by the host's clock, the events that follow happened.
    HostTime {
        /// `CLOCK_BOOTTIME` of the host.
        boottime: Duration,
    },
    /// Something is missing here.
    Lost(Lost),
    /// What went into the domain or came out of it.
    Step {
        /// When, by the guest's time.
        at: Duration,
        /// For which guest.
        guest: GuestId,
        /// What.
        step: Step,
    },
    /// What was so when the recording began: of a guest that went on from a snapshot, or that runs.
    Known(Known),
    /// Nothing follows: the run ended, and all of it is here.
    End,
}

/// What is missing: the follower of a running guest was too slow, or the file of one that does not wait for it. In a file
/// there is one for each guest of which something is missing, and then what is to be known to read on: as at its beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Of which guest, if that is known.
    pub guest: Option<GuestId>,
    /// Messages, resets and turns: where steps are recorded.
    pub messages: u64,
    /// Trace events: where these are.
    pub events: u64,
}

impl Lost {
    /// Adds what is missing, too, of whichever guest.
    pub fn add(&mut self, more: &Lost) {
        self.messages += more.messages;
        self.events += more.events;
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.messages, self.events) {
            (0, events) => write!(f, "{events} events"),
            (messages, 0) => write!(f, "{messages} messages"),
            (messages, events) => write!(f, "{messages} messages and {events} events"),
        }
    }
}

/// A fact from before the recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Known {
    /// A file was open.
    File {
        /// Of which guest.
        guest: GuestId,
        /// Which.
        proc: ProcId,
        /// Its opener.
        pid: Pid,
        /// Name of its context.
        context: Vec<u8>,
    },
    /// A node was context manager.
    Manager {
        /// In whose world.
        guest: GuestId,
        /// Which.
        node: DebugId,
    },
    /// A node had been passed to its context manager in this transaction: it is registered as that says.
    Registered {
        /// Whose.
        guest: GuestId,
        /// The transaction.
        record: Box<TransactionRecord>,
    },
}

/// What a thread of a guest calls itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadName {
    /// Whose thread.
    pub guest: GuestId,
    /// Its process.
    pub pid: Pid,
    /// The thread.
    pub tid: Tid,
    /// At most 16 bytes that the guest chose, without NUL.
    pub name: Vec<u8>,
}

/// A recording cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be made or opened.
    #[error("cannot open the trace file {path}: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Writing failed, for example because the disk is full.
    #[error("cannot write the trace file: {0}")]
    Write(io::Error),
    /// Reading failed.
    #[error("cannot read the trace file: {0}")]
    Read(io::Error),
    /// It is some other file.
    #[error("this is not a trace of bindervm (it does not begin with BVTRACE)")]
    NotATrace,
    /// It is a recording of another version.
    #[error("the trace has format version {0}, this bindervm reads version {VERSION}: record it again")]
    Version(u32),
    /// The header or a record makes no sense.
    #[error("the trace is damaged at byte {at}: {problem}")]
    Damaged {
        /// Offset in the file.
        at: u64,
        /// What is wrong there.
        problem: String,
    },
    /// The domain or a step of another core cannot be read.
    #[error(
        "the trace was recorded by another version of bindervm, whose binder core this one does not know: record it again ({problem})"
    )]
    Core {
        /// What this one made of it.
        problem: String,
    },
    /// The steps make no sense.
    #[error("the trace cannot be made into events: {0}")]
    Steps(String),
    /// The core did something else than was recorded.
    #[error("what was shown may not be what happened{recorder}: {divergence}")]
    Differs {
        /// Where first.
        divergence: Box<Divergence>,
        /// ` (...)`, where that explains it.
        recorder: &'static str,
    },
    /// The file has no end: the run was cut off, or goes on.
    #[error("the trace has no end (byte {at}): the run that wrote it was cut off, or goes on")]
    Unfinished {
        /// Offset of the end.
        at: u64,
    },
    /// The file ends inside a block: the run was cut off.
    #[error("the trace ends in the middle of a block at byte {at}: the run that wrote it was cut off")]
    CutOff {
        /// Offset of the block.
        at: u64,
    },
}

#[cfg(test)]
mod tests;
