use super::*;
use crate::testing::Driver;
use crate::virtio::ActivateError;
use vm_memory::GuestAddress;

const NEEDS_RESET: u32 = status::DEVICE_NEEDS_RESET;
/// The one feature that the device below offers.
const FEATURE: u64 = 1 << 5;

/// Fails in the way that its doorbell number says, and shows in config byte 0 whether it is active.
#[derive(Default)]
struct Fragile {
    active: Option<ActiveQueues>,
    doorbells: u8,
}

impl VirtioDevice for Fragile {
    fn id(&self) -> u32 {
        63
    }
    fn features(&self) -> u64 {
        FEATURE
    }
    fn queue_sizes(&self) -> &'static [u16] {
        &[16, 8, 4]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let config = [self.active.is_some().into(), self.doorbells];
        for (byte, from) in data.iter_mut().zip(config.iter().skip(offset as usize)) {
            *byte = *from;
        }
    }
    fn activate(&mut self, guest: ActiveQueues) -> Result<(), ActivateError> {
        if !guest.queues[0].ready() {
            return Err(ActivateError::QueueMissing(0));
        }
        self.active = Some(guest);
        Ok(())
    }
    fn notify(&mut self, queue: u16) -> Result<(), DeviceError> {
        self.doorbells += 1;
        match queue {
            0 => Ok(()),
            1 => Err(DeviceError::Driver { queue, problem: "nonsense" }),
            _ => panic!("a bug of the device"),
        }
    }
    fn reset(&mut self) {
        assert!(self.doorbells < 9, "a bug of its reset");
        *self = Fragile::default();
    }
}

fn cold() -> Driver {
    Driver::cold(Box::new(Fragile::default()))
}

fn start() -> Driver {
    Driver::start(Box::new(Fragile::default()), FEATURE)
}

fn config(driver: &Driver) -> [u8; 2] {
    let mut bytes = [9; 2];
    driver.transport.read(0x100, &mut bytes);
    bytes
}

#[test]
fn a_driver_finds_out_what_is_there() {
    let driver = cold();
    assert_eq!([0, 4, 8].map(|r| driver.read(r)), [MAGIC, 2, 63]);
    driver.write(0x014, 1);
    assert_eq!(driver.read(0x010), 1, "VIRTIO_F_VERSION_1");
    driver.write(0x014, 0);
    assert_eq!(driver.read(0x010), FEATURE as u32);
    driver.write(0x014, 2);
    assert_eq!(driver.read(0x010), 0);
    let sizes = [0, 1, 2, 3].map(|queue| {
        driver.write(0x030, queue);
        driver.read(0x034)
    });
    assert_eq!(sizes, [16, 8, 4, 0]);
    assert_eq!(driver.read(0x0b0), u32::MAX, "no shared memory");
}

#[test]
fn features_must_be_offered_and_modern() {
    let mut driver = cold();
    driver.negotiate(FEATURE << 1);
    assert_eq!(driver.status() & status::FEATURES_OK, 0);
    driver.negotiate(FEATURE);
    assert_eq!(driver.status(), 11);
    // Too late to change one's mind.
    driver.write(0x024, 0);
    driver.write(0x020, u32::MAX);
    driver.write(0x070, 15);
    assert_eq!(driver.status() & status::DRIVER_OK, status::DRIVER_OK);

    // Legacy: without VERSION_1.
    let driver = cold();
    for value in [1, 3, 11] {
        driver.write(0x070, value);
    }
    assert_eq!(driver.status(), 3);
}

