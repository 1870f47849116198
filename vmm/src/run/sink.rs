//! Who writes the file of a recording, and whether the guest waits for it.

use std::fs::File;
use std::time::Duration;

use binder_trace::recording::{Ended, Lost, ROOM, RecordingError, Spill, Writer};
use engine::Kind;

/// The file of a recording.
pub enum Sink {
    /// The thread that records writes it, which is the vCPU's: guest time stands still while that waits for the disk.
    Waits {
        /// Writes it.
        writer: Box<Writer<File>>,
        /// It was written to since it was flushed.
        unflushed: bool,
    },
    /// A thread of its own does, since guest time goes on: what the disk is too slow for is left out, and counted.
    Drops(Spill),
}

impl Sink {
    /// Has `writer` write what is recorded of a guest on this engine.
    pub fn new(writer: Writer<File>, engine: Kind) -> Result<Sink, RecordingError> {
        Sink::with_room(writer, engine, ROOM)
    }

    /// The same, with room for so many bytes where it may drop.
    pub(super) fn with_room(writer: Writer<File>, engine: Kind, room: usize) -> Result<Sink, RecordingError> {
        Ok(match engine {
            Kind::Soft | Kind::Auto => Sink::Waits { writer: Box::new(writer), unflushed: false },
            Kind::Kvm => Sink::Drops(Spill::new(writer, room).map_err(RecordingError::Write)?),
        })
    }

    /// Whether it leaves out what finds no room.
    pub fn drops(&self) -> bool {
        matches!(self, Sink::Drops(_))
    }

    /// Writes a block. False: it is left out.
    pub fn block(&mut self, block: &Ended<'_>) -> bool {
        match self {
            Sink::Waits { writer, unflushed } => {
                writer.block(block);
                *unflushed = true;
                true
            }
            Sink::Drops(spill) => spill.block(block),
        }
    }

    /// Whether blocks were left out that there would be room for now.
    pub fn can_mend(&self) -> bool {
        match self {
            Sink::Waits { .. } => false,
            Sink::Drops(spill) => spill.can_mend(),
        }
    }

    /// Takes blocks again ([`Spill::mend`]).
    pub fn mend(&self) -> Option<Vec<Lost>> {
        match self {
            Sink::Waits { .. } => None,
            Sink::Drops(spill) => spill.mend(),
        }
    }

    /// Has what was written seen by who reads the file. One that drops does it itself.
    pub fn flush(&mut self) {
        if let Sink::Waits { writer, unflushed } = self
            && std::mem::take(unflushed)
        {
            writer.flush();
        }
    }

    /// Writes what there is, for a run that failed; one that drops waits for that no longer than `limit`.
    pub fn save(&mut self, limit: Duration) {
        match self {
            Sink::Waits { writer, .. } => writer.flush(),
            Sink::Drops(spill) => spill.save(limit),
        }
    }

    /// Writes what there is, and the end.
    pub fn finish(&mut self) -> Result<(), RecordingError> {
        match self {
            Sink::Waits { writer, .. } => writer.finish(),
            Sink::Drops(spill) => spill.finish(),
        }
    }
}
