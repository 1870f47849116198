//! Virtio devices as plain data, for snapshots.
//!
//! A device is saved between two of its calls: no doorbell is being served, so its queues' positions,
//! its own state and RAM belong together. To restore one, the transport judges the saved queues as it
//! judges those of a driver, activates the device with them, and then gives it its own state.

use guest_ram::GuestRam;
use serde::{Deserialize, Serialize};
use virtio_queue::{Queue, QueueT};

use super::binder::SavedBinder;
use super::console::SavedConsole;

#[cfg(test)]
mod tests;

/// A device cannot be saved, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotSaved(pub String);

/// A saved state that this device cannot have had, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotRestored(pub String);

impl NotRestored {
    /// An error that says `what`.
    pub fn new(what: impl Into<String>) -> Self {
        NotRestored(what.into())
    }
}

/// What a device is beside its queues.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum SavedDevice {
    /// It has nothing of its own: what it hands out comes from the host.
    Plain,
    /// A console.
    Console(SavedConsole),
    /// A binder device with its world.
    Binder(Box<SavedBinder>),
}

impl SavedDevice {
    /// Nothing, if it is [`SavedDevice::Plain`].
    pub(crate) fn plain(&self) -> Result<(), NotRestored> {
        match self {
            SavedDevice::Plain => Ok(()),
            _ => Err(NotRestored::new("it was saved as another device")),
        }
    }
}

/// One queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedQueue {
    size: u16,
    ready: bool,
    /// Guest-physical addresses.
    descriptors: u64,
    available: u64,
    used: u64,
    next_available: u16,
    next_used: u16,
}

impl SavedQueue {
    /// The state of a queue.
    pub fn of(queue: &Queue) -> SavedQueue {
        SavedQueue {
            size: queue.size(),
            ready: queue.ready(),
            descriptors: queue.desc_table(),
            available: queue.avail_ring(),
            used: queue.used_ring(),
            next_available: queue.next_avail(),
            next_used: queue.next_used(),
        }
    }

    /// A queue of at most `max_size` descriptors in this state. `ram`: it must lie in there, if it is ready.
    pub(crate) fn restore(&self, max_size: u16, ram: Option<&GuestRam>) -> Result<Queue, NotRestored> {
        let state = virtio_queue::QueueState {
            max_size,
            next_avail: self.next_available,
            next_used: self.next_used,
            event_idx_enabled: false,
            size: self.size,
            ready: self.ready,
            desc_table: self.descriptors,
            avail_ring: self.available,
            used_ring: self.used,
        };
        let queue = Queue::try_from(state).map_err(|error| NotRestored(format!("a queue: {error}")))?;
        match ram {
            Some(ram) if queue.ready() && !queue.is_valid(ram) => {
                Err(NotRestored::new("a queue does not lie in guest memory"))
            }
            _ => Ok(queue),
        }
    }
}

/// A transport with its device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedTransport {
    pub(crate) id: u32,
    pub(crate) status: u32,
    pub(crate) interrupt_status: u32,
    pub(crate) config_generation: u32,
    pub(crate) device_features_sel: u32,
    pub(crate) driver_features_sel: u32,
    pub(crate) driver_features: u64,
    pub(crate) queue_sel: u32,
    /// What the registers show of the queues.
    pub(crate) registers: Vec<SavedQueue>,
    /// The queues of the device, while it is active.
    pub(crate) queues: Option<Vec<SavedQueue>>,
    pub(crate) device: SavedDevice,
}

impl SavedTransport {
    /// The device's id.
    pub fn id(&self) -> u32 {
        self.id
    }
}
