//! Being written: an x86-64 CPU in software.
pub mod apic;
pub mod exception;
mod remote;
pub mod simd;
mod vm;
pub mod x87;

pub use remote::Remote;
pub use vm::{Bus, ClockMode, Config, ConfigError, EntryState, Exit, Registers, Stats, Vm};
