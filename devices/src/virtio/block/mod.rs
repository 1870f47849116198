//! The block device (virtio 1.2, section 5.2; Linux `drivers/block/virtio_blk.c`).
//!
//! One queue. A request is a chain of a header (type, sector), data, and a status byte for the
//! device to write. It is served inside the doorbell write, so that what a guest read and wrote by
//! some instruction is the same in every run.

use std::io::{Read, Write};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_ID_BYTES,
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};

use super::ring::{ChainReader, ChainWriter, Ring};
use super::{ActivateError, ActiveQueues, DeviceError, VirtioDevice};
use super::{NotRestored, NotSaved, SavedDevice, SavedQueue};

mod disk;
mod file;
mod overlay;
#[cfg(test)]
mod tests;

pub use disk::{Disk, SECTOR};
pub use file::{FileDisk, OpenDiskError};
pub use overlay::Overlay;

/// The block device's id.
pub const DEVICE_ID: u32 = 2;

const QUEUE_SIZE: u16 = 128;
const QUEUE_SIZES: &[u16] = &[QUEUE_SIZE];

/// Most data segments of a request: a queue's length without header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// Most bytes of a request's data. Linux stays far below (`max_sectors_kb`, 1280 KiB); without a
/// limit, one doorbell could keep the host busy for as long as all of the guest's RAM takes.
const MAX_DATA: usize = 16 << 20;

/// Bytes that are moved between a disk and a guest at a time.
const CHUNK: usize = 64 << 10;

/// The request header: type, a reserved word, sector.
const HEADER: usize = 16;

/// The block device.
pub struct Block {
    disk: Box<dyn Disk>,
    serial: [u8; VIRTIO_BLK_ID_BYTES as usize],
    ring: Option<Ring>,
}

impl Block {
    /// A device that is `disk`, whose serial number is the start of `serial` (20 bytes).
    pub fn new(disk: Box<dyn Disk>, serial: &str) -> Self {
        let mut id = [0; VIRTIO_BLK_ID_BYTES as usize];
        let len = serial.len().min(id.len());
        id[..len].copy_from_slice(&serial.as_bytes()[..len]);
        Block { disk, serial: id, ring: None }
    }

    /// The configuration space: capacity, size_max (unused), seg_max, geometry (unused), blk_size.
    fn config(&self) -> [u8; 24] {
        let mut config = [0; 24];
        config[..8].copy_from_slice(&self.disk.sectors().to_le_bytes());
        config[12..16].copy_from_slice(&SEG_MAX.to_le_bytes());
        config[20..24].copy_from_slice(&(SECTOR as u32).to_le_bytes());
        config
    }
}

impl VirtioDevice for Block {
    fn id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        let read_only = if self.disk.read_only() { 1 << VIRTIO_BLK_F_RO } else { 0 };
        1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_FLUSH | read_only
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = self.config();
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = usize::try_from(at).ok().and_then(|at| config.get(at)).copied().unwrap_or(0);
        }
    }

    fn activate(&mut self, mut guest: ActiveQueues) -> Result<(), ActivateError> {
        self.ring = Some(guest.take_ring(0)?);
        Ok(())
    }

    fn notify(&mut self, _queue: u16) -> Result<(), DeviceError> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        let mut server = Server { disk: &mut *self.disk, serial: &self.serial };
        ring.answer(|request, answer| server.serve(request, answer))
    }

    fn reset(&mut self) {
        self.ring = None;
        // A driver that goes away may not have flushed; what it wrote is kept as a disk keeps it.
        let _ = self.disk.flush();
    }

    fn saved_queues(&self) -> Option<Vec<SavedQueue>> {
        Some(vec![self.ring.as_ref()?.saved()])
    }

    /// Only what cannot change is the same when the snapshot is restored.
    fn save(&self) -> Result<SavedDevice, NotSaved> {
        if self.disk.read_only() {
            Ok(SavedDevice::Plain)
        } else {
            Err(NotSaved("a guest with a disk that it can write cannot be saved".to_owned()))
        }
    }

    fn restore(&mut self, saved: SavedDevice) -> Result<(), NotRestored> {
        saved.plain()
    }
}

/// What a request gets as its status byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Status {
    Ok = VIRTIO_BLK_S_OK as u8,
    IoError = VIRTIO_BLK_S_IOERR as u8,
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

/// Serves requests; borrows the device without its ring.
struct Server<'a> {
    disk: &'a mut dyn Disk,
    serial: &'a [u8],
}

impl Server<'_> {
    /// Serves one chain; the answer is how many bytes were written into it. A chain without a
    /// header or without room for a status breaks virtio's rules: the device stops.
    fn serve(&mut self, mut request: ChainReader<'_>, mut data: ChainWriter<'_>) -> Result<u32, DeviceError> {
        let broken = |problem| DeviceError::Driver { queue: 0, problem };
        let mut header = [0; HEADER];
        request.read_exact(&mut header).map_err(|_| broken("a request without a header"))?;
        let kind = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
        let sector = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));

        let room = data.available_bytes().checked_sub(1).ok_or(broken("a request without a status byte"))?;
        let mut status = data.split_at(room).map_err(|_| broken("a request without a status byte"))?;
        let result = match kind {
            VIRTIO_BLK_T_IN => self.read(sector, room, &mut data),
            VIRTIO_BLK_T_OUT => self.write(sector, &mut request),
            VIRTIO_BLK_T_FLUSH => self.disk.flush().map(|()| Status::Ok),
            VIRTIO_BLK_T_GET_ID => {
                let len = self.serial.len().min(room);
                data.write_all(&self.serial[..len]).map(|()| Status::Ok)
            }
            _ => Ok(Status::Unsupported),
        };
        let answer = result.unwrap_or(Status::IoError);
        status.write_all(&[answer as u8]).map_err(|_| broken("a status byte outside of RAM"))?;
        Ok((data.bytes_written() + 1) as u32)
    }

    fn read(&mut self, sector: u64, len: usize, guest: &mut ChainWriter<'_>) -> std::io::Result<Status> {
        if !self.exists(sector, len) {
            return Ok(Status::IoError);
        }
        let mut buffer = vec![0; len.min(CHUNK)];
        let mut at = sector;
        let mut left = len;
        while left > 0 {
            let piece = &mut buffer[..left.min(CHUNK)];
            self.disk.read(at, piece)?;
            guest.write_all(piece)?;
            at += (piece.len() / SECTOR) as u64;
            left -= piece.len();
        }
        Ok(Status::Ok)
    }

    fn write(&mut self, sector: u64, guest: &mut ChainReader<'_>) -> std::io::Result<Status> {
        let len = guest.available_bytes();
        if self.disk.read_only() || !self.exists(sector, len) {
            return Ok(Status::IoError);
        }
        let mut buffer = vec![0; len.min(CHUNK)];
        let mut at = sector;
        let mut left = len;
        while left > 0 {
            let piece = &mut buffer[..left.min(CHUNK)];
            guest.read_exact(piece)?;
            self.disk.write(at, piece)?;
            at += (piece.len() / SECTOR) as u64;
            left -= piece.len();
        }
        Ok(Status::Ok)
    }

    /// Whether whole sectors are asked for, all of them on the disk, and not too many.
    fn exists(&self, sector: u64, len: usize) -> bool {
        let sectors = (len / SECTOR) as u64;
        let end = sector.checked_add(sectors);
        len.is_multiple_of(SECTOR) && len <= MAX_DATA && end.is_some_and(|end| end <= self.disk.sectors())
    }
}
