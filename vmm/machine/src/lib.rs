//! One guest.
mod acpi;
pub mod boot;
mod error;
pub mod layout;
pub use error::MachineError;
