//! Reading a recording.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use serde::Deserialize;

use super::{Header, MAGIC, MAX_HEADER, MAX_RECORD, Record, RecordingError, VERSION};

/// Reads a recording, record by record, from a file, a pipe or a socket.
pub struct Reader<R: Read> {
    input: R,
    header: Header,
    at: u64,
    ended: bool,
}

impl Reader<BufReader<File>> {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let open = |source| RecordingError::Open { path: path.to_owned(), source };
        Reader::new(BufReader::with_capacity(1 << 16, File::open(path).map_err(open)?))
    }
}

impl<R: Read> Reader<R> {
    /// Reads the header from `input`.
    pub fn new(mut input: R) -> Result<Self, RecordingError> {
        let mut magic = [0; 8];
        let mut length = [0; 4];
        match input.read_exact(&mut magic).and_then(|()| input.read_exact(&mut length)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Err(RecordingError::NotATrace);
            }
            Err(error) => return Err(RecordingError::Read(error)),
            Ok(()) if magic != *MAGIC => return Err(RecordingError::NotATrace),
            Ok(()) => {}
        }
        let length = u32::from_le_bytes(length);
        let damaged = |problem: String| RecordingError::Damaged { at: 8, problem };
        if length > MAX_HEADER {
            return Err(damaged(format!("a header of {length} bytes")));
        }
        let mut text = vec![0; length as usize];
        input.read_exact(&mut text).map_err(|_| damaged("the header is cut off".to_owned()))?;
        // The version is looked at before the rest, which another version may shape differently.
        #[derive(Deserialize)]
        struct JustVersion {
            version: u32,
        }
        let version: JustVersion =
            serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if version.version != VERSION {
            return Err(RecordingError::Version(version.version));
        }
        let header = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        Ok(Reader { input, header, at: 12 + u64::from(length), ended: false })
    }

    /// What was recorded.
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn read_record(&mut self) -> Result<Option<Record>, RecordingError> {
        let mut head = [0; 8];
        match read_up_to(&mut self.input, &mut head).map_err(RecordingError::Read)? {
            0 if self.header.has_end => return Err(RecordingError::Unfinished { at: self.at }),
            0 => return Ok(None),
            8 => {}
            _ => return Err(RecordingError::CutOff { at: self.at }),
        }
        let [length, checksum] =
            [0, 4].map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
        let damaged = |problem: String| RecordingError::Damaged { at: self.at, problem };
        if length > MAX_RECORD {
            return Err(damaged(format!("a record of {length} bytes")));
        }
        // A length that is not true must not cost memory: the buffer grows with what is there.
        let mut record = Vec::with_capacity(length.min(1 << 16) as usize);
        let limited = &mut (&mut self.input).take(length.into());
        limited.read_to_end(&mut record).map_err(RecordingError::Read)?;
        if record.len() != length as usize {
            return Err(RecordingError::CutOff { at: self.at });
        }
        if crc32fast::hash(&record) != checksum {
            return Err(damaged("the checksum of a record is wrong".to_owned()));
        }
        let event = postcard::from_bytes(&record).map_err(|error| damaged(error.to_string()))?;
        self.at += 8 + u64::from(length);
        Ok(Some(event).filter(|record| !matches!(record, Record::End)))
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Record, RecordingError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.read_record().transpose();
        self.ended = !matches!(item, Some(Ok(_)));
        item
    }
}

/// Fills as much of `buffer` as there is, and tells how much.
fn read_up_to(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
