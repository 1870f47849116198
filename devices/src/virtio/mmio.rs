//! The virtio-mmio transport, version 2 (virtio 1.2, section 4.2; Linux `drivers/virtio/virtio_mmio.c`).
//!
//! Two locks, never held together with anything of another device (PROTOCOL.md 2.8): the
//! *registers* (status, selectors, queue addresses) and the *device*. A doorbell takes the device's
//! lock alone, and InterruptStatus and InterruptACK take none, so that another vCPU can acknowledge
//! an interrupt while this one is inside a long request. Order where both are needed: registers, device.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use guest_ram::GuestRam;
use virtio_bindings::virtio_config as config;
use virtio_queue::{Queue, QueueT};

use super::{ActiveQueues, DeviceError, Interrupt, VirtioDevice};
use super::{NotRestored, NotSaved, SavedQueue, SavedTransport};
use crate::irq::IrqLine;

#[cfg(test)]
mod tests;

/// Bytes of guest-physical address space that one device takes.
pub const MMIO_SIZE: u64 = 0x1000;

const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// "BVM", the id of nobody else that we know of; Linux only prints it.
const VENDOR: u32 = 0x004d_5642;

const VERSION_1: u64 = 1 << config::VIRTIO_F_VERSION_1;

/// Register offsets.
mod reg {
    pub const MAGIC_VALUE: u64 = 0x000;
    pub const VERSION: u64 = 0x004;
    pub const DEVICE_ID: u64 = 0x008;
    pub const VENDOR_ID: u64 = 0x00c;
    pub const DEVICE_FEATURES: u64 = 0x010;
    pub const DEVICE_FEATURES_SEL: u64 = 0x014;
    pub const DRIVER_FEATURES: u64 = 0x020;
    pub const DRIVER_FEATURES_SEL: u64 = 0x024;
    pub const QUEUE_SEL: u64 = 0x030;
    pub const QUEUE_NUM_MAX: u64 = 0x034;
    pub const QUEUE_NUM: u64 = 0x038;
    pub const QUEUE_READY: u64 = 0x044;
    pub const QUEUE_NOTIFY: u64 = 0x050;
    pub const INTERRUPT_STATUS: u64 = 0x060;
    pub const INTERRUPT_ACK: u64 = 0x064;
    pub const STATUS: u64 = 0x070;
    pub const QUEUE_DESC_LOW: u64 = 0x080;
    pub const QUEUE_DESC_HIGH: u64 = 0x084;
    pub const QUEUE_DRIVER_LOW: u64 = 0x090;
    pub const QUEUE_DRIVER_HIGH: u64 = 0x094;
    pub const QUEUE_DEVICE_LOW: u64 = 0x0a0;
    pub const QUEUE_DEVICE_HIGH: u64 = 0x0a4;
    pub const SHM_LEN_LOW: u64 = 0x0b0;
    pub const SHM_BASE_HIGH: u64 = 0x0bc;
    pub const CONFIG_GENERATION: u64 = 0x0fc;
    pub const CONFIG: u64 = 0x100;
}

/// Bits of the Status register (virtio 1.2, 2.1).
pub mod status {
    /// The guest has noticed the device.
    pub const ACKNOWLEDGE: u32 = 1;
    /// The guest has a driver for it.
    pub const DRIVER: u32 = 2;
    /// The driver is set up.
    pub const DRIVER_OK: u32 = 4;
    /// Feature negotiation is over.
    pub const FEATURES_OK: u32 = 8;
    /// The device cannot go on until it is reset.
    pub const DEVICE_NEEDS_RESET: u32 = 64;
    /// The driver gave up on the device.
    pub const FAILED: u32 = 128;
}

/// A virtio device's page of registers.
pub struct MmioTransport {
    ram: Arc<GuestRam>,
    interrupt: Interrupt,
    id: u32,
    offered: u64,
    /// The Status register. Written under the registers' lock, except that NEEDS_RESET is set by whoever notices.
    status: AtomicU32,
    registers: Mutex<Registers>,
    device: Mutex<Box<dyn VirtioDevice>>,
    failure: Mutex<Option<String>>,
    /// It failed by a fault of ours: it panicked.
    fault: AtomicBool,
}

/// What the driver writes before the device is active.
struct Registers {
    device_features_sel: u32,
    driver_features_sel: u32,
    driver_features: u64,
    queue_sel: u32,
    queues: Vec<Queue>,
}

impl Registers {
    fn new(sizes: &[u16]) -> Self {
        // A size that virtio does not know is a mistake of the device's author, seen by its first test.
        let queues = sizes.iter().map(|&size| Queue::new(size).expect("queue size")).collect();
        Registers { device_features_sel: 0, driver_features_sel: 0, driver_features: 0, queue_sel: 0, queues }
    }

