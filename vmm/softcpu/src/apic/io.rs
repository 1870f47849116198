//! The IOAPIC (82093AA), with 24 pins.
//!
//! A pin that is edge-triggered sends its message when its line comes up. A level-triggered one
//! sends when its line is up and its *remote IRR* bit is clear, sets the bit, and may send again
//! once a local APIC has reported the end of that vector.

use serde::{Deserialize, Serialize};

use super::{Delivery, DestinationMode, Message};

/// Input pins.
pub const PINS: usize = 24;

/// Version 0x11, so that Linux ends level interrupts through the local APIC's broadcast.
const VERSION: u32 = 0x11 | ((PINS as u32 - 1) << 16);

/// Bits of a redirection table entry.
mod entry {
    pub const LOGICAL: u64 = 1 << 11;
    pub const REMOTE_IRR: u64 = 1 << 14;
    pub const LEVEL: u64 = 1 << 15;
    pub const MASKED: u64 = 1 << 16;
    /// What software may write: destination, mask, trigger, polarity, mode, delivery, vector.
    pub const WRITABLE: u64 = 0xff00_0000_0001_afff;
}

/// One pin: its line (as asserted or not; the polarity bit is kept but means nothing here) and
/// its redirection entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pin {
    asserted: bool,
    entry: u64,
}

impl Pin {
    fn is(&self, bit: u64) -> bool {
        self.entry & bit != 0
    }

    /// Sends a level-triggered pin's message if its turn has come.
    fn service_level(&mut self) -> Option<Message> {
        if !self.asserted || !self.is(entry::LEVEL) || self.is(entry::MASKED | entry::REMOTE_IRR) {
            return None;
        }
        self.entry |= entry::REMOTE_IRR;
        Some(self.message())
    }

    fn set_line(&mut self, asserted: bool) -> Option<Message> {
        let rises = asserted && !self.asserted;
        self.asserted = asserted;
        if self.is(entry::LEVEL) {
            self.service_level()
        } else {
            // An edge on a masked pin is lost, as the data sheet has it.
            (rises && !self.is(entry::MASKED)).then(|| self.message())
        }
    }

    fn message(&self) -> Message {
        Message {
            vector: self.entry as u8,
            destination: (self.entry >> 56) as u8,
            mode: if self.is(entry::LOGICAL) { DestinationMode::Logical } else { DestinationMode::Physical },
            delivery: match self.entry >> 8 & 7 {
                1 => Delivery::LowestPriority,
                2 => Delivery::Smi,
                4 => Delivery::Nmi,
                5 => Delivery::Init,
                7 => Delivery::ExtInt,
                _ => Delivery::Fixed,
            },
            level: self.is(entry::LEVEL),
        }
    }
}

/// A 24-pin IOAPIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoApic {
    id: u8,
    /// IOREGSEL.
    select: u8,
    pins: [Pin; PINS],
}

impl IoApic {
    /// An IOAPIC as after reset: every pin masked.
    pub fn new(id: u8) -> Self {
        Self { id: id & 0xf, select: 0, pins: [Pin { asserted: false, entry: entry::MASKED }; PINS] }
    }

    /// Whether a state that was loaded is one that register writes lead to.
    pub fn is_valid(&self) -> bool {
        self.id <= 0xf && self.pins.iter().all(|pin| pin.entry & !(entry::WRITABLE | entry::REMOTE_IRR) == 0)
    }

    /// Reads IOREGSEL (offset 0) or IOWIN (0x10) of its page; everything else reads as zero.
    pub fn read(&self, offset: u64) -> u32 {
        match (offset, self.select) {
            (0, select) => u32::from(select),
            (0x10, 0 | 2) => u32::from(self.id) << 24,
            (0x10, 1) => VERSION,
            (0x10, index @ 0x10..) => match self.pins.get(usize::from(index - 0x10) / 2) {
                Some(pin) if index % 2 == 0 => pin.entry as u32,
                Some(pin) => (pin.entry >> 32) as u32,
                None => 0,
            },
            _ => 0,
        }
    }

    /// Writes IOREGSEL (offset 0) or IOWIN (0x10). Unmasking a level-triggered pin whose line is
    /// up sends its message.
    pub fn write(&mut self, offset: u64, value: u32) -> Option<Message> {
        match (offset, self.select) {
            (0, _) => self.select = value as u8,
            (0x10, 0) => self.id = (value >> 24) as u8 & 0xf,
            (0x10, index @ 0x10..) => {
                let pin = self.pins.get_mut(usize::from(index - 0x10) / 2)?;
                let written = if index % 2 == 0 {
                    pin.entry >> 32 << 32 | u64::from(value)
                } else {
                    u64::from(pin.entry as u32) | u64::from(value) << 32
                };
                let kept = pin.entry & entry::REMOTE_IRR;
                pin.entry = written & entry::WRITABLE | kept;
                // Going through edge mode is how software clears a stuck remote IRR.
                if !pin.is(entry::LEVEL) {
                    pin.entry &= !entry::REMOTE_IRR;
                }
                return pin.service_level();
            }
            _ => {}
        }
        None
    }

