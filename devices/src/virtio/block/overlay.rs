//! Disks that read from a base until they are written: in memory, for runs that leave nothing, or
//! in a file, for runs that go on where the one before ended.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::disk::{Disk, SECTOR};
use super::file::{FileDisk, OpenDiskError};

/// Unit of what is copied up: what is written of it first brings the rest along.
const CLUSTER: usize = 64 << 10;
const CLUSTER_SECTORS: u64 = (CLUSTER / SECTOR) as u64;

/// The part of `bytes` that lies in each cluster: (cluster, offset in it, range of `bytes`).
fn pieces(sector: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = sector + (done / SECTOR) as u64;
        let offset = (at % CLUSTER_SECTORS) as usize * SECTOR;
        let length = (CLUSTER - offset).min(len - done);
        let piece = (at / CLUSTER_SECTORS, offset, done..done + length);
        done += length;
        Some(piece)
    })
}

/// A cluster of the base; past its end there are zeros.
fn base_cluster(base: &mut FileDisk, cluster: u64) -> io::Result<Vec<u8>> {
    let first = cluster * CLUSTER_SECTORS;
    let sectors = (base.sectors() - first).min(CLUSTER_SECTORS);
    let mut bytes = vec![0; CLUSTER];
    base.read(first, &mut bytes[..sectors as usize * SECTOR])?;
    Ok(bytes)
}

/// A disk whose `base` is never written: what the guest writes goes to `upper`.
pub struct Overlay<U> {
    base: FileDisk,
    upper: U,
}

/// Where the clusters that were written are.
pub trait Upper: Send {
    /// Reads from a cluster, from byte `offset` of it on. False: it is not there.
    fn read(&self, cluster: u64, offset: usize, bytes: &mut [u8]) -> io::Result<bool>;

    /// Writes into a cluster. False: it is not there.
    fn write(&mut self, cluster: u64, offset: usize, bytes: &[u8]) -> io::Result<bool>;

    /// Puts a whole cluster there that was not.
    fn add(&mut self, cluster: u64, contents: Vec<u8>) -> io::Result<()>;

    /// Returns when everything written is where it is kept.
    fn flush(&mut self) -> io::Result<()>;
}