#[test]
fn status_bits_come_in_order_and_stay() {
    let driver = cold();
    driver.write(0x070, status::DRIVER_OK);
    assert_eq!(driver.status(), 0);
    driver.write(0x070, status::ACKNOWLEDGE);
    driver.write(0x070, status::DRIVER);
    assert_eq!(driver.status(), status::ACKNOWLEDGE);
    driver.write(0x070, status::ACKNOWLEDGE | status::FAILED);
    assert_eq!(driver.status(), status::ACKNOWLEDGE | status::FAILED);
    driver.write(0x070, 0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn a_queue_outside_of_ram_is_never_ready() {
    for bad in [0x10_0000 - 0x1000, 1 << 40, u64::MAX - 0xfff] {
        let mut driver = cold();
        driver.negotiate(FEATURE);
        driver.place_queue(0, GuestAddress(bad));
        assert_eq!(driver.read(0x044), 0, "{bad:#x}");
        assert!(driver.status() & NEEDS_RESET != 0, "{bad:#x}");
        driver.write(0x070, 15);
        assert_eq!(config(&driver)[0], 0, "{bad:#x}");
    }
}

#[test]
fn queues_are_fixed_while_ready_and_when_active() {
    let mut driver = cold();
    driver.negotiate(FEATURE);
    driver.place_queue(0, GuestAddress(0x1_0000));
    driver.write(0x080, 0xffff_0000);
    driver.write(0x038, 3);
    driver.write(0x070, 15);
    driver.write(0x044, 0);
    assert_eq!(driver.read(0x044), 1);
    assert_eq!(config(&driver)[0], 1);
}

#[test]
fn a_missing_queue_fails_activation() {
    let mut driver = cold();
    driver.negotiate(FEATURE);
    driver.write(0x070, 15);
    assert!(driver.status() & NEEDS_RESET != 0);
    assert_eq!(driver.transport.failure().unwrap(), "the driver did not set up queue 0");
    assert_eq!(driver.read(0x060), Interrupt::CONFIG_CHANGED);
}

#[test]
fn doorbells_reach_an_active_device_only() {
    let mut driver = cold();
    driver.kick(0);
    assert_eq!(config(&driver), [0, 0]);
    driver.restart(FEATURE);
    driver.kick(0);
    driver.kick(3);
    driver.write(0x050, 0x1_0000);
    assert_eq!(config(&driver), [1, 1]);
}

#[test]
fn a_failing_device_is_contained() {
    for (queue, reason) in [(1, "queue 1: nonsense"), (2, "internal error: a bug of the device")] {
        let mut driver = start();
        driver.kick(queue);
        assert!(driver.status() & NEEDS_RESET != 0);
        assert_eq!(driver.transport.failure().unwrap(), reason);
        assert_eq!(driver.read(0x060), Interrupt::CONFIG_CHANGED);
        assert_eq!(driver.read(0x0fc), 1, "the configuration has a new generation");
        driver.write(0x064, 3);
        assert_eq!(driver.read(0x060), 0);
        assert_eq!(driver.pulses(), 1);

        driver.kick(0);
        driver.transport.service();
        assert_eq!(config(&driver)[1], 1, "left alone");

        driver.restart(FEATURE);
        driver.kick(0);
        assert_eq!(config(&driver), [1, 1]);
    }
}

#[test]
fn reset_takes_everything_back() {
    let driver = start();
    driver.write(0x070, 0);
    assert_eq!(driver.status(), 0);
    assert_eq!(config(&driver), [0, 0]);
    driver.write(0x030, 0);
    assert_eq!(driver.read(0x044), 0);
    driver.kick(0);
    assert_eq!(config(&driver), [0, 0]);
}

#[test]
fn odd_accesses_are_harmless() {
    let driver = start();
    for offset in (0..0x1000).chain([u64::MAX - 8, 1 << 32]) {
        for length in [1, 2, 3, 8] {
            let mut data = vec![0xee; length];
            driver.transport.read(offset, &mut data);
            assert!(offset == 0x100 || data.iter().all(|byte| *byte == 0), "{offset:#x}");
            driver.transport.write(offset, &data);
            driver.transport.write(offset, &[]);
        }
    }
    assert_eq!(driver.status(), 15);
}

#[test]
fn a_panic_in_reset_is_contained() {
    let driver = start();
    for _ in 0..9 {
        driver.kick(0);
    }
    driver.write(0x070, 0);
    assert_eq!(driver.status(), NEEDS_RESET);
    assert!(driver.transport.failure().unwrap().contains("a bug of its reset"));
    assert!(driver.transport.is_faulty());
}
