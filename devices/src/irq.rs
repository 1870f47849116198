//! How a device raises an interrupt.

/// One edge-triggered interrupt input of the guest's interrupt controller.
///
/// The machine implements it over the software IOAPIC or over KVM's; a device only pulses.
pub trait IrqLine: Send + Sync {
    /// Raises one edge. Edges that arrive before the guest took the last one may merge.
    fn pulse(&self);
}
