//! The file of a recording.
//!
//! ```text
//! "BVTRACE\n"            8 bytes
//! header length          u32, little endian
//! header                 JSON: version, guests, what was run
//! record length, record  u32, little endian; a postcard-encoded Stamped; any number of these
//! ```
//!
//! The header is JSON so that any tool can tell what a file is. A run that was killed leaves a file
//! that ends inside a record; reading tells that apart from damage, after all whole records.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Stamped;

const MAGIC: &[u8; 8] = b"BVTRACE\n";

/// Version of the header and of the records. Records of another version are refused, not guessed.
pub const VERSION: u32 = 1;

/// No header is longer; a length beyond it is damage.
const MAX_HEADER: u32 = 1 << 20;

/// No record is longer: a payload excerpt and a few numbers.
const MAX_RECORD: u32 = 1 << 20;

/// First part of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`].
    pub version: u32,
    /// Name of the guest.
    pub guest: String,
    /// Image that ran, if one did.
    pub image: Option<String>,
    /// Engine that executed it.
    pub engine: String,
    /// Command in the guest.
    pub command: Vec<String>,
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
    /// The file ends inside a record: the run was cut off.
    #[error("the trace ends in the middle of a record at byte {at}: the run that wrote it was cut off")]
    CutOff {
        /// Offset of the record.
        at: u64,
    },
}

/// Writes a recording.
pub struct Writer<W: Write> {
    out: BufWriter<W>,
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
        let header = serde_json::to_vec(header).map_err(|error| RecordingError::Write(error.into()))?;
        let mut write = |bytes: &[u8]| out.write_all(bytes).map_err(RecordingError::Write);
        write(MAGIC)?;
        write(&(header.len() as u32).to_le_bytes())?;
        write(&header)?;
        Ok(Writer { out, failed: None })
    }

    /// Appends one event. An error is kept for [`finish`](Self::finish): the guest does not learn of it.
    pub fn record(&mut self, event: &Stamped) {
        if self.failed.is_none()
            && let Err(error) = self.try_record(event)
        {
            self.failed = Some(error);
        }
    }

    fn try_record(&mut self, event: &Stamped) -> io::Result<()> {
        let record = postcard::to_stdvec(event).map_err(io::Error::other)?;
        self.out.write_all(&(record.len() as u32).to_le_bytes())?;
        self.out.write_all(&record)
    }

    /// Writes what is buffered, and tells whether any write failed.
    pub fn finish(&mut self) -> Result<(), RecordingError> {
        match self.failed.take() {
            Some(error) => Err(RecordingError::Write(error)),
            None => self.out.flush().map_err(RecordingError::Write),
        }
    }
}

/// Reads a recording, record by record.
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
        Reader::new(BufReader::new(File::open(path).map_err(open)?))
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

    fn read_record(&mut self) -> Result<Option<Stamped>, RecordingError> {
        let mut length = [0; 4];
        match read_up_to(&mut self.input, &mut length).map_err(RecordingError::Read)? {
            0 => return Ok(None),
            4 => {}
            _ => return Err(RecordingError::CutOff { at: self.at }),
        }
        let length = u32::from_le_bytes(length);
        if length > MAX_RECORD {
            let problem = format!("a record of {length} bytes");
            return Err(RecordingError::Damaged { at: self.at, problem });
        }
        let mut record = vec![0; length as usize];
        if read_up_to(&mut self.input, &mut record).map_err(RecordingError::Read)? != record.len() {
            return Err(RecordingError::CutOff { at: self.at });
        }
        let event = postcard::from_bytes(&record)
            .map_err(|error| RecordingError::Damaged { at: self.at, problem: error.to_string() })?;
        self.at += 4 + u64::from(length);
        Ok(Some(event))
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Stamped, RecordingError>;

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

#[cfg(test)]
mod tests {
    use super::*;
    use binder::trace::TraceEvent;
    use binder::{GuestId, ProcId};
    use std::time::Duration;

    fn header() -> Header {
        Header {
            version: VERSION,
            guest: "g0".into(),
            image: Some("minimal".into()),
            engine: "soft".into(),
            command: vec!["true".into()],
        }
    }

    fn events() -> Vec<Stamped> {
        (1..=3)
            .map(|n| Stamped {
                at: Duration::from_micros(n),
                guest: GuestId(0),
                event: TraceEvent::ProcReleased { proc: ProcId(n as u32) },
            })
            .collect()
    }

    fn file() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes, &header()).unwrap();
        events().iter().for_each(|event| writer.record(event));
        writer.finish().unwrap();
        drop(writer);
        bytes
    }

    #[test]
    fn what_was_written_is_read() {
        let reader = Reader::new(file().as_slice().to_vec().leak() as &[u8]).unwrap();
        assert_eq!(reader.header(), &header());
        assert_eq!(reader.collect::<Result<Vec<_>, _>>().unwrap(), events());
    }

    #[test]
    fn a_cut_file_gives_its_whole_records_and_says_so() {
        let bytes = file();
        let cut = &bytes[..bytes.len() - 1];
        let items: Vec<_> = Reader::new(cut).unwrap().collect();
        assert_eq!(items.len(), 3);
        assert!(matches!(items[2], Err(RecordingError::CutOff { .. })));
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        let open =
            |bytes: &[u8]| Reader::new(io::Cursor::new(bytes.to_vec())).map(|_| ()).unwrap_err().to_string();
        assert!(open(b"").contains("not a trace"));
        assert!(open(b"\x7fELF and so on and on").contains("not a trace"));
        let mut newer = file();
        let position = newer.windows(11).position(|w| w == b"\"version\":1").unwrap();
        newer[position + 10] = b'9';
        assert!(open(&newer).contains("version 9"));
        let mut damaged = file();
        damaged[9] = 0xff;
        damaged[11] = 0xff;
        assert!(open(&damaged).contains("damaged"));
    }

    #[test]
    fn a_full_disk_is_told_at_the_end() {
        let mut writer =
            Writer::new(File::options().write(true).open("/dev/full").unwrap(), &header()).unwrap();
        events().iter().for_each(|event| writer.record(event));
        assert!(matches!(writer.finish(), Err(RecordingError::Write(_))));
    }
}
