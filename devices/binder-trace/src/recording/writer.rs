//! Writing a recording.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::batch::Batch;
use super::block::{Ended, Plain};
use super::likeness::Likeness;
use super::{Block, Header, MAGIC, Record, RecordingError};

/// The bytes that a recording begins with.
pub fn encode_header(header: &Header) -> Vec<u8> {
    let text = serde_json::to_vec(header).expect("a header is text and numbers");
    let mut bytes = MAGIC.to_vec();
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text);
    bytes
}

/// A block of one record.
pub fn encode_record(record: &Record) -> Vec<u8> {
    let mut block = Block::default();
    block.record(record);
    let mut bytes = Vec::new();
    block.end(|mut block| bytes = block.whole().to_vec());
    bytes
}

/// Bytes of blocks that wait at most. They stay in a cache of the second level.
const WAITING: usize = 32 << 10;

/// Writes a recording.
pub struct Writer<W: Write> {
    out: BufWriter<W>,
    waiting: Batch,
    likeness: Likeness,
    failed: Option<io::Error>,
}

impl Writer<File> {
    /// Makes the file and writes its header.
    pub fn create(path: &Path, header: &Header) -> Result<Self, RecordingError> {
        let open = |source| RecordingError::Open { path: path.to_owned(), source };
        Writer::new(File::create(path).map_err(open)?, header)
    }
}

impl<W: Write> Writer<W> {
    /// Writes the header to `out`, where the records will follow.
    pub fn new(out: W, header: &Header) -> Result<Self, RecordingError> {
        let mut out = BufWriter::with_capacity(1 << 16, out);
        out.write_all(&encode_header(header)).map_err(RecordingError::Write)?;
        Ok(Writer { out, waiting: Batch::default(), likeness: Likeness::default(), failed: None })
    }

    /// Appends a whole block, as [`Block::end`] gives it. An error is kept for [`finish`](Self::finish): the guest
    /// does not learn of it.
    pub fn block(&mut self, block: &Ended<'_>) {
        self.waiting.push(block.plain());
        if self.waiting.size() >= WAITING {
            self.write_waiting();
        }
    }

    /// Writes the blocks that wait.
    fn write_waiting(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.drain(2 * WAITING, |block| self.plain(block));
        self.waiting = waiting;
    }

    pub(super) fn plain(&mut self, block: Plain<'_>) {
        if self.failed.is_none() {
            self.failed = self.out.write_all(block.told(&mut self.likeness)).err();
        }
    }

    /// Appends a block of one record.
    pub fn record(&mut self, record: &Record) {
        let mut block = Block::default();
        block.record(record);
        block.end(|block| self.block(&block));
    }

    /// Writes out what is buffered, so that a reader of the file sees it.
    pub fn flush(&mut self) {
        self.write_waiting();
        if self.failed.is_none() {
            self.failed = self.out.flush().err();
        }
    }

    /// Writes that nothing follows, and what is buffered, and tells of the first error there was.
    pub fn finish(&mut self) -> Result<(), RecordingError> {
        self.record(&Record::End);
        self.flush();
        self.failed.take().map_or(Ok(()), |error| Err(RecordingError::Write(error)))
    }
}

impl<W: Write> Drop for Writer<W> {
    /// What a run that failed had done last is what is looked for in its recording.
    fn drop(&mut self) {
        self.flush();
    }
}
