//! Being written: an x86-64 CPU in software.
#![allow(missing_docs)]
pub mod apic;
mod board;
mod clock;
mod code;
mod cpu;
mod cpuid;
mod decode;
mod decode_system;
pub mod exception;
mod flags;
mod interp;
mod interrupt;
mod memory;
mod msr;
mod paging;
mod random;
mod remote;
mod run;
mod segment;
pub mod simd;
mod tlb;
mod uop;
mod vm;
mod word;
pub mod x87;

pub use remote::Remote;
pub use vm::{Bus, ClockMode, Config, ConfigError, EntryState, Exit, Registers, Stats, Vm};
