//! Stand-ins for the host's side and for the guest's driver, for the tests of this crate.

#![allow(missing_docs)]

use std::io::{self, Write};
use std::mem::offset_of;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use binder::ids::GuestId;
use binder::trace::TraceEvent;
use guest_ram::GuestRam;
use vm_memory::{Bytes, GuestAddress};

use crate::irq::IrqLine;
use crate::virtio::VirtioDevice;
use crate::virtio::binder::Recorder;
use crate::virtio::mmio::{MmioTransport, status};

/// A line that counts its edges.
#[derive(Default)]
pub struct CountedLine(AtomicUsize);

impl CountedLine {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    pub fn pulses(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl IrqLine for CountedLine {
    fn pulse(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A sink that the test can read.
#[derive(Clone, Default)]
pub struct SharedSink(Arc<Mutex<Vec<u8>>>);

impl SharedSink {
    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Write for SharedSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A recording that nobody hears.
#[derive(Default)]
pub struct Deaf {
    /// It is told everything all the same.
    pub replays: bool,
}

impl Recorder for Deaf {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn enabled(&self) -> bool {
        false
    }

    fn record(&mut self, _at: Duration, _guest: GuestId, _event: &TraceEvent) {}

    fn replays(&self) -> bool {
        self.replays
    }
}

/// Where a binder device tells its epoch.
pub const EPOCH: u64 = CONFIG + offset_of!(binder_wire::Config, epoch) as u64;
/// Where a binder device takes messages that need no queue.
pub const POST: u64 = CONFIG + offset_of!(binder_wire::Config, post) as u64;
/// Where the configuration space of a device begins.
const CONFIG: u64 = 0x100;

/// Descriptor flag: for the device to write.
pub const WRITE: u16 = 2;
const NEXT: u16 = 1;

/// A driver on the other side of the transport's registers, like Linux's, but obedient to its test.
///
/// RAM is 1 MiB; the rings of queue N lie at `0x1_0000 + N * 0x2000`, buffers are where the test likes.
pub struct Driver {
    pub ram: Arc<GuestRam>,
    pub transport: MmioTransport,
    line: Arc<CountedLine>,
    queues: Vec<DriverQueue>,
}

#[derive(Default)]
struct DriverQueue {
    size: u16,
    next_descriptor: u16,
    seen: u16,
}

impl Driver {
    /// RAM and a transport, before any register was written.
    pub fn cold(device: Box<dyn VirtioDevice>) -> Self {
        let ram = Arc::new(guest_ram::allocate(&[(GuestAddress(0), 1 << 20)]).unwrap());
        let line = CountedLine::new();
        let transport = MmioTransport::new(ram.clone(), device, line.clone());
        Driver { ram, transport, line, queues: Vec::new() }
    }

    /// A device with `features` accepted, all queues set up, and DRIVER_OK written.
    pub fn start(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let mut driver = Driver::cold(device);
        driver.restart(features);
        driver
    }

    /// Resets the device and sets it up again.
    pub fn restart(&mut self, features: u64) {
        self.negotiate(features);
        self.queues.clear();
        for index in 0.. {
            self.write(0x030, index);
            let size = self.read(0x034);
            if size == 0 {
                break;
            }
            self.ram.write_slice(&[0; 0x2000], self.ring(index as u16, 0)).unwrap();
            self.queues.push(DriverQueue { size: size as u16, ..DriverQueue::default() });
            self.place_queue(index as u16, self.ring(index as u16, 0));
        }
        self.write(0x070, self.status() | status::DRIVER_OK);
        assert_eq!(self.status(), 15);
    }

    /// The transport as a snapshot has it.
    pub fn saved(&self) -> Vec<u8> {
        postcard::to_stdvec(&self.transport.save().expect("it can be saved")).expect("plain data")
    }

    /// A transport before `fresh` that is what `saved` says, with the same RAM.
    pub fn restored(&self, saved: &[u8], fresh: Box<dyn VirtioDevice>) -> Result<MmioTransport, String> {
        let saved = postcard::from_bytes(saved).map_err(|error| error.to_string())?;
        let transport = MmioTransport::new(self.ram.clone(), fresh, self.line.clone());
        transport.restore(saved).map(|()| transport).map_err(|error| error.to_string())
    }

    /// Puts `fresh` in the device's place, as what that was.
    pub fn reload(&mut self, fresh: Box<dyn VirtioDevice>) {
        let saved = self.saved();
        self.transport = self.restored(&saved, fresh).expect("what was saved can be restored");
        assert_eq!(self.saved(), saved);
    }

    /// From reset to FEATURES_OK.
    pub fn negotiate(&mut self, features: u64) {
        self.write(0x070, 0);
        assert_eq!(self.status(), 0);
        self.write(0x070, status::ACKNOWLEDGE);
        self.write(0x070, status::ACKNOWLEDGE | status::DRIVER);
        let features = features | 1 << 32;
        for half in 0..2 {
            self.write(0x024, half);
            self.write(0x020, (features >> (32 * half)) as u32);
        }
        self.write(0x070, self.status() | status::FEATURES_OK);
    }

    /// Tells the device where the rings of a queue are and makes it ready.
    pub fn place_queue(&mut self, queue: u16, descriptors: GuestAddress) {
        self.write(0x030, queue.into());
        self.write(0x038, self.read(0x034));
        for (register, at) in [(0x080, 0), (0x090, 0x800), (0x0a0, 0x1000)] {
            let at = descriptors.0.wrapping_add(at);
            self.write(register, at as u32);
            self.write(register + 4, (at >> 32) as u32);
        }
        self.write(0x044, 1);
    }

    fn ring(&self, queue: u16, offset: u64) -> GuestAddress {
        GuestAddress(0x1_0000 + u64::from(queue) * 0x2000 + offset)
    }

    pub fn read(&self, register: u64) -> u32 {
        let mut word = [0; 4];
        self.transport.read(register, &mut word);
        u32::from_le_bytes(word)
    }

    pub fn write(&self, register: u64, value: u32) {
        self.transport.write(register, &value.to_le_bytes());
    }

    pub fn status(&self) -> u32 {
        self.read(0x070)
    }

    pub fn pulses(&self) -> usize {
        self.line.pulses()
    }

    /// Makes a chain of (address, length, flags) available, in descriptors never used before.
    pub fn add(&mut self, queue: u16, chain: &[(u64, u32, u16)]) {
        let head = self.queues[usize::from(queue)].next_descriptor;
        for (n, &(address, length, flags)) in chain.iter().enumerate() {
            let index = head + n as u16;
            let last = n + 1 == chain.len();
            let at = self.ring(queue, u64::from(index) * 16);
            self.ram.write_obj(address, at).unwrap();
            self.ram.write_obj(length, GuestAddress(at.0 + 8)).unwrap();
            self.ram.write_obj(if last { flags } else { flags | NEXT }, GuestAddress(at.0 + 12)).unwrap();
            self.ram.write_obj(index + 1, GuestAddress(at.0 + 14)).unwrap();
        }
        self.queues[usize::from(queue)].next_descriptor += chain.len() as u16;
        self.offer(queue, head);
    }

    /// Lets the next chains have the descriptors of those before, all of which were used.
    pub fn reuse_descriptors(&mut self, queue: u16) {
        self.queues[usize::from(queue)].next_descriptor = 0;
    }

    /// Makes one descriptor available as it is, flags and all, while there are unused ones.
    pub fn try_add(&mut self, queue: u16, descriptor: (u64, u32, u16)) {
        let DriverQueue { size, next_descriptor, .. } = self.queues[usize::from(queue)];
        if next_descriptor < size {
            self.add(queue, &[descriptor]);
        }
    }

    pub fn queue_count(&self) -> u16 {
        self.queues.len() as u16
    }

    /// Makes descriptor `from` point to `to`, whatever that means.
    pub fn link(&mut self, queue: u16, from: u16, to: u16) {
        let at = self.ring(queue, u64::from(from) * 16);
        let flags: u16 = self.ram.read_obj(GuestAddress(at.0 + 12)).unwrap();
        self.ram.write_obj(flags | NEXT, GuestAddress(at.0 + 12)).unwrap();
        self.ram.write_obj(to, GuestAddress(at.0 + 14)).unwrap();
    }

    /// Puts a head into the available ring.
    pub fn offer(&mut self, queue: u16, head: u16) {
        let size = self.queues[usize::from(queue)].size;
        let index: u16 = self.ram.read_obj(self.ring(queue, 0x802)).unwrap();
        self.ram.write_obj(head, self.ring(queue, 0x804 + u64::from(index % size) * 2)).unwrap();
        self.set_available(queue, index.wrapping_add(1));
    }

    /// Sets the available ring's index.
    pub fn set_available(&mut self, queue: u16, index: u16) {
        self.ram.write_obj(index, self.ring(queue, 0x802)).unwrap();
    }

    /// Rings the doorbell.
    pub fn kick(&self, queue: u16) {
        self.write(0x050, queue.into());
    }

    /// The (head, length) pairs used since the last call.
    pub fn used(&mut self, queue: u16) -> Vec<(u32, u32)> {
        let index: u16 = self.ram.read_obj(self.ring(queue, 0x1002)).unwrap();
        let DriverQueue { size, seen, .. } = self.queues[usize::from(queue)];
        self.queues[usize::from(queue)].seen = index;
        (0..index.wrapping_sub(seen))
            .map(|n| {
                let slot = u64::from(seen.wrapping_add(n) % size);
                let at = self.ring(queue, 0x1004 + slot * 8);
                (self.ram.read_obj(at).unwrap(), self.ram.read_obj(GuestAddress(at.0 + 4)).unwrap())
            })
            .collect()
    }

    pub fn bytes(&self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }
}
