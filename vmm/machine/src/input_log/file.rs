//! The file.
//!
//! | offset | what |
//! |---|---|
//! | 0 | `BINDERVMINPUTLOG`, then the format's number and the settings' length (u32, little-endian) |
//! | 24 | the settings: JSON, an object of texts |
//! | then, again and again | an entry's length (u32), the entry (postcard), its mark |
//!
//! A mark is the first eight bytes of a SHA-256 over the mark before and the entry; the first one is over all
//! that comes before the entries. So a changed, lost or moved entry is found, and a file that ends between two
//! entries is what a process that was killed has left. Each entry is written at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::{Entry, InputLogError};

/// Counted up whenever anything is written in another way.
pub(super) const FORMAT: u32 = 1;

const MAGIC: &[u8; 16] = b"BINDERVMINPUTLOG";
/// Magic, format, length.
const PREFIX: usize = 24;
/// Settings are some texts.
const MAX_SETTINGS: usize = 64 << 10;
/// More than can wait for all the devices of a guest.
const MAX_ENTRY: usize = 4 << 20;

/// What the recorded run was, by name: a replay has to have the same.
pub type Settings = BTreeMap<String, String>;

type Mark = [u8; 8];

/// A log that is being written.
pub struct Writer {
    file: File,
    mark: Mark,
}

impl Writer {
    /// Begins a log in `file`, which is empty.
    pub fn new(mut file: File, settings: &Settings) -> Result<Writer, InputLogError> {
        let json = serde_json::to_vec(settings).map_err(|_| InputLogError::TooLong)?;
        if json.len() > MAX_SETTINGS {
            return Err(InputLogError::TooLong);
        }
        let mut head = MAGIC.to_vec();
        head.extend(FORMAT.to_le_bytes());
        head.extend((json.len() as u32).to_le_bytes());
        head.extend(json);
        file.write_all(&head).map_err(InputLogError::Write)?;
        Ok(Writer { file, mark: mark(Mark::default(), &head) })
    }

    pub(super) fn write(&mut self, entry: &Entry) -> Result<(), InputLogError> {
        let entry = postcard::to_stdvec(entry).map_err(|_| InputLogError::TooLong)?;
        if entry.len() > MAX_ENTRY {
            return Err(InputLogError::TooLong);
        }
        self.mark = mark(self.mark, &entry);
        let length = (entry.len() as u32).to_le_bytes();
        self.file.write_all(&[&length[..], &entry, &self.mark].concat()).map_err(InputLogError::Write)
    }
}

/// A log that is read, entry by entry.
pub struct Reader {
    settings: Settings,
    entries: Entries,
    next: Option<Entry>,
}

impl Reader {
    /// Opens a log, and reads all of it once: what is damaged is told before anything is run.
    pub fn open(path: &Path) -> Result<Reader, InputLogError> {
        let file = File::open(path).map_err(InputLogError::Read)?;
        // Pipes cannot be read twice, and devices may never end.
        if !file.metadata().map_err(InputLogError::Read)?.is_file() {
            return Err(InputLogError::Read(std::io::Error::other("it is not a regular file")));
        }
        let again = file.try_clone().map_err(InputLogError::Read)?;
        let (_, entries) = begin(file)?;
        entries.check()?;
        let (settings, mut entries) = begin(again)?;
        let next = entries.read()?;
        Ok(Reader { settings, entries, next })
    }

    /// What the recorded run was.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The entry that comes next.
    pub(super) fn next(&self) -> Option<&Entry> {
        self.next.as_ref()
    }

    /// Takes it.
    pub(super) fn advance(&mut self) -> Result<Option<Entry>, InputLogError> {
        let next = self.entries.read()?;
        Ok(std::mem::replace(&mut self.next, next))
    }
}

/// What is behind the settings.
struct Entries {
    file: BufReader<File>,
    mark: Mark,
}

/// Reads a file up to its first entry.
fn begin(mut file: File) -> Result<(Settings, Entries), InputLogError> {
    file.rewind().map_err(InputLogError::Read)?;
    let mut file = BufReader::new(file);
    let mut head = vec![0; PREFIX];
    if !fill(&mut file, &mut head)? || head[..16] != *MAGIC {
        return Err(InputLogError::NotALog);
    }
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let (format, length) = (word(16), word(20) as usize);
    if format != FORMAT {
        return Err(InputLogError::Format(format));
    }
    if length > MAX_SETTINGS {
        return Err(damaged("its settings are longer than any"));
    }
    head.resize(PREFIX + length, 0);
    if !fill(&mut file, &mut head[PREFIX..])? {
        return Err(damaged("it ends in its settings"));
    }
    let settings = serde_json::from_slice(&head[PREFIX..]);
    let settings = settings.map_err(|error| damaged(&format!("its settings: {error}")))?;
    Ok((settings, Entries { file, mark: mark(Mark::default(), &head) }))
}

impl Entries {
    /// The next entry; `None` at the end of the file.
    fn read(&mut self) -> Result<Option<Entry>, InputLogError> {
        let cut = || damaged("it ends in the middle of an entry");
        let mut length = [0; 4];
        match self.file.read(&mut length[..1]).map_err(InputLogError::Read)? {
            0 => return Ok(None),
            _ if fill(&mut self.file, &mut length[1..])? => {}
            _ => return Err(cut()),
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_ENTRY {
            return Err(damaged("an entry is longer than any"));
        }
        let (mut bytes, mut told) = (vec![0; length], Mark::default());
        if !fill(&mut self.file, &mut bytes)? || !fill(&mut self.file, &mut told)? {
            return Err(cut());
        }
        self.mark = mark(self.mark, &bytes);
        if self.mark != told {
            return Err(damaged("an entry is not what its mark is of"));
        }
        match postcard::take_from_bytes(&bytes) {
            Ok((entry, [])) => Ok(Some(entry)),
            _ => Err(damaged("an entry makes no sense")),
        }
    }

    /// Whether all of it can be read, and makes sense as a run.
    fn check(mut self) -> Result<(), InputLogError> {
        let mut last = (0, 0);
        let mut over = false;
        while let Some(entry) = self.read()? {
            if over {
                return Err(damaged("there is more behind the end of its run"));
            }
            let counts = entry.at().counts();
            if counts.0 < last.0 || counts.1 < last.1 {
                return Err(damaged("its entries are not in order"));
            }
            last = counts;
            over = matches!(entry, Entry::End { .. });
        }
        Ok(())
    }
}

/// Fills `bytes`; false: the file ends before.
fn fill(file: &mut impl Read, bytes: &mut [u8]) -> Result<bool, InputLogError> {
    match file.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(InputLogError::Read(error)),
    }
}

fn mark(before: Mark, bytes: &[u8]) -> Mark {
    let hash = Sha256::new().chain_update(before).chain_update(bytes).finalize();
    hash.first_chunk().copied().unwrap_or_default()
}

fn damaged(what: &str) -> InputLogError {
    InputLogError::Damaged(what.to_owned())
}