impl<U: Upper> Disk for Overlay<U> {
    fn sectors(&self) -> u64 {
        self.base.sectors()
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&mut self, sector: u64, bytes: &mut [u8]) -> io::Result<()> {
        for (cluster, offset, range) in pieces(sector, bytes.len()) {
            let bytes = &mut bytes[range];
            if !self.upper.read(cluster, offset, bytes)? {
                self.base.read(cluster * CLUSTER_SECTORS + (offset / SECTOR) as u64, bytes)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> io::Result<()> {
        for (cluster, offset, range) in pieces(sector, bytes.len()) {
            let bytes = &bytes[range];
            if !self.upper.write(cluster, offset, bytes)? {
                let mut contents = base_cluster(&mut self.base, cluster)?;
                contents[offset..offset + bytes.len()].copy_from_slice(bytes);
                self.upper.add(cluster, contents)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.upper.flush()
    }
}

/// In the host's memory, up to a limit, and forgotten.
pub struct InMemory {
    clusters: BTreeMap<u64, Vec<u8>>,
    /// Most clusters that are kept; a write past it is an I/O error.
    limit: usize,
}

impl Overlay<InMemory> {
    /// An overlay on `base` that holds `limit` bytes at most.
    pub fn in_memory(base: FileDisk, limit: usize) -> Self {
        Overlay { base, upper: InMemory { clusters: BTreeMap::new(), limit: limit / CLUSTER } }
    }
}

impl Upper for InMemory {
    fn read(&self, cluster: u64, offset: usize, bytes: &mut [u8]) -> io::Result<bool> {
        let Some(contents) = self.clusters.get(&cluster) else { return Ok(false) };
        bytes.copy_from_slice(&contents[offset..offset + bytes.len()]);
        Ok(true)
    }

    fn write(&mut self, cluster: u64, offset: usize, bytes: &[u8]) -> io::Result<bool> {
        let is_full = self.clusters.len() >= self.limit;
        match self.clusters.get_mut(&cluster) {
            Some(contents) => contents[offset..offset + bytes.len()].copy_from_slice(bytes),
            // Before the base is read for nothing.
            None if is_full => return Err(io::ErrorKind::StorageFull.into()),
            None => return Ok(false),
        }
        Ok(true)
    }

    fn add(&mut self, cluster: u64, contents: Vec<u8>) -> io::Result<()> {
        self.clusters.insert(cluster, contents);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// First bytes of an overlay file; the last is the format's version.
const MAGIC: [u8; 8] = *b"bvovrly\x01";
/// Header: magic, then the base's sectors. The bitmap follows at once.
const HEADER: u64 = 16;

/// In a file of its own, to be found again there by the next run:
/// header, one bit for each cluster that is there, and, from the next multiple of [`CLUSTER`] on, a
/// place for every cluster. It is sparse: it takes as much of the host's disk as was written.
pub struct InFile {
    file: File,
    present: Vec<u8>,
    data: u64,
}

impl Overlay<InFile> {
    /// Opens the overlay at `path`, or makes it, for a disk on top of `base`.
    pub fn in_file(base: FileDisk, path: &Path) -> Result<Self, OpenDiskError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let file = file.map_err(OpenDiskError::Open)?;
        file.try_lock().map_err(|_| OpenDiskError::Busy)?;
        let clusters = base.sectors().div_ceil(CLUSTER_SECTORS);
        let mut present = vec![0; clusters.div_ceil(8) as usize];
        let data = (HEADER + present.len() as u64).next_multiple_of(CLUSTER as u64);
        let mut header = [0; HEADER as usize];
        header[..8].copy_from_slice(&MAGIC);
        header[8..].copy_from_slice(&base.sectors().to_le_bytes());

        let length = file.metadata().map_err(OpenDiskError::Length)?.len();
        if length == 0 {
            file.set_len(data + clusters * CLUSTER as u64)
                .and_then(|()| file.write_all_at(&header, 0))
                .map_err(OpenDiskError::Open)?;
        } else {
            let mut found = [0; HEADER as usize];
            file.read_exact_at(&mut found, 0).map_err(|_| OpenDiskError::NotAnOverlay("it is too short"))?;
            if found[..8] != header[..8] {
                return Err(OpenDiskError::NotAnOverlay("it does not begin as an overlay does"));
            }
            if found != header {
                return Err(OpenDiskError::NotAnOverlay("the disk below it had another size"));
            }
            file.read_exact_at(&mut present, HEADER)
                .map_err(|_| OpenDiskError::NotAnOverlay("it is too short"))?;
            if length < data + clusters * CLUSTER as u64 {
                return Err(OpenDiskError::NotAnOverlay("it is too short"));
            }
        }
        Ok(Overlay { base, upper: InFile { file, present, data } })
    }
}

impl InFile {
    fn has(&self, cluster: u64) -> bool {
        self.present[cluster as usize / 8] & 1 << (cluster % 8) != 0
    }

    fn place(&self, cluster: u64, offset: usize) -> u64 {
        self.data + cluster * CLUSTER as u64 + offset as u64
    }
}

impl Upper for InFile {
    fn read(&self, cluster: u64, offset: usize, bytes: &mut [u8]) -> io::Result<bool> {
        if !self.has(cluster) {
            return Ok(false);
        }
        self.file.read_exact_at(bytes, self.place(cluster, offset)).map(|()| true)
    }

    fn write(&mut self, cluster: u64, offset: usize, bytes: &[u8]) -> io::Result<bool> {
        if !self.has(cluster) {
            return Ok(false);
        }
        self.file.write_all_at(bytes, self.place(cluster, offset)).map(|()| true)
    }

    /// The data first and the bit that names it second, so that a run that is cut short leaves
    /// clusters that are whole or not there.
    fn add(&mut self, cluster: u64, contents: Vec<u8>) -> io::Result<()> {
        self.file.write_all_at(&contents, self.place(cluster, 0))?;
        let byte = cluster as usize / 8;
        let bits = self.present[byte] | 1 << (cluster % 8);
        self.file.write_all_at(&[bits], HEADER + byte as u64)?;
        self.present[byte] = bits;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}
