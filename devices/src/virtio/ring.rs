//! One queue of an active device: the two ways to serve it, and errors that say which queue they
//! are about.

use std::io::Write;
use std::sync::Arc;

use guest_ram::GuestRam;
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT, Reader, Writer};
use vm_memory::bitmap::MS;
use vm_memory::{Bytes, GuestAddress};

use super::{DeviceError, Interrupt, SavedQueue};

/// A descriptor chain that keeps its guest's memory alive.
pub type Chain = DescriptorChain<Arc<GuestRam>>;

/// The bytes that a driver put into a chain.
pub type ChainReader<'a> = Reader<'a, MS<'a, GuestRam>>;

/// The room that a driver gave in a chain.
pub type ChainWriter<'a> = Writer<'a, MS<'a, GuestRam>>;

/// A ready queue, the memory it lies in, and the way to tell the driver.
pub struct Ring {
    index: u16,
    queue: Queue,
    ram: Arc<GuestRam>,
    interrupt: Interrupt,
}

impl Ring {
    /// The most bytes that [`Ring::fill`] puts into one chain.
    pub const CHUNK: usize = 4096;

    /// Wraps queue `index` of a device.
    pub fn new(index: u16, queue: Queue, ram: Arc<GuestRam>, interrupt: Interrupt) -> Self {
        Ring { index, queue, ram, interrupt }
    }

    /// Where the queue is, for a snapshot.
    pub fn saved(&self) -> SavedQueue {
        SavedQueue::of(&self.queue)
    }

    /// Hands the bytes of every available chain to `take` and gives the chain back.
    pub fn drain(
        &mut self,
        mut take: impl FnMut(ChainReader<'_>) -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        let ram = Arc::clone(&self.ram);
        self.serve(|ring, chain| {
            take(chain.reader(&ram).map_err(|e| ring.error(e))?)?;
            Ok(Some(0))
        })
    }

    /// Fills the available chains with what `source` writes into the buffer it is given, which is
    /// as long as the chain but at most [`Ring::CHUNK`] bytes; 0 bytes end the filling and keep the chain.
    pub fn fill(
        &mut self,
        mut source: impl FnMut(&mut [u8]) -> Result<usize, DeviceError>,
    ) -> Result<(), DeviceError> {
        let ram = Arc::clone(&self.ram);
        let mut buffer = [0; Self::CHUNK];
        self.serve(|ring, chain| {
            let mut writer = chain.writer(&ram).map_err(|e| ring.error(e))?;
            let room = writer.available_bytes().min(Self::CHUNK);
            if room == 0 {
                return Ok(Some(0));
            }
            let filled = source(&mut buffer[..room])?;
            writer.write_all(&buffer[..filled]).map_err(|e| DeviceError::Host(e.to_string()))?;
            Ok((filled > 0).then_some(filled as u32))
        })
    }

    /// Hands the bytes and the room of every available chain to `answer`, which says how many bytes it
    /// wrote.
    pub fn answer(
        &mut self,
        mut answer: impl FnMut(ChainReader<'_>, ChainWriter<'_>) -> Result<u32, DeviceError>,
    ) -> Result<(), DeviceError> {
        let ram = Arc::clone(&self.ram);
        self.serve(|ring, chain| {
            let writer = chain.clone().writer(&ram).map_err(|e| ring.error(e))?;
            answer(chain.reader(&ram).map_err(|e| ring.error(e))?, writer).map(Some)
        })
    }

    /// Goes through the available chains. `each` says how many bytes it wrote, or `None` to leave
    /// this chain and stop. One round takes at most one ring's length, so that a second vCPU that
    /// refills the ring cannot keep this one in here for ever.
    fn serve(
        &mut self,
        mut each: impl FnMut(&Ring, Chain) -> Result<Option<u32>, DeviceError>,
    ) -> Result<(), DeviceError> {
        let mut used = false;
        for _ in 0..self.queue.size() {
            let Some(chain) = self.pop()? else { break };
            let head = chain.head_index();
            let Some(written) = each(self, chain)? else {
                self.queue.go_to_previous_position();
                break;
            };
            let pushed = self.queue.add_used(&*self.ram, head, written);
            pushed.map_err(|e| self.error(e))?;
            used = true;
        }
        if used && self.wants_interrupt() {
            self.interrupt.used_ring();
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Option<Chain>, DeviceError> {
        match self.queue.iter(Arc::clone(&self.ram)) {
            Ok(mut available) => Ok(available.next()),
            Err(e) => Err(self.error(e)),
        }
    }

    /// The driver may ask not to be interrupted (virtio 1.2, 2.7.7).
    fn wants_interrupt(&self) -> bool {
        let flags = self.ram.read_obj::<u16>(GuestAddress(self.queue.avail_ring()));
        flags.is_ok_and(|flags| u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    fn error(&self, source: virtio_queue::Error) -> DeviceError {
        DeviceError::Ring { queue: self.index, source }
    }
}
