//! Reading a recording.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use std::time::Duration;

use binder::GuestId;
use binder::replay::{CORE, Step};
use binder::trace::TraceEvent;
use serde::Deserialize;

use super::block::Entry;
use super::likeness::Likeness;
use super::{Header, MAGIC, MAX_BLOCK, MAX_HEADER, Record, RecordingError, VERSION};
use crate::Stamped;

/// Reads a recording, record by record, from a file, a pipe or a socket.
pub struct Reader<R: Read> {
    input: R,
    header: Header,
    /// Offset of the block.
    at: u64,
    /// The entries of the block that is being read; before them what its file says of them.
    block: Vec<u8>,
    likeness: Likeness,
    /// Memory for the next one.
    spare: Vec<u8>,
    /// Where in it the next entry is.
    next: usize,
    /// The stamp that its events have.
    stamp: Option<(Duration, GuestId)>,
    /// Offset of the block after it.
    after: u64,
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
        let after = 12 + u64::from(length);
        Ok(Reader {
            input,
            header,
            at: after,
            block: Vec::new(),
            likeness: Likeness::default(),
            spare: Vec::new(),
            next: 0,
            stamp: None,
            after,
            ended: false,
        })
    }

    /// What was recorded.
    pub fn header(&self) -> &Header {
        &self.header
    }

    fn damaged(&self, problem: String) -> RecordingError {
        RecordingError::Damaged { at: self.at, problem }
    }

    fn undecodable(&self, error: &postcard::Error) -> RecordingError {
        match self.header.core.as_str() {
            "" | CORE => self.damaged(error.to_string()),
            _ => RecordingError::Core { problem: error.to_string() },
        }
    }

    fn read_record(&mut self) -> Result<Option<Record>, RecordingError> {
        loop {
            if self.next == self.block.len() && !self.read_block()? {
                return Ok(None);
            }
            let entries = &self.block[self.next..];
            let (entry, rest): (Entry<TraceEvent, Record, Step>, _) =
                postcard::take_from_bytes(entries).map_err(|error| self.undecodable(&error))?;
            self.next = self.block.len() - rest.len();
            let missing = || self.damaged("an event has no time".to_owned());
            match entry {
                Entry::Stamp(stamp) => self.stamp = Some(stamp.told()),
                Entry::Event(event) => {
                    let (at, guest) = self.stamp.ok_or_else(missing)?;
                    return Ok(Some(Record::Event(Stamped { at, guest, event })));
                }
                Entry::Step(step) => {
                    let (at, guest) = self.stamp.ok_or_else(missing)?;
                    return Ok(Some(Record::Step { at, guest, step }));
                }
                Entry::Record(record) => {
                    return Ok(Some(record).filter(|record| !matches!(record, Record::End)));
                }
            }
        }
    }

    /// Reads the next block, if there is one.
    fn read_block(&mut self) -> Result<bool, RecordingError> {
        self.at = self.after;
        let mut head = [0; 8];
        match read_up_to(&mut self.input, &mut head).map_err(RecordingError::Read)? {
            0 if self.header.has_end => return Err(RecordingError::Unfinished { at: self.at }),
            0 => return Ok(false),
            8 => {}
            _ => return Err(RecordingError::CutOff { at: self.at }),
        }
        let [length, checksum] =
            [0, 4].map(|at| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]));
        if length == 0 || length > MAX_BLOCK {
            return Err(self.damaged(format!("a block of {length} bytes")));
        }
        // A length that is not true must not cost memory: the buffer grows with what is there.
        self.block.clear();
        self.block.shrink_to(1 << 16);
        let limited = &mut (&mut self.input).take(length.into());
        limited.read_to_end(&mut self.block).map_err(RecordingError::Read)?;
        if self.block.len() != length as usize {
            return Err(RecordingError::CutOff { at: self.at });
        }
        if crc32fast::hash(&self.block) != checksum {
            return Err(self.damaged("the checksum of a block is wrong".to_owned()));
        }
        self.next = match self.likeness.decode(&self.block, &mut self.spare) {
            Ok(None) => 1,
            Ok(Some(())) => {
                std::mem::swap(&mut self.block, &mut self.spare);
                0
            }
            Err(problem) => return Err(self.damaged(problem.to_owned())),
        };
        self.stamp = None;
        self.after = self.at + 8 + u64::from(length);
        Ok(true)
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