    fn selected(&mut self) -> Option<&mut Queue> {
        self.queues.get_mut(self.queue_sel as usize)
    }
}

impl MmioTransport {
    /// Puts `device` behind a page of registers; its interrupts arrive on `line`.
    pub fn new(ram: Arc<GuestRam>, device: Box<dyn VirtioDevice>, line: Arc<dyn IrqLine>) -> Self {
        MmioTransport {
            ram,
            interrupt: Interrupt::new(line),
            id: device.id(),
            offered: device.features() | VERSION_1,
            status: AtomicU32::new(0),
            registers: Mutex::new(Registers::new(device.queue_sizes())),
            device: Mutex::new(device),
            failure: Mutex::new(None),
            fault: AtomicBool::new(false),
        }
    }

    /// Why the device was marked DEVICE_NEEDS_RESET last, if it ever was.
    pub fn failure(&self) -> Option<String> {
        lock(&self.failure).clone()
    }

    /// Whether there is such a reason.
    pub fn has_failed(&self) -> bool {
        lock(&self.failure).is_some()
    }

    /// Whether the device ever failed by a fault of its own, and not of its driver.
    pub fn is_faulty(&self) -> bool {
        self.fault.load(Ordering::SeqCst)
    }

    /// Lets the device move what the host has for the guest into its queues.
    pub fn service(&self) {
        self.drive(|device| device.service());
    }

