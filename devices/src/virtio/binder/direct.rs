//! Messages that need no queue.
//!
//! A driver that accepted [`F_DIRECT`](wire::F_DIRECT) writes the page frame number of a message's out page to
//! `vb_config.post`. The message is served inside that write, and answered into the page behind it; the answer
//! carries the events that there are. Only those for which it has no room take the event queue.

use vm_memory::{Address, Bytes, GuestAddress};

use super::super::DeviceError;
use super::queues::Active;
use super::wire;
use super::world::World;
use crate::cpu_time;

impl Active {
    /// Answers the message in page `pfn`. Tells whether the driver has to look at the event queue, too.
    pub fn serve_direct(&mut self, world: &mut World, pfn: u32) -> Result<bool, DeviceError> {
        let timed = world.is_to_be_timed().then(cpu_time::thread);
        let out = GuestAddress(u64::from(pfn) * wire::PAGE as u64);
        let message = self.out.read(&self.ram, out, wire::PAGE);
        let (answer, more) = world.answer_with_events(message.ok())?;
        // No page behind it: the guest's own loss.
        let _ = self.ram.write_slice(answer, out.unchecked_add(wire::PAGE as u64));
        let queued = if more { self.deliver(world, usize::MAX)? } else { 0 };
        if let Some(began) = timed {
            world.handled(cpu_time::thread().saturating_sub(began));
        }
        Ok(queued > 0)
    }
}
