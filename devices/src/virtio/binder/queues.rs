//! The two rings, while the driver is ready.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use guest_ram::GuestRam;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryError};
use zerocopy::IntoBytes;

use super::super::{DeviceError, Interrupt};
use super::wire;
use super::wire::decode;
use super::world::World;
use crate::cpu_time;

/// The queues, while the driver is ready.
pub(super) struct Active {
    pub ram: Arc<GuestRam>,
    pub requests: Queue,
    pub events: Queue,
    pub interrupt: Interrupt,
    /// The driver accepted [`wire::F_DIRECT`].
    pub direct: bool,
    /// The message that is being served.
    pub(super) out: OutPage,
}

/// A message as it was copied out of the guest: once, and as much of its page as it says that it fills.
#[derive(Default)]
pub(super) struct OutPage {
    /// A page long, once there was a message.
    bytes: Vec<u8>,
}

/// Most messages are no longer, and are read at once.
const USUAL: usize = 512;

impl OutPage {
    /// Reads the message at `from`, which has at most `room` bytes.
    pub(super) fn read(
        &mut self,
        ram: &GuestRam,
        from: GuestAddress,
        room: usize,
    ) -> Result<&[u8], GuestMemoryError> {
        self.bytes.resize(wire::PAGE, 0);
        let room = &mut self.bytes[..room.min(wire::PAGE)];
        let (usual, rest) = room.split_at_mut(USUAL.min(room.len()));
        ram.read_slice(usual, from)?;
        // What says nothing of its length is no message, and what says too much neither: both are judged later.
        let says = decode::header(usual).map_or(0, |header| header.length.get() as usize);
        let (more, _) = rest.split_at_mut(says.saturating_sub(usual.len()).min(rest.len()));
        if !more.is_empty() {
            ram.read_slice(more, from.unchecked_add(usual.len() as u64))?;
        }
        let length = usual.len() + more.len();
        Ok(&self.bytes[..length])
    }
}

impl Active {
    /// The queues of a driver that is ready.
    pub fn new(
        ram: Arc<GuestRam>,
        requests: Queue,
        events: Queue,
        interrupt: Interrupt,
        direct: bool,
    ) -> Active {
        Active { ram, requests, events, interrupt, direct, out: OutPage::default() }
    }

    /// Answers up to `most` messages, in ring order (rule 2). Returns how many.
    pub fn serve(&mut self, world: &mut World, most: usize) -> Result<usize, DeviceError> {
        let ring = |source| DeviceError::Ring { queue: wire::REQUEST_QUEUE, source };
        let ram = &*self.ram;
        let mut served = 0;
        while served < most {
            let Some(mut chain) = self.requests.iter(ram).map_err(ring)?.next() else { break };
            let head = chain.head_index();
            let timed = world.is_to_be_timed().then(cpu_time::thread);
            let written = match (chain.next(), chain.next()) {
                (Some(out), Some(into)) if !out.is_write_only() && into.is_write_only() => {
                    let bytes = world.answer(self.out.read(ram, out.addr(), out.len() as usize).ok())?;
                    // An in page that is too small or outside RAM: the guest's own loss.
                    let fits =
                        bytes.len() <= into.len() as usize && ram.write_slice(bytes, into.addr()).is_ok();
                    if fits { bytes.len() as u32 } else { 0 }
                }
                _ => {
                    world.count(|counters| counters.malformed += 1);
                    0
                }
            };
            self.requests.add_used(ram, head, written).map_err(ring)?;
            if let Some(began) = timed {
                world.handled(cpu_time::thread().saturating_sub(began));
            }
            served += 1;
        }
        if served > 0 {
            world.domain.lock()?.wake_others(world.guest);
        }
        Ok(served)
    }

    /// Puts up to `most` events into buffers of the event queue. Returns how many. Events that find
    /// no buffer stay in the core (rule 32).
    pub fn deliver(&mut self, world: &mut World, most: usize) -> Result<usize, DeviceError> {
        let ring = |source| DeviceError::Ring { queue: wire::EVENT_QUEUE, source };
        let ram = &*self.ram;
        let mut delivered = 0;
        while delivered < most && world.has_events()? {
            let Some(mut chain) = self.events.iter(ram).map_err(ring)?.next() else { break };
            let head = chain.head_index();
            let usable = chain.next().filter(|d| d.is_write_only() && d.len() as usize >= wire::EVENT_SIZE);
            let Some(buffer) = usable else {
                let problem = "an event buffer is not 256 writable bytes";
                return Err(DeviceError::Driver { queue: wire::EVENT_QUEUE, problem });
            };
            // The last buffer says so, whether more is waiting or not: the next event may come before
            // the buffers are back, and only the kick after their reposting brings it (2.9).
            let last_buffer =
                self.events.avail_idx(ram, Ordering::Acquire).map_err(ring)?.0 == self.events.next_avail();
            let Some(event) = world.next_event(last_buffer)? else { break };
            let written = match ram.write_slice(event.as_bytes(), buffer.addr()) {
                Ok(()) => wire::EVENT_SIZE as u32,
                Err(_) => {
                    let problem = "an event buffer is not in RAM";
                    return Err(DeviceError::Driver { queue: wire::EVENT_QUEUE, problem });
                }
            };
            self.events.add_used(ram, head, written).map_err(ring)?;
            delivered += 1;
        }
        world.count(|counters| counters.events += delivered as u64);
        Ok(delivered)
    }
}
