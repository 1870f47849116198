//! A guest that writes anything anywhere: whatever it does, the devices neither panic nor hang, and
//! a reset makes them work again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ::binder::{Domain, GuestId, Limits, Profile};
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::binder::{BinderDevice, SharedDomain, Timing};
use super::block::{Block, Disk, SECTOR};
use super::console::{Console, F_MULTIPORT, StreamPort};
use super::rng::{Rng, SeededEntropy};
use super::vsock::{Vsock, VsockHost};
use super::{DeviceError, VirtioDevice};
use crate::input::InputQueue;
use crate::testing::{Deaf, Driver, WRITE};
use binder_wire::{F_DIRECT, F_INLINE};

/// One thing that a guest can do.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum Step {
    Register { offset: u64, value: u32 },
    Descriptor { queue: u16, address: u64, length: u32, flags: u16 },
    Link { queue: u16, from: u16, to: u16 },
    Available { queue: u16, index: u16 },
    Offer { queue: u16, head: u16 },
    Scribble { address: u64, bytes: Vec<u8> },
    Kick { queue: u16 },
    Service,
}

fn queue() -> impl Strategy<Value = u16> {
    0..6u16
}

/// Mostly plausible numbers: nonsense alone never gets past the first check.
pub fn step() -> impl Strategy<Value = Step> {
    let address = prop_oneof![4 => 0x8000..0xf000u64, 1 => 0xf_f000..0x10_1000u64, 1 => any::<u64>()];
    let length = prop_oneof![4 => 0..200u32, 1 => any::<u32>()];
    prop_oneof![
        2 => (0..0x120u64, prop_oneof![0..70u32, any::<u32>()])
            .prop_map(|(offset, value)| Step::Register { offset: offset & !3, value }),
        // The binder's messages without a queue: mostly of pages that were scribbled on.
        2 => (0..20u32).prop_map(|value| Step::Register { offset: 0x11c, value }),
        6 => (queue(), address.clone(), length, 0..8u16)
            .prop_map(|(queue, address, length, flags)| Step::Descriptor { queue, address, length, flags }),
        2 => (queue(), 0..64u16, 0..70u16).prop_map(|(queue, from, to)| Step::Link { queue, from, to }),
        1 => (queue(), any::<u16>()).prop_map(|(queue, index)| Step::Available { queue, index }),
        2 => (queue(), 0..70u16).prop_map(|(queue, head)| Step::Offer { queue, head }),
        2 => (address, prop::collection::vec(any::<u8>(), 1..16))
            .prop_map(|(address, bytes)| Step::Scribble { address, bytes }),
        6 => queue().prop_map(|queue| Step::Kick { queue }),
        1 => Just(Step::Service),
    ]
}

/// Does `step`, where the device has such a queue.
pub fn perform(driver: &mut Driver, step: Step) {
    let queues = driver.queue_count();
    match step {
        Step::Register { offset, value } => driver.write(offset, value),
        Step::Descriptor { queue, address, length, flags } if queue < queues => {
            driver.try_add(queue, (address, length, flags));
        }
        Step::Link { queue, from, to } if queue < queues => driver.link(queue, from, to),
        Step::Available { queue, index } if queue < queues => driver.set_available(queue, index),
        Step::Offer { queue, head } if queue < queues => driver.offer(queue, head),
        Step::Scribble { address, bytes } => {
            let _ = driver.ram.write_slice(&bytes, GuestAddress(address));
        }
        Step::Kick { queue } => driver.kick(queue),
        Step::Service => driver.transport.service(),
        _ => {}
    }
}

/// What a failure of the device may be called; a panic would be an internal error.
pub fn assert_contained(driver: &Driver) {
    if let Some(reason) = driver.transport.failure() {
        let panicked = DeviceError::Panicked(String::new()).to_string();
        assert!(!reason.starts_with(&panicked), "{reason}");
    }
}

/// A device that is given to a hostile guest, and what shows that it works after a reset.
pub struct Subject {
    /// The device.
    pub device: Box<dyn VirtioDevice>,
    /// The features that its driver accepts.
    pub features: u64,
    works: fn(&mut Driver) -> bool,
}

