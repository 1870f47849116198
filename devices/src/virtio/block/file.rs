//! A disk that is a raw file, or a block device of the host.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::disk::{Disk, SECTOR};

/// A raw file. It is locked as long as it is open: by one guest that writes, or any number that
/// read, since two file systems that write to one disk destroy it.
pub struct FileDisk {
    file: File,
    sectors: u64,
    read_only: bool,
}

/// A file cannot be a disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenDiskError {
    /// The file cannot be opened.
    #[error("cannot open it")]
    Open(#[source] io::Error),
    /// Its length cannot be had.
    #[error("cannot find out its length")]
    Length(#[source] io::Error),
    /// It has no sectors, or half ones.
    #[error("its length, {0} bytes, is not a multiple of 512 (and more than 0)")]
    Sectors(u64),
    /// Another guest uses it.
    #[error("another process uses it (a disk has one writer, or any number of readers)")]
    Busy,
    /// An overlay that was made for something else.
    #[error("it is not an overlay for this disk: {0}")]
    NotAnOverlay(&'static str),
}

impl FileDisk {
    /// Opens `path`, for reading alone if `read_only`.
    pub fn open(path: &Path, read_only: bool) -> Result<FileDisk, OpenDiskError> {
        let mut file =
            OpenOptions::new().read(true).write(!read_only).open(path).map_err(OpenDiskError::Open)?;
        let locked = if read_only { file.try_lock_shared() } else { file.try_lock() };
        locked.map_err(|_| OpenDiskError::Busy)?;
        // A block device has no length in its metadata, but an end.
        let length = file.seek(SeekFrom::End(0)).map_err(OpenDiskError::Length)?;
        if length == 0 || !length.is_multiple_of(SECTOR as u64) {
            return Err(OpenDiskError::Sectors(length));
        }
        Ok(FileDisk { file, sectors: length / SECTOR as u64, read_only })
    }
}

impl Disk for FileDisk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, sector: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(bytes, sector * SECTOR as u64)
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, sector * SECTOR as u64)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.read_only { Ok(()) } else { self.file.sync_data() }
    }
}
