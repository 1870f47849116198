//! The IOAPIC.

use super::Message;

/// Input pins.
pub const PINS: usize = 24;

/// A 24-pin IOAPIC (82093AA).
#[derive(Clone, Debug, Default)]
pub struct IoApic {}

impl IoApic {
    /// An IOAPIC as after reset: every pin masked.
    pub fn new(id: u8) -> Self {
        let _ = id;
        Self {}
    }

    /// Reads IOREGSEL (offset 0) or IOWIN (0x10).
    pub fn read(&self, offset: u64) -> u32 {
        let _ = offset;
        0
    }

    /// Writes IOREGSEL (offset 0) or IOWIN (0x10). Unmasking a pin whose line is up may send
    /// its message.
    pub fn write(&mut self, offset: u64, value: u32) -> Option<Message> {
        let _ = (offset, value);
        None
    }

    /// Drives an input line; `None` if nothing is to be sent (or there is no such pin).
    pub fn set_line(&mut self, gsi: u32, level: bool) -> Option<Message> {
        let _ = (gsi, level);
        None
    }

    /// A level-triggered interrupt has ended at a local APIC; if a line with that vector is
    /// still up it is sent again.
    pub fn eoi(&mut self, vector: u8) -> Option<Message> {
        let _ = vector;
        None
    }
}
