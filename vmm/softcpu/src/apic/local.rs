//! The local APIC (xAPIC mode).

use super::{Message, Ticks};

/// What a register write asks of the rest of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A level-triggered interrupt with this vector has ended: tell every IOAPIC.
    Eoi(u8),
    /// Send this to the other CPUs (what this CPU itself accepts has been delivered already).
    Ipi(Message),
}

/// One CPU's local APIC.
#[derive(Clone, Debug, Default)]
pub struct LocalApic {}

impl LocalApic {
    /// A local APIC as after reset, for the CPU with this APIC id; `bootstrap` sets the BSP flag.
    pub fn new(id: u8, bootstrap: bool) -> Self {
        let _ = (id, bootstrap);
        Self {}
    }

    /// Reads the 32-bit register at `offset` in the APIC page.
    pub fn read(&self, offset: u16, now: Ticks) -> u32 {
        let _ = (offset, now);
        0
    }

    /// Writes the 32-bit register at `offset` in the APIC page.
    pub fn write(&mut self, offset: u16, value: u32, now: Ticks) -> Effect {
        let _ = (offset, value, now);
        Effect::None
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        0
    }

    /// Writes IA32_APIC_BASE; `Err` for reserved bits and x2APIC mode, which is a #GP.
    pub fn set_base(&mut self, value: u64) -> Result<(), InvalidBase> {
        let _ = value;
        Ok(())
    }

    /// IA32_TSC_DEADLINE: 0 when disarmed or not in TSC-deadline mode.
    pub fn tsc_deadline(&self) -> u64 {
        0
    }

    /// Writes IA32_TSC_DEADLINE.
    pub fn set_tsc_deadline(&mut self, deadline: u64, now: Ticks) {
        let _ = (deadline, now);
    }

    /// CR8: the task priority class, 0..=15.
    pub fn cr8(&self) -> u8 {
        0
    }

    /// Writes CR8 (the low four bits count).
    pub fn set_cr8(&mut self, class: u8) {
        let _ = class;
    }

    /// Whether a message for `destination` is for this CPU.
    pub fn accepts(&self, message: &Message) -> bool {
        let _ = message;
        false
    }

    /// Latches a fixed interrupt.
    pub fn deliver(&mut self, vector: u8, level: bool) {
        let _ = (vector, level);
    }

    /// The vector that would interrupt the CPU now, if its flags allow it.
    pub fn pending(&self) -> Option<u8> {
        None
    }

    /// The CPU takes the interrupt: the vector moves from IRR to ISR (or is the spurious one).
    pub fn acknowledge(&mut self) -> u8 {
        0
    }

    /// When the timer fires next, if it is armed and not masked.
    pub fn next_timer(&self, now: Ticks) -> Option<Ticks> {
        let _ = now;
        None
    }

    /// Fires the timer if it is due at `now`.
    pub fn advance(&mut self, now: Ticks) {
        let _ = now;
    }
}

/// A value IA32_APIC_BASE cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("IA32_APIC_BASE cannot be {0:#x}")]
pub struct InvalidBase(pub u64);