/// One of each kind, as they are when a guest boots.
pub fn subjects() -> Vec<Subject> {
    let typed = InputQueue::new();
    typed.push(b"input for whoever asks");
    let port = || Box::new(StreamPort::new(Box::new(std::io::sink()), typed.clone()));
    vec![
        Subject {
            device: Box::new(Console::new(port(), port())),
            features: F_MULTIPORT,
            works: |driver| answers(driver, &[(0x8000, 16, 0)]),
        },
        Subject {
            device: Box::new(Rng::new(Box::new(SeededEntropy::new(1)))),
            features: 0,
            works: |driver| answers(driver, &[(0x8000, 16, WRITE)]),
        },
        Subject {
            device: Box::new(Block::new(Box::new(Zeros(vec![0; 64 * SECTOR])), "hostile")),
            features: 0,
            // RAM there is zero after a restart's clean rings: a read of sector 0.
            works: |driver| {
                driver.ram.write_slice(&[0; 16], GuestAddress(0x8000)).expect("RAM");
                answers(driver, &[(0x8000, 16, 0), (0x9000, 513, WRITE)])
            },
        },
        Subject {
            device: Box::new(Vsock::new(3, &socket_path(), Arc::new(Nobody)).expect("a socket in /tmp")),
            features: 0,
            works: |driver| {
                // Bytes from CID 3 to CID 2 of a stream that is not there: a reset is the answer.
                driver.ram.write_slice(&[0; 44], GuestAddress(0x8000)).expect("RAM");
                for (at, byte) in [(0, 3), (8, 2), (28, 1), (30, 5)] {
                    driver.ram.write_slice(&[byte], GuestAddress(0x8000 + at)).expect("RAM");
                }
                driver.add(0, &[(0x9000, 4096, WRITE)]);
                driver.add(1, &[(0x8000, 44, 0)]);
                driver.kick(1);
                driver.used(0).len() == 1
            },
        },
        binder(Deaf { replays: false }),
        binder(Deaf { replays: true }),
    ]
}

/// A binder device, which is recorded or not.
fn binder(recorder: Deaf) -> Subject {
    let limits = Limits::default();
    let domain = SharedDomain::new(Domain::new(limits.clone(), Profile::default()));
    let device = BinderDevice::new(domain, GuestId(0), &limits, Timing::Inline, Box::new(recorder));
    Subject {
        device: Box::new(device),
        features: 1 << F_INLINE | 1 << F_DIRECT,
        works: |driver| {
            driver.kick(0);
            driver.status() == 15
        },
    }
}

/// The last queue (a transmit queue of the console) answers a chain.
fn answers(driver: &mut Driver, chain: &[(u64, u32, u16)]) -> bool {
    let queue = driver.queue_count() - 1;
    driver.add(queue, chain);
    driver.kick(queue);
    driver.used(queue).len() == 1
}

/// Lets a guest do `steps` to each device.
///
/// # Panics
/// Where a device panics, or does not work after it was reset.
pub fn survive(steps: &[Step]) {
    for Subject { device, features, works } in subjects() {
        let mut driver = Driver::start(device, features);
        steps.iter().for_each(|step| perform(&mut driver, step.clone()));
        assert_contained(&driver);
        driver.restart(features);
        assert!(works(&mut driver), "a device that was reset does not work");
    }
}

/// A place for a socket that no other device has.
fn socket_path() -> std::path::PathBuf {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("bindervm-hostile-{}-{number}.sock", std::process::id()))
}

/// A host that does nothing unless the test does it.
struct Nobody;

impl VsockHost for Nobody {
    fn wake(&self) {}

    fn streams(&self, _open: usize) {}
}

/// A disk in memory.
struct Zeros(Vec<u8>);

impl Disk for Zeros {
    fn sectors(&self) -> u64 {
        (self.0.len() / SECTOR) as u64
    }

    fn read_only(&self) -> bool {
        false
    }

    fn read(&mut self, sector: u64, bytes: &mut [u8]) -> io::Result<()> {
        let start = sector as usize * SECTOR;
        bytes.copy_from_slice(&self.0[start..start + bytes.len()]);
        Ok(())
    }

    fn write(&mut self, sector: u64, bytes: &[u8]) -> io::Result<()> {
        let start = sector as usize * SECTOR;
        self.0[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_a_guest_does_breaks_a_device(steps in prop::collection::vec(step(), 1..60)) {
        survive(&steps);
    }
}
