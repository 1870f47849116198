//! A guest that writes anything anywhere: whatever it does, the devices neither panic nor hang, and
//! a reset makes them work again.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::console::{Console, F_MULTIPORT, StreamPort};
use super::rng::{Rng, SeededEntropy};
use super::{DeviceError, VirtioDevice};
use crate::input::InputQueue;
use crate::testing::{Driver, WRITE};

/// One thing that a guest can do.
#[derive(Clone, Debug)]
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

fn devices() -> [(Box<dyn VirtioDevice>, u64); 2] {
    let typed = InputQueue::new();
    typed.push(b"input for whoever asks");
    let port = || Box::new(StreamPort::new(Box::new(std::io::sink()), typed.clone()));
    [
        (Box::new(Console::new(port(), port())), F_MULTIPORT),
        (Box::new(Rng::new(Box::new(SeededEntropy::new(1)))), 0),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_a_guest_does_breaks_a_device(steps in prop::collection::vec(step(), 1..60)) {
        for (device, features) in devices() {
            let mut driver = Driver::start(device, features);
            for step in &steps {
                perform(&mut driver, step.clone());
            }
            assert_contained(&driver);

            // The last queue is a transmit queue of the console, the request queue of the rng.
            driver.restart(features);
            let queue = driver.queue_count() - 1;
            driver.add(queue, &[(0x8000, 16, if queue == 0 { WRITE } else { 0 })]);
            driver.kick(queue);
            prop_assert_eq!(driver.used(queue).len(), 1);
        }
    }
}
