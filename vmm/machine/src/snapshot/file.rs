//! The file.
//!
//! | offset | what |
//! |---|---|
//! | 0 | `BINDERVMSNAPSHOT`, then the format's number and the header's length (u32, little-endian) |
//! | 24 | sha256 of the header |
//! | 56 | the header: JSON, to be read without anything else |
//! | 16 KiB | the state: postcard |
//! | next page | RAM, one range after the other; pages of zeros are holes |
//!
//! It is written beside its place and renamed when it is whole. Lengths are bounded before anything is
//! allocated for them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use guest_ram::{GuestRam, PAGE_SIZE};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use vm_memory::{Bytes, GuestAddress};

use super::{MachineState, SnapshotError};
use crate::layout::{MAX_MEMORY, MemorySize};

/// Counted up whenever the header or the state is written in another way.
pub const FORMAT: u32 = 9;

const MAGIC: &[u8; 16] = b"BINDERVMSNAPSHOT";
/// Magic, format, length, hash.
const PREFIX: usize = 56;
/// Room for all of that and the header.
const HEADER_AREA: usize = 16 << 10;
/// More state than a guest with every quota used up has. (One with servicemanager has 50 KB.)
const MAX_STATE: u64 = 256 << 20;
/// Bytes of RAM that are looked at together.
const CHUNK: usize = 1 << 20;

/// What its maker says of a snapshot: short texts by name.
pub type Labels = BTreeMap<String, String>;

/// What a snapshot is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the program that made it.
    pub bindervm: String,
    /// `soft`: it can be restored on that engine alone.
    pub engine: String,
    /// CPUs of the guest.
    pub cpus: u8,
    /// RAM of the guest.
    pub memory_bytes: u64,
    /// Guest time since power-on.
    pub guest_time_ms: u64,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// What its maker says of it.
    pub labels: Labels,
    /// Where CPUs and devices are.
    pub state: Section,
    /// Where RAM is. The hash is of the pages that are not zeros, each after its number (u64).
    pub memory: Section,
    /// Pages that are not zeros.
    pub pages: u64,
}

/// A part of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// Where it begins.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// In hexadecimal digits.
    pub sha256: String,
}

/// What is known of a guest before its state and RAM are written.
pub(crate) struct Facts {
    pub engine: String,
    pub cpus: u8,
    pub memory: MemorySize,
    pub guest_time: Duration,
    pub labels: Labels,
}

/// Whether something stands at `path` that must not be replaced by a file: a device, a pipe, a socket, a folder.
pub fn is_special(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| !metadata.is_file())
}

