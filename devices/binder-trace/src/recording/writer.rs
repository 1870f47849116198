//! Writing a recording.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use super::{Header, MAGIC, Record, RecordingError};

/// The bytes that a recording begins with.
pub fn encode_header(header: &Header) -> Vec<u8> {
    let text = serde_json::to_vec(header).expect("a header is text and numbers");
    let mut bytes = MAGIC.to_vec();
    bytes.extend((text.len() as u32).to_le_bytes());
    bytes.extend(text);
    bytes
}

/// The bytes of one record.
pub fn encode_record(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_into(record, &mut bytes);
    bytes
}

/// Fills `bytes` with one record, with its length and checksum in front.
fn encode_into(record: &Record, bytes: &mut Vec<u8>) {
    bytes.clear();
    bytes.extend([0; 8]);
    // Nothing in a record is unsized or of an unknown length, and the buffer grows.
    *bytes = postcard::to_extend(record, std::mem::take(bytes)).expect("every record has an encoding");
    let length = (bytes.len() - 8) as u32;
    let checksum = crc32fast::hash(&bytes[8..]);
    bytes[..4].copy_from_slice(&length.to_le_bytes());
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// Writes a recording.
pub struct Writer<W: Write> {
    out: BufWriter<W>,
    record: Vec<u8>,
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
        Ok(Writer { out, record: Vec::new(), failed: None })
    }

    /// Appends one record. An error is kept for [`finish`](Self::finish): the guest does not learn of it.
    pub fn record(&mut self, record: &Record) {
        if self.failed.is_none() {
            encode_into(record, &mut self.record);
            self.failed = self.out.write_all(&self.record).err();
        }
    }

    /// Writes out what is buffered, so that a reader of the file sees it.
    pub fn flush(&mut self) {
        if self.failed.is_none() {
            self.failed = self.out.flush().err();
        }
    }

    /// Writes that nothing follows, and what is buffered, and tells of the first error there was.
    pub fn finish(&mut self) -> Result<(), RecordingError> {
        self.record(&Record::End);
        match self.failed.take() {
            Some(error) => Err(RecordingError::Write(error)),
            None => self.out.flush().map_err(RecordingError::Write),
        }
    }
}
