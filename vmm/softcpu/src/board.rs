//! The interrupt controllers on the board and how interrupts travel between them.

use crate::apic::io::IoApic;
use crate::apic::local::{Effect, LocalApic};
use crate::apic::{Delivery, Message, Ticks};
use crate::memory::PAGE;
use crate::remote::{LINES, Remote};

/// Where the I/O APIC's registers are.
pub const IO_APIC: u64 = 0xfec0_0000;

pub struct Board {
    pub apic: LocalApic,
    io: IoApic,
    pub remote: Remote,
    /// Line levels as last given to the I/O APIC.
    levels: u64,
}

impl Board {
    pub fn new() -> Board {
        Board { apic: LocalApic::new(0, true), io: IoApic::new(0), remote: Remote::default(), levels: 0 }
    }

    fn apic_offset(&self, physical: u64) -> Option<u16> {
        (self.apic.page()? == physical & !(PAGE - 1)).then_some((physical % PAGE) as u16)
    }

    /// Reads a register, if there is a controller at this guest-physical address.
    pub fn read(&mut self, physical: u64, now: Ticks) -> Option<u32> {
        if let Some(offset) = self.apic_offset(physical) {
            return Some(self.apic.read(offset, now));
        }
        (physical & !(PAGE - 1) == IO_APIC).then(|| self.io.read(physical % PAGE))
    }

    /// Writes a register; false if there is no controller at this guest-physical address.
    pub fn write(&mut self, physical: u64, value: u32, now: Ticks) -> bool {
        if let Some(offset) = self.apic_offset(physical) {
            // There is no other CPU to send an IPI to.
            if let Effect::Eoi(vector) = self.apic.write(offset, value, now)
                && let Some(message) = self.io.eoi(vector)
            {
                self.deliver(message);
            }
            return true;
        }
        if physical & !(PAGE - 1) != IO_APIC {
            return false;
        }
        if let Some(message) = self.io.write(physical % PAGE, value) {
            self.deliver(message);
        }
        true
    }

    fn deliver(&mut self, message: Message) {
        if !self.apic.accepts(&message) {
            return;
        }
        match message.delivery {
            Delivery::Fixed | Delivery::LowestPriority => self.apic.deliver(message.vector, message.level),
            // There is no 8259, no SMM and no second CPU; nothing here raises NMIs.
            Delivery::Smi | Delivery::Nmi | Delivery::Init | Delivery::Startup | Delivery::ExtInt => {}
        }
    }

    /// Hands what [`Remote`] was asked to the I/O APIC. True if the run is to stop.
    pub fn take_requests(&mut self) -> bool {
        let requests = self.remote.take();
        let changed = requests.levels ^ self.levels;
        self.levels = requests.levels;
        if requests.pulses | changed != 0 {
            for gsi in 0..LINES {
                let bit = 1 << gsi;
                if requests.pulses & bit != 0 {
                    self.set_line(gsi, true);
                    self.set_line(gsi, requests.levels & bit != 0);
                } else if changed & bit != 0 {
                    self.set_line(gsi, requests.levels & bit != 0);
                }
            }
        }
        requests.kicked
    }

    fn set_line(&mut self, gsi: u32, level: bool) {
        if let Some(message) = self.io.set_line(gsi, level) {
            self.deliver(message);
        }
    }

    /// True if the local APIC has an interrupt for the CPU.
    pub fn pending(&self) -> bool {
        self.apic.pending().is_some()
    }
}