/// Whether a snapshot can be saved to `path`, before anything is done for it: its folder is there, and it would
/// replace nothing but a file.
pub fn check_destination(path: &Path) -> Result<(), SnapshotError> {
    let wrong = |what: String| Err(SnapshotError::Destination(what));
    if is_special(path) {
        return wrong("it is there and no regular file: name another".to_owned());
    }
    match folder_of(path) {
        folder if folder.is_dir() => Ok(()),
        folder => wrong(format!("there is no folder {}", folder.display())),
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a snapshot to `path`, whole or not at all.
pub(crate) fn write(
    path: &Path,
    facts: Facts,
    state: &MachineState,
    ram: &GuestRam,
) -> Result<Header, SnapshotError> {
    check_destination(path)?;
    // The name of the part is nobody's business, and the crate's error has it.
    let unnamed = |error: io::Error| SnapshotError::Write(error.kind().into());
    let part = tempfile::Builder::new().prefix(".snapshot-").suffix(".part").tempfile_in(folder_of(path));
    let mut part = part.map_err(unnamed)?;
    let state = postcard::to_stdvec(state).map_err(|error| SnapshotError::NotSaved(error.to_string()))?;
    let Facts { engine, cpus, memory, guest_time, labels } = facts;
    let file = part.as_file_mut();
    let offset = (HEADER_AREA + state.len()).next_multiple_of(PAGE_SIZE) as u64;
    let (pages, hash) = write_ram(file, offset, memory, ram).map_err(SnapshotError::Write)?;
    let header = Header {
        bindervm: env!("CARGO_PKG_VERSION").to_owned(),
        engine,
        cpus,
        memory_bytes: memory.bytes(),
        guest_time_ms: guest_time.as_millis() as u64,
        created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        labels,
        state: Section {
            offset: HEADER_AREA as u64,
            length: state.len() as u64,
            sha256: hex(Sha256::digest(&state)),
        },
        memory: Section { offset, length: memory.bytes(), sha256: hash },
        pages,
    };
    let json =
        serde_json::to_vec_pretty(&header).map_err(|error| SnapshotError::NotSaved(error.to_string()))?;
    if PREFIX + json.len() > HEADER_AREA {
        return Err(SnapshotError::HeaderTooLong);
    }
    let mut head = MAGIC.to_vec();
    head.extend(FORMAT.to_le_bytes());
    head.extend((json.len() as u32).to_le_bytes());
    head.extend(Sha256::digest(&json));
    head.extend(&json);
    let written = file
        .seek(SeekFrom::Start(0))
        .and_then(|_| file.write_all(&head))
        .and_then(|()| file.write_all_at(&state, HEADER_AREA as u64))
        .and_then(|()| file.sync_data());
    written.map_err(SnapshotError::Write)?;
    part.persist(path).map_err(|error| SnapshotError::Write(error.error))?;
    Ok(header)
}

/// Writes the pages that are not zeros to their places. Returns how many there are, and their hash.
fn write_ram(file: &File, offset: u64, memory: MemorySize, ram: &GuestRam) -> io::Result<(u64, String)> {
    file.set_len(offset + memory.bytes())?;
    let (mut hash, mut pages) = (Sha256::new(), 0);
    let mut chunk = vec![0; CHUNK];
    let mut at = 0;
    for (start, length) in memory.ranges() {
        for from in (0..length).step_by(CHUNK) {
            let bytes = &mut chunk[..CHUNK.min(length - from)];
            ram.read_slice(bytes, GuestAddress(start.0 + from as u64)).map_err(io::Error::other)?;
            // Runs of pages go out together.
            let mut run = 0..0;
            for (index, page) in bytes.chunks(PAGE_SIZE).enumerate() {
                if !is_zero(page) {
                    hash.update(((at as usize / PAGE_SIZE + index) as u64).to_le_bytes());
                    hash.update(page);
                    pages += 1;
                    if run.is_empty() {
                        run.start = index * PAGE_SIZE;
                    }
                    run.end = (index + 1) * PAGE_SIZE;
                } else if !run.is_empty() {
                    file.write_all_at(&bytes[run.clone()], offset + at + run.start as u64)?;
                    run = 0..0;
                }
            }
            file.write_all_at(&bytes[run.clone()], offset + at + run.start as u64)?;
            at += bytes.len() as u64;
        }
    }
    Ok((pages, hex(hash.finalize())))
}

fn is_zero(page: &[u8]) -> bool {
    page.iter().fold(0, |all, byte| all | byte) == 0
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A snapshot that was opened: its header makes sense, and the file is as long as it says.
#[derive(Clone)]
pub struct Snapshot {
    file: Arc<File>,
    header: Header,
}

impl Snapshot {
    /// Opens a snapshot and reads its header.
    pub fn open(path: &Path) -> Result<Snapshot, SnapshotError> {
        let mut file = File::open(path).map_err(SnapshotError::Read)?;
        let metadata = file.metadata().map_err(SnapshotError::Read)?;
        if !metadata.is_file() {
            return Err(SnapshotError::Read(io::Error::other("it is not a regular file")));
        }
        let mut head = Vec::new();
        (&mut file).take(HEADER_AREA as u64).read_to_end(&mut head).map_err(SnapshotError::Read)?;
        let header = parse(&head)?;
        check(&header, metadata.len())?;
        Ok(Snapshot { file: Arc::new(file), header })
    }

    /// What it is of.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Reads the state, and compares it with its hash.
    pub(crate) fn state(&self) -> Result<MachineState, SnapshotError> {
        let Section { offset, length, sha256 } = &self.header.state;
        let mut bytes = vec![0; *length as usize];
        self.file.read_exact_at(&mut bytes, *offset).map_err(SnapshotError::Read)?;
        if hex(Sha256::digest(&bytes)) != *sha256 {
            return Err(SnapshotError::Damaged("the state is not what its hash is of".to_owned()));
        }
        let (state, rest) = postcard::take_from_bytes(&bytes)
            .map_err(|error| SnapshotError::Damaged(format!("the state cannot be read: {error}")))?;
        if !rest.is_empty() {
            return Err(SnapshotError::Damaged("there is more than the state".to_owned()));
        }
        Ok(state)
    }

    /// The guest's RAM, copy on write. The file must not become shorter while it is in use.
    pub(crate) fn ram(&self) -> Result<GuestRam, SnapshotError> {
        let memory = self.memory_size()?;
        let mut offset = self.header.memory.offset;
        let ranges = memory.ranges().into_iter().map(|(start, length)| {
            let range = (start, length, offset);
            offset += length as u64;
            range
        });
        let ranges: Vec<_> = ranges.collect();
        guest_ram::map(&self.file, &ranges).map_err(|error| SnapshotError::Damaged(error.to_string()))
    }

    pub(crate) fn memory_size(&self) -> Result<MemorySize, SnapshotError> {
        MemorySize::new(self.header.memory_bytes).map_err(|error| SnapshotError::Damaged(error.to_string()))
    }

    /// Reads everything and compares it with the hashes: what restoring takes on trust, too.
    pub fn verify(&self) -> Result<(), SnapshotError> {
        self.state()?;
        let (mut hash, mut pages) = (Sha256::new(), 0);
        let mut chunk = vec![0; CHUNK];
        let Section { offset, length, sha256 } = &self.header.memory;
        for at in (0..*length).step_by(CHUNK) {
            let bytes = &mut chunk[..CHUNK.min((length - at) as usize)];
            self.file.read_exact_at(bytes, offset + at).map_err(SnapshotError::Read)?;
            for (number, page) in (at / PAGE_SIZE as u64..).zip(bytes.chunks(PAGE_SIZE)) {
                if !is_zero(page) {
                    hash.update(number.to_le_bytes());
                    hash.update(page);
                    pages += 1;
                }
            }
        }
        if pages != self.header.pages || hex(hash.finalize()) != *sha256 {
            return Err(SnapshotError::Damaged("the memory is not what its hash is of".to_owned()));
        }
        Ok(())
    }
}

/// Reads the header from the start of a file.
fn parse(head: &[u8]) -> Result<Header, SnapshotError> {
    let damaged = |what: &str| SnapshotError::Damaged(what.to_owned());
    let (magic, rest) = head.split_first_chunk::<16>().ok_or(SnapshotError::NotASnapshot)?;
    if magic != MAGIC {
        return Err(SnapshotError::NotASnapshot);
    }
    let (format, rest) = rest.split_first_chunk::<4>().ok_or(damaged("it ends in its header"))?;
    let format = u32::from_le_bytes(*format);
    if format != FORMAT {
        return Err(SnapshotError::Format(format));
    }
    let (length, rest) = rest.split_first_chunk::<4>().ok_or(damaged("it ends in its header"))?;
    let (hash, rest) = rest.split_first_chunk::<32>().ok_or(damaged("it ends in its header"))?;
    let json = rest.get(..u32::from_le_bytes(*length) as usize).ok_or(damaged("it ends in its header"))?;
    if Sha256::digest(json)[..] != *hash {
        return Err(damaged("the header is not what its hash is of"));
    }
    serde_json::from_slice(json).map_err(|error| SnapshotError::Damaged(format!("the header: {error}")))
}

/// Whether the parts follow each other and end where the file of `length` bytes does.
fn check(header: &Header, length: u64) -> Result<(), SnapshotError> {
    let damaged = |what: &str| Err(SnapshotError::Damaged(what.to_owned()));
    let Header { state, memory, memory_bytes, .. } = header;
    if state.offset != HEADER_AREA as u64 || state.length > MAX_STATE || *memory_bytes > MAX_MEMORY {
        return damaged("the header names parts that no snapshot has");
    }
    let end = (state.offset + state.length).next_multiple_of(PAGE_SIZE as u64);
    if memory.offset != end || memory.length != *memory_bytes {
        return damaged("the header names parts that no snapshot has");
    }
    match length.cmp(&(memory.offset + memory.length)) {
        std::cmp::Ordering::Less => damaged("it is cut short"),
        std::cmp::Ordering::Greater => damaged("it is longer than it says"),
        std::cmp::Ordering::Equal => Ok(()),
    }
}
