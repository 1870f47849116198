use std::io;

use proptest::prelude::*;
use vm_memory::GuestAddress;

use crate::input::InputQueue;
use crate::testing::{Driver, WRITE};
use crate::virtio::VirtioDevice;
use crate::virtio::console::{Console, F_MULTIPORT, StreamPort};
use crate::virtio::hostile::{Step, assert_contained, perform, step};
use crate::virtio::mmio::status;
use crate::virtio::rng::{Entropy, Rng};

/// Makes one of two equal devices.
type Make<'a> = &'a dyn Fn(usize) -> Box<dyn VirtioDevice>;

/// Gives the same bytes wherever it is.
struct Sevens;

impl Entropy for Sevens {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        bytes.fill(7);
        Ok(())
    }
}

fn console(typed: &InputQueue) -> Box<dyn VirtioDevice> {
    let port = || Box::new(StreamPort::new(Box::new(io::sink()), typed.clone()));
    Box::new(Console::new(port(), port()))
}

fn rng() -> Box<dyn VirtioDevice> {
    Box::new(Rng::new(Box::new(Sevens)))
}

/// All of RAM, and what the registers show.
fn seen(driver: &Driver) -> (Vec<u8>, Vec<u32>) {
    (driver.bytes(0, 1 << 20), (0..0x100).step_by(4).map(|register| driver.read(register)).collect())
}

/// Whether the guest broke the device: then there is nothing to save.
fn failed(driver: &Driver) -> bool {
    driver.status() & status::DEVICE_NEEDS_RESET != 0
}

#[test]
fn a_device_of_another_kind_is_refused() {
    let typed = InputQueue::new();
    let driver = Driver::start(console(&typed), F_MULTIPORT);
    assert!(driver.restored(&driver.saved(), rng()).is_err_and(|error| error.contains("kind 3")));
}

#[test]
fn queues_outside_of_ram_are_refused() {
    let driver = Driver::start(rng(), 0);
    let small = guest_ram::allocate(&[(GuestAddress(0), 0x1000)]).unwrap();
    let queue = driver.transport.save().unwrap().queues.unwrap()[0];
    assert!(queue.restore(8, Some(&driver.ram)).is_ok());
    assert!(queue.restore(8, Some(&small)).is_err());
    assert!(queue.restore(4, None).is_err(), "longer than the device has it");
    assert!(queue.restore(7, None).is_err());
}

#[test]
fn a_device_that_failed_is_not_saved() {
    let mut driver = Driver::start(rng(), 0);
    driver.add(0, &[(u64::MAX - 8, 64, WRITE)]);
    driver.kick(0);
    assert!(driver.transport.save().is_err_and(|error| error.to_string() == "a device has failed"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// The same steps, with and without a restore before each of them, come to the same.
    #[test]
    fn a_restored_device_goes_on(steps in prop::collection::vec(step(), 1..40)) {
        let typed = [InputQueue::new(), InputQueue::new()];
        typed.iter().for_each(|queue| assert_eq!(queue.push(b"input for whoever asks"), 22));
        let pairs: [(Make<'_>, u64); 2] =
            [(&|which| console(&typed[which]), F_MULTIPORT), (&|_| rng(), 0)];
        for (device, features) in pairs {
            let mut plain = Driver::start(device(0), features);
            let mut reloaded = Driver::start(device(1), features);
            for step in &steps {
                if !failed(&reloaded) {
                    reloaded.reload(device(1));
                }
                perform(&mut plain, step.clone());
                perform(&mut reloaded, step.clone());
            }
            let (plain, reloaded) = (seen(&plain), seen(&reloaded));
            prop_assert_eq!(plain.1, reloaded.1);
            prop_assert!(plain.0 == reloaded.0, "RAM differs");
        }
    }

    /// A saved device with bytes changed is refused, or works as any device of a hostile guest.
    #[test]
    fn a_damaged_device_is_refused_or_contained(
        before in prop::collection::vec(step(), 0..20),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        steps in prop::collection::vec(step(), 1..30),
    ) {
        let typed = InputQueue::new();
        for (fresh, features) in [(console(&typed), F_MULTIPORT), (rng(), 0)] {
            let again = if features == 0 { rng() } else { console(&typed) };
            let mut driver = Driver::start(fresh, features);
            for step in &before {
                perform(&mut driver, step.clone());
            }
            if failed(&driver) {
                continue;
            }
            let mut bytes = driver.saved();
            for (at, byte) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let Ok(transport) = driver.restored(&bytes, again) else { continue };
            driver.transport = transport;
            for step in steps.iter().filter(|step| !matches!(step, Step::Register { .. })) {
                perform(&mut driver, step.clone());
            }
            assert_contained(&driver);
        }
    }
}
