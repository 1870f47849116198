//! The panic device (QEMU `docs/specs/pvpanic.rst`; Linux `drivers/misc/pvpanic`): one register in
//! which a guest's kernel says that it panicked. Linux finds it in ACPI as `QEMU0001`.

use std::sync::Arc;

use crate::port::PortDevice;

/// The port of QEMU's device. ACPI announces it, so the number is free, but it is known.
pub const PORT: u16 = 0x505;
/// Ports of the device.
pub const PORTS: u16 = 1;
/// Its ACPI hardware id.
pub const HID: &str = "QEMU0001";

/// The kernel panicked and stays where it is.
const PANICKED: u8 = 1 << 0;
/// The kernel panicked and goes on into a crash kernel.
const CRASH_LOADED: u8 = 1 << 1;

/// Who is told. Called on the vCPU's thread, in the middle of the guest's panic.
pub trait PanicSink: Send + Sync {
    /// The guest's kernel panicked for good.
    fn panicked(&self);
}

/// The register. Reading tells which events are understood; writing tells of one.
pub struct PanicDevice {
    sink: Arc<dyn PanicSink>,
}

impl PanicDevice {
    /// A device that reports to `sink`.
    pub fn new(sink: Arc<dyn PanicSink>) -> Self {
        PanicDevice { sink }
    }
}

impl PortDevice for PanicDevice {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(0xff);
        data[0] = PANICKED | CRASH_LOADED;
    }

    fn write(&mut self, _offset: u16, data: &[u8]) {
        // A guest that starts its crash kernel is not at its end.
        if data.first().is_some_and(|events| events & PANICKED != 0) {
            self.sink.panicked();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    impl PanicSink for AtomicU32 {
        fn panicked(&self) {
            self.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_panic_is_told_and_a_crash_kernel_is_not() {
        let told = Arc::new(AtomicU32::new(0));
        let mut device = PanicDevice::new(told.clone());
        let mut events = [0; 1];
        device.read(0, &mut events);
        assert_eq!(events, [3]);
        device.write(0, &[CRASH_LOADED]);
        device.write(0, &[0x80]);
        device.write(0, &[]);
        assert_eq!(told.load(Ordering::Relaxed), 0);
        device.write(0, &[PANICKED]);
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }
}
