//! The events of a recording that holds only what went into the core: made again by a core that is given the same.

use std::collections::VecDeque;
use std::io::Read;

use binder::replay::CORE;

use crate::recording::{Header, Reader, Record, RecordingError};
use crate::replay::{Divergence, Replay, ReplayError};

/// Reads a recording, each record as [`Reader`] gives it, but events in the place of steps.
///
/// Should the core do something else than was recorded, all is told all the same, and then [`RecordingError::Differs`].
pub struct Told<R: Read> {
    reader: Reader<R>,
    /// Not of a recording that has the events itself.
    replay: Option<Replay>,
    ready: VecDeque<Record>,
    differs: Option<Box<Divergence>>,
    ended: bool,
}

impl<R: Read> Told<R> {
    /// Tells what `reader` reads.
    pub fn new(reader: Reader<R>) -> Told<R> {
        let replay = (!reader.header().replay).then(|| Replay::of(reader.header()));
        Told { reader, replay, ready: VecDeque::new(), differs: None, ended: false }
    }

    /// What was recorded.
    pub fn header(&self) -> &Header {
        self.reader.header()
    }

    /// Takes one record, and has what it makes ready.
    fn take(&mut self, record: Record) -> Result<(), RecordingError> {
        let Some(replay) = &mut self.replay else {
            self.ready.push_back(record);
            return Ok(());
        };
        let result = replay.record(&record);
        match record {
            Record::Step { .. } => self.ready.extend(replay.made().map(Record::Event)),
            record => self.ready.push_back(record),
        }
        match result {
            Ok(()) => Ok(()),
            Err(ReplayError::Divergence(divergence)) => {
                self.differs.get_or_insert(divergence);
                Ok(())
            }
            Err(error) => Err(RecordingError::Steps(error.to_string())),
        }
    }

    /// How it ends.
    fn end(&mut self, error: Option<RecordingError>) -> Option<Result<Record, RecordingError>> {
        self.ended = true;
        self.ready.clear();
        let is_ours = self.header().core == CORE;
        let recorder = if is_ours { "" } else { " (another version of bindervm recorded it)" };
        let differs = self.differs.take();
        let differs = differs.map(|divergence| RecordingError::Differs { divergence, recorder });
        differs.or(error).map(Err)
    }
}

impl<R: Read> Iterator for Told<R> {
    type Item = Result<Record, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Some(Ok(record));
            }
            if self.ended {
                return None;
            }
            match self.reader.next() {
                None => return self.end(None),
                Some(Err(error)) => return self.end(Some(error)),
                Some(Ok(record)) => {
                    if let Err(error) = self.take(record) {
                        return self.end(Some(error));
                    }
                }
            }
        }
    }
}
