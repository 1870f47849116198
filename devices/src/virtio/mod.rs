//! What every virtio device has in common, whatever transport stands before it.
//!
//! Life of a device: made -> [`VirtioDevice::activate`] (the driver wrote DRIVER_OK) ->
//! [`VirtioDevice::notify`] and [`VirtioDevice::service`] any number of times ->
//! [`VirtioDevice::reset`] -> perhaps activated again. The transport guarantees this order, that
//! every ready queue lies in guest RAM when the device gets it, and that calls never overlap.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use guest_ram::GuestRam;
use virtio_queue::{Queue, QueueT};

use crate::irq::IrqLine;

pub mod binder;
pub mod block;
pub mod console;
#[cfg(any(test, feature = "testing"))]
pub mod hostile;
pub mod mmio;
mod ring;
pub mod rng;
pub mod saved;
pub mod share;
pub mod vsock;

pub use ring::{ChainReader, ChainWriter, Ring};
pub use saved::{NotRestored, NotSaved, SavedDevice, SavedQueue, SavedTransport};

/// A virtio device behind a transport.
pub trait VirtioDevice: Send {
    /// The device id (virtio 1.2, section 5).
    fn id(&self) -> u32;

    /// The feature bits offered. VIRTIO_F_VERSION_1 is added by the transport.
    fn features(&self) -> u64;

    /// The largest number of descriptors of each queue; its length is the number of queues.
    fn queue_sizes(&self) -> &'static [u16];

    /// Reads device-specific configuration. Bytes behind its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes device-specific configuration of an active device. Writes to what is read-only are ignored. An
    /// error is one as of [`notify`](Self::notify).
    fn write_config(&mut self, _offset: u64, _data: &[u8]) -> Result<(), DeviceError> {
        Ok(())
    }

    /// The driver is ready: from here on the device may use the queues.
    fn activate(&mut self, guest: ActiveQueues) -> Result<(), ActivateError>;

    /// The guest rang the doorbell of `queue`. An error means that the device cannot go on: the
    /// transport sets DEVICE_NEEDS_RESET and calls nothing but `reset` from then on.
    fn notify(&mut self, queue: u16) -> Result<(), DeviceError>;

    /// The host side may have something for the guest (typed input, a device of another guest):
    /// move what fits into the queues. Called between two guest instructions, like `notify`.
    fn service(&mut self) -> Result<(), DeviceError> {
        Ok(())
    }

    /// Drops the queues and every guest address. Returns when no more guest memory is touched.
    fn reset(&mut self);

    /// The positions of the queues, in the order of [`VirtioDevice::queue_sizes`]; `None`: not active.
    /// Queues that the driver did not set up are any that are not ready.
    fn saved_queues(&self) -> Option<Vec<SavedQueue>> {
        None
    }

    /// Everything else that the device remembers. Called between two other calls.
    fn save(&self) -> Result<SavedDevice, NotSaved> {
        Err(NotSaved(format!("a guest with a virtio device of kind {} cannot be saved", self.id())))
    }

    /// Takes over what [`save`](Self::save) gave. Called on a new device, after `activate` if the saved
    /// one was active. What comes is not to be trusted: an error, never a panic now or later.
    fn restore(&mut self, _saved: SavedDevice) -> Result<(), NotRestored> {
        Err(NotRestored::new(format!("a virtio device of kind {} cannot be restored", self.id())))
    }
}

/// What an active device works with.
pub struct ActiveQueues {
    /// The guest's memory.
    pub ram: Arc<GuestRam>,
    /// One for each entry of [`VirtioDevice::queue_sizes`]; those the driver did not set up are not `ready()`.
    pub queues: Vec<Queue>,
    /// The negotiated feature bits.
    pub features: u64,
    /// The way to the driver.
    pub interrupt: Interrupt,
}