    /// Drives an input line; `None` if nothing is to be sent (or there is no such pin).
    pub fn set_line(&mut self, gsi: u32, asserted: bool) -> Option<Message> {
        self.pins.get_mut(gsi as usize)?.set_line(asserted)
    }

    /// A level-triggered interrupt has ended at a local APIC; if a line with that vector is
    /// still up it is sent again. Pins that share a vector share the message.
    pub fn eoi(&mut self, vector: u8) -> Option<Message> {
        let mut again = None;
        for pin in &mut self.pins {
            if pin.entry as u8 == vector && pin.is(entry::LEVEL) {
                pin.entry &= !entry::REMOTE_IRR;
                again = pin.service_level().or(again);
            }
        }
        again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(ioapic: &mut IoApic, pin: u32, entry: u64) -> Option<Message> {
        ioapic.write(0, 0x11 + 2 * pin);
        let high = ioapic.write(0x10, (entry >> 32) as u32);
        ioapic.write(0, 0x10 + 2 * pin);
        ioapic.write(0x10, entry as u32).or(high)
    }

    fn low(ioapic: &mut IoApic, pin: u32) -> u32 {
        ioapic.write(0, 0x10 + 2 * pin);
        ioapic.read(0x10)
    }

    #[test]
    fn registers_answer_through_the_window() {
        let mut ioapic = IoApic::new(2);
        ioapic.write(0, 1);
        assert_eq!((ioapic.read(0), ioapic.read(0x10)), (1, 0x0017_0011));
        ioapic.write(0, 0);
        assert_eq!(ioapic.read(0x10), 2 << 24);
        assert_eq!(low(&mut ioapic, 23), 0x10000);
        program(&mut ioapic, 4, 0x0300_0000_0000_0931);
        assert_eq!(low(&mut ioapic, 4), 0x931);
        // Beyond the last pin and off the window.
        ioapic.write(0, 0x40);
        assert_eq!((ioapic.write(0x10, 1), ioapic.read(0x10), ioapic.read(0x44)), (None, 0, 0));
        assert_eq!(ioapic.set_line(24, true), None);
    }

    #[test]
    fn an_edge_sends_once_and_is_lost_when_masked() {
        let mut ioapic = IoApic::new(0);
        assert_eq!(ioapic.set_line(4, true), None);
        program(&mut ioapic, 4, 0x0300_0000_0000_0931);
        assert_eq!(ioapic.set_line(4, true), None, "already up");
        ioapic.set_line(4, false);
        let message = ioapic.set_line(4, true).unwrap();
        assert_eq!((message.vector, message.destination, message.level), (0x31, 3, false));
        assert_eq!((message.mode, message.delivery), (DestinationMode::Logical, Delivery::LowestPriority));
        assert_eq!(ioapic.eoi(0x31), None);
    }

    #[test]
    fn a_level_is_sent_again_after_its_end_while_it_is_up() {
        let mut ioapic = IoApic::new(0);
        program(&mut ioapic, 9, 0x8041);
        assert!(ioapic.set_line(9, true).unwrap().level);
        assert_eq!(low(&mut ioapic, 9), 0xc041, "remote IRR");
        assert_eq!(ioapic.set_line(9, true), None);
        assert!(ioapic.eoi(0x41).is_some());
        ioapic.set_line(9, false);
        assert_eq!(ioapic.eoi(0x41), None);
        assert_eq!(low(&mut ioapic, 9), 0x8041);
        assert!(ioapic.set_line(9, true).is_some());
    }

    #[test]
    fn unmasking_a_level_that_is_up_sends_it() {
        let mut ioapic = IoApic::new(0);
        program(&mut ioapic, 9, 0x1_8041);
        assert_eq!(ioapic.set_line(9, true), None);
        assert!(program(&mut ioapic, 9, 0x8041).is_some());
        // While in service it is not sent twice, nor when masked at its end.
        assert_eq!(program(&mut ioapic, 9, 0x8041), None);
        program(&mut ioapic, 9, 0x1_8041);
        assert_eq!(ioapic.eoi(0x41), None);
        assert!(program(&mut ioapic, 9, 0x8041).is_some());
    }

    #[test]
    fn passing_through_edge_mode_clears_remote_irr() {
        let mut ioapic = IoApic::new(0);
        program(&mut ioapic, 9, 0x8041);
        ioapic.set_line(9, true);
        program(&mut ioapic, 9, 0x1_0041);
        assert_eq!(low(&mut ioapic, 9), 0x1_0041);
        assert!(program(&mut ioapic, 9, 0x8041).is_some());
    }
}
