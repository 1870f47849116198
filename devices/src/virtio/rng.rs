//! The entropy device (virtio 1.2, section 5.4; Linux `drivers/char/hw_random/virtio-rng.c`).

use std::fs::File;
use std::io::{self, Read};

use super::ring::Ring;
use super::{ActivateError, ActiveQueues, DeviceError, VirtioDevice};
use super::{NotRestored, NotSaved, SavedDevice, SavedQueue};

/// The entropy device's id.
pub const DEVICE_ID: u32 = 4;

const QUEUE_SIZES: &[u16] = &[8];

/// Where random bytes come from.
pub trait Entropy: Send {
    /// Fills `bytes`.
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()>;
}

/// The host's own entropy.
pub struct HostEntropy(File);

impl HostEntropy {
    /// Opens the host's random device.
    pub fn open() -> io::Result<Self> {
        File::open("/dev/urandom").map(HostEntropy)
    }
}

impl Entropy for HostEntropy {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(bytes)
    }
}

/// Bytes that depend on a seed alone, for runs that must repeat. Not for secrets: SplitMix64, whose
/// state can be computed from its output.
pub struct SeededEntropy(u64);

impl SeededEntropy {
    /// A sequence of its own for each `seed`.
    pub fn new(seed: u64) -> Self {
        SeededEntropy(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Entropy for SeededEntropy {
    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// The entropy device. A request gets at most [`Ring::CHUNK`] bytes, which virtio allows (5.4.6.1),
/// so that a guest cannot keep the host busy; Linux asks for 64 at a time.
pub struct Rng {
    source: Box<dyn Entropy>,
    ring: Option<Ring>,
}

impl Rng {
    /// A device that hands out `source`.
    pub fn new(source: Box<dyn Entropy>) -> Self {
        Rng { source, ring: None }
    }
}

impl VirtioDevice for Rng {
    fn id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &'static [u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, _offset: u64, _data: &mut [u8]) {}

    fn activate(&mut self, mut guest: ActiveQueues) -> Result<(), ActivateError> {
        self.ring = Some(guest.take_ring(0)?);
        Ok(())
    }

    fn notify(&mut self, _queue: u16) -> Result<(), DeviceError> {
        let Some(ring) = &mut self.ring else { return Ok(()) };
        let source = &mut self.source;
        ring.fill(|bytes| {
            source.fill(bytes).map_err(|e| DeviceError::Host(e.to_string()))?;
            Ok(bytes.len())
        })
    }

    fn reset(&mut self) {
        self.ring = None;
    }

    fn saved_queues(&self) -> Option<Vec<SavedQueue>> {
        Some(vec![self.ring.as_ref()?.saved()])
    }

    /// Where its source is does not matter: a restored guest gets a source of its own.
    fn save(&self) -> Result<SavedDevice, NotSaved> {
        Ok(SavedDevice::Plain)
    }

    fn restore(&mut self, saved: SavedDevice) -> Result<(), NotRestored> {
        saved.plain()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Driver, WRITE};
    use crate::virtio::mmio::status;

    fn driver() -> Driver {
        Driver::start(Box::new(Rng::new(Box::new(SeededEntropy::new(42)))), 0)
    }

    #[test]
    fn requests_get_the_seeds_bytes_in_order() {
        let mut driver = driver();
        let mut expected = [0; 96];
        let mut source = SeededEntropy::new(42);
        source.fill(&mut expected[..64]).unwrap();
        source.fill(&mut expected[64..]).unwrap();

        driver.add(0, &[(0x8000, 64, WRITE)]);
        driver.add(0, &[(0x9000, 16, WRITE), (0xa000, 16, WRITE)]);
        driver.kick(0);
        assert_eq!(driver.used(0), [(0, 64), (1, 32)]);
        let got = [driver.bytes(0x8000, 64), driver.bytes(0x9000, 16), driver.bytes(0xa000, 16)].concat();
        assert_eq!(got, expected);
        assert_eq!(driver.pulses(), 1);
    }

    #[test]
    fn a_request_is_capped_and_an_odd_one_gets_nothing() {
        let mut driver = driver();
        driver.add(0, &[(0x8000, 0x6000, WRITE)]);
        driver.add(0, &[(0x8000, 0, WRITE)]);
        // For the device to read: there is nothing to fill.
        driver.add(0, &[(0xf000, 64, 0)]);
        driver.kick(0);
        assert_eq!(driver.used(0), [(0, 4096), (1, 0), (2, 0)]);
        assert_eq!(driver.bytes(0xf000, 64), [0; 64]);
    }

    #[test]
    fn a_buffer_outside_of_ram_stops_the_device_until_it_is_reset() {
        let mut driver = driver();
        driver.add(0, &[(u64::MAX - 8, 64, WRITE)]);
        driver.kick(0);
        assert!(driver.status() & status::DEVICE_NEEDS_RESET != 0);
        assert!(driver.used(0).is_empty());
        assert!(driver.transport.failure().unwrap().contains("queue 0"));

        driver.restart(0);
        driver.add(0, &[(0x8000, 8, WRITE)]);
        driver.kick(0);
        assert_eq!(driver.used(0), [(0, 8)]);
    }

    #[test]
    fn a_descriptor_loop_ends() {
        let mut driver = driver();
        driver.add(0, &[(0x8000, 16, WRITE), (0x9000, 16, WRITE)]);
        driver.link(0, 1, 0);
        driver.kick(0);
        // As often as the queue has descriptors.
        assert_eq!(driver.used(0), [(0, 8 * 16)]);
    }

    #[test]
    fn host_entropy_is_there() {
        let mut bytes = [0; 64];
        HostEntropy::open().unwrap().fill(&mut bytes).unwrap();
        assert_ne!(bytes, [0; 64]);
    }
}