impl ActiveQueues {
    /// Takes queue `index` out, for a device that serves it with [`Ring`].
    pub fn take_ring(&mut self, index: u16) -> Result<Ring, ActivateError> {
        let missing = ActivateError::QueueMissing(index);
        let queue = self.queues.get_mut(usize::from(index)).filter(|queue| queue.ready()).ok_or(missing)?;
        // The smallest ring there is, not ready, stays in its place.
        let unset = Queue::new(1).map_err(|e| ActivateError::Host(e.to_string()))?;
        let queue = std::mem::replace(queue, unset);
        Ok(Ring::new(index, queue, Arc::clone(&self.ram), self.interrupt.clone()))
    }
}

/// A device refused DRIVER_OK.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver left out a queue that the device cannot do without.
    #[error("the driver did not set up queue {0}")]
    QueueMissing(u16),
    /// The driver accepted a set of features with which the device cannot work.
    #[error("the driver's features {0:#x} are not enough")]
    Features(u64),
    /// The device's host side is not usable.
    #[error("the device's host side is not ready: {0}")]
    Host(String),
}

/// A device cannot go on until it is reset.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// A ring or a descriptor chain of `queue` makes no sense.
    #[error("queue {queue}: {source}")]
    Ring {
        /// The queue's index.
        queue: u16,
        /// What is wrong with it.
        source: virtio_queue::Error,
    },
    /// The driver broke the device's own rules on `queue`.
    #[error("queue {queue}: {problem}")]
    Driver {
        /// The queue's index.
        queue: u16,
        /// What it did.
        problem: &'static str,
    },
    /// The device's host side failed.
    #[error("host: {0}")]
    Host(String),
    /// The device did not become active.
    #[error(transparent)]
    Activate(#[from] ActivateError),
    /// The device's code panicked; its state is not to be trusted any more.
    #[error("internal error: {0}")]
    Panicked(String),
}

/// The two interrupts of a virtio device. Clones reach the same device.
#[derive(Clone)]
pub struct Interrupt {
    shared: Arc<InterruptState>,
}

struct InterruptState {
    status: AtomicU32,
    config_generation: AtomicU32,
    line: Arc<dyn IrqLine>,
}

impl Interrupt {
    /// InterruptStatus bit: the device used a buffer (virtio 1.2, 4.2.2).
    pub const USED_RING: u32 = 1;
    /// InterruptStatus bit: the configuration, or the device status, changed.
    pub const CONFIG_CHANGED: u32 = 2;

    /// An interrupt that arrives on `line`.
    pub fn new(line: Arc<dyn IrqLine>) -> Self {
        let shared = InterruptState { status: AtomicU32::new(0), config_generation: AtomicU32::new(0), line };
        Interrupt { shared: Arc::new(shared) }
    }

    /// Tells the driver that buffers were used.
    pub fn used_ring(&self) {
        self.raise(Self::USED_RING);
    }

    /// Tells the driver that the configuration changed. The next reads see a new generation.
    pub fn config_changed(&self) {
        self.shared.config_generation.fetch_add(1, Ordering::SeqCst);
        self.raise(Self::CONFIG_CHANGED);
    }

    fn raise(&self, bit: u32) {
        self.shared.status.fetch_or(bit, Ordering::SeqCst);
        self.shared.line.pulse();
    }

    /// The InterruptStatus register.
    pub(crate) fn status(&self) -> u32 {
        self.shared.status.load(Ordering::SeqCst)
    }

    /// The InterruptACK register.
    pub(crate) fn acknowledge(&self, bits: u32) {
        self.shared.status.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Puts the registers back without an interrupt: one that was raised is the interrupt controller's.
    pub(crate) fn restore(&self, status: u32, config_generation: u32) {
        self.shared.status.store(status, Ordering::SeqCst);
        self.shared.config_generation.store(config_generation, Ordering::SeqCst);
    }

    /// The ConfigGeneration register.
    pub(crate) fn config_generation(&self) -> u32 {
        self.shared.config_generation.load(Ordering::SeqCst)
    }
}

impl fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interrupt").field("status", &self.status()).finish_non_exhaustive()
    }
}
