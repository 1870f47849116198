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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::{VERSION, Writer, encode_header, encode_record};
    use crate::replay::tests::recording;
    use binder::replay::Step;
    use proptest::prelude::*;
    use std::mem::offset_of;

    fn header() -> Header {
        Header { version: VERSION, core: CORE.to_owned(), has_end: true, ..Header::default() }
    }

    /// As a run writes them: without the events.
    fn file(records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, &header()).unwrap();
        let steps = records.iter().filter(|record| !matches!(record, Record::Event(_)));
        steps.for_each(|record| writer.record(record));
        writer.finish().unwrap();
        drop(writer);
        bytes
    }

    fn read(bytes: &[u8]) -> (Vec<Vec<u8>>, Option<RecordingError>) {
        let mut told = Vec::new();
        for record in Told::new(Reader::new(bytes).unwrap()) {
            match record {
                Ok(record) => told.push(encode_record(&record)),
                Err(error) => return (told, Some(error)),
            }
        }
        (told, None)
    }

    fn events(records: &[Record]) -> Vec<Vec<u8>> {
        records.iter().filter(|record| matches!(record, Record::Event(_))).map(encode_record).collect()
    }

    #[test]
    fn the_events_of_recorded_steps_are_told() {
        let records = recording();
        let (told, error) = read(&file(&records));
        assert!(error.is_none(), "{error:?}");
        assert_eq!(told, events(&records));
        // Of a file that is cut all that is whole.
        let bytes = file(&records);
        let (first, error) = read(&bytes[..bytes.len() / 2]);
        assert!(matches!(error, Some(RecordingError::CutOff { .. })), "{error:?}");
        assert!(!told.is_empty() && told.starts_with(&first));
    }

    #[test]
    fn what_is_not_as_it_was_recorded_is_told_at_the_end() {
        let mut records = recording();
        let answer = records.iter_mut().find_map(|record| match record {
            Record::Step { step: Step::Answer { page, .. }, .. } => Some(page),
            _ => None,
        });
        answer.unwrap()[offset_of!(binder_wire::Answer, idle_pages)] += 1;
        let (told, error) = read(&file(&records));
        assert_eq!(told, events(&records));
        let message = error.unwrap().to_string();
        assert!(message.contains("may not be what happened: the replay differs"), "{message}");
        let other = Header { core: "another".to_owned(), ..header() };
        let bytes =
            [encode_header(&other), file(&records)[encode_header(&header()).len()..].to_vec()].concat();
        let message = read(&bytes).1.unwrap().to_string();
        assert!(message.contains("another version of bindervm recorded it"), "{message}");
    }

    #[test]
    fn steps_that_make_no_sense_are_refused() {
        let records = recording();
        let (told, error) = read(&file(&records[1..]));
        assert!(told.is_empty() && matches!(error, Some(RecordingError::Steps(_))), "{error:?}");
    }

    proptest! {
        /// Whatever stands in a block whose checksum is right: no panic, and an end.
        #[test]
        fn no_recording_brings_it_down(
            which in any::<prop::sample::Index>(),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        ) {
            let records = recording();
            let steps: Vec<&Record> =
                records.iter().filter(|record| !matches!(record, Record::Event(_))).collect();
            let changed = which.index(steps.len());
            let mut bytes = encode_header(&header());
            for (index, record) in steps.iter().enumerate() {
                let mut block = encode_record(record);
                if index == changed {
                    for (at, value) in &changes {
                        let at = 8 + at.index(block.len() - 8);
                        block[at] = *value;
                    }
                    let checksum = crc32fast::hash(&block[8..]);
                    block[4..8].copy_from_slice(&checksum.to_le_bytes());
                }
                bytes.extend(block);
            }
            bytes.extend(encode_record(&Record::End));
            prop_assert!(read(&bytes).0.len() <= 1000);
        }
    }
}