    /// A guest read at `offset` in the page.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if offset >= reg::CONFIG {
            data.fill(0);
            return lock(&self.device).read_config(offset - reg::CONFIG, data);
        }
        // Registers are 32 bits wide and accessed as such (4.2.2.2); anything else reads zero.
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(word) if offset.is_multiple_of(4) => *word = self.read_register(offset).to_le_bytes(),
            _ => data.fill(0),
        }
    }

    /// A guest write at `offset` in the page.
    pub fn write(&self, offset: u64, data: &[u8]) {
        if offset >= reg::CONFIG {
            return self.drive(|device| device.write_config(offset - reg::CONFIG, data));
        }
        if let Ok(word) = <[u8; 4]>::try_from(data) {
            self.write_register(offset, u32::from_le_bytes(word));
        }
    }

    /// The transport and its device as plain data. No call of the device may be under way.
    pub fn save(&self) -> Result<SavedTransport, NotSaved> {
        if self.status() & status::DEVICE_NEEDS_RESET != 0 {
            return Err(NotSaved("a device has failed".to_owned()));
        }
        let registers = lock(&self.registers);
        let device = lock(&self.device);
        Ok(SavedTransport {
            id: self.id,
            status: self.status(),
            interrupt_status: self.interrupt.status(),
            config_generation: self.interrupt.config_generation(),
            device_features_sel: registers.device_features_sel,
            driver_features_sel: registers.driver_features_sel,
            driver_features: registers.driver_features,
            queue_sel: registers.queue_sel,
            registers: registers.queues.iter().map(SavedQueue::of).collect(),
            queues: device.saved_queues(),
            device: device.save()?,
        })
    }

    /// Makes a new transport with a new device of the same kind what another one was saved as.
    pub fn restore(&self, saved: SavedTransport) -> Result<(), NotRestored> {
        let SavedTransport {
            id,
            status: state,
            interrupt_status,
            config_generation,
            device_features_sel,
            driver_features_sel,
            driver_features,
            queue_sel,
            registers: shown,
            queues,
            device: own,
        } = saved;
        let is_active = state & status::DRIVER_OK != 0;
        let negotiated = driver_features & VERSION_1 != 0 && driver_features & !self.offered == 0;
        if id != self.id {
            return Err(NotRestored(format!("it was saved as a device of kind {id}, not {}", self.id)));
        }
        if !matches!(state & !status::FAILED, 0 | 1 | 3 | 11 | 15) || queues.is_some() != is_active {
            return Err(NotRestored(format!("status {state:#x} is none that a driver gets to")));
        }
        if state & status::FEATURES_OK != 0 && !negotiated {
            return Err(NotRestored(format!("features {driver_features:#x} are more than it offers")));
        }
        let mut registers = lock(&self.registers);
        let mut device = lock(&self.device);
        let sizes = device.queue_sizes();
        let all = |saved: Vec<SavedQueue>, ram: Option<&GuestRam>| {
            if saved.len() != sizes.len() {
                return Err(NotRestored(format!("it has {} queues, not {}", sizes.len(), saved.len())));
            }
            let queues = saved.iter().zip(sizes).map(|(queue, &size)| queue.restore(size, ram));
            queues.collect::<Result<Vec<Queue>, _>>()
        };
        // Once the device is active, they only show sizes.
        let in_ram = if is_active { None } else { Some(&*self.ram) };
        registers.queues = all(shown, in_ram)?;
        registers.device_features_sel = device_features_sel;
        registers.driver_features_sel = driver_features_sel;
        registers.driver_features = driver_features;
        registers.queue_sel = queue_sel;
        if let Some(queues) = queues {
            let active = ActiveQueues {
                ram: Arc::clone(&self.ram),
                queues: all(queues, Some(&self.ram))?,
                features: driver_features,
                interrupt: self.interrupt.clone(),
            };
            device.activate(active).map_err(|error| NotRestored(error.to_string()))?;
        }
        device.restore(own)?;
        self.interrupt.restore(interrupt_status, config_generation);
        self.status.store(state, Ordering::SeqCst);
        Ok(())
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            reg::MAGIC_VALUE => MAGIC,
            reg::VERSION => VERSION,
            reg::DEVICE_ID => self.id,
            reg::VENDOR_ID => VENDOR,
            reg::INTERRUPT_STATUS => self.interrupt.status(),
            reg::STATUS => self.status(),
            reg::CONFIG_GENERATION => self.interrupt.config_generation(),
            // No shared memory regions: length and base are all ones (4.2.2).
            reg::SHM_LEN_LOW..=reg::SHM_BASE_HIGH => u32::MAX,
            reg::DEVICE_FEATURES => half(self.offered, lock(&self.registers).device_features_sel),
            reg::QUEUE_NUM_MAX => lock(&self.registers).selected().map_or(0, |q| q.max_size().into()),
            reg::QUEUE_READY => lock(&self.registers).selected().is_some_and(|q| q.ready()).into(),
            _ => 0,
        }
    }

    fn write_register(&self, offset: u64, value: u32) {
        match offset {
            reg::QUEUE_NOTIFY => self.doorbell(value),
            reg::INTERRUPT_ACK => self.interrupt.acknowledge(value),
            reg::STATUS => self.write_status(value),
            reg::DEVICE_FEATURES_SEL => lock(&self.registers).device_features_sel = value,
            reg::DRIVER_FEATURES_SEL => lock(&self.registers).driver_features_sel = value,
            reg::QUEUE_SEL => lock(&self.registers).queue_sel = value,
            reg::DRIVER_FEATURES => self.write_features(value),
            _ => self.write_queue(offset, value),
        }
    }

    /// Features are open between DRIVER and FEATURES_OK.
    fn write_features(&self, value: u32) {
        if self.status() & (status::DRIVER | status::FEATURES_OK) != status::DRIVER {
            return;
        }
        let mut registers = lock(&self.registers);
        match registers.driver_features_sel {
            0 => set_low(&mut registers.driver_features, value),
            1 => set_high(&mut registers.driver_features, value),
            // Bits from 64 on are not offered; accepting one makes FEATURES_OK fail.
            _ if value != 0 => registers.driver_features = u64::MAX,
            _ => {}
        }
    }

    /// Queues are set up between FEATURES_OK and DRIVER_OK, each until it is ready.
    fn write_queue(&self, offset: u64, value: u32) {
        let open = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK;
        if self.status() != open {
            return;
        }
        let mut registers = lock(&self.registers);
        let index = registers.queue_sel;
        let Some(queue) = registers.selected() else { return };
        if offset == reg::QUEUE_READY {
            queue.set_ready(value & 1 == 1);
            // `is_valid` wants all three rings inside RAM and not overflowing.
            if queue.ready() && !queue.is_valid(&*self.ram) {
                queue.set_ready(false);
                drop(registers);
                let reason = format!("queue {index} does not lie in guest memory");
                self.fail(Failure { reason, is_fault: false });
            }
            return;
        }
        if queue.ready() {
            return;
        }
        match offset {
            // Queue sizes and alignments that virtio forbids are dropped by the setters' checks.
            reg::QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
            reg::QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            reg::QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            reg::QUEUE_DRIVER_LOW => queue.set_avail_ring_address(Some(value), None),
            reg::QUEUE_DRIVER_HIGH => queue.set_avail_ring_address(None, Some(value)),
            reg::QUEUE_DEVICE_LOW => queue.set_used_ring_address(Some(value), None),
            reg::QUEUE_DEVICE_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    fn write_status(&self, value: u32) {
        let mut registers = lock(&self.registers);
        if value == 0 {
            return self.reset(&mut registers);
        }
        // Bits are only ever added (2.1.1); NEEDS_RESET is the device's to set.
        let old = self.status();
        let added = value & !old;
        if old & !value & !status::DEVICE_NEEDS_RESET != 0 {
            return;
        }
        for bit in
            [status::ACKNOWLEDGE, status::DRIVER, status::FEATURES_OK, status::DRIVER_OK, status::FAILED]
        {
            if added & bit != 0 && !self.add_status(&mut registers, bit) {
                return;
            }
        }
    }

    /// One step of the status state machine. False: the step is refused, and those after it with it.
    fn add_status(&self, registers: &mut Registers, bit: u32) -> bool {
        let before = self.status() & !(status::DEVICE_NEEDS_RESET | status::FAILED);
        let allowed = match bit {
            status::ACKNOWLEDGE => before == 0,
            status::DRIVER => before == status::ACKNOWLEDGE,
            status::FEATURES_OK => {
                let features = registers.driver_features;
                before == status::ACKNOWLEDGE | status::DRIVER
                    && features & !self.offered == 0
                    && features & VERSION_1 != 0
            }
            status::DRIVER_OK => before == status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK,
            _ => true,
        };
        if allowed {
            self.status.fetch_or(bit, Ordering::SeqCst);
            if bit == status::DRIVER_OK {
                self.activate(registers);
            }
        }
        allowed
    }

    fn activate(&self, registers: &mut Registers) {
        if self.status() & status::DEVICE_NEEDS_RESET != 0 {
            return;
        }
        let queues = std::mem::take(&mut registers.queues);
        // The device owns the queues from here.
        registers.queues = queues.iter().map(copy_of).collect();
        let active = ActiveQueues {
            ram: Arc::clone(&self.ram),
            queues,
            features: registers.driver_features,
            interrupt: self.interrupt.clone(),
        };
        if let Err(reason) = contained(|| lock(&self.device).activate(active)) {
            self.fail(reason);
        }
    }

    /// Status 0: the device has let go of guest memory before the register reads 0.
    fn reset(&self, registers: &mut Registers) {
        let mut device = lock(&self.device);
        let outcome = contained(|| {
            device.reset();
            Ok::<(), DeviceError>(())
        });
        *registers = Registers::new(device.queue_sizes());
        self.interrupt.acknowledge(u32::MAX);
        self.status.store(0, Ordering::SeqCst);
        if let Err(reason) = outcome {
            self.fail(reason);
        }
    }

    fn doorbell(&self, queue: u32) {
        if let Ok(queue) = u16::try_from(queue) {
            self.drive(|device| {
                if usize::from(queue) < device.queue_sizes().len() { device.notify(queue) } else { Ok(()) }
            });
        }
    }

    /// Runs the active device; what goes wrong in there stays in there.
    fn drive(&self, step: impl FnOnce(&mut dyn VirtioDevice) -> Result<(), DeviceError>) {
        let mut device = lock(&self.device);
        // Looked at under the device's lock: a reset on another vCPU has either not begun or is over.
        if self.status() & (status::DRIVER_OK | status::DEVICE_NEEDS_RESET) != status::DRIVER_OK {
            return;
        }
        if let Err(reason) = contained(|| step(&mut **device)) {
            self.fail(reason);
        }
    }

    fn fail(&self, failure: Failure) {
        self.fault.fetch_or(failure.is_fault, Ordering::SeqCst);
        *lock(&self.failure) = Some(failure.reason);
        self.status.fetch_or(status::DEVICE_NEEDS_RESET, Ordering::SeqCst);
        // Only a running driver is told (2.1.2).
        if self.status() & status::DRIVER_OK != 0 {
            self.interrupt.config_changed();
        }
    }
}

/// What the registers still show of a queue: its size, and whether it is ready.
fn copy_of(queue: &Queue) -> Queue {
    let mut copy = Queue::new(queue.max_size()).expect("queue size");
    copy.set_size(queue.size());
    copy.set_ready(queue.ready());
    copy
}

fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn set_low(word: &mut u64, value: u32) {
    *word = (*word & !0xffff_ffff) | u64::from(value);
}

fn set_high(word: &mut u64, value: u32) {
    *word = (*word & 0xffff_ffff) | u64::from(value) << 32;
}

/// Why a device is marked.
struct Failure {
    reason: String,
    /// It panicked.
    is_fault: bool,
}

/// Runs a step of a device; a panic is an error like any other. The device is not used again before
/// its reset, which rebuilds what a panic left half done.
fn contained<E: Into<DeviceError>>(step: impl FnOnce() -> Result<(), E>) -> Result<(), Failure> {
    let error = match catch_unwind(AssertUnwindSafe(step)) {
        Ok(outcome) => match outcome {
            Ok(()) => return Ok(()),
            Err(error) => error.into(),
        },
        Err(panic) => DeviceError::Panicked(panic_text(&*panic)),
    };
    Err(Failure { reason: error.to_string(), is_fault: matches!(error, DeviceError::Panicked(_)) })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
}

/// A device that panicked is marked by `drive`; its lock is as good as before.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
