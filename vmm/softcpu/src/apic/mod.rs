//! The interrupt controllers a PC needs: the CPU's local APIC and the board's IOAPIC.
//!
//! Both are plain state machines. They know no clock and no other device: time is an argument
//! ([`Ticks`]), interrupts are values ([`Message`]) that the machine carries from one to the
//! other.

pub mod io;
pub mod local;
mod timer;

use serde::{Deserialize, Serialize};

/// A point in time, in ticks of the time-stamp counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ticks(pub u64);

/// TSC ticks in one tick of the crystal that clocks the APIC timer: EBX/EAX of CPUID leaf 0x15,
/// whose ECX is then the TSC's frequency divided by this.
pub const TSC_PER_CRYSTAL: u32 = 40;

/// What an interrupt message asks of the CPU that accepts it. (SDM volume 3, 11.6.1.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Interrupt `vector`.
    Fixed,
    /// Interrupt `vector` at the accepting CPU of lowest priority.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// Reset to wait-for-SIPI.
    Init,
    /// Start executing at `vector << 12`.
    Startup,
    /// The vector comes from the 8259.
    ExtInt,
}

/// How a message's destination field names CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationMode {
    /// An APIC id; 0xff is every CPU.
    Physical,
    /// A bit set matched against the logical destination register.
    Logical,
}

/// An interrupt message on its way to one or more local APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// The vector, 16..=255 for `Fixed`.
    pub vector: u8,
    /// Whom it is for, read by `mode`.
    pub destination: u8,
    /// How to read `destination`.
    pub mode: DestinationMode,
    /// What to do there.
    pub delivery: Delivery,
    /// Level-triggered: the end of interrupt is reported to the IOAPIC.
    pub level: bool,
}
