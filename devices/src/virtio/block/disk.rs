//! What a block device's contents come from and go to.

use std::io;

/// Bytes of a sector: virtio's unit, whatever the disk's own is.
pub const SECTOR: usize = 512;

/// A disk's contents. Ranges are whole sectors that exist; [`Block`](super::Block) sees to it.
pub trait Disk: Send {
    /// Sectors on the disk. Does not change.
    fn sectors(&self) -> u64;

    /// Whether writes are refused.
    fn read_only(&self) -> bool;

    /// Fills `bytes` from `sector` on.
    fn read(&mut self, sector: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Stores `bytes` from `sector` on.
    fn write(&mut self, sector: u64, bytes: &[u8]) -> io::Result<()>;

    /// Returns when everything written is where it survives this process.
    fn flush(&mut self) -> io::Result<()>;
}
